//! The controller of one stream: what to bet on next, and how far to go.
//!
//! Time is counted in plain steps. Drafting is a renewal process: a cycle costs time and commits tokens, and what counts is tokens over
//! time in the long run. Against a given rate a step is worth its expected tokens minus the rate times its cost, so that one rule
//! decides everything: whether to draft at all, by which plan, and whether to add one more token (an optimal stopping rule).

use super::acceptance::{BINS, confidence_bin};
use super::fold::Fold;
use super::knowledge::{Knowledge, StreamTallies, ngram_bin};

/// Share of the time that may go to bets that don't look best.
const EXPLORATION: f64 = 0.02;

/// How much better than plain decoding a bet must look: below, its forecast is mostly noise.
const MARGIN: f64 = 1.01;

/// What a step costs now, in plain steps, given what else is in the batch.
#[derive(Clone, Copy, Debug)]
pub struct Costs {
    /// A pass over this many rows more than none; entry 0 is 0, entry 1 is 1.
    pub rows: [f64; MAX_ROWS + 1],
}

/// Rows of a verify pass at most.
pub const MAX_ROWS: usize = 33;

/// What a cycle does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bet {
    /// A plain step.
    Plain,
    /// Drafts by this plan.
    Plan(usize),
    /// Verifies this many tokens of an n-gram match.
    Ngram(usize),
}

/// A match that the n-gram proposer found: its length, and how many tokens follow it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Match {
    /// Tokens that match.
    pub length: usize,
    /// Tokens proposed.
    pub tokens: usize,
}

/// Which bets a stream may place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Allowed {
    /// Draft plans.
    pub plans: bool,
    /// N-gram matches.
    pub ngram: bool,
}

/// Chooses bets for one stream and learns from them.
#[derive(Clone, Debug)]
pub struct Controller {
    allowed: Allowed,
    own: StreamTallies,
    fold: Fold,
    /// Time spent in all and on exploring, in plain steps.
    spent: f64,
    explored: f64,
    exploring: bool,
    /// The plan to explore next.
    turn: usize,
}

/// What a cycle is expected to bring.
#[derive(Clone, Copy, Debug)]
struct Forecast {
    tokens: f64,
    cost: f64,
}

// === impl Allowed ===

impl Default for Allowed {
    fn default() -> Self {
        Self { plans: true, ngram: true }
    }
}

// === impl Forecast ===

impl Forecast {
    fn rate(self) -> f64 {
        self.tokens / self.cost
    }
}

// === impl Controller ===

impl Controller {
    /// A new stream's controller.
    pub fn new(knowledge: &Knowledge, allowed: Allowed) -> Self {
        Self {
            allowed,
            own: knowledge.stream(),
            fold: Fold::default(),
            spent: 0.0,
            explored: 0.0,
            exploring: false,
            turn: 0,
        }
    }

    /// The next cycle's bet. `limit` is how many tokens it may draft, `found` what the n-gram proposer has.
    pub fn choose(&mut self, knowledge: &Knowledge, costs: &Costs, limit: usize, found: Match) -> Bet {
        self.exploring = false;
        let limit = limit.min(MAX_ROWS - 1);
        if limit == 0 {
            return Bet::Plain;
        }
        let (plan, rate) = self.best_plan(knowledge, costs, limit);
        let may_draft = self.allowed.plans && self.fold.drafts();
        let rate = if may_draft { rate.max(1.0) } else { 1.0 };
        if self.allowed.ngram && found.tokens > 0 {
            let (tokens, value) = self.ngram_value(knowledge, costs, rate, 1.0, 0, limit, found);
            // Against a plain step or a cycle of the best plan, whose value at its own rate is zero.
            if tokens > 0 && value + 1.0 - rate * costs.rows[1] > 0.0 {
                return Bet::Ngram(tokens);
            }
        }
        if !may_draft {
            return Bet::Plain;
        }
        if self.explored < EXPLORATION * self.spent && knowledge.plans() > 0 {
            self.turn = (self.turn + 1) % knowledge.plans();
            if rate <= MARGIN || self.turn != plan {
                self.exploring = true;
                return Bet::Plan(self.turn);
            }
        }
        if rate > MARGIN { Bet::Plan(plan) } else { Bet::Plain }
    }

    /// Whether a token of this confidence, drafted by `plan` after `drafted` others that survive with probability `survival`, is worth
    /// its row of the verify pass; and the probability that the chain survives it.
    pub fn keeps(
        &self,
        knowledge: &Knowledge,
        costs: &Costs,
        plan: usize,
        drafted: usize,
        survival: f64,
        confidence: f32,
    ) -> (bool, f64) {
        let survives = survival * self.acceptance(knowledge, plan, confidence_bin(confidence));
        let row = costs.rows[(drafted + 2).min(MAX_ROWS)] - costs.rows[(drafted + 1).min(MAX_ROWS)];
        (survives > self.rate(knowledge, costs) * row, survives)
    }

    /// Whether one more draft step of `plan` is worth its time after `drafted` tokens that survive with probability `survival`.
    pub fn goes_on(
        &self,
        knowledge: &Knowledge,
        costs: &Costs,
        plan: usize,
        drafted: usize,
        survival: f64,
    ) -> bool {
        let rate = self.rate(knowledge, costs);
        let (value, ..) = self.step_value(knowledge, costs, plan, drafted, survival, rate);
        value > rate * knowledge.plan(plan).cost
    }

