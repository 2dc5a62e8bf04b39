//! How often drafts are accepted, learned as they are judged: decayed counts of all streams, and
//! how far each stream is off them.

use super::counts::Counts;

/// Bins of a confidence in \[0, 1\].
pub const BINS: usize = 10;

/// How far one judgement moves a stream's offset.
const OFFSET_STEP: f64 = 0.2;

/// What one more judgement leaves of a stream's offset: a stream's own past is forgotten within
/// some fifty tokens.
const OFFSET_DECAY: f64 = 0.98;

/// What one more token leaves of a stream's offset: what lost is tried again when the text has
/// moved on.
const OFFSET_FADE: f64 = 0.99;

/// How far traffic is taken to lie from what the priors of plans come from, in log odds, before
/// anything is known of it: a standard deviation.
const SHIFT_SPREAD: f64 = 0.5;

/// What is known of a shift at most, as its precision: some thousand judgements, so that it follows
/// the traffic.
const MOST_PRECISION: f64 = 200.0;

/// How far kinds of traffic are taken to lie from the pool, in log odds, before anything is known
/// of them: a standard deviation.
const STANDING_SPREAD: f64 = 0.7;

/// The farthest that one is taken to lie: beyond, its drafts would hardly be tried again.
const MAX_STANDING: f64 = 3.0;

/// Newton steps to a standing; each is cut to 1, so that six cross the range and the others settle.
const STANDING_STEPS: usize = 16;

/// What is known about a kind of draft, such as the tokens of one plan, by bins of a feature that
/// is known before they are judged.
#[derive(Clone, Debug)]
pub struct Acceptance<const N: usize> {
    prior: [f64; N],
    /// Judgements that the prior of each bin weighs against what was seen.
    weights: [f64; N],
    /// How far the prior is off on this traffic, in log odds, by other kinds of drafts too.
    shift: f64,
    counts: Counts<N>,
}

/// How much better or worse than their priors drafts of all plans do, in log odds. What is hard to
/// foretell for one plan is so for the others, and to learn it from each on its own would mean to
/// turn to those that nobody has tried yet, one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Shift {
    value: f64,
    precision: f64,
}

/// How much better or worse than the pool's a stream's drafts do, in log odds. One number for all
/// bins: a text that is hard to foretell is hard in every bin, and a stream is too short to learn
/// them one by one.
#[derive(Clone, Copy, Default, Debug)]
pub struct Offset {
    /// Of the kind of traffic that it belongs to; stays.
    standing: f64,
    /// Of the stream itself, on top; fades.
    own: f64,
}

// === impl Acceptance ===

impl<const N: usize> Acceptance<N> {
    /// Nothing seen yet; `prior` is the share expected in each bin, and weighs as much as so many
    /// judgements.
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

    /// Takes `counts` for what all streams have learned.
    pub fn set_counts(&mut self, counts: Counts<N>) {
        self.counts = counts;
    }

    /// Takes in what others have learned.
    pub fn add(&mut self, counts: &Counts<N>) {
        self.counts.add(counts);
    }

    /// Judgements of all streams, less what decayed.
    pub fn judged(&self) -> f64 {
        self.counts.total()
    }

    /// The expected share in bin `bin`, by the counts of all streams.
    pub fn pooled(&self, bin: usize) -> f64 {
        let (accepted, judged) = (self.counts.accepted()[bin], self.counts.judged()[bin]);
        (accepted + self.weights[bin] * self.expected(bin)) / (judged + self.weights[bin])
    }

    /// The expected share in bin `bin` for a stream that is off by `offset`.
    pub fn of_stream(&self, offset: Offset, bin: usize) -> f64 {
        offset.applied_to(self.pooled(bin))
    }

    /// Takes in a judgement of a stream's draft.
    pub fn observe(&mut self, offset: &mut Offset, bin: usize, accepted: bool) {
        let expected = self.of_stream(*offset, bin);
        offset.own = OFFSET_DECAY * offset.own + OFFSET_STEP * (f64::from(accepted) - expected);
        self.counts.observe(bin, accepted);
    }

    /// Where traffic with these counts stands against the pool: the offset that makes them
    /// likeliest, given that most traffic is near the pool (a Gaussian of [`STANDING_SPREAD`]). A
    /// stream of such traffic starts from it.
    pub fn standing(&self, counts: &Counts<N>) -> Offset {
        let pooled: [f64; N] = std::array::from_fn(|bin| self.pooled(bin));
        let (standing, _) = likeliest(STANDING_SPREAD, |by| evidence(&pooled, counts, by));
        Offset { standing, own: 0.0 }
    }
}

// === impl Offset ===

