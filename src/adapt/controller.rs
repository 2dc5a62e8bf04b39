//! The controller of one stream: what to bet on next, and how far to go.
//!
//! Time is counted in plain steps. Drafting is a renewal process: a cycle costs time and commits tokens, and what counts is tokens over
//! time in the long run. Against a given rate a step is worth its expected tokens minus the rate times its cost, so that one rule
//! decides everything: whether to draft at all, by which plan, and whether to add one more token (an optimal stopping rule).

use super::acceptance::{BINS, confidence_bin};
use super::bet::{Allowed, Bet, Chain, Match, Odds, OffReason};
use super::fold::{Bank, Fold};
use super::knowledge::{Knowledge, StreamOffsets, ngram_bin};

/// Share of the time that may go to bets that don't look best.
const EXPLORATION: f64 = 0.02;

/// How much better than plain decoding a bet must look: below, its forecast is mostly noise.
const MARGIN: f64 = 1.01;

/// Chooses bets for one stream and learns from them.
#[derive(Clone, Debug)]
pub struct Controller {
    allowed: Allowed,
    own: StreamOffsets,
    fold: Fold,
    /// Tokens a plain step's time is worth in this cycle: what the best plan or plain decoding yields.
    rate: f64,
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

/// What one more draft step is expected to bring.
struct Step {
    /// Of its token, beyond the cost of the token's row.
    value: f64,
    /// How likely its token is kept.
    kept: f64,
    /// How likely a kept token is accepted.
    accepted: f64,
}

// === impl Forecast ===

impl Forecast {
    fn rate(self) -> f64 {
        self.tokens / self.cost
    }
}

// === impl Controller ===

impl Controller {
    /// A new stream's controller, which starts from `own`.
    pub fn new(own: StreamOffsets, allowed: Allowed) -> Self {
        Self {
            allowed,
            own,
            fold: Fold::default(),
            rate: 1.0,
            spent: 0.0,
            explored: 0.0,
            exploring: false,
            turn: 0,
        }
    }

    /// The next cycle's bet, given the empty chain and what the n-gram proposer has.
    pub fn choose(&mut self, odds: Odds<'_>, chain: Chain, found: Match) -> Bet {
        self.exploring = false;
        if chain.limit == 0 {
            return Bet::Plain(OffReason::Length);
        }
        if self.allowed.always {
            return self.any(odds, found);
        }
        let may_draft = self.allowed.plans && self.fold.drafts();
        let (plan, rate) = if may_draft { self.best_plan(odds, chain) } else { (0, 0.0) };
        self.rate = rate.max(1.0);
        if found.tokens > 0 {
            let (tokens, value) = self.ngram_value(odds, chain, found);
            // Against a plain step or a cycle of the best plan, whose value at its own rate is zero.
            if tokens > 0 && value + 1.0 - self.rate * odds.costs.rows[1] > 0.0 {
                return Bet::Ngram(tokens);
            }
        }
        if !may_draft {
            let folded = self.allowed.plans && !self.fold.drafts();
            return Bet::Plain(if folded { OffReason::Folded } else { OffReason::NoGain });
        }
        if self.explored < EXPLORATION * self.spent && odds.knowledge.plans() > 0 {
            self.turn = (self.turn + 1) % odds.knowledge.plans();
            if rate <= MARGIN || self.turn != plan {
                self.exploring = true;
                return Bet::Plan(self.turn);
            }
        }
        if rate > MARGIN { Bet::Plan(plan) } else { Bet::Plain(OffReason::NoGain) }
    }

    /// A bet whatever the odds.
    fn any(&mut self, odds: Odds<'_>, found: Match) -> Bet {
        if found.tokens > 0 {
            return Bet::Ngram(found.tokens);
        }
        if !self.allowed.plans || odds.knowledge.plans() == 0 {
            return Bet::Plain(OffReason::NoGain);
        }
        self.turn = (self.turn + 1) % odds.knowledge.plans();
        Bet::Plan(self.turn)
    }

    /// Whether a token of this confidence, drafted by `plan` at the end of `chain`, is worth its row of the verify pass. The chain's survival takes it in.
    pub fn keeps(&self, odds: Odds<'_>, plan: usize, chain: &mut Chain, confidence: f32) -> bool {
        chain.survival *= self.acceptance(odds.knowledge, plan, confidence_bin(confidence));
        // What is tried is judged, or it would teach nothing.
        self.allowed.always || self.exploring || chain.survival > self.rate * odds.costs.of_row(chain.drafted)
    }

    /// Whether one more draft step of `plan` is worth its time.
    pub fn goes_on(&self, odds: Odds<'_>, plan: usize, chain: Chain) -> bool {
        let step = self.step(odds, plan, chain, self.rate);
        self.allowed.always || step.value > self.rate * odds.plan_cost(plan)
    }

    /// How many tokens of an n-gram match are worth their rows at the end of a chain.
    pub fn ngram_tail(&self, odds: Odds<'_>, chain: Chain, found: Match) -> usize {
        match self.allowed.always {
            true => found.tokens.min(chain.limit.saturating_sub(chain.drafted)),
            false => self.ngram_value(odds, chain, found).0,
        }
    }

