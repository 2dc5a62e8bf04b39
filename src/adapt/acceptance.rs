//! How often drafts are accepted, learned as they are judged: decayed counts of all streams, and how far each stream is off them.

/// Bins of a confidence in \[0, 1\].
pub const BINS: usize = 10;

/// What one more judgement leaves of the older ones.
const DECAY: f64 = 0.9995;

/// Judgements that the prior weighs against what was seen.
const PRIOR_WEIGHT: f64 = 4.0;

/// How far one judgement moves a stream's offset.
const OFFSET_STEP: f64 = 0.4;

/// What one more judgement leaves of a stream's offset: a stream's own past is forgotten within some fifty tokens.
const OFFSET_DECAY: f64 = 0.98;

/// What one more token leaves of a stream's offset: what lost is tried again when the text has moved on.
const OFFSET_FADE: f64 = 0.99;

/// What is known about a kind of draft, such as the tokens of one plan, by bins of a feature that is known before they are judged.
#[derive(Clone, Debug)]
pub struct Acceptance<const N: usize> {
    prior: [f64; N],
    accepted: [f64; N],
    judged: [f64; N],
}

/// How much better or worse than the pool's a stream's drafts do, in log odds. One number for all bins: a text that is hard to foretell is
/// hard in every bin, and a stream is too short to learn them one by one.
#[derive(Clone, Copy, Default, Debug)]
pub struct Offset(f64);

// === impl Acceptance ===

impl<const N: usize> Acceptance<N> {
    /// Nothing seen yet; `prior` is the share expected in each bin.
    pub fn new(prior: [f64; N]) -> Self {
        Self { prior, accepted: [0.0; N], judged: [0.0; N] }
    }

    /// The expected share in bin `bin`, by the counts of all streams.
    pub fn pooled(&self, bin: usize) -> f64 {
        (self.accepted[bin] + PRIOR_WEIGHT * self.prior[bin]) / (self.judged[bin] + PRIOR_WEIGHT)
    }

    /// The expected share in bin `bin` for a stream that is off by `offset`.
    pub fn of_stream(&self, offset: Offset, bin: usize) -> f64 {
        offset.applied_to(self.pooled(bin))
    }

    /// Takes in a judgement of a stream's draft.
    pub fn observe(&mut self, offset: &mut Offset, bin: usize, accepted: bool) {
        let expected = self.of_stream(*offset, bin);
        offset.0 = OFFSET_DECAY * offset.0 + OFFSET_STEP * (f64::from(accepted) - expected);
        self.accepted[bin] = DECAY * self.accepted[bin] + f64::from(accepted);
        self.judged[bin] = DECAY * self.judged[bin] + 1.0;
    }
}

// === impl Offset ===

impl Offset {
    /// Takes in committed tokens.
    pub fn fade(&mut self, tokens: usize) {
        self.0 *= OFFSET_FADE.powi(tokens.min(1000) as i32);
    }

    fn applied_to(self, share: f64) -> f64 {
        let odds = share / (1.0 - share).max(1e-6) * self.0.exp();
        odds / (1.0 + odds)
    }
}

/// The bin of a confidence in \[0, 1\].
pub fn confidence_bin(confidence: f32) -> usize {
    ((confidence * BINS as f32) as usize).min(BINS - 1)
}

#[cfg(test)]
pub(crate) mod testing {
    /// Whether the `index`-th of evenly spread drafts is accepted: after any number of them the accepted share is `share`, to within one.
    pub(crate) fn is_accepted(index: usize, share: f64) -> bool {
        ((index + 1) as f64 * share).floor() > (index as f64 * share).floor()
    }
}

#[cfg(test)]
mod tests {
    use super::testing::is_accepted;
    use super::*;

    #[test]
    fn estimates_move_from_the_prior_to_what_is_seen() {
        let mut all = Acceptance::new([0.5; 2]);
        let mut first = Offset::default();
        assert_eq!(all.pooled(0), 0.5);
        assert!((all.of_stream(first, 0) - 0.5).abs() < 1e-9);
        for _ in 0..200 {
            all.observe(&mut first, 0, true);
        }
        assert!(all.pooled(0) > 0.97 && all.of_stream(first, 0) > 0.97);
        assert_eq!(all.pooled(1), 0.5, "another bin has seen nothing");
        for _ in 0..20 {
            all.observe(&mut first, 0, false);
        }
        assert!(all.of_stream(first, 0) < 0.5, "a stream follows its text: {first:?}");
        assert!(all.pooled(0) > 0.8, "the pool forgets slower");
    }

    #[test]
    fn a_stream_s_offset_settles_where_its_drafts_are() {
        for (pooled, own) in [(0.6, 0.2), (0.6, 0.9), (0.3, 0.3)] {
            let mut all = Acceptance::new([pooled]);
            // Others keep the pool where it is.
            (all.accepted[0], all.judged[0]) = (1e6 * pooled, 1e6);
            let mut offset = Offset::default();
            let mut mean = 0.0;
            for index in 0..2000 {
                all.observe(&mut offset, 0, is_accepted(index, own));
                mean += all.of_stream(offset, 0) / 2000.0;
            }
            assert!((mean - own).abs() < 0.08, "{pooled} {own}: {mean}");
        }
    }

    #[test]
    fn confidences_fall_into_ten_bins() {
        for (confidence, bin) in [(0.0, 0), (0.0999, 0), (0.1, 1), (0.55, 5), (0.999, 9), (1.0, 9)] {
            assert_eq!(confidence_bin(confidence), bin, "{confidence}");
        }
    }
}
