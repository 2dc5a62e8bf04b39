//! Effects of runs of sublayers on the states of the text: mean changes of many runs, second
//! moments of a few.

use std::ops::Range;

use super::corpus::{MAX_SEQUENCE, Sequence};
use super::kept_moments::KeptMoments;
use super::{CalibrationError, CalibrationProgress};
use crate::adapt::{BridgeWeights, LEFT_OUT, Moments};
use skipstone_model::{PagePool, PassOutput, RowGroup, RowInput, Runner, SkipMask};

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

/// A chunk of a sequence that went through the model.
struct Trace<'a> {
    /// Sublayers that states were saved before.
    places: &'a [usize],
    output: PassOutput<'a>,
    pages: &'a [u32],
    /// Position of the first row.
    position: usize,
    /// The rows that count.
    rows: Range<usize>,
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
        self.trace("mean changes", spans, BIAS_TOKENS, progress, |trace| {
            for mean in &mut means {
                let Some((before, after)) = trace.ends(&mean.span) else { continue };
                let saved = |place, row| trace.output.saved(0, place, row);
                trace
                    .rows
                    .clone()
                    .for_each(|row| mean.observe(saved(before, row), saved(after, row)));
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

    /// The moments of each span, from the first `tokens` tokens of text; kept until the profile is
    /// complete.
    pub(super) fn moments(
        &mut self,
        spans: &[Range<usize>],
        tokens: usize,
        progress: &dyn CalibrationProgress,
    ) -> Result<Vec<Moments>, CalibrationError> {
        let hidden = self.runner.model().config().hidden;
        if let Some(kept) = self.kept.read(spans, tokens, hidden) {
            return Ok(kept);
        }
        let mut moments = vec![Moments::new(hidden); spans.len()];
        let share = spans.len().div_ceil(self.runner.threads()).max(1);
        self.trace("second moments", spans, tokens, progress, |trace| {
            std::thread::scope(|scope| {
                for (spans, moments) in spans.chunks(share).zip(moments.chunks_mut(share)) {
                    scope.spawn(|| {
                        spans
                            .iter()
                            .zip(moments)
                            .for_each(|(span, moments)| trace.teach(span, moments));
                    });
                }
            });
        })?;
        spans
            .iter()
            .zip(&moments)
            .try_for_each(|(span, moments)| self.kept.write(span, tokens, moments))?;
        Ok(moments)
    }

    /// Runs the sequences up to the last end of `spans` and to where features are kept, and hands
    /// on the trace of each chunk.
    fn trace(
        &mut self,
        what: &str,
        spans: &[Range<usize>],
        tokens: usize,
        progress: &dyn CalibrationProgress,
        mut observe: impl FnMut(&Trace<'_>),
    ) -> Result<(), CalibrationError> {
        let config = self.runner.model().config();
        let (sublayers, feature) = (config.sublayers(), config.feature_sublayer());
        let mut places: Vec<usize> = spans.iter().flat_map(|span| [span.start, span.end]).collect();
        places.sort_unstable();
        places.dedup();
        let end = places.last().copied().unwrap_or(0).max(feature);
        // What comes after is of no use here.
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
                let rows: Vec<RowInput<'_>> =
                    part.iter().map(|&token| RowInput::Token(token)).collect();
                let group = RowGroup {
                    skip: Some(&mask),
                    save_before: &places,
                    ..RowGroup::new(lease.pages(), position, &rows)
                };
                let output = self.runner.run(std::slice::from_ref(&group));
                let rows = LEFT_OUT.saturating_sub(position).min(part.len())..part.len();
                observe(&Trace { places: &places, output, pages: lease.pages(), position, rows });
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
        if !(weight.is_finite() && weight > 0.0) {
            return;
        }
        self.weight += weight;
        let share = weight / self.weight;
        for (mean, (before, after)) in self.mean.iter_mut().zip(before.iter().zip(after)) {
            *mean += share * (f64::from(after - before) - *mean);
        }
    }
}

// === impl Trace ===

impl Trace<'_> {
    /// Adds what the chunk says of a run.
    fn teach(&self, span: &Range<usize>, moments: &mut Moments) {
        let Some((first, last)) = self.ends(span) else { return };
        let (mut inputs, mut after) = (Vec::new(), Vec::new());
        for row in self.rows.clone() {
            let place = (0, first, row);
            self.output.append_bridge_input(place, self.pages, self.position + row, &mut inputs);
            after.extend_from_slice(self.output.saved(0, last, row));
        }
        moments.observe(&inputs, &after);
    }

    /// The places of the states before and after a run.
    fn ends(&self, span: &Range<usize>) -> Option<(usize, usize)> {
        let place = |sublayer: usize| self.places.binary_search(&sublayer).ok();
        Some((place(span.start)?, place(span.end)?))
    }
}
