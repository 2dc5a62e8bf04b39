//! One step of the running batch: gather steps, run one pass, hand out the answers.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::betting::Betting;
use super::cost::{Company, StepShape};
use super::event::GenerationError;
use super::step::{Answer, Step, StepKind};
use super::stream::Stream;
use crate::record;
use skipstone_model::{PassOutput, RowGroup, RowInput, Runner};

/// What a stream is told whose part of the server panicked.
const DEFECT: &str = "a defect of the server; see its log";

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
    let others = Company { rows: unread.min(prefill_tokens) + decoding - 1, logits: decoding - 1 };
    for (index, stream) in streams.iter_mut().enumerate() {
        let next = AssertUnwindSafe(|| stream.next_step(budget, betting, others));
        let Ok(step) = catch_unwind(next) else {
            stream.fail(GenerationError::Internal(DEFECT.to_owned()));
            continue;
        };
        if let Some(step) = step {
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

/// Company that each decoding step would have in a pass of these steps, if all of these decoded
/// plainly: the rows of prompts, and one of each other.
fn company<'a>(steps: impl Iterator<Item = &'a Step>) -> Company {
    let (mut rows, mut logits) = (0_usize, 0_usize);
    for step in steps {
        let is_prompt = step.kind == StepKind::Prefill;
        rows += if is_prompt { step.rows } else { 1 };
        logits += if is_prompt { step.logits } else { 1 };
    }
    Company { rows: rows.saturating_sub(1), logits: logits.saturating_sub(1) }
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
    let shapes: Vec<StepShape> = jobs.iter().map(|(_, step)| step.shape(&model)).collect();
    let shares = betting.costs.shares(&shapes);
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
    // What a gate leaves out is not known beforehand, and so has no price.
    let gated =
        |(_, step): &(usize, Step)| step.plan.as_ref().is_some_and(|plan| plan.gate().is_some());
    if !jobs.iter().any(gated) {
        betting.observe(&shapes, output.seconds);
    }
    record::plain_step_seconds(betting.costs.plain_seconds(0, Company::default()));
    let company = company(jobs.iter().map(|(_, step)| step));
    for (group, ((index, step), share)) in jobs.iter().zip(shares).enumerate() {
        let stream = &mut *streams[*index];
        let costs = betting.costs.costs(stream.context(), company);
        let answer = Answer {
            output,
            group,
            seconds: output.seconds * share / total,
            plain_seconds: betting.costs.plain_seconds(stream.context(), company),
            costs: &costs,
        };
        let outcome = catch_unwind(AssertUnwindSafe(|| stream.apply(step, &answer, betting)));
        let error = match outcome {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => error,
            Err(_) => GenerationError::Internal(DEFECT.to_owned()),
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
        let unfinished = |rows| Step { logits: 0, ..prompt(rows) };
        for (steps, rows, logits) in [
            (vec![verify()], 0, 0),
            (vec![plain(), draft()], 1, 1),
            (vec![verify(), verify(), draft()], 2, 2),
            (vec![verify(), prompt(128)], 128, 1),
            (vec![plain(), unfinished(128), prompt(7), plain()], 136, 2),
        ] {
            assert_eq!(company(steps.iter()), Company { rows, logits }, "{steps:?}");
        }
    }
}
