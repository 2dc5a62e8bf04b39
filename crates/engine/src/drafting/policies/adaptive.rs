//! The `adaptive` policy: each cycle bets on what pays best now, a plan of the profile, an n-gram
//! match or a plain step, and learns from what became of it.
//!
//! The rule is [`Controller`]'s; here is what it decides about: the plans of the engine and the
//! matches in the stream's text.

use std::sync::Arc;

use skipstone_model::{StandIn, TokenId};

use crate::adapt::{Allowed, Bet, Chain, Controller, Match, Odds, OffReason, ngram_bin};
use crate::betting::Betting;
use crate::drafting::ngram::NgramProposer;
use crate::drafting::plan::DraftPlan;
use crate::drafting::policy::{
    Begin, Context, DraftPolicy, DraftStep, FinishedCycle, Next, Origin, PolicyRequest, Proposal,
    Setup,
};
use crate::drafting::registry::PolicyEntry;
use crate::event::ArmUse;
use crate::request::Speculation;

/// N-gram matches are this long, in tokens. A single token says little, but a row of the verify
/// pass is cheap; beyond a dozen nothing is gained.
const MATCH_LENGTHS: (usize, usize) = (1, 12);

/// The server's default policy.
pub static ENTRY: PolicyEntry = PolicyEntry {
    name: "adaptive",
    about: "bets on what pays: a calibrated plan, a repetition in the text, or plain decoding",
    takes_skip_set: false,
    start: |setup| Box::new(Adaptive::new(setup)),
};

/// The bets of one stream.
struct Adaptive {
    controller: Controller,
    /// None for a stream without n-gram matches.
    proposer: Option<NgramProposer>,
    /// Bet of the current cycle.
    bet: Bet,
    chain: Chain,
    /// The plan that drafts while none is bet on.
    plan: Option<Arc<DraftPlan>>,
    /// Cycles bet on each plan.
    placed: Vec<usize>,
    /// Cycles that verified an n-gram match.
    ngram_cycles: usize,
}

// === impl Speculation ===

impl Speculation {
    /// Drafting by bets on everything there is.
    pub fn adaptive(max_draft_tokens: Option<usize>) -> Self {
        Self::betting(max_draft_tokens, Allowed::default())
    }

    /// Drafting by bets on what is allowed.
    pub fn betting(max_draft_tokens: Option<usize>, allowed: Allowed) -> Self {
        Self::Draft(PolicyRequest { allowed, max_draft_tokens, ..PolicyRequest::new(&ENTRY) })
    }
}

// === impl Adaptive ===

impl Adaptive {
    fn new(setup: &Setup<'_>) -> Self {
        let (betting, allowed) = (&setup.betting, setup.request.allowed);
        let (shortest, longest) = MATCH_LENGTHS;
        Self {
            controller: Controller::new(betting.knowledge.stream(), allowed),
            proposer: allowed.ngram.then(|| NgramProposer::new(shortest, longest)),
            bet: Bet::Plain(OffReason::NoGain),
            chain: Chain::new(0),
            plan: betting.knowledge.seats().first().map(|seat| Arc::clone(&seat.plan)),
            placed: vec![0; betting.knowledge.seats().len()],
            ngram_cycles: 0,
        }
    }
}

impl DraftPolicy for Adaptive {
    fn begin(&mut self, context: &mut Context<'_>) -> Begin {
        self.chain = Chain::new(context.limit);
        if !self.controller.is_forced() && context.betting.takes_plain_step(context.costs.others) {
            self.bet = Bet::Plain(OffReason::Baseline);
            return Begin::Plain(OffReason::Baseline);
        }
        let mut proposal = Proposal { tokens: Vec::new(), matched: 0 };
        if let Some(proposer) = &self.proposer {
            proposal.matched = proposer.propose(self.chain.limit, &mut proposal.tokens);
        }
        let found = Match { length: proposal.matched, tokens: proposal.tokens.len() };
        self.bet = self.controller.choose(odds(context), self.chain, found);
        match self.bet {
            Bet::Plain(reason) => Begin::Plain(reason),
            Bet::Ngram(tokens) => {
                self.ngram_cycles += 1;
                proposal.tokens.truncate(tokens);
                Begin::Verify(proposal)
            }
            Bet::Plan(arm) => {
                self.placed[arm] += 1;
                let plan = Arc::clone(&context.betting.knowledge.seats()[arm].plan);
                Begin::Draft { plan, arm }
            }
        }
    }

