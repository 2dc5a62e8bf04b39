//! One step of the running batch: gather steps, run one pass, hand out the answers.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::betting::Betting;
use super::event::GenerationError;
use super::step::{Answer, Step, StepKind};
use super::stream::Stream;
use crate::record;
use skipstone_model::{PassOutput, RowGroup, RowInput, Runner};

/// Runs one step over `streams`. Returns whether there was any work. A stream whose part fails is
/// told and finished; the others are not affected.
pub(super) fn step(
    runner: &mut Runner,
    streams: &mut [&mut Stream],
    prefill_tokens: usize,
    betting: &mut Betting,
) -> bool {
    let mut budget = prefill_tokens;
    let mut jobs: Vec<(usize, Step)> = Vec::with_capacity(streams.len());
    let decoding = streams.iter().filter(|stream| stream.is_decoding()).count().max(1);
    let unread: usize = streams.iter().map(|stream| stream.prompt_left()).sum();
    let others = unread.min(prefill_tokens) + decoding - 1;
    for (index, stream) in streams.iter_mut().enumerate() {
        if let Some(step) = stream.next_step(budget, betting, others) {
            if step.kind == StepKind::Prefill {
                budget -= step.rows;
            }
            jobs.push((index, step));
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
            let index = job.0;
            if !attempt(runner, streams, &[job], betting) {
                let message =
                    "the pass failed on this request; it was not the fault of others".to_owned();
                streams[index].fail(GenerationError::Internal(message));
            }
        }
    }
    true
}

/// What else would be in a pass of these steps, for each that decodes, if all of these decoded
/// plainly: the rows of prompts, and one of each other.
fn company<'a>(steps: impl Iterator<Item = &'a Step>) -> usize {
    let rows = |step: &Step| if step.kind == StepKind::Prefill { step.rows } else { 1 };
    steps.map(rows).sum::<usize>().saturating_sub(1)
}

/// Runs the pass of `jobs` and applies its answers. Returns false if the pass itself panicked; then
/// nothing was applied.
fn attempt(
    runner: &mut Runner,
    streams: &mut [&mut Stream],
    jobs: &[(usize, Step)],
    betting: &mut Betting,
) -> bool {
    let model = Arc::clone(runner.model());
    let hidden = model.config().hidden;
    let in_pass = jobs.iter().map(|(_, step)| step.rows).sum();
    let share = |(index, step): &(usize, Step)| {
        betting.share(step, in_pass, streams[*index].context(), &model)
    };
    let shares: Vec<f64> = jobs.iter().map(share).collect();
    let total: f64 = shares.iter().sum();
    let rows: Vec<Vec<RowInput<'_>>> =
        jobs.iter().map(|(index, step)| streams[*index].rows(step, hidden)).collect();
    let groups: Vec<RowGroup<'_>> = jobs
        .iter()
        .zip(&rows)
        .map(|((index, step), rows)| streams[*index].group(step, rows))
        .collect();
    let pass = AssertUnwindSafe(|| -> PassOutput<'_> { { runner }.run(&groups) });
    let Ok(output) = catch_unwind(pass) else { return false };
    drop(groups);
    drop(rows);
    if let [(index, step)] = jobs {
        betting.observe_lone_pass(step, streams[*index].context(), output.seconds, &model);
        if let StepKind::Plain(_) = step.kind {
            let context = streams[*index].context();
            record::plain_step_seconds(betting.baseline.seconds(context, 1));
        }
    }
    let company = company(jobs.iter().map(|(_, step)| step));
    for (group, ((index, step), share)) in jobs.iter().zip(shares).enumerate() {
        let stream = &mut *streams[*index];
        let costs = betting.costs(stream.context(), company);
        let answer = Answer {
            output,
            group,
            seconds: output.seconds * share / total,
            plain_seconds: betting.baseline.seconds(stream.context(), company + 1),
            alone: jobs.len() == 1,
            costs: &costs,
        };
        let outcome = catch_unwind(AssertUnwindSafe(|| stream.apply(step, &answer, betting)));
        let error = match outcome {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => error,
            Err(_) => GenerationError::Internal("a defect of the server; see its log".to_owned()),
        };
        stream.fail(error);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapt::OffReason;

    #[test]
    fn company_is_what_plain_decoding_would_have() {
        let step = |kind, rows| Step::whole(kind, 0, rows);
        let plain = || step(StepKind::Plain(OffReason::NoGain), 1);
        let (verify, draft) = (|| step(StepKind::Verify, 5), || step(StepKind::Draft, 1));
        let prompt = |rows| step(StepKind::Prefill, rows);
        for (steps, expected) in [
            (vec![verify()], 0),
            (vec![plain(), draft()], 1),
            (vec![verify(), verify(), draft()], 2),
            (vec![verify(), prompt(128)], 128),
            (vec![plain(), prompt(128), prompt(7), plain()], 136),
        ] {
            assert_eq!(company(steps.iter()), expected, "{steps:?}");
        }
    }
}
