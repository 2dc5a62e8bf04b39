//! Decayed counts of judged drafts: what streams learn, replicas add up and stores keep.

/// What one more judgement leaves of the older ones in its bin.
const DECAY: f64 = 0.9995;

/// What a bin weighs at most, in judgements: twice what it comes to by itself, at a judgement's
/// decay.
pub const MAX_JUDGED: f64 = 4000.0;

/// Judged drafts by bins, and how many of them were accepted. Finite, and in each bin 0 <= accepted
/// <= judged <= [`MAX_JUDGED`].
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Counts<const N: usize> {
    accepted: [f64; N],
    judged: [f64; N],
}

// === impl Counts ===

impl<const N: usize> Default for Counts<N> {
    fn default() -> Self {
        Self { accepted: [0.0; N], judged: [0.0; N] }
    }
}

impl<const N: usize> Counts<N> {
    /// Counts from outside; `None` if they are impossible.
    pub fn new(accepted: [f64; N], judged: [f64; N]) -> Option<Self> {
        // Not a number fails every comparison.
        let possible = |(&accepted, &judged): (&f64, &f64)| {
            (0.0..=judged).contains(&accepted) && (0.0..=MAX_JUDGED).contains(&judged)
        };
        accepted.iter().zip(&judged).all(possible).then_some(Self { accepted, judged })
    }

    /// Accepted drafts of each bin.
    pub fn accepted(&self) -> &[f64; N] {
        &self.accepted
    }

    /// Judged drafts of each bin.
    pub fn judged(&self) -> &[f64; N] {
        &self.judged
    }

    /// Judged drafts of all bins.
    pub fn total(&self) -> f64 {
        self.judged.iter().sum()
    }

    /// Takes in a judgement.
    pub fn observe(&mut self, bin: usize, accepted: bool) {
        self.accepted[bin] = DECAY * self.accepted[bin] + f64::from(accepted);
        self.judged[bin] = DECAY * self.judged[bin] + 1.0;
    }

    /// Takes in judgements that are newer than its own, as if it had observed them.
    pub fn add(&mut self, newer: &Self) {
        for bin in 0..N {
            let left = DECAY.powf(newer.judged[bin]);
            let judged = left * self.judged[bin] + newer.judged[bin];
            let accepted = left * self.accepted[bin] + newer.accepted[bin];
            let excess = (judged / MAX_JUDGED).max(1.0);
            self.judged[bin] = (judged / excess).min(MAX_JUDGED);
            self.accepted[bin] = (accepted / excess).min(self.judged[bin]);
        }
    }

    /// Weighs everything by `share`, 0 to 1.
    pub fn fade(&mut self, share: f64) {
        self.accepted.iter_mut().chain(&mut self.judged).for_each(|count| *count *= share);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adding_is_as_good_as_observing() {
        let (mut one, mut parts) = (Counts::<2>::default(), [Counts::<2>::default(); 3]);
        for index in 0..3000 {
            let (bin, accepted) = (index % 2, index % 3 == 0);
            one.observe(bin, accepted);
            parts[index / 1000].observe(bin, accepted);
        }
        let mut sum = Counts::default();
        parts.iter().for_each(|part| sum.add(part));
        for bin in 0..2 {
            assert!((sum.judged[bin] / one.judged[bin] - 1.0).abs() < 0.1, "{sum:?} {one:?}");
            let share = |counts: &Counts<2>| counts.accepted[bin] / counts.judged[bin];
            assert!((share(&sum) - share(&one)).abs() < 0.01, "{sum:?} {one:?}");
        }
        let total = one.total();
        one.fade(0.25);
        assert!((one.total() - 0.25 * total).abs() < 1e-9, "{total} {one:?}");
    }

    #[test]
    fn counts_stay_possible_whatever_is_added() {
        let most = Counts::<1>::new([MAX_JUDGED], [MAX_JUDGED]).unwrap();
        let mut sum = most;
        for _ in 0..50 {
            sum.add(&most);
            assert!(Counts::new(sum.accepted, sum.judged).is_some(), "{sum:?}");
        }
        for (accepted, judged) in [
            (1.0, 0.5),
            (-0.1, 1.0),
            (f64::NAN, 1.0),
            (0.0, f64::NAN),
            (0.0, f64::INFINITY),
            (0.0, MAX_JUDGED + 1.0),
        ] {
            assert_eq!(Counts::new([accepted], [judged]), None, "{accepted} of {judged}");
        }
    }
}
