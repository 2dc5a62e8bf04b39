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
use super::fold::{Bank, Fold};
use super::knowledge::{Knowledge, StreamOffsets, ngram_bin};

/// How much better than plain decoding a bet must look: below, its forecast is mostly noise.
const MARGIN: f64 = 1.01;

/// How much worse a bet may look where nothing was judged yet. The doubt goes in its favour: what
/// is placed corrects its forecast, what is not placed stays as it is.
const DOUBT: f64 = 0.05;

/// The doubt halves with three times as many judged drafts.
const DOUBT_JUDGED: f64 = 32.0;

/// Plans that look worse than this share of the best are not worth trying.
const NEAR: f64 = 0.9;

/// Chooses bets for one stream and learns from them.
#[derive(Clone, Debug)]
pub struct Controller {
    allowed: Allowed,
    own: StreamOffsets,
    fold: Fold,
    /// Tokens a plain step's time is worth in this cycle: what the best plan or plain decoding
    /// yields.
    rate: f64,
    /// Time lost to exploring, in plain steps, less what it won.
    explored: f64,
    exploring: bool,
    /// The last plan of a stream that bets whatever the odds.
    turn: usize,
    /// What each plan is forecast to yield in this cycle.
    rates: Vec<f64>,
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
            explored: 0.0,
            exploring: false,
            turn: 0,
            rates: Vec::new(),
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
            // Against a plain step or a cycle of the best plan, whose value at its own rate is
            // zero.
            if tokens > 0 && value + 1.0 - self.rate * odds.costs.rows[1] > 0.0 {
                return Bet::Ngram(tokens);
            }
        }
        let pays = may_draft && odds.knowledge.plans() > 0 && rate > MARGIN - doubt(odds, plan);
        let best = if pays {
            Bet::Plan(plan)
        } else if self.allowed.plans && !self.fold.drafts() {
            Bet::Plain(OffReason::Folded)
        } else {
            Bet::Plain(OffReason::NoGain)
        };
        // Where drafting lost, the probes of the fold are trial enough.
        let near = (may_draft && !self.fold.is_on_probation()).then_some(NEAR * rate);
        let tried = self.other_bet(odds.knowledge.bank(), best, near, found);
        self.exploring = tried.is_some();
        tried.unwrap_or(best)
    }

    /// A plain step that tells what drafts are compared with.
    pub fn confirm(&mut self) -> Bet {
        self.exploring = false;
        Bet::Plain(OffReason::Baseline)
    }

    /// Whether it bets whatever the odds.
    pub fn is_forced(&self) -> bool {
        self.allowed.always
    }

    /// A bet to try in place of the best one, if it is time: a plan that yields `near`, if plans
    /// are tried, or the first token of a match, in turn.
    fn other_bet(&self, bank: &Bank, best: Bet, near: Option<f64>, found: Match) -> Option<Bet> {
        if !bank.may_explore() {
            return None;
        }
        let plans =
            (0..self.rates.len()).filter(|&plan| near.is_some_and(|near| self.rates[plan] >= near));
        let found = (found.tokens > 0).then_some(Bet::Ngram(1));
        let others = plans.map(Bet::Plan).chain(found).filter(|&bet| bet != best);
        let count = others.clone().count();
        others.into_iter().nth(bank.explorations() % count.max(1))
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

    /// Whether a token of this confidence, drafted by `plan` at the end of `chain`, is worth its
    /// row of the verify pass. The chain's survival takes it in.
    pub fn keeps(&self, odds: Odds<'_>, plan: usize, chain: &mut Chain, confidence: f32) -> bool {
        chain.survival *= self.acceptance(odds.knowledge, plan, confidence_bin(confidence));
        // What is tried is judged, or it would teach nothing.
        self.allowed.always
            || self.exploring
            || chain.survival > self.rate * odds.costs.of_row(chain.drafted)
    }

    /// Whether one more draft step of `plan` is worth its time.
    pub fn goes_on(&self, odds: Odds<'_>, plan: usize, chain: Chain) -> bool {
        let plan = self.plan_odds(odds, plan);
        self.allowed.always || plan.step(chain, self.rate).value > self.rate * plan.cost
    }

    /// How many tokens of an n-gram match are worth their rows at the end of a chain.
    pub fn ngram_tail(&self, odds: Odds<'_>, chain: Chain, found: Match) -> usize {
        match self.allowed.always {
            true => found.tokens.min(chain.limit.saturating_sub(chain.drafted)),
            false => self.ngram_value(odds, chain, found).0,
        }
    }

    /// Takes in a finished cycle: the tokens it committed, and the time it took, in plain steps.
    pub fn observe_cycle(&mut self, bank: &mut Bank, bet: Bet, tokens: usize, steps: f64) {
        self.own
            .plans
            .iter_mut()
            .chain([&mut self.own.ngram])
            .for_each(|offset| offset.fade(tokens));
        // Against what the best bet would have made of the time.
        let lost = self.exploring.then(|| steps - tokens as f64 / self.rate);
        bank.book(steps, lost);
        if let Some(lost) = lost {
            self.explored += lost;
        } else if bank.mechanisms().fold && (matches!(bet, Bet::Plan(_)) || !self.fold.drafts()) {
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

    /// Time lost to bets that did not look best, against the best, in plain steps.
    pub fn explored(&self) -> f64 {
        self.explored.max(0.0)
    }

    fn acceptance(&self, knowledge: &Knowledge, plan: usize, bin: usize) -> f64 {
        knowledge.plan(plan).acceptance.of_stream(self.own.plans[plan], bin)
    }

    /// Forecasts all plans; returns the best and its rate.
    fn best_plan(&mut self, odds: Odds<'_>, chain: Chain) -> (usize, f64) {
        let mut rates = std::mem::take(&mut self.rates);
        rates.clear();
        rates.extend((0..odds.knowledge.plans()).map(|plan| {
            let plan = self.plan_odds(odds, plan);
            // The rate that is sought also decides when to stop: two rounds from 1 come close.
            let first = plan.forecast(chain, 1.0).rate().max(1.0);
            plan.forecast(chain, first).rate()
        }));
        self.rates = rates;
        let all = self.rates.iter().copied().enumerate();
        all.max_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or((0, 0.0))
    }

    /// What is known of a plan's drafts on this stream.
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

/// How much worse than plain decoding a plan may look and still be bet on.
fn doubt(odds: Odds<'_>, plan: usize) -> f64 {
    if !odds.knowledge.bank().mechanisms().doubt {
        return 0.0;
    }
    DOUBT / (1.0 + odds.knowledge.plan(plan).acceptance.judged() / DOUBT_JUDGED).sqrt()
}

#[cfg(test)]
mod tests;