impl Offset {
    /// Takes in committed tokens.
    pub fn fade(&mut self, tokens: usize) {
        self.own *= OFFSET_FADE.powi(tokens.min(1000) as i32);
    }

    /// Forgets the stream's own.
    pub fn reset(&mut self) {
        self.own = 0.0;
    }

    fn applied_to(self, share: f64) -> f64 {
        shifted(share, self.standing + self.own)
    }
}

// === impl Shift ===

impl Default for Shift {
    fn default() -> Self {
        Self { value: 0.0, precision: SHIFT_SPREAD.powi(-2) }
    }
}

impl Shift {
    /// What the counts of these kinds of drafts say about their priors.
    pub fn of<'a, const N: usize>(kinds: impl Iterator<Item = &'a Acceptance<N>> + Clone) -> Self {
        let (value, precision) = likeliest(SHIFT_SPREAD, |by| {
            let each = kinds.clone().map(|kind| evidence(&kind.prior, &kind.counts, by));
            each.fold((0.0, 0.0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
        });
        Self { value, precision: precision.min(MOST_PRECISION) }
    }

    /// Takes in a judgement, where this share was [`Acceptance::expected`]: a step of Newton's
    /// method for the logistic likelihood.
    pub fn observe(&mut self, expected: f64, accepted: bool) {
        self.precision = (self.precision + expected * (1.0 - expected)).min(MOST_PRECISION);
        let value = self.value + (f64::from(accepted) - expected) / self.precision;
        self.value = value.clamp(-MAX_STANDING, MAX_STANDING);
    }
}

/// How far counts call for moving `shares`, which are moved `by` so much already, and how surely:
/// slope and curvature of the log likelihood.
fn evidence<const N: usize>(shares: &[f64; N], counts: &Counts<N>, by: f64) -> (f64, f64) {
    let (mut slope, mut curvature) = (0.0, 0.0);
    for (share, (accepted, judged)) in
        shares.iter().zip(counts.accepted().iter().zip(counts.judged()))
    {
        let share = shifted(*share, by);
        slope += accepted - judged * share;
        curvature += judged * share * (1.0 - share);
    }
    (slope, curvature)
}

/// The likeliest move in log odds by its `evidence`, if most lie within `spread` of none (a
/// Gaussian), and the precision of that.
fn likeliest(spread: f64, evidence: impl Fn(f64) -> (f64, f64)) -> (f64, f64) {
    let (mut by, mut precision) = (0.0, spread.powi(-2));
    for _ in 0..STANDING_STEPS {
        let (slope, curvature) = evidence(by);
        precision = spread.powi(-2) + curvature;
        let step = ((slope - spread.powi(-2) * by) / precision).clamp(-1.0, 1.0);
        by = (by + step).clamp(-MAX_STANDING, MAX_STANDING);
    }
    (by, precision)
}

/// A share, moved by so much in log odds.
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
            // Others keep the pool where it is.
            all.set_counts(Counts::new([2000.0 * pooled], [2000.0]).unwrap());
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
    fn traffic_stands_where_its_counts_say_as_far_as_they_are_evidence() {
        let mut all = Acceptance::new([0.5; 2], [4.0; 2]);
        all.set_counts(Counts::new([600.0, 1800.0], [2000.0; 2]).unwrap());
        let standing = |accepted, judged| all.standing(&Counts::new(accepted, judged).unwrap());
        for (name, accepted, judged, low, high) in [
            ("nothing is known", [0.0; 2], [0.0; 2], 0.0, 0.0),
            ("as the pool", [30.0, 90.0], [100.0; 2], -0.05, 0.05),
            ("far better", [85.0, 99.0], [100.0; 2], 2.0, MAX_STANDING),
            ("far worse", [0.0, 10.0], [100.0; 2], -MAX_STANDING, -2.0),
            ("three bad drafts", [0.0; 2], [0.0, 3.0], -1.5, -0.4),
        ] {
            let found = standing(accepted, judged).standing;
            assert!((low..=high).contains(&found), "{name}: {found}, not {low} to {high}");
        }
        let mut offset = standing([85.0, 99.0], [100.0; 2]);
        assert!(all.of_stream(offset, 0) > 0.8, "a stream starts there");
        offset.fade(1000);
        assert!(all.of_stream(offset, 0) > 0.8, "and comes back to there");
    }

    #[test]
    fn confidences_fall_into_ten_bins() {
        for (confidence, bin) in [(0.0, 0), (0.0999, 0), (0.1, 1), (0.55, 5), (0.999, 9), (1.0, 9)]
        {
            assert_eq!(confidence_bin(confidence), bin, "{confidence}");
        }
    }
}
