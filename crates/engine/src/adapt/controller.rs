//! The controller of one stream: what to bet on next, and how far to go.
//!
//! Time is counted in plain steps. Drafting is a renewal process: a cycle costs time and commits
//! tokens, and what counts is tokens over time in the long run. Against a given rate a step is
//! worth its expected tokens minus the rate times its cost, so that one rule decides everything:
//! whether to draft at all, by which plan, and whether to add one more token (an optimal stopping
//! rule).

mod forecast;

use self::forecast::PlanOdds;
use super::acceptance::confidence_bin;
use super::bet::{Allowed, Bet, Chain, Match, Odds, OffReason};
use super::knowledge::{Knowledge, StreamOffsets, ngram_bin};

/// Rate that a bet must promise, as a multiple of plain decoding's: below it, the forecast is
/// mostly noise.
const MARGIN: f64 = 1.01;

/// Chooses bets for one stream and learns from them.
#[derive(Clone, Debug)]
pub struct Controller {
    allowed: Allowed,
    own: StreamOffsets,
    /// Tokens a plain step's time is worth in this cycle: what the best plan or plain decoding
    /// yields.
    rate: f64,
    /// The last plan of a stream that bets whatever the odds.
    turn: usize,
}

// === impl Controller ===

impl Controller {
    /// A new stream's controller, which starts from `own`.
    pub fn new(own: StreamOffsets, allowed: Allowed) -> Self {
        Self { allowed, own, rate: 1.0, turn: 0 }
    }

    /// The next cycle's bet, given the empty chain and what the n-gram proposer has.
    pub fn choose(&mut self, odds: Odds<'_>, chain: Chain, found: Match) -> Bet {
        if chain.limit == 0 {
            return Bet::Plain(OffReason::Length);
        }
        if self.allowed.always {
            return self.any(odds, found);
        }
        let best = if self.allowed.plans { self.best_plan(odds, chain) } else { None };
        self.rate = best.map_or(1.0, |(_, rate)| rate.max(1.0));
        if found.tokens > 0 {
            let (tokens, value) = self.ngram_value(odds, chain, found);
            // Against a plain step or a cycle of the best plan, whose value at its own rate is
            // zero.
            if tokens > 0 && value + 1.0 - self.rate * odds.costs.rows[1] > 0.0 {
                return Bet::Ngram(tokens);
            }
        }
        match best {
            Some((plan, rate)) if rate > MARGIN => Bet::Plan(plan),
            _ => Bet::Plain(OffReason::NoGain),
        }
    }

    /// Whether it bets whatever the odds.
    pub fn is_forced(&self) -> bool {
        self.allowed.always
    }

    /// Whether it may bet on plans.
    pub fn bets_on_plans(&self) -> bool {
        self.allowed.plans
    }

    /// A bet whatever the odds.
    fn any(&mut self, odds: Odds<'_>, found: Match) -> Bet {
        if found.tokens > 0 {
            return Bet::Ngram(found.tokens);
        }
        let plans = odds.knowledge.seats().len();
        if !self.allowed.plans || plans == 0 {
            return Bet::Plain(OffReason::NoGain);
        }
        self.turn = (self.turn + 1) % plans;
        Bet::Plan(self.turn)
    }

    /// Whether a token of this confidence, drafted by `plan` at the end of `chain`, is worth its
    /// row of the verify pass. The chain's survival takes it in.
    pub fn keeps(&self, odds: Odds<'_>, plan: usize, chain: &mut Chain, confidence: f32) -> bool {
        chain.survival *= self.acceptance(odds.knowledge, plan, confidence_bin(confidence));
        self.allowed.always || chain.survival > self.rate * odds.costs.of_row(chain.drafted)
    }

    /// Whether one more draft step of `plan` is worth its time.
    pub fn goes_on(&self, odds: Odds<'_>, plan: usize, chain: Chain) -> bool {
        let plan = self.plan_odds(odds, plan);
        self.allowed.always || plan.step(chain, self.rate).value > self.rate * plan.cost
    }

    /// Number of tokens of an n-gram match that are worth their rows at the end of a chain.
    pub fn ngram_tail(&self, odds: Odds<'_>, chain: Chain, found: Match) -> usize {
        match self.allowed.always {
            true => found.tokens.min(chain.limit.saturating_sub(chain.drafted)),
            false => self.ngram_value(odds, chain, found).0,
        }
    }

    /// Takes in the tokens that a cycle committed: what the text was like before fades.
    pub fn commit(&mut self, tokens: usize) {
        let offsets = self.own.plans.iter_mut().chain([&mut self.own.ngram]);
        offsets.for_each(|offset| offset.fade(tokens));
    }

    /// Offsets of the stream from what all streams learned, for [`Knowledge`] to update.
    pub fn offsets(&mut self) -> &mut StreamOffsets {
        &mut self.own
    }

    fn acceptance(&self, knowledge: &Knowledge, plan: usize, bin: usize) -> f64 {
        knowledge.plan(plan).acceptance.of_stream(self.own.plans[plan], bin)
    }

    /// Forecasts all plans; returns the best and its rate.
    fn best_plan(&self, odds: Odds<'_>, chain: Chain) -> Option<(usize, f64)> {
        let rates = (0..odds.knowledge.seats().len()).map(|plan| {
            let known = self.plan_odds(odds, plan);
            // The rate that is sought also decides when to stop: two rounds from 1 come close.
            let first = known.forecast(chain, 1.0).rate().max(1.0);
            (plan, known.forecast(chain, first).rate())
        });
        rates.max_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// Odds of a plan's drafts on this stream.
    fn plan_odds<'a>(&self, odds: Odds<'a>, plan: usize) -> PlanOdds<'a> {
        PlanOdds {
            confidences: &odds.knowledge.plan(plan).confidences,
            acceptances: std::array::from_fn(|bin| self.acceptance(odds.knowledge, plan, bin)),
            cost: odds.plan_cost(plan),
            costs: odds.costs,
        }
    }

    /// The best number of tokens of a match at the end of a chain, and their value.
    fn ngram_value(&self, odds: Odds<'_>, chain: Chain, found: Match) -> (usize, f64) {
        let (mut best, mut value, mut survives) = ((0, 0.0), 0.0, chain.survival);
        for place in 0..found.tokens.min(chain.limit.saturating_sub(chain.drafted)) {
            survives *=
                odds.knowledge.ngram.of_stream(self.own.ngram, ngram_bin(found.length, place));
            value += survives - self.rate * odds.costs.of_row(chain.drafted + place);
            if value > best.1 {
                best = (place + 1, value);
            }
        }
        best
    }
}

#[cfg(test)]
mod tests;
