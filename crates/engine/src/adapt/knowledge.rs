//! Knowledge that all streams gather together: how good each plan's drafts and n-gram matches are,
//! and what they cost.

use std::sync::Arc;

use super::acceptance::{Acceptance, BINS, Offset, Shift, confidence_bin};
use super::mechanisms::Mechanisms;
use crate::drafting::DraftPlan;

/// Bins of a match's length.
const MATCH_BINS: usize = 7;

/// Kinds of tokens of n-gram matches that are told apart: by the match's length, the first token
/// and those that follow it.
pub const NGRAM_BINS: usize = 2 * MATCH_BINS;

/// Judgements that a rule of thumb weighs in each bin...
const RULE_WEIGHT: f64 = 4.0;

/// ...and what calibration counted there, at most: it may have counted more, but on other text.
const CALIBRATED_WEIGHT: f64 = 16.0;

/// Share of earlier judgements that is left after one more committed token: half after 7,000.
const FORGET: f64 = 0.9999;

/// Share of older draft steps that is left in the histogram of confidences after one more.
const HISTOGRAM_DECAY: f64 = 0.995;

/// Shared by the streams of an engine.
#[derive(Clone, Debug)]
pub struct Knowledge {
    seats: Vec<Seat>,
    shift: Shift,
    pub(super) ngram: Acceptance<NGRAM_BINS>,
    mechanisms: Mechanisms,
}

/// A plan that streams may bet on, and what is known about it.
#[derive(Clone, Debug)]
pub struct Seat {
    /// Names it in logs and statistics.
    pub name: String,
    /// The plan.
    pub plan: Arc<DraftPlan>,
    /// Knowledge about it.
    pub knowledge: PlanKnowledge,
}

/// Knowledge about one plan: its acceptance and its cost.
#[derive(Clone, Debug)]
pub struct PlanKnowledge {
    /// Acceptance by confidence.
    pub(super) acceptance: Acceptance<BINS>,
    /// Whether its prior comes from calibration, so that what it is off by says how hard the text
    /// is.
    calibrated: bool,
    /// Share of draft steps with each confidence, summing to about 1.
    pub(super) confidences: [f64; BINS],
    /// Draft step / plain step, both at an empty context.
    pub(super) cost: f64,
    /// Share of the attention sublayers that a draft step runs: with them, its cost rises with the
    /// context.
    attention: f64,
}

/// Offsets of one stream from what all streams learned.
#[derive(Clone, Debug)]
pub struct StreamOffsets {
    pub(super) plans: Vec<Offset>,
    pub(super) ngram: Offset,
}

// === impl Knowledge ===

impl Knowledge {
    /// Knowledge about these plans at the start.
    pub fn new(seats: Vec<Seat>) -> Self {
        // Longer matches are right more often; a token that follows another accepted one, more
        // often still.
        let first = [0.25_f64, 0.35, 0.5, 0.6, 0.7, 0.75, 0.8];
        let following = |bin: usize| first[bin].max(if bin == 0 { 0.5 } else { 0.75 });
        let prior = std::array::from_fn(|bin| {
            bin.checked_sub(MATCH_BINS).map_or_else(|| first[bin], following)
        });
        let ngram = Acceptance::new(prior, [RULE_WEIGHT; NGRAM_BINS]);
        Self { seats, shift: Shift::default(), ngram, mechanisms: Mechanisms::default() }
    }

    /// The plans, the best first.
    pub fn seats(&self) -> &[Seat] {
        &self.seats
    }

    /// Knowledge about plan `index`.
    pub(super) fn plan(&self, index: usize) -> &PlanKnowledge {
        &self.seats[index].knowledge
    }

    /// Switches mechanisms off, to measure what they are worth.
    pub fn set_mechanisms(&mut self, mechanisms: Mechanisms) {
        self.mechanisms = mechanisms;
    }

    /// The mechanisms that work.
    pub fn mechanisms(&self) -> Mechanisms {
        self.mechanisms
    }

    /// Offsets that a new stream starts from.
    pub fn stream(&self) -> StreamOffsets {
        let plans = vec![Offset::default(); self.seats.len()];
        StreamOffsets { plans, ngram: Offset::default() }
    }

    /// Sets the cost of a draft step of plan `index`, in plain steps at an empty context, and the
    /// share of the attention sublayers that it runs.
    pub(crate) fn set_cost(&mut self, index: usize, plain_steps: f64, attention: f64) {
        let plan = &mut self.seats[index].knowledge;
        (plan.cost, plan.attention) = (plain_steps, attention);
    }

    /// Takes in how sure a draft step of plan `index` was.
    pub fn observe_step(&mut self, index: usize, confidence: f32) {
        let plan = &mut self.seats[index].knowledge;
        for share in &mut plan.confidences {
            *share *= HISTOGRAM_DECAY;
        }
        plan.confidences[confidence_bin(confidence)] += 1.0 - HISTOGRAM_DECAY;
    }

    /// Takes in what became of a token that plan `index` drafted.
    pub fn observe_drafted(
        &mut self,
        own: &mut StreamOffsets,
        index: usize,
        confidence: f32,
        accepted: bool,
    ) {
        let bin = confidence_bin(confidence);
        let plan = &mut self.seats[index].knowledge;
        if plan.calibrated && self.mechanisms.shift {
            self.shift.observe(plan.acceptance.expected(bin), accepted);
            let calibrated = self.seats.iter_mut().filter(|seat| seat.knowledge.calibrated);
            calibrated.for_each(|seat| seat.knowledge.acceptance.set_shift(&self.shift));
        }
        let plan = &mut self.seats[index].knowledge;
        plan.acceptance.observe(&mut own.plans[index], bin, accepted);
        if !self.mechanisms.offsets {
            own.plans[index] = Offset::default();
        }
    }

