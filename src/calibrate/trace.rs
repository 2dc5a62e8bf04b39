//! What runs of sublayers do to the states of the text: mean changes of many runs, second moments of a few.

use std::ops::Range;

use super::corpus::{MAX_SEQUENCE, Sequence};
use super::kept_moments::KeptMoments;
use super::{CalibrationError, CalibrationProgress};
use crate::adapt::{BridgeWeights, LEFT_OUT, Moments};
use crate::model::{LogitsWanted, PagePool, PassOutput, RowGroup, RowInput, Runner, SkipMask};

/// Rows of a traced pass.
pub(super) const CHUNK: usize = 128;

/// Tokens that mean changes are taken over; many times what a mean needs.
const BIAS_TOKENS: usize = 2048;

/// Traces sequences.
pub(super) struct Spans<'a> {
    pub(super) runner: &'a mut Runner,
    pub(super) pool: &'a PagePool,
    pub(super) sequences: &'a [&'a Sequence],
    /// Moments of an earlier try.
    pub(super) kept: &'a KeptMoments,
}

/// The weighted mean change over one run.
struct MeanChange {
    span: Range<usize>,
    weight: f64,
    mean: Vec<f64>,
}

// === impl Spans ===

impl Spans<'_> {
    /// The bias bridge of each span.
    pub(super) fn biases(
        &mut self,
        spans: &[Range<usize>],
        progress: &dyn CalibrationProgress,
    ) -> Result<Vec<BridgeWeights>, CalibrationError> {
        let hidden = self.runner.model().config().hidden;
        let mut means: Vec<MeanChange> = spans
            .iter()
            .map(|span| MeanChange { span: span.clone(), weight: 0.0, mean: vec![0.0; hidden] })
            .collect();
        self.trace("mean changes", spans, BIAS_TOKENS, progress, |places, output, rows| {
            for mean in &mut means {
                let (Some(before), Some(after)) =
                    (place(places, mean.span.start), place(places, mean.span.end))
                else {
                    continue;
                };
                rows.clone()
                    .for_each(|row| mean.observe(output.saved(0, before, row), output.saved(0, after, row)));
            }
        })?;
        Ok(means
            .into_iter()
            .map(|mean| BridgeWeights {
                bias: mean.mean.iter().map(|&value| value as f32).collect(),
                down: Vec::new(),
                up: Vec::new(),
            })
            .collect())
    }

    /// The moments of each span; kept until the profile is complete.
    pub(super) fn moments(
        &mut self,
        spans: &[Range<usize>],
        progress: &dyn CalibrationProgress,
    ) -> Result<Vec<Moments>, CalibrationError> {
        let hidden = self.runner.model().config().hidden;
        if let Some(kept) = self.kept.read(spans, hidden) {
            return Ok(kept);
        }
        let mut moments = vec![Moments::new(hidden); spans.len()];
        let (mut before, mut after) = (Vec::new(), Vec::new());
        self.trace("second moments", spans, usize::MAX, progress, |places, output, rows| {
            for (span, moments) in spans.iter().zip(&mut moments) {
                let (Some(first), Some(last)) = (place(places, span.start), place(places, span.end)) else {
                    continue;
                };
                before.clear();
                after.clear();
                for row in rows.clone() {
                    before.extend_from_slice(output.saved(0, first, row));
                    after.extend_from_slice(output.saved(0, last, row));
                }
                moments.observe(&before, &after);
            }
        })?;
        spans.iter().zip(&moments).try_for_each(|(span, moments)| self.kept.write(span, moments))?;
        Ok(moments)
    }

    /// Runs the sequences up to the last end of `spans`, and hands on the states before each boundary: the sublayers of the places, and the
    /// rows that count.
    fn trace(
        &mut self,
        what: &str,
        spans: &[Range<usize>],
        tokens: usize,
        progress: &dyn CalibrationProgress,
        mut observe: impl FnMut(&[usize], PassOutput<'_>, Range<usize>),
    ) -> Result<(), CalibrationError> {
        let sublayers = self.runner.model().config().sublayers();
        let mut places: Vec<usize> = spans.iter().flat_map(|span| [span.start, span.end]).collect();
        places.sort_unstable();
        places.dedup();
        let end = places.last().copied().unwrap_or(0);
        // What comes after the last place is of no use here.
        let mask = SkipMask::new((0..sublayers).map(|sublayer| sublayer >= end).collect());
        let lease = self.pool.lease(MAX_SEQUENCE).ok_or(CalibrationError::Pages)?;
        let all: usize = self.sequences.iter().map(|sequence| sequence.tokens.len()).sum();
        progress.stage(what, all.min(tokens));
        let mut seen = 0;
        for sequence in self.sequences {
            for (chunk, part) in sequence.tokens.chunks(CHUNK).enumerate() {
                if seen >= tokens {
                    return Ok(());
                }
                let position = chunk * CHUNK;
                let rows: Vec<RowInput<'_>> = part.iter().map(|&token| RowInput::Token(token)).collect();
                let group = RowGroup {
                    pages: lease.pages(),
                    position,
                    rows: &rows,
                    skip: Some(&mask),
                    bridges: &[],
                    save_before: &places,
                    logits: LogitsWanted::None,
                };
                let output = self.runner.run(std::slice::from_ref(&group));
                observe(&places, output, LEFT_OUT.saturating_sub(position).min(part.len())..part.len());
                seen += part.len();
                progress.done(seen.min(tokens));
            }
        }
        Ok(())
    }
}

// === impl MeanChange ===

impl MeanChange {
    fn observe(&mut self, before: &[f32], after: &[f32]) {
        let squares: f64 =
            before.iter().zip(after).map(|(before, after)| f64::from(after - before).powi(2)).sum();
        let weight = (before.len() as f64 / squares).sqrt();
        if !weight.is_finite() {
            return;
        }
        self.weight += weight;
        let share = weight / self.weight;
        for (mean, (before, after)) in self.mean.iter_mut().zip(before.iter().zip(after)) {
            *mean += share * (f64::from(after - before) - *mean);
        }
    }
}

fn place(places: &[usize], sublayer: usize) -> Option<usize> {
    places.binary_search(&sublayer).ok()
}
