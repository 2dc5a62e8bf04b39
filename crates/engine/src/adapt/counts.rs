//! Decayed counts of judged drafts.

/// Share of a bin's older judgements that is left after one more: some two thousand count.
const DECAY: f64 = 0.9995;

/// Judged drafts by bins, and how many of them were accepted.
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
    /// Accepted drafts of each bin.
    pub fn accepted(&self) -> &[f64; N] {
        &self.accepted
    }

    /// Judged drafts of each bin.
    pub fn judged(&self) -> &[f64; N] {
        &self.judged
    }

    /// Weighs everything by `share`, 0 to 1.
    pub fn fade(&mut self, share: f64) {
        self.accepted.iter_mut().chain(&mut self.judged).for_each(|count| *count *= share);
    }

    /// Takes in a judgement.
    pub fn observe(&mut self, bin: usize, accepted: bool) {
        self.accepted[bin] = DECAY * self.accepted[bin] + f64::from(accepted);
        self.judged[bin] = DECAY * self.judged[bin] + 1.0;
    }
}