    /// How many tokens of an n-gram match are worth their rows at the end of a chain of `drafted` tokens.
    pub fn ngram_tail(
        &self,
        knowledge: &Knowledge,
        costs: &Costs,
        drafted: usize,
        survival: f64,
        limit: usize,
        found: Match,
    ) -> usize {
        if !self.allowed.ngram || found.tokens == 0 {
            return 0;
        }
        let rate = self.rate(knowledge, costs);
        self.ngram_value(knowledge, costs, rate, survival, drafted, limit, found).0
    }

    /// Takes in a finished cycle: the tokens it committed, what plain decoding takes for each, and the time spent, in seconds.
    pub fn observe_cycle(&mut self, bet: Bet, tokens: usize, plain_seconds: f64, spent_seconds: f64) {
        let steps = spent_seconds / plain_seconds.max(f64::MIN_POSITIVE);
        self.spent += steps;
        if self.exploring {
            self.explored += (steps - tokens as f64).max(0.0);
        } else if matches!(bet, Bet::Plan(_)) || !self.fold.drafts() {
            // A bet on a match that was there is no evidence about the plans.
            self.fold.observe(tokens, plain_seconds, spent_seconds);
        }
    }

    /// The stream's own counts, for [`Knowledge`] to update.
    pub fn tallies(&mut self) -> &mut StreamTallies {
        &mut self.own
    }

    /// Whether drafting by plans is suspended because it lost.
    pub fn is_folded(&self) -> bool {
        !self.fold.drafts()
    }

    fn acceptance(&self, knowledge: &Knowledge, plan: usize, bin: usize) -> f64 {
        knowledge.plan(plan).acceptance.of_stream(&self.own.plans[plan], bin)
    }

    /// The rate that a step is measured against.
    fn rate(&self, knowledge: &Knowledge, costs: &Costs) -> f64 {
        if self.is_folded() || !self.allowed.plans {
            1.0
        } else {
            self.best_plan(knowledge, costs, 8).1.max(1.0)
        }
    }

    /// The plan with the best forecast, and its rate.
    fn best_plan(&self, knowledge: &Knowledge, costs: &Costs, limit: usize) -> (usize, f64) {
        (0..knowledge.plans())
            .map(|plan| {
                // The rate that is sought also decides when to stop: two rounds from 1 come close.
                let first = self.forecast(knowledge, costs, plan, limit, 1.0).rate().max(1.0);
                (plan, self.forecast(knowledge, costs, plan, limit, first).rate())
            })
            .max_by(|a, b| a.1.total_cmp(&b.1))
            .unwrap_or((0, 0.0))
    }

    /// A cycle of `plan`, stopped against `rate`.
    fn forecast(
        &self,
        knowledge: &Knowledge,
        costs: &Costs,
        plan: usize,
        limit: usize,
        rate: f64,
    ) -> Forecast {
        // The chain survives with `survival` where it is still being drafted, which has probability `reached`.
        let (mut survival, mut reached) = (1.0, 1.0);
        let mut forecast = Forecast { tokens: 1.0, cost: costs.rows[1] };
        for drafted in 0..limit {
            let step_cost = knowledge.plan(plan).cost;
            let (value, kept, mean) = self.step_value(knowledge, costs, plan, drafted, survival, rate);
            if drafted > 0 && value <= rate * step_cost {
                break;
            }
            let row = costs.rows[drafted + 2] - costs.rows[drafted + 1];
            forecast.cost += reached * (step_cost + kept * row);
            reached *= kept;
            survival *= mean;
            forecast.tokens += reached * survival;
        }
        forecast
    }

    /// One more draft step: the expected value of its token, how likely it is kept, and how likely a kept token is accepted.
    fn step_value(
        &self,
        knowledge: &Knowledge,
        costs: &Costs,
        plan: usize,
        drafted: usize,
        survival: f64,
        rate: f64,
    ) -> (f64, f64, f64) {
        let row = costs.rows[(drafted + 2).min(MAX_ROWS)] - costs.rows[(drafted + 1).min(MAX_ROWS)];
        let (mut value, mut kept, mut accepted) = (0.0, 0.0, 0.0);
        for bin in 0..BINS {
            let (share, acceptance) =
                (knowledge.plan(plan).confidences[bin], self.acceptance(knowledge, plan, bin));
            let gain = survival * acceptance - rate * row;
            if gain > 0.0 {
                value += share * gain;
                kept += share;
                accepted += share * acceptance;
            }
        }
        (value, kept, if kept > 0.0 { accepted / kept } else { 0.0 })
    }

    /// The best number of tokens of a match after `drafted` others, and their value.
    #[expect(clippy::too_many_arguments, reason = "the state of a chain, which has no other use")]
    fn ngram_value(
        &self,
        knowledge: &Knowledge,
        costs: &Costs,
        rate: f64,
        survival: f64,
        drafted: usize,
        limit: usize,
        found: Match,
    ) -> (usize, f64) {
        let (mut best, mut value, mut survives) = ((0, 0.0), 0.0, survival);
        for place in 0..found.tokens.min(limit.saturating_sub(drafted)) {
            let rows = drafted + place + 1;
            if rows + 1 > MAX_ROWS {
                break;
            }
            survives *= knowledge.ngram.of_stream(&self.own.ngram, ngram_bin(found.length, place));
            value += survives - rate * (costs.rows[rows + 1] - costs.rows[rows]);
            if value > best.1 {
                best = (place + 1, value);
            }
        }
        best
    }
}
