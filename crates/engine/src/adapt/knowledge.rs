//! What all streams have learned together: how good each plan's drafts and n-gram matches are, and
//! what they cost.

use std::sync::Arc;

use super::acceptance::{Acceptance, BINS, Offset, Shift, confidence_bin};
use super::costs::cost_without_context;
use super::fold::Bank;
use super::learned::{Learned, MATCH_BINS, NGRAM_BINS};
use crate::drafting::{DraftPlan, PlanIdentity};

/// How much one measurement moves a cost, once there were many. Little: a cost that looks too high
/// by chance ends the drafts that would correct it.
const COST_WEIGHT: f64 = 0.01;

/// Measurements that a cost known at start counts for.
const COST_PRIOR: f64 = 4.0;

/// Judgements that a rule of thumb weighs in each bin...
const RULE_WEIGHT: f64 = 4.0;

/// ...and what calibration counted there, at most: it may have counted more, but on other text.
const CALIBRATED_WEIGHT: f64 = 16.0;

/// What one more draft step leaves of the older ones in the histogram of confidences.
const HISTOGRAM_DECAY: f64 = 0.995;

/// Shared by the streams of an engine.
#[derive(Clone, Debug)]
pub struct Knowledge {
    plans: Vec<PlanKnowledge>,
    shift: Shift,
    pub(super) ngram: Acceptance<NGRAM_BINS>,
    bank: Bank,
}

/// What is known about one plan.
#[derive(Clone, Debug)]
pub struct PlanKnowledge {
    /// Which plan it is, where that matters: what is learned is kept under it.
    pub(super) identity: PlanIdentity,
    /// Acceptance by confidence.
    pub(super) acceptance: Acceptance<BINS>,
    /// Whether its prior comes from calibration, so that what it is off by says how hard the text
    /// is.
    calibrated: bool,
    /// How often each confidence comes up, summing to about 1.
    pub(super) confidences: [f64; BINS],
    /// Draft step / plain step, both at an empty context.
    pub(super) cost: f64,
    /// Share of the attention sublayers that a draft step runs: with them, its cost rises with the
    /// context.
    attention: f64,
    /// Draft steps that it was measured by.
    steps: u32,
}

/// A plan that streams may bet on, and what is known about it.
#[derive(Clone, Debug)]
pub struct FrontierPlan {
    /// Names it in logs and statistics.
    pub name: String,
    /// The plan.
    pub plan: Arc<DraftPlan>,
    /// Tokens that the profile was made from that it came from; 0 if it came from none.
    pub profile_tokens: usize,
    /// What is known at start.
    pub knowledge: PlanKnowledge,
}

/// How far one stream is off what all streams learned, and what it has taught them.
#[derive(Clone, Debug)]
pub struct StreamOffsets {
    pub(super) plans: Vec<Offset>,
    pub(super) ngram: Offset,
    taught: Learned,
}

// === impl Knowledge ===

impl Knowledge {
    /// What is known at start: one entry for each plan.
    pub fn new(plans: Vec<PlanKnowledge>) -> Self {
        // Longer matches are right more often; a token that follows another accepted one, more
        // often still.
        let first = [0.25_f64, 0.35, 0.5, 0.6, 0.7, 0.75, 0.8];
        let following = |bin: usize| first[bin].max(if bin == 0 { 0.5 } else { 0.75 });
        let prior = std::array::from_fn(|bin| {
            bin.checked_sub(MATCH_BINS).map_or_else(|| first[bin], following)
        });
        let ngram = Acceptance::new(prior, [RULE_WEIGHT; NGRAM_BINS]);
        Self { plans, shift: Shift::default(), ngram, bank: Bank::default() }
    }

    /// Plans that it knows.
    pub fn plans(&self) -> usize {
        self.plans.len()
    }

    /// Plan `index`.
    pub fn plan(&self, index: usize) -> &PlanKnowledge {
        &self.plans[index]
    }

    /// What backs the streams' bets.
    pub fn bank(&self) -> &Bank {
        &self.bank
    }

    /// The same, to change.
    pub fn bank_mut(&mut self) -> &mut Bank {
        &mut self.bank
    }

    /// What a new stream starts from, given what is known of traffic like its own.
    pub fn stream(&self, traffic: Option<&Learned>) -> StreamOffsets {
        let of_plan = |plan: &PlanKnowledge| {
            let counts = traffic.and_then(|traffic| traffic.plans().get(&plan.identity));
            counts.map_or_else(Offset::default, |counts| plan.acceptance.standing(counts))
        };
        StreamOffsets {
            plans: self.plans.iter().map(of_plan).collect(),
            ngram: traffic
                .map_or_else(Offset::default, |traffic| self.ngram.standing(traffic.ngram())),
            taught: Learned::default(),
        }
    }

    /// From now on plan `index` is this one, and runs this share of the attention sublayers.
    pub fn identify(&mut self, index: usize, identity: PlanIdentity, attention: f64) {
        let plan = &mut self.plans[index];
        (plan.identity, plan.attention) = (identity, attention);
    }

