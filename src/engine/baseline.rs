//! The measured time of a plain step: what every speedup is a ratio to.

use crate::model::{LogitsWanted, PagePool, RowGroup, RowInput, Runner, TokenId};

/// How much one measurement moves the estimate.
const WEIGHT: f64 = 0.1;

/// Measurements at start, at each of two context lengths. The median of five shrugs off two interruptions.
const REPEATS: usize = 5;

/// Context of the longer measurement, in positions: far enough for the slope to show.
const LONG_CONTEXT: usize = 512;

/// Seconds of a plain step of one stream, as a line over the context length, kept up to date.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct PlainStep {
    /// At an empty context.
    base: f64,
    /// For each position of context.
    slope: f64,
}

// === impl PlainStep ===

impl PlainStep {
    /// Measures plain steps at a short and at a long context. The cache's contents don't matter for the time.
    pub fn measure(runner: &mut Runner, pages: &PagePool) -> Self {
        let long = LONG_CONTEXT.min(runner.model().config().context_length);
        let Some(lease) = pages.lease(long) else { return Self { base: 0.0, slope: 0.0 } };
        let mut median = |position: usize| {
            let rows = [RowInput::Token(TokenId(0))];
            let group = RowGroup {
                pages: lease.pages(),
                position,
                rows: &rows,
                skip: None,
                save_before: None,
                logits: LogitsWanted::Last,
            };
            let mut seconds: Vec<f64> =
                (0..REPEATS).map(|_| runner.run(std::slice::from_ref(&group)).cost.seconds).collect();
            seconds.sort_by(f64::total_cmp);
            seconds[REPEATS / 2]
        };
        median(0); // the first passes fault the weights in
        let (short, long_seconds) = (median(0), median(long - 1));
        Self { base: short, slope: ((long_seconds - short) / long as f64).max(0.0) }
    }

    /// Seconds at `context` positions.
    pub fn seconds(&self, context: usize) -> f64 {
        self.base + self.slope * context as f64
    }

    /// Takes in a plain step of one stream that had the machine to itself.
    pub fn observe(&mut self, context: usize, seconds: f64) {
        let expected = self.seconds(context);
        // A step that took several times as long was interrupted and says nothing about the model.
        if expected > 0.0 && seconds < 3.0 * expected {
            let factor = 1.0 + WEIGHT * (seconds / expected - 1.0);
            self.base *= factor;
            self.slope *= factor;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_steps_and_ignores_interruptions() {
        let mut step = PlainStep { base: 0.010, slope: 0.00001 };
        for _ in 0..100 {
            step.observe(100, 0.0132);
        }
        assert!((step.seconds(100) - 0.0132).abs() < 1e-5, "{step:?}");
        let before = step;
        step.observe(100, 1.0);
        assert_eq!(step, before);
    }
}
