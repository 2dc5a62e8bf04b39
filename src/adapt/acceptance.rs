//! How often drafts are accepted, learned as they are judged: decayed counts, first those of one stream, then those of all.

/// Bins of a confidence in \[0, 1\].
pub const BINS: usize = 10;

/// What one more judgement leaves of the older ones: a stream's own counts follow its text within some forty tokens.
const STREAM_DECAY: f64 = 0.975;

/// As [`STREAM_DECAY`], for the counts of all streams.
const POOL_DECAY: f64 = 0.9995;

/// Judgements that the pool's estimate weighs against a stream's own.
const POOL_WEIGHT: f64 = 6.0;

/// Judgements that the prior weighs against the pool's own.
const PRIOR_WEIGHT: f64 = 4.0;

/// Accepted and judged, decayed.
#[derive(Clone, Copy, Default, Debug)]
pub struct Tally {
    accepted: f64,
    judged: f64,
}

/// What is known about a kind of draft, such as the tokens of one plan, by bins of a feature that is known before they are judged.
#[derive(Clone, Debug)]
pub struct Acceptance<const N: usize> {
    prior: [f64; N],
    tallies: [Tally; N],
}

// === impl Tally ===

impl Tally {
    fn count(&mut self, accepted: bool, decay: f64) {
        self.accepted = self.accepted * decay + f64::from(accepted);
        self.judged = self.judged * decay + 1.0;
    }

    /// The share accepted, shrunk towards `prior` as if that had been seen `weight` times.
    fn share(&self, prior: f64, weight: f64) -> f64 {
        (self.accepted + weight * prior) / (self.judged + weight)
    }
}

// === impl Acceptance ===

impl<const N: usize> Acceptance<N> {
    /// Nothing seen yet; `prior` is the share expected in each bin.
    pub fn new(prior: [f64; N]) -> Self {
        Self { prior, tallies: [Tally::default(); N] }
    }

    /// The expected share in bin `bin`, by the counts of all streams.
    pub fn pooled(&self, bin: usize) -> f64 {
        self.tallies[bin].share(self.prior[bin], PRIOR_WEIGHT)
    }

    /// The expected share in bin `bin` for a stream with counts `own`.
    pub fn of_stream(&self, own: &[Tally; N], bin: usize) -> f64 {
        own[bin].share(self.pooled(bin), POOL_WEIGHT)
    }

    /// Takes in a judgement, for all streams and for the stream with counts `own`.
    pub fn observe(&mut self, own: &mut [Tally; N], bin: usize, accepted: bool) {
        self.tallies[bin].count(accepted, POOL_DECAY);
        own[bin].count(accepted, STREAM_DECAY);
    }
}

/// The bin of a confidence in \[0, 1\].
pub fn confidence_bin(confidence: f32) -> usize {
    ((confidence * BINS as f32) as usize).min(BINS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimates_move_from_the_prior_to_what_is_seen() {
        let mut all = Acceptance::new([0.5; 2]);
        let (mut first, second) = ([Tally::default(); 2], [Tally::default(); 2]);
        assert_eq!((all.pooled(0), all.of_stream(&first, 0)), (0.5, 0.5));
        for _ in 0..200 {
            all.observe(&mut first, 0, true);
        }
        assert!(all.pooled(0) > 0.97 && all.of_stream(&first, 0) > 0.97);
        assert!(
            (all.of_stream(&second, 0) - all.pooled(0)).abs() < 1e-12,
            "another stream has the pool only"
        );
        assert_eq!(all.pooled(1), 0.5, "another bin has seen nothing");
        for _ in 0..40 {
            all.observe(&mut first, 0, false);
        }
        assert!(all.of_stream(&first, 0) < 0.6, "a stream forgets");
        assert!(all.pooled(0) > all.of_stream(&first, 0), "the pool forgets slower");
    }

    #[test]
    fn confidences_fall_into_ten_bins() {
        for (confidence, bin) in [(0.0, 0), (0.0999, 0), (0.1, 1), (0.55, 5), (0.999, 9), (1.0, 9)] {
            assert_eq!(confidence_bin(confidence), bin, "{confidence}");
        }
    }
}