    /// A draft step of plan `index` would cost so many plain steps at an empty context, by what its
    /// parts take here.
    pub fn estimate_cost(&mut self, index: usize, plain_steps: f64) {
        let plan = &mut self.plans[index];
        plan.cost = (plan.cost + plain_steps) / 2.0;
    }

    /// Takes `pool` for all that streams have learned, but for what these streams still keep to
    /// themselves. Plans that the pool does not know stay as they are: one that took a seat has
    /// what is known of its predecessor.
    pub fn set_pool<'a>(&mut self, pool: &Learned, own: impl Iterator<Item = &'a Learned> + Clone) {
        for plan in &mut self.plans {
            let Some(counts) = pool.plans().get(&plan.identity) else { continue };
            plan.acceptance.set_counts(*counts);
            let own = own.clone().filter_map(|taught| taught.plans().get(&plan.identity));
            own.for_each(|counts| plan.acceptance.add(counts));
        }
        self.shift = Shift::of(
            self.plans.iter().filter(|plan| plan.calibrated).map(|plan| &plan.acceptance),
        );
        self.apply_shift();
        self.ngram.set_counts(*pool.ngram());
        own.for_each(|taught| self.ngram.add(taught.ngram()));
    }

    /// Plan `index` is another one now, as [`Knowledge::identify`] says, whose draft step costs
    /// `plain_steps` more: of its acceptance, that of its predecessor is all that is known.
    pub fn replace(
        &mut self,
        index: usize,
        identity: PlanIdentity,
        attention: f64,
        plain_steps: f64,
    ) {
        self.identify(index, identity, attention);
        let plan = &mut self.plans[index];
        plan.steps = 0;
        plan.calibrated = false;
        plan.cost = (plan.cost + plain_steps).max(0.01);
    }

    /// Takes in a draft step of plan `index`: its confidence, and if it was measured its cost in
    /// plain steps, where the context adds the share `context` to those.
    pub fn observe_step(&mut self, index: usize, confidence: f32, cost: Option<f64>, context: f64) {
        let plan = &mut self.plans[index];
        for share in &mut plan.confidences {
            *share *= HISTOGRAM_DECAY;
        }
        plan.confidences[confidence_bin(confidence)] += 1.0 - HISTOGRAM_DECAY;
        let Some(cost) = cost else { return };
        let cost = cost_without_context(cost, plan.attention, context).max(0.0);
        plan.steps += 1;
        let weight = (COST_PRIOR + f64::from(plan.steps)).recip().max(COST_WEIGHT);
        // A step that took several times as long was interrupted, or the cost known so far is
        // wrong: it counts, but not in full.
        plan.cost += weight * (cost.min(2.0 * plan.cost) - plan.cost);
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
        if self.plans[index].calibrated && self.bank.mechanisms().shift {
            self.shift.observe(self.plans[index].acceptance.expected(bin), accepted);
            self.apply_shift();
        }
        let plan = &mut self.plans[index];
        plan.acceptance.observe(&mut own.plans[index], bin, accepted);
        if !self.bank.mechanisms().offsets {
            own.plans[index].reset();
        }
        own.taught.observe_plan(plan.identity, bin, accepted);
    }

    fn apply_shift(&mut self) {
        let calibrated = self.plans.iter_mut().filter(|plan| plan.calibrated);
        calibrated.for_each(|plan| plan.acceptance.set_shift(&self.shift));
    }

    /// Takes in what became of a token that an n-gram match proposed.
    pub fn observe_ngram(&mut self, own: &mut StreamOffsets, bin: usize, accepted: bool) {
        self.ngram.observe(&mut own.ngram, bin, accepted);
        if !self.bank.mechanisms().offsets {
            own.ngram.reset();
        }
        own.taught.observe_ngram(bin, accepted);
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
            identity: PlanIdentity::default(),
            acceptance: Acceptance::new(
                acceptance,
                confidences.map(|count| count.clamp(RULE_WEIGHT, CALIBRATED_WEIGHT)),
            ),
            calibrated: true,
            confidences: confidences.map(|share| share / total),
            cost,
            attention: 1.0,
            steps: 0,
        }
    }

    /// Its draft step, in plain steps, where the context adds this share to those.
    pub fn cost(&self, context: f64) -> f64 {
        (self.cost + self.attention * context) / (1.0 + context)
    }
}

// === impl StreamOffsets ===

impl StreamOffsets {
    /// What the stream has taught since the last call of [`StreamOffsets::take_taught`].
    pub fn taught(&self) -> &Learned {
        &self.taught
    }