    /// Takes in a finished cycle: the tokens it committed, what plain decoding takes for each, and the time spent, in seconds.
    pub fn observe_cycle(
        &mut self,
        bank: &mut Bank,
        bet: Bet,
        tokens: usize,
        plain_seconds: f64,
        spent_seconds: f64,
    ) {
        let steps = spent_seconds / plain_seconds.max(f64::MIN_POSITIVE);
        self.own.plans.iter_mut().chain([&mut self.own.ngram]).for_each(|offset| offset.fade(tokens));
        self.spent += steps;
        if self.exploring {
            self.explored += (steps - tokens as f64).max(0.0);
        } else if matches!(bet, Bet::Plan(_)) || !self.fold.drafts() {
            // A bet on a match that was there is no evidence about the plans.
            self.fold.observe(tokens, steps, bank);
        }
    }

    /// How far the stream is off what all learned, and what it has taught.
    pub fn own(&self) -> &StreamOffsets {
        &self.own
    }

    /// The same, for [`Knowledge`] to update.
    pub fn offsets(&mut self) -> &mut StreamOffsets {
        &mut self.own
    }

    /// Whether the last bet did not look best.
    pub fn is_exploring(&self) -> bool {
        self.exploring
    }

    /// Time lost to bets that did not look best, in plain steps.
    pub fn explored(&self) -> f64 {
        self.explored
    }

    fn acceptance(&self, knowledge: &Knowledge, plan: usize, bin: usize) -> f64 {
        knowledge.plan(plan).acceptance.of_stream(self.own.plans[plan], bin)
    }

    /// The plan with the best forecast, and its rate.
    fn best_plan(&self, odds: Odds<'_>, chain: Chain) -> (usize, f64) {
        (0..odds.knowledge.plans())
            .map(|plan| {
                // The rate that is sought also decides when to stop: two rounds from 1 come close.
                let first = self.forecast(odds, plan, chain, 1.0).rate().max(1.0);
                (plan, self.forecast(odds, plan, chain, first).rate())
            })
            .max_by(|a, b| a.1.total_cmp(&b.1))
            .unwrap_or((0, 0.0))
    }

    /// A cycle of `plan`, stopped against `rate`.
    fn forecast(&self, odds: Odds<'_>, plan: usize, mut chain: Chain, rate: f64) -> Forecast {
        let step_cost = odds.plan_cost(plan);
        // The chain is still being drafted with this probability.
        let mut reached = 1.0;
        let mut forecast = Forecast { tokens: 1.0, cost: odds.costs.rows[1] };
        while chain.drafted < chain.limit {
            let step = self.step(odds, plan, chain, rate);
            if chain.drafted > 0 && step.value <= rate * step_cost {
                break;
            }
            forecast.cost += reached * (step_cost + step.kept * odds.costs.of_row(chain.drafted));
            reached *= step.kept;
            chain.survival *= step.accepted;
            forecast.tokens += reached * chain.survival;
            chain.drafted += 1;
        }
        forecast
    }

    fn step(&self, odds: Odds<'_>, plan: usize, chain: Chain, rate: f64) -> Step {
        let row = odds.costs.of_row(chain.drafted);
        let (mut value, mut kept, mut accepted) = (0.0, 0.0, 0.0);
        for bin in 0..BINS {
            let share = odds.knowledge.plan(plan).confidences[bin];
            let acceptance = self.acceptance(odds.knowledge, plan, bin);
            let gain = chain.survival * acceptance - rate * row;
            if gain > 0.0 {
                value += share * gain;
                kept += share;
                accepted += share * acceptance;
            }
        }
        Step { value, kept, accepted: if kept > 0.0 { accepted / kept } else { 0.0 } }
    }

