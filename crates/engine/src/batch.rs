//! One step of the running batch: gather work, run one pass, hand out the answers.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::bets::Betting;
use super::event::GenerationError;
use super::learner::Learner;
use super::stream::Stream;
use super::work::{Answer, Work};
use crate::record;
use skipstone_model::{Model, PassOutput, RowGroup, RowInput, Runner};

/// Runs one step over `streams`. Returns whether there was any work. A stream whose part fails is
/// told and finished; the others are not affected.
pub(super) fn step(
    runner: &mut Runner,
    streams: &mut [&mut Stream],
    prefill_tokens: usize,
    betting: &mut Betting,
) -> bool {
    if let Some(mut learner) = betting.learner.take() {
        learner.challenge(betting, runner.model());
        betting.learner = Some(learner);
    }
    let mut budget = prefill_tokens;
    let mut jobs: Vec<(usize, Work)> = Vec::with_capacity(streams.len());
    let decoding = streams.iter().filter(|stream| stream.is_decoding()).count().max(1);
    let unread: usize = streams.iter().map(|stream| stream.prompt_left()).sum();
    let others = unread.min(prefill_tokens) + decoding - 1;
    for (index, stream) in streams.iter_mut().enumerate() {
        if let Some(work) = stream.next_work(budget, betting, others) {
            if let Work::Prefill { tokens } = work {
                budget -= tokens;
            }
            jobs.push((index, work));
        }
    }
    if jobs.is_empty() {
        return false;
    }
    record::engine_step();
    if !attempt(runner, streams, &jobs, betting) {
        // Some member broke the pass. Keys and values are written in place, so running it again is
        // harmless: alone, only the culprit fails.
        for job in jobs {
            if !attempt(runner, streams, &[job], betting) {
                let message =
                    "the pass failed on this request; it was not the fault of others".to_owned();
                streams[job.0].fail(GenerationError::Internal(message));
            }
        }
    }
    true
}

/// What else would be in a pass of these works, for each that decodes, if all of these decoded
/// plainly: the rows of prompts, and one of each other.
fn company(works: impl Iterator<Item = Work>) -> usize {
    let rows = |work| if let Work::Prefill { tokens } = work { tokens } else { 1 };
    works.map(rows).sum::<usize>().saturating_sub(1)
}

/// Runs the pass of `jobs` and applies its answers. Returns false if the pass itself panicked; then
/// nothing was applied.
fn attempt(
    runner: &mut Runner,
    streams: &mut [&mut Stream],
    jobs: &[(usize, Work)],
    betting: &mut Betting,
) -> bool {
    let model = Arc::clone(runner.model());
    let hidden = model.config().hidden;
    let rows: Vec<Vec<RowInput<'_>>> =
        jobs.iter().map(|&(index, work)| streams[index].rows(work, hidden)).collect();
    let places = betting.learner.as_ref().map(Learner::places).unwrap_or_default();
    let groups: Vec<RowGroup<'_>> = jobs
        .iter()
        .zip(&rows)
        .map(|(&(index, work), rows)| streams[index].group(work, rows, &places))
        .collect();
    let in_pass = rows.iter().map(Vec::len).sum();
    let weights: Vec<f64> = jobs
        .iter()
        .zip(&rows)
        .map(|(&(index, work), rows)| {
            streams[index].share(work, (rows.len(), in_pass), betting, &model)
        })
        .collect();
    let total: f64 = weights.iter().sum();
    let pass = AssertUnwindSafe(|| -> PassOutput<'_> { { runner }.run(&groups) });
    let Ok(output) = catch_unwind(pass) else { return false };
    drop(groups);
    drop(rows);
    if let &[(index, work)] = jobs {
        learn_costs(betting, streams[index], work, in_pass, output.seconds, &model);
    }
    // Who pays earns the budget, or the few that adapt would pay for the auditions of all.
    let time_of = |pays: fn(&Stream) -> bool| {
        let weights = jobs.iter().zip(&weights).filter(|((index, _), _)| pays(&*streams[*index]));
        output.seconds * weights.map(|(_, weight)| weight).sum::<f64>() / total
    };
    betting.auditions.observe_pass(time_of(Stream::may_audition));
    if let Some(learner) = &mut betting.learner {
        learner.observe_pass(time_of(Stream::teaches));
    }
    let company = company(jobs.iter().map(|&(_, work)| work));
    for (group, (&(index, work), weight)) in jobs.iter().zip(weights).enumerate() {
        let stream = &mut *streams[index];
        let costs = betting.baseline.costs(stream.context(), company);
        let answer = Answer {
            output,
            group,
            seconds: output.seconds * weight / total,
            plain_seconds: betting.baseline.seconds(stream.context(), company + 1),
            alone: jobs.len() == 1,
            costs: &costs,
        };
        let mut committed = stream.entered_rows(work);
        // A stream that ends gives its pages back.
        let learns = !places.is_empty() && work != Work::Draft;
        let pages = if learns { stream.pages().to_vec() } else { Vec::new() };
        let outcome = catch_unwind(AssertUnwindSafe(|| stream.apply(work, &answer, betting)));
        let error = match outcome {
            Ok(Ok(rows)) => {
                committed.rows = 0..rows;
                if let Some(learner) = betting.learner.as_mut().filter(|_| learns) {
                    learner.observe(&output, group, &pages, &committed);
                }
                continue;
            }
            Ok(Err(error)) => error,
            Err(_) => GenerationError::Internal("a defect of the server; see its log".to_owned()),
        };
        stream.fail(error);
    }
    true
}

/// Takes in what a pass took that did the work of one stream.
fn learn_costs(
    betting: &mut Betting,
    stream: &Stream,
    work: Work,
    rows: usize,
    seconds: f64,
    model: &Model,
) {
    let (baseline, context) = (&mut betting.baseline, stream.context());
    match work {
        Work::Plain(_) => {
            baseline.observe(rows, context, seconds);
            record::plain_step_seconds(baseline.seconds(context, 1));
        }
        // Rows that a draft was fed enter late and cost a little less; but all weights are read as
        // long as one row enters at the embedding.
        Work::Verify if stream.entered_rows(work).entered < rows => {
            baseline.observe(rows, context, seconds)
        }
        Work::Draft => {
            let cost = seconds / baseline.seconds(context, 1);
            let added = baseline.context_share(context, 1);
            stream
                .outline(model)
                .iter()
                .for_each(|outline| betting.parts.observe(outline, cost, added));
        }
        Work::Verify | Work::Prefill { .. } => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapt::OffReason;

    #[test]
    fn company_is_what_plain_decoding_would_have() {
        let (plain, prompt) = (Work::Plain(OffReason::NoGain), Work::Prefill { tokens: 128 });
        for (works, expected) in [
            (vec![Work::Verify], 0),
            (vec![plain, Work::Draft], 1),
            (vec![Work::Verify, Work::Verify, Work::Draft], 2),
            (vec![Work::Verify, prompt], 128),
            (vec![plain, prompt, Work::Prefill { tokens: 7 }, plain], 136),
        ] {
            assert_eq!(company(works.iter().copied()), expected, "{works:?}");
        }
    }
}