    /// The same, to be handed on.
    pub fn take_taught(&mut self) -> Learned {
        std::mem::take(&mut self.taught)
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
mod tests {
    use super::super::acceptance::testing::is_accepted;
    use super::*;

    #[test]
    fn costs_follow_steps_and_interruptions_hardly_move_them() {
        let mut knowledge = Knowledge::new(vec![PlanKnowledge::unknown(0.5)]);
        for _ in 0..200 {
            knowledge.observe_step(0, 0.95, Some(0.6), 0.0);
        }
        assert!((knowledge.plan(0).cost - 0.6).abs() < 5e-3);
        knowledge.observe_step(0, 0.95, Some(60.0), 0.0);
        assert!(knowledge.plan(0).cost < 0.67, "{}", knowledge.plan(0).cost);
        let mut wrong = Knowledge::new(vec![PlanKnowledge::unknown(0.1)]);
        (0..200).for_each(|_| wrong.observe_step(0, 0.95, Some(0.6), 0.0));
        assert!(
            (wrong.plan(0).cost - 0.6).abs() < 5e-2,
            "a cost that was too low rises: {}",
            wrong.plan(0).cost
        );
        let histogram = knowledge.plan(0).confidences;
        assert!(
            histogram[9] > 0.6 && (histogram.iter().sum::<f64>() - 1.0).abs() < 1e-9,
            "{histogram:?}"
        );
    }

    #[test]
    fn a_context_that_a_plan_attends_to_in_full_costs_it_in_full() {
        let mut knowledge = Knowledge::new(vec![PlanKnowledge::unknown(0.4)]);
        knowledge.identify(0, PlanIdentity::default(), 0.5);
        // Half of the attention, and with the context all passes take twice as long.
        (0..400).for_each(|_| knowledge.observe_step(0, 0.95, Some(0.45), 1.0));
        for (context, expected) in [(0.0, 0.4), (1.0, 0.45), (1e9, 0.5)] {
            let found = knowledge.plan(0).cost(context);
            assert!((found - expected).abs() < 1e-3, "context {context}: {found}, not {expected}");
        }
    }

    #[test]
    fn text_that_is_hard_for_one_plan_is_taken_to_be_hard_for_all() {
        let plan = PlanKnowledge::new(0.4, [0.8; BINS], [1.0; BINS]);
        let mut knowledge = Knowledge::new(vec![plan; 2]);
        let mut own = knowledge.stream(None);
        for index in 0..600 {
            knowledge.observe_drafted(&mut own, 0, 0.55, is_accepted(index, 0.6));
        }
        let pooled = |knowledge: &Knowledge, plan: usize| knowledge.plan(plan).acceptance.pooled(5);
        for plan in [0, 1] {
            let found = pooled(&knowledge, plan);
            assert!((found - 0.6).abs() < 0.04, "plan {plan}: {found}");
        }
        // After a restart the pool tells.
        let mut anew = Knowledge::new(vec![PlanKnowledge::new(0.4, [0.8; BINS], [1.0; BINS]); 2]);
        let known = PlanIdentity([1; 16]);
        anew.identify(0, known, 1.0);
        let mut pool = Learned::default();
        (0..600).for_each(|index| pool.observe_plan(known, 5, is_accepted(index, 0.6)));
        anew.set_pool(&pool, std::iter::empty());
        assert!((pooled(&anew, 1) - 0.6).abs() < 0.04, "{}", pooled(&anew, 1));
        // A better bridge doesn't make the others look better.
        anew.replace(0, PlanIdentity([3; 16]), 1.0, 0.0);
        let before = pooled(&anew, 1);
        (0..600).for_each(|_| anew.observe_drafted(&mut own, 0, 0.55, true));
        assert_eq!(pooled(&anew, 1), before);
    }

    #[test]
    fn bins_rise_with_the_match() {
        let bins: Vec<usize> =
            [1, 2, 3, 4, 5, 6, 7, 9, 10, 99].map(|length| ngram_bin(length, 0)).to_vec();
        assert_eq!(bins, [0, 1, 2, 3, 4, 4, 5, 5, 6, 6]);
        assert_eq!(ngram_bin(99, 3), NGRAM_BINS - 1);
    }

    #[test]
    fn a_pool_says_nothing_of_plans_that_it_does_not_know() {
        let mut knowledge = Knowledge::new(vec![PlanKnowledge::unknown(0.5); 2]);
        let (known, unknown) = (PlanIdentity([1; 16]), PlanIdentity([2; 16]));
        knowledge.identify(0, known, 1.0);
        knowledge.identify(1, unknown, 1.0);
        let mut own = knowledge.stream(None);
        for plan in [0, 1] {
            (0..10).for_each(|_| knowledge.observe_drafted(&mut own, plan, 0.95, true));
        }
        let mut pool = Learned::default();
        (0..100).for_each(|_| pool.observe_plan(known, 9, false));
        for _ in 0..2 {
            knowledge.set_pool(&pool, [own.taught()].into_iter());
            let judged = |plan: usize| knowledge.plans[plan].acceptance.judged();
            assert!(judged(0) > 100.0 && judged(0) <= 110.0, "{}", judged(0));
            assert!(judged(1) > 9.0 && judged(1) <= 10.0, "{}", judged(1));
        }
    }
}