    /// Takes in what became of a token that an n-gram match proposed.
    pub fn observe_ngram(&mut self, own: &mut StreamOffsets, bin: usize, accepted: bool) {
        self.ngram.observe(&mut own.ngram, bin, accepted);
        if !self.mechanisms.offsets {
            own.ngram = Offset::default();
        }
    }

    /// Takes in tokens that were committed, whoever drafted them: what was judged long ago counts
    /// less. A plan that lost is bet on again when that is forgotten; nothing else would show that
    /// the traffic has changed.
    pub fn forget(&mut self, tokens: usize) {
        let left = FORGET.powi(tokens.min(1000) as i32);
        self.shift.fade(tokens);
        for Seat { knowledge, .. } in &mut self.seats {
            knowledge.acceptance.fade(left);
            if knowledge.calibrated {
                knowledge.acceptance.set_shift(&self.shift);
            }
        }
        self.ngram.fade(left);
    }
}

// === impl PlanKnowledge ===

impl PlanKnowledge {
    /// A plan whose draft step costs `cost` plain steps and of which nothing else is known: drafts
    /// are taken to be right as often as they are sure, somewhat less at the sure end.
    pub fn unknown(cost: f64) -> Self {
        let middle = |bin: usize| (bin as f64 + 0.5) / BINS as f64;
        let acceptance = std::array::from_fn(|bin| 0.9 * middle(bin));
        Self { calibrated: false, ..Self::new(cost, acceptance, [1.0; BINS]) }
    }

    /// A plan that was measured: the cost of its draft step in plain steps, acceptance by
    /// confidence, and how often each confidence came up.
    pub fn new(cost: f64, acceptance: [f64; BINS], confidences: [f64; BINS]) -> Self {
        let total: f64 = confidences.iter().sum();
        Self {
            acceptance: Acceptance::new(
                acceptance,
                confidences.map(|count| count.clamp(RULE_WEIGHT, CALIBRATED_WEIGHT)),
            ),
            calibrated: true,
            confidences: confidences.map(|share| share / total),
            cost,
            attention: 1.0,
        }
    }

    /// Its draft step, in plain steps, where the context adds this share to those.
    pub fn cost(&self, context: f64) -> f64 {
        (self.cost + self.attention * context) / (1.0 + context)
    }
}

/// The bin of a token that follows an n-gram match of `length` tokens, the `place`-th of its run.
pub fn ngram_bin(length: usize, place: usize) -> usize {
    let by_length = match length {
        0..=1 => 0,
        2 => 1,
        3 => 2,
        4 => 3,
        5..=6 => 4,
        7..=9 => 5,
        _ => 6,
    };
    if place == 0 { by_length } else { MATCH_BINS + by_length }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use crate::drafting::SkipSet;

    /// Seats of plans that skip nothing, of which this is known.
    pub(crate) fn seats(known: &[PlanKnowledge]) -> Vec<Seat> {
        let plan = Arc::new(DraftPlan::skipping(&SkipSet::empty(4), 0.0));
        let seat = |knowledge: &PlanKnowledge| Seat {
            name: String::new(),
            plan: Arc::clone(&plan),
            knowledge: knowledge.clone(),
        };
        known.iter().map(seat).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::acceptance::testing::is_accepted;
    use super::testing::seats;
    use super::*;

    #[test]
    fn the_histogram_of_confidences_follows_the_steps() {
        let mut knowledge = Knowledge::new(seats(&[PlanKnowledge::unknown(0.5)]));
        (0..200).for_each(|_| knowledge.observe_step(0, 0.95));
        let histogram = knowledge.plan(0).confidences;
        assert!(
            histogram[9] > 0.6 && (histogram.iter().sum::<f64>() - 1.0).abs() < 1e-9,
            "{histogram:?}"
        );
    }

    #[test]
    fn a_context_that_a_plan_attends_to_in_full_costs_it_in_full() {
        let mut knowledge = Knowledge::new(seats(&[PlanKnowledge::unknown(0.9)]));
        knowledge.set_cost(0, 0.4, 0.5);
        for (context, expected) in [(0.0, 0.4), (1.0, 0.45), (1e9, 0.5)] {
            let found = knowledge.plan(0).cost(context);
            assert!((found - expected).abs() < 1e-3, "context {context}: {found}, not {expected}");
        }
    }

    #[test]
    fn text_that_is_hard_for_one_plan_is_taken_to_be_hard_for_all() {
        let plan = PlanKnowledge::new(0.4, [0.8; BINS], [1.0; BINS]);
        let mut knowledge = Knowledge::new(seats(&[plan.clone(), plan]));
        let mut own = knowledge.stream();
        for index in 0..600 {
            knowledge.observe_drafted(&mut own, 0, 0.55, is_accepted(index, 0.6));
        }
        let pooled = |knowledge: &Knowledge, plan: usize| knowledge.plan(plan).acceptance.pooled(5);
        for plan in [0, 1] {
            let found = pooled(&knowledge, plan);
            assert!((found - 0.6).abs() < 0.04, "plan {plan}: {found}");
        }
    }

    #[test]
    fn bins_rise_with_the_match() {
        let bins: Vec<usize> =
            [1, 2, 3, 4, 5, 6, 7, 9, 10, 99].map(|length| ngram_bin(length, 0)).to_vec();
        assert_eq!(bins, [0, 1, 2, 3, 4, 4, 5, 5, 6, 6]);
        assert_eq!(ngram_bin(99, 3), NGRAM_BINS - 1);
    }
}
