//! Acceptance of drafts, learned as they are judged: decayed counts of all streams, and each
//! stream's offset from them.

use super::counts::Counts;

/// Bins of a confidence in \[0, 1\].
pub const BINS: usize = 10;

/// Step by which one judgement moves a stream's offset.
const OFFSET_STEP: f64 = 0.2;

/// Share of a stream's offset that is left after one more judgement: a stream's own past is
/// forgotten within some fifty tokens.
const OFFSET_DECAY: f64 = 0.98;

/// Share of a stream's offset that is left after one more token: a bet that lost is tried again
/// when the text has moved on.
const OFFSET_FADE: f64 = 0.99;

/// Standard deviation, in log odds, of the distance between traffic and the text behind the priors
/// of plans, before anything is known of the traffic.
const SHIFT_SPREAD: f64 = 0.5;

/// Share of a shift and of its precision that is left after one more committed token: a thousand
/// tokens count, so that it follows the traffic, and plans that it made look bad are tried again.
const SHIFT_FADE: f64 = 0.999;

/// The farthest that text is taken to lie: beyond, its drafts would hardly be tried again.
const MAX_SHIFT: f64 = 3.0;

/// Knowledge about a kind of draft, such as the tokens of one plan, by bins of a feature that is
/// known before they are judged.
#[derive(Clone, Debug)]
pub struct Acceptance<const N: usize> {
    prior: [f64; N],
    /// Judgements that the prior of each bin weighs against what was seen.
    weights: [f64; N],
    /// Offset of the prior on this traffic, in log odds, learned from other kinds of drafts too.
    shift: f64,
    counts: Counts<N>,
}

/// Distance of the drafts of all plans from their priors, in log odds; positive where they do
/// better. What is hard to predict for one plan is so for the others, and to learn it from each on
/// its own would mean to turn to those that nobody has tried yet, one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Shift {
    value: f64,
    precision: f64,
}

/// Distance of a stream's drafts from the pool's, in log odds; positive where they do better. One
/// number for all bins: a text that is hard to predict is hard in every bin, and a stream is too
/// short to learn them one by one. It fades.
#[derive(Clone, Copy, Default, Debug)]
pub struct Offset(f64);

// === impl Acceptance ===

impl<const N: usize> Acceptance<N> {
    /// An estimate that has seen nothing; `prior` is the share expected in each bin, and weighs as
    /// much as `weights` judgements.
    pub fn new(prior: [f64; N], weights: [f64; N]) -> Self {
        Self { prior, weights, shift: 0.0, counts: Counts::default() }
    }

    /// Takes in how far the priors are off on this traffic.
    pub fn set_shift(&mut self, shift: &Shift) {
        self.shift = shift.value;
    }

    /// The share expected in bin `bin` where nothing was seen of it.
    pub fn expected(&self, bin: usize) -> f64 {
        shifted(self.prior[bin], self.shift)
    }

    /// The expected share in bin `bin`, by the counts of all streams.
    pub fn pooled(&self, bin: usize) -> f64 {
        let (accepted, judged) = (self.counts.accepted()[bin], self.counts.judged()[bin]);
        (accepted + self.weights[bin] * self.expected(bin)) / (judged + self.weights[bin])
    }

    /// The expected share in bin `bin` for a stream that is off by `offset`.
    pub fn of_stream(&self, offset: Offset, bin: usize) -> f64 {
        shifted(self.pooled(bin), offset.0)
    }

    /// Takes in a judgement of a stream's draft.
    pub fn observe(&mut self, offset: &mut Offset, bin: usize, accepted: bool) {
        let expected = self.of_stream(*offset, bin);
        offset.0 = OFFSET_DECAY * offset.0 + OFFSET_STEP * (f64::from(accepted) - expected);
        self.counts.observe(bin, accepted);
    }

    /// Weighs what was seen by `share`, 0 to 1.
    pub fn fade(&mut self, share: f64) {
        self.counts.fade(share);
    }
}

// === impl Offset ===

impl Offset {
    /// Takes in committed tokens.
    pub fn fade(&mut self, tokens: usize) {
        self.0 *= OFFSET_FADE.powi(tokens.min(1000) as i32);
    }
}

// === impl Shift ===

impl Default for Shift {
    fn default() -> Self {
        Self { value: 0.0, precision: SHIFT_SPREAD.powi(-2) }
    }
}

impl Shift {
    /// Takes in committed tokens.
    pub fn fade(&mut self, tokens: usize) {
        let (unknown, share) = (Self::default(), SHIFT_FADE.powi(tokens.min(1000) as i32));
        self.value *= share;
        self.precision = unknown.precision + share * (self.precision - unknown.precision);
    }

    /// Takes in a judgement, where this share was [`Acceptance::expected`]: a step of Newton's
    /// method for the logistic likelihood.
    pub fn observe(&mut self, expected: f64, accepted: bool) {
        self.precision += expected * (1.0 - expected);
        let value = self.value + (f64::from(accepted) - expected) / self.precision;
        self.value = value.clamp(-MAX_SHIFT, MAX_SHIFT);
    }
}

/// A share, moved by `by` in log odds.
fn shifted(share: f64, by: f64) -> f64 {
    let odds = share / (1.0 - share).max(1e-6) * by.exp();
    odds / (1.0 + odds)
}

/// The bin of a confidence in \[0, 1\].
pub fn confidence_bin(confidence: f32) -> usize {
    ((confidence * BINS as f32) as usize).min(BINS - 1)
}

#[cfg(test)]
pub(crate) mod testing {
    /// Whether the `index`-th of evenly spread drafts is accepted: after any number of them the
    /// accepted share is `share`, to within one.
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
        let mut all = Acceptance::new([0.5; 2], [4.0; 2]);
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
            let mut all = Acceptance::new([pooled], [4.0]);
            let mut offset = Offset::default();
            let mut mean = 0.0;
            for index in 0..2000 {
                // Others keep the pool where it is.
                for other in 20 * index..20 * (index + 1) {
                    all.observe(&mut Offset::default(), 0, is_accepted(other, pooled));
                }
                all.observe(&mut offset, 0, is_accepted(index, own));
                mean += all.of_stream(offset, 0) / 2000.0;
            }
            // It decays, so it stops short.
            assert!((mean - own).abs() < 0.13, "{pooled} {own}: {mean}");
        }
    }

    #[test]
    fn confidences_fall_into_ten_bins() {
        for (confidence, bin) in [(0.0, 0), (0.0999, 0), (0.1, 1), (0.55, 5), (0.999, 9), (1.0, 9)]
        {
            assert_eq!(confidence_bin(confidence), bin, "{confidence}");
        }
    }
}
