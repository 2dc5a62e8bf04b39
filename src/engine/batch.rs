//! One step of the running batch: gather work, run one pass, hand out the answers.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::bets::Betting;
use super::event::GenerationError;
use super::stream::{Answer, Stream, Work};
use crate::model::{PassOutput, RowGroup, RowInput, Runner};
use crate::telemetry::record;

/// Runs one step over `streams`. Returns whether there was any work. A stream whose part fails is told and finished; the others
/// are not affected.
pub(super) fn step(
    runner: &mut Runner,
    streams: &mut [&mut Stream],
    prefill_tokens: usize,
    betting: &mut Betting,
) -> bool {
    let mut budget = prefill_tokens;
    let mut jobs: Vec<(usize, Work)> = Vec::with_capacity(streams.len());
    let decoding = streams.iter().filter(|stream| stream.is_decoding()).count();
    let costs = betting.baseline.costs(decoding.saturating_sub(1));
    for (index, stream) in streams.iter_mut().enumerate() {
        if let Some(work) = stream.next_work(budget, betting, &costs) {
            if let Work::Prefill { tokens } = work {
                budget -= tokens;
            }
            jobs.push((index, work));
        }
    }
    if jobs.is_empty() {
        return false;
    }
    if !attempt(runner, streams, &jobs, betting) {
        // Some member broke the pass. Keys and values are written in place, so running it again is harmless: alone, only the
        // culprit fails.
        for job in jobs {
            if !attempt(runner, streams, &[job], betting) {
                let message = "the pass failed on this request; it was not the fault of others".to_owned();
                streams[job.0].fail(GenerationError::Internal(message));
            }
        }
    }
    true
}

/// Runs the pass of `jobs` and applies its answers. Returns false if the pass itself panicked; then nothing was applied.
fn attempt(
    runner: &mut Runner,
    streams: &mut [&mut Stream],
    jobs: &[(usize, Work)],
    betting: &mut Betting,
) -> bool {
    let (hidden, sublayers) = (runner.model().config().hidden, runner.model().config().sublayers());
    let rows: Vec<Vec<RowInput<'_>>> =
        jobs.iter().map(|&(index, work)| streams[index].rows(work, hidden)).collect();
    let groups: Vec<RowGroup<'_>> =
        jobs.iter().zip(&rows).map(|(&(index, work), rows)| streams[index].group(work, rows)).collect();
    let weights: Vec<f64> = jobs
        .iter()
        .zip(&rows)
        .map(|(&(index, work), rows)| streams[index].cost_weight(work, rows.len(), sublayers))
        .collect();
    let total: f64 = weights.iter().sum();
    let pass = AssertUnwindSafe(|| -> PassOutput<'_> { { runner }.run(&groups) });
    let Ok(output) = catch_unwind(pass) else { return false };
    drop(groups);
    drop(rows);
    if let [(index, Work::Plain)] = jobs {
        let baseline = &mut betting.baseline;
        baseline.observe(streams[*index].context(), output.seconds);
        record::plain_step_seconds(baseline.seconds(streams[*index].context(), 1));
    }
    let decoding = jobs.iter().filter(|(_, work)| !matches!(work, Work::Prefill { .. })).count();
    for (group, (&(index, work), weight)) in jobs.iter().zip(weights).enumerate() {
        let stream = &mut *streams[index];
        let seconds = output.seconds * weight / total;
        let plain_seconds = betting.baseline.seconds(stream.context(), decoding);
        let costs = betting.baseline.costs(decoding.saturating_sub(1));
        let answer = Answer { output, group, seconds, plain_seconds, costs };
        let outcome = catch_unwind(AssertUnwindSafe(|| stream.apply(work, &answer, betting)));
        let error = match outcome {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => error,
            Err(_) => GenerationError::Internal("a defect of the server; see its log".to_owned()),
        };
        stream.fail(error);
    }
    true
}
