//! The bets of adaptive streams: what all of them share, and what each has of its own.

use super::baseline::PlainStep;
use super::cycle::{Confirmed, Cycle, Origin};
use crate::adapt::{
    Allowed, Bet, Controller, Costs, FrontierPlan, Knowledge, Match, PlanKnowledge, ngram_bin,
};
use crate::drafting::NgramProposer;
use crate::model::TokenId;

/// N-gram matches are this long, in tokens. One token says too little; beyond a dozen nothing is gained.
const MATCH_LENGTHS: (usize, usize) = (2, 12);

/// What the streams of an engine bet with.
pub(super) struct Betting {
    pub(super) frontier: Vec<FrontierPlan>,
    pub(super) knowledge: Knowledge,
    pub(super) baseline: PlainStep,
}

/// The bets of one stream.
pub(super) struct Bets {
    controller: Controller,
    proposer: NgramProposer,
    /// Of the current cycle.
    bet: Bet,
    /// How likely all tokens drafted so far are accepted.
    survival: f64,
    /// Tokens proposed by the last match, and its length.
    proposal: Vec<TokenId>,
    matched: usize,
}

// === impl Betting ===

impl Betting {
    pub(super) fn new(frontier: Vec<FrontierPlan>, baseline: PlainStep) -> Self {
        let plans: Vec<PlanKnowledge> = frontier.iter().map(|plan| plan.knowledge.clone()).collect();
        Self { knowledge: Knowledge::new(plans), frontier, baseline }
    }
}

// === impl Bets ===

impl Bets {
    /// For a stream with this prompt.
    pub(super) fn new(betting: &Betting, allowed: Allowed, prompt: &[TokenId]) -> Self {
        let mut proposer = NgramProposer::new(MATCH_LENGTHS.0, MATCH_LENGTHS.1);
        if allowed.ngram {
            proposer.extend(prompt);
        }
        Self {
            controller: Controller::new(&betting.knowledge, allowed),
            proposer,
            bet: Bet::Plain,
            survival: 1.0,
            proposal: Vec::new(),
            matched: 0,
        }
    }

    /// Places the bet of the next cycle, which may draft `limit` tokens; an n-gram match goes into `cycle` at once.
    pub(super) fn begin(&mut self, betting: &Betting, costs: &Costs, limit: usize, cycle: &mut Cycle) -> Bet {
        self.matched = self.proposer.propose(limit, &mut self.proposal);
        let found = Match { length: self.matched, tokens: self.proposal.len() };
        self.bet = self.controller.choose(&betting.knowledge, costs, limit, found);
        self.survival = 1.0;
        if let Bet::Ngram(tokens) = self.bet {
            cycle.append_match(&self.proposal[..tokens], self.matched);
        }
        self.bet
    }

    /// Whether the token that a draft step would draw with this confidence is worth verifying.
    pub(super) fn keeps(&mut self, betting: &Betting, costs: &Costs, cycle: &Cycle, confidence: f32) -> bool {
        let Bet::Plan(plan) = self.bet else { return false };
        let (keeps, survival) =
            self.controller.keeps(&betting.knowledge, costs, plan, cycle.len(), self.survival, confidence);
        self.survival = survival;
        keeps
    }

    /// After a token was drafted: adds the n-gram match that it leads to, if that pays, and closes the cycle if another step doesn't.
    pub(super) fn go_on(&mut self, betting: &Betting, costs: &Costs, limit: usize, cycle: &mut Cycle) {
        let Bet::Plan(plan) = self.bet else { return };
        let drafted = cycle.len();
        if drafted >= limit {
            return;
        }
        let pending: Vec<TokenId> = cycle.tokens().collect();
        self.matched = self.proposer.propose_after(&pending, limit - drafted, &mut self.proposal);
        let found = Match { length: self.matched, tokens: self.proposal.len() };
        let knowledge = &betting.knowledge;
        let tail = self.controller.ngram_tail(knowledge, costs, drafted, self.survival, limit, found);
        if tail > 0 {
            cycle.append_match(&self.proposal[..tail], self.matched);
        } else if !self.controller.goes_on(knowledge, costs, plan, drafted, self.survival) {
            cycle.close();
        }
    }

    /// Takes in a draft step's confidence, and its cost in plain steps.
    pub(super) fn observe_step(&self, betting: &mut Betting, confidence: f32, cost: f64) {
        if let Bet::Plan(plan) = self.bet {
            betting.knowledge.observe_step(plan, confidence, cost);
        }
    }

    /// Takes in a finished cycle, which took `spent_seconds`; plain decoding takes `plain_seconds` for a token.
    pub(super) fn finish(
        &mut self,
        betting: &mut Betting,
        confirmed: &Confirmed,
        plain_seconds: f64,
        spent_seconds: f64,
    ) {
        // The token after the accepted ones was rejected; those after it were not judged.
        for (index, origin) in confirmed.origins.iter().enumerate().take(confirmed.accepted + 1) {
            let accepted = index < confirmed.accepted;
            let own = self.controller.tallies();
            match (*origin, self.bet) {
                (Origin::Plan { confidence }, Bet::Plan(plan)) => {
                    betting.knowledge.observe_drafted(own, plan, confidence, accepted);
                }
                (Origin::Ngram { matched, place }, _) => {
                    betting.knowledge.observe_ngram(own, ngram_bin(matched, place), accepted);
                }
                _ => {}
            }
        }
        self.controller.observe_cycle(self.bet, confirmed.tokens.len(), plain_seconds, spent_seconds);
    }

    /// Takes in committed tokens.
    pub(super) fn commit(&mut self, tokens: &[TokenId]) {
        self.proposer.extend(tokens);
    }
}
