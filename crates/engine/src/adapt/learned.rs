//! What streams learn and hand on: how often drafts of each plan and n-gram matches were accepted.

use std::collections::BTreeMap;

use super::acceptance::BINS;
use super::counts::Counts;
use crate::drafting::PlanIdentity;

/// Bins of the length of an n-gram match.
pub(super) const MATCH_BINS: usize = 7;

/// Bins of an n-gram proposal: by the length of the match, and whether the token is the first of
/// its run.
pub const NGRAM_BINS: usize = 2 * MATCH_BINS;

/// Plans of which counts are kept. Several calibrations of a model may have left theirs.
pub const MAX_PLANS: usize = 64;

/// Counts of some traffic: of all streams, of those with one profile key, or of a stream. Holds no
/// text and no token.
#[derive(Clone, PartialEq, Default, Debug)]
pub struct Learned {
    /// At most [`MAX_PLANS`].
    plans: BTreeMap<PlanIdentity, Counts<BINS>>,
    ngram: Counts<NGRAM_BINS>,
}

// === impl Learned ===

impl Learned {
    /// From counts that were kept; of more than [`MAX_PLANS`] those with the fewest judgements are
    /// left out.
    pub fn new(plans: BTreeMap<PlanIdentity, Counts<BINS>>, ngram: Counts<NGRAM_BINS>) -> Self {
        let mut learned = Self { plans, ngram };
        learned.forget_excess();
        learned
    }

    /// By plan, in bins of the draft's confidence.
    pub fn plans(&self) -> &BTreeMap<PlanIdentity, Counts<BINS>> {
        &self.plans
    }

    /// Of n-gram matches, in the bins of [`super::ngram_bin`].
    pub fn ngram(&self) -> &Counts<NGRAM_BINS> {
        &self.ngram
    }

    /// Judgements in all.
    pub fn judged(&self) -> f64 {
        self.ngram.total() + self.plans.values().map(Counts::total).sum::<f64>()
    }

    /// Takes in what became of a token that a plan drafted.
    pub fn observe_plan(&mut self, identity: PlanIdentity, bin: usize, accepted: bool) {
        self.plans.entry(identity).or_default().observe(bin, accepted);
    }

    /// Takes in what became of a token that an n-gram match proposed.
    pub fn observe_ngram(&mut self, bin: usize, accepted: bool) {
        self.ngram.observe(bin, accepted);
    }

    /// Takes in what was learned since.
    pub fn add(&mut self, newer: &Self) {
        for (identity, counts) in &newer.plans {
            self.plans.entry(*identity).or_default().add(counts);
        }
        self.ngram.add(&newer.ngram);
        self.forget_excess();
    }

    /// Weighs everything by `share`, 0 to 1.
    pub fn fade(&mut self, share: f64) {
        self.plans.values_mut().for_each(|counts| counts.fade(share));
        self.ngram.fade(share);
    }

    fn forget_excess(&mut self) {
        while self.plans.len() > MAX_PLANS {
            let least = self
                .plans
                .iter()
                .min_by(|(_, one), (_, other)| one.total().total_cmp(&other.total()));
            let Some((&identity, _)) = least else { return };
            self.plans.remove(&identity);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plans_with_most_judgements_stay() {
        let identity = |number: usize| PlanIdentity([number as u8; 16]);
        let mut learned = Learned::default();
        for number in 0..MAX_PLANS + 3 {
            let mut more = Learned::default();
            (0..number + 1).for_each(|_| more.observe_plan(identity(number), 0, true));
            learned.add(&more);
        }
        assert_eq!(learned.plans().len(), MAX_PLANS);
        let lost: Vec<usize> = (0..MAX_PLANS + 3)
            .filter(|&number| !learned.plans().contains_key(&identity(number)))
            .collect();
        assert_eq!(lost, [0, 1, 2]);
    }
}