    /// The best number of tokens of a match at the end of a chain, and their value.
    fn ngram_value(&self, odds: Odds<'_>, chain: Chain, found: Match) -> (usize, f64) {
        let (mut best, mut value, mut survives) = ((0, 0.0), 0.0, chain.survival);
        for place in 0..found.tokens.min(chain.limit.saturating_sub(chain.drafted)) {
            survives *= odds.knowledge.ngram.of_stream(self.own.ngram, ngram_bin(found.length, place));
            value += survives - self.rate * odds.costs.of_row(chain.drafted + place);
            if value > best.1 {
                best = (place + 1, value);
            }
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapt::{Costs, PlanKnowledge, is_accepted};

    /// A machine on which each further row of a verify costs `row`.
    fn costs(row: f64) -> Costs {
        Costs {
            rows: std::array::from_fn(|rows| if rows == 0 { 0.0 } else { 1.0 + row * (rows - 1) as f64 }),
            context: 0.0,
        }
    }

    /// A plan that is accepted with probability `acceptance` whatever its confidence.
    fn plan(cost: f64, acceptance: f64) -> PlanKnowledge {
        PlanKnowledge::new(cost, [acceptance; BINS], [1.0; BINS])
    }

    fn choose(plans: Vec<PlanKnowledge>, row: f64, found: Match) -> Bet {
        let knowledge = Knowledge::new(plans);
        let odds = Odds { knowledge: &knowledge, costs: &costs(row) };
        Controller::new(knowledge.stream(None), Allowed::default()).choose(odds, Chain::new(8), found)
    }

    #[test]
    fn a_plan_is_bet_on_exactly_where_it_pays() {
        // One drafted token pays if acceptance > cost + row.
        for (cost, acceptance, row, pays) in
            [(0.4, 0.7, 0.1, true), (0.4, 0.45, 0.1, false), (0.4, 0.7, 0.4, false), (0.9, 0.95, 0.1, false)]
        {
            let bet = choose(vec![plan(cost, acceptance)], row, Match::default());
            let expected = if pays { Bet::Plan(0) } else { Bet::Plain(OffReason::NoGain) };
            assert_eq!(bet, expected, "cost {cost}, acceptance {acceptance}, row {row}");
        }
        let best = choose(vec![plan(0.6, 0.7), plan(0.4, 0.7), plan(0.3, 0.4)], 0.1, Match::default());
        assert_eq!(best, Bet::Plan(1));
    }

    #[test]
    fn a_match_is_verified_as_far_as_its_rows_pay() {
        let long = Match { length: 12, tokens: 8 };
        let Bet::Ngram(cheap) = choose(Vec::new(), 0.05, long) else { panic!("a long match pays") };
        let Bet::Ngram(dear) = choose(Vec::new(), 0.5, long) else { panic!("a long match pays") };
        assert!(cheap > dear && dear > 0, "{cheap} {dear}");
        assert_eq!(choose(Vec::new(), 1.0, long), Bet::Plain(OffReason::NoGain));
    }

    #[test]
    fn a_losing_bet_is_folded_and_exploring_stays_within_its_budget() {
        let mut knowledge = Knowledge::new(vec![plan(0.4, 0.9)]);
        let costs = costs(0.1);
        let mut controller = Controller::new(knowledge.stream(None), Allowed::default());
        let (mut spent, mut folded) = (0.0, 0);
        for _ in 0..4000 {
            let odds = Odds { knowledge: &knowledge, costs: &costs };
            let bet = controller.choose(odds, Chain::new(8), Match::default());
            // Whatever is drafted is rejected.
            let cost = match bet {
                Bet::Plan(index) => {
                    knowledge.observe_drafted(controller.offsets(), index, 0.9, false);
                    1.5
                }
                _ => 1.0,
            };
            folded += usize::from(bet == Bet::Plain(OffReason::Folded));
            controller.observe_cycle(&mut Bank::default(), bet, 1, 0.01, 0.01 * cost);
            spent += cost;
        }
        assert!(folded > 0);
        assert!(spent < 4000.0 * 1.03, "{spent}");
        assert!(controller.explored() <= EXPLORATION * spent + 1.0);
    }

    #[test]
    fn the_plan_follows_the_text() {
        let mut knowledge = Knowledge::new(vec![plan(0.4, 0.6), plan(0.4, 0.6)]);
        let costs = costs(0.1);
        let mut controller = Controller::new(knowledge.stream(None), Allowed::default());
        let mut judged = [0; 2];
        // Three domains in one stream, each foretold by one of the plans.
        for (domain, shares) in [[0.85, 0.25], [0.25, 0.85], [0.85, 0.25]].iter().enumerate() {
            let (mut tokens, mut spent, mut settled_at) = (0, 0.0, None);
            let better = usize::from(shares[1] > shares[0]);
            let mut late = (0.0, 0.0);
            while tokens < 256 {
                let odds = Odds { knowledge: &knowledge, costs: &costs };
                let (mut committed, mut cost) = (1, 1.0);
                let bet = controller.choose(odds, Chain::new(1), Match::default());
                if let Bet::Plan(index) = bet {
                    let accepted = is_accepted(judged[index], shares[index]);
                    judged[index] += 1;
                    knowledge.observe_drafted(controller.offsets(), index, 0.9, accepted);
                    (committed, cost) = (1 + usize::from(accepted), 1.5);
                    settled_at = match settled_at {
                        _ if index != better && !controller.exploring => None,
                        None => Some(tokens),
                        settled => settled,
                    };
                }
                controller.observe_cycle(&mut Bank::default(), bet, committed, 0.01, 0.01 * cost);
                tokens += committed;
                spent += cost;
                if tokens > 128 {
                    late = (late.0 + committed as f64, late.1 + cost);
                }
            }
            let settled_at = settled_at.unwrap_or(usize::MAX);
            assert!(settled_at <= 64, "domain {domain}: settled after {settled_at} tokens");
            let recovered = late.0 / late.1;
            assert!(recovered > 1.1, "domain {domain}: {recovered} tokens a step, {spent} steps in all");
        }
    }

    #[test]
    fn no_room_means_no_draft() {
        let knowledge = Knowledge::new(vec![plan(0.1, 0.9)]);
        let odds = Odds { knowledge: &knowledge, costs: &costs(0.1) };
        let bet = Controller::new(knowledge.stream(None), Allowed::default()).choose(
            odds,
            Chain::new(0),
            Match::default(),
        );
        assert_eq!(bet, Bet::Plain(OffReason::Length));
    }
}