    fn keeps(&mut self, context: &mut Context<'_>, step: &DraftStep) -> bool {
        let Bet::Plan(plan) = self.bet else { return false };
        let DraftStep { confidence } = *step;
        context.betting.knowledge.observe_step(plan, confidence);
        self.controller.keeps(odds(context), plan, &mut self.chain, confidence)
    }

    fn next(&mut self, context: &mut Context<'_>, chain: &[TokenId]) -> Next {
        let Bet::Plan(plan) = self.bet else { return Next::Verify };
        let limit = context.limit.min(self.chain.limit);
        self.chain = Chain { drafted: chain.len(), limit, ..self.chain };
        let Some(room) = limit.checked_sub(chain.len()).filter(|&room| room > 0) else {
            return Next::Verify;
        };
        let mut proposal = Proposal { tokens: Vec::new(), matched: 0 };
        if let Some(proposer) = &mut self.proposer {
            proposal.matched = proposer.propose_after(chain, room, &mut proposal.tokens);
        }
        let found = Match { length: proposal.matched, tokens: proposal.tokens.len() };
        let tail = self.controller.ngram_tail(odds(context), self.chain, found);
        if tail > 0 {
            proposal.tokens.truncate(tail);
            Next::Append(proposal)
        } else if self.controller.goes_on(odds(context), plan, self.chain) {
            Next::Draft
        } else {
            Next::Verify
        }
    }

    fn learn(&mut self, context: &mut Context<'_>, cycle: &FinishedCycle<'_>) {
        let knowledge = &mut context.betting.knowledge;
        // The token after the accepted ones was rejected; those after it were not judged.
        for (index, origin) in cycle.origins.iter().enumerate().take(cycle.accepted + 1) {
            let accepted = index < cycle.accepted;
            let own = self.controller.offsets();
            match (*origin, self.bet) {
                (Origin::Plan { confidence }, Bet::Plan(plan)) => {
                    knowledge.observe_drafted(own, plan, confidence, accepted);
                }
                (Origin::Ngram { matched, place }, _) => {
                    knowledge.observe_ngram(own, ngram_bin(matched, place), accepted);
                }
                _ => {}
            }
        }
        knowledge.forget(cycle.committed);
        self.controller.commit(cycle.committed);
    }

    fn commit(&mut self, tokens: &[TokenId]) {
        self.proposer.iter_mut().for_each(|proposer| proposer.extend(tokens));
    }

    fn plan(&self, _: &Betting) -> Option<Arc<DraftPlan>> {
        self.plan.clone()
    }

    fn stand_in(&self, betting: &Betting) -> Option<Arc<StandIn>> {
        let plans = betting.knowledge.seats().iter().map(|seat| &seat.plan);
        plans.filter(|_| self.controller.bets_on_plans()).find_map(|plan| plan.stand_in().cloned())
    }

    fn arm_name(&self, betting: &Betting, arm: usize) -> String {
        betting.knowledge.seats().get(arm).map(|seat| seat.name.clone()).unwrap_or_default()
    }

    fn arms(&self, betting: &Betting) -> Vec<ArmUse> {
        let names = betting.knowledge.seats().iter().map(|seat| seat.name.clone());
        let plans = names.zip(self.placed.iter().copied());
        let all = plans.chain([("ngram".to_owned(), self.ngram_cycles)]);
        all.filter(|(_, cycles)| *cycles > 0)
            .map(|(name, cycles)| ArmUse { name, cycles })
            .collect()
    }
}

fn odds<'a>(context: &'a Context<'_>) -> Odds<'a> {
    Odds { knowledge: &context.betting.knowledge, costs: context.costs }
}
