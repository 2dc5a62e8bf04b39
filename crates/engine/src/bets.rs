//! The bets of adaptive streams: what all of them share, and what each has of its own.

use super::audition::{Auditions, Outcome, Stakes};
use super::baseline::PlainStep;
use super::cycle::{Confirmed, Cycle, Origin};
use super::drafter::Drafted;
use super::learner::Learner;
use super::parts::{Outline, Parts, attention_share};
use super::request::ValidRequest;
use super::score::Swift;
use crate::adapt::{
    Allowed, Bet, Chain, Controller, Costs, FrontierPlan, Knowledge, Learned, Match, Odds,
    PlanKnowledge, ngram_bin,
};
use crate::drafting::{DraftPlan, NgramProposer, SwiftOptions, SwiftSearch};
use crate::record::{self, PlanChange};
use skipstone_model::{Model, TokenId};

/// N-gram matches are this long, in tokens. A single token says little, but a row of the verify
/// pass is cheap; beyond a dozen nothing is gained.
const MATCH_LENGTHS: (usize, usize) = (1, 12);

/// What the streams of an engine bet with.
pub(super) struct Betting {
    frontier: Vec<FrontierPlan>,
    pub(super) knowledge: Knowledge,
    pub(super) baseline: PlainStep,
    /// What parts of the model cost.
    pub(super) parts: Parts,
    pub(super) swift: Swift,
    /// Cycles bet on each plan, over all streams.
    uses: Vec<usize>,
    pub(super) auditions: Auditions,
    /// Learns better bridges, if it is to.
    pub(super) learner: Option<Learner>,
}

/// The bets of one stream.
pub(super) struct Bets {
    controller: Controller,
    /// None for a stream without n-gram matches.
    proposer: Option<NgramProposer>,
    /// Of the current cycle.
    bet: Bet,
    chain: Chain,
    /// What the last match proposed.
    proposal: Vec<TokenId>,
    placed: Vec<usize>,
    ngram_cycles: usize,
}

// === impl Betting ===

impl Betting {
    /// Streams bet on `frontier`, whose plans draft for `model`.
    pub(super) fn new(
        frontier: Vec<FrontierPlan>,
        model: &Model,
        baseline: PlainStep,
        parts: Parts,
    ) -> Self {
        let plans: Vec<PlanKnowledge> =
            frontier.iter().map(|plan| plan.knowledge.clone()).collect();
        let layers = frontier.first().map_or(0, |plan| plan.plan.skip_set().layer_count());
        let swift = Swift::new(SwiftSearch::new(layers, SwiftOptions::default()));
        let mut knowledge = Knowledge::new(plans);
        for (index, plan) in frontier.iter().enumerate() {
            knowledge.identify(index, plan.plan.identity(), attention_share(&plan.plan));
            knowledge.estimate_cost(index, parts.cost(&Outline::of(&plan.plan, model)));
        }
        Self {
            uses: vec![0; frontier.len()],
            knowledge,
            frontier,
            baseline,
            parts,
            swift,
            auditions: Auditions::default(),
            learner: None,
        }
    }

    /// The plans that streams bet on.
    pub(super) fn plans(&self) -> &[FrontierPlan] {
        &self.frontier
    }

    /// The plan that streams bet on most.
    pub(super) fn favourite(&self) -> usize {
        (0..self.uses.len()).rev().max_by_key(|&index| self.uses[index]).unwrap_or(0)
    }

    /// What an audition of `plan` for the seat of plan `index` is decided by, without context: it
    /// is made on many streams.
    pub(super) fn stakes(&self, index: usize, plan: &DraftPlan) -> Stakes {
        Stakes {
            draft: self.knowledge.plan(index).cost(0.0),
            same_sublayers: self.frontier[index].plan.skip_set() == plan.skip_set(),
            verify: self.baseline.rows(2),
        }
    }

    /// Seats a candidate that turned out better.
    pub(super) fn conclude(&mut self, outcome: Outcome) {
        let Outcome { candidate, is_better, agreement: (incumbent, rival), tokens } = outcome;
        let (plan, name) = (&self.frontier[candidate.seat].name, &candidate.name);
        tracing::info!(
            plan,
            candidate = name,
            incumbent,
            rival,
            tokens,
            is_better,
            "a plan was tried"
        );
        let identity = candidate.plan.identity();
        // Two plans of one run that take the same bridge would be twins.
        let is_seated = self.frontier.iter().any(|other| other.plan.identity() == identity);
        if !is_better || is_seated {
            return;
        }
        let seat = &mut self.frontier[candidate.seat];
        let is_bridge = seat.plan.skip_set() == candidate.plan.skip_set();
        record::plan_changed(if is_bridge { PlanChange::Bridge } else { PlanChange::Search });
        let attention = attention_share(&candidate.plan);
        self.knowledge.replace(candidate.seat, identity, attention, candidate.extra_cost);
        self.auditions.reseat(candidate.seat, &candidate.plan, candidate.extra_cost);
        (seat.plan, seat.name, seat.profile_tokens) = (candidate.plan, candidate.name, 0);
    }

    fn odds<'a>(&'a self, costs: &'a Costs) -> Odds<'a> {
        Odds { knowledge: &self.knowledge, costs }
    }
}

// === impl Bets ===

impl Bets {
    /// For the stream of a request.
    pub(super) fn new(betting: &Betting, allowed: Allowed, request: &ValidRequest) -> Self {
        let proposer = allowed.ngram.then(|| {
            let mut proposer = NgramProposer::new(MATCH_LENGTHS.0, MATCH_LENGTHS.1);
            proposer.extend(&request.prompt);
            proposer
        });
        Self {
            controller: Controller::new(
                betting.knowledge.stream(request.traffic.learned.as_deref()),
                allowed,
            ),
            proposer,
            bet: Bet::Ngram(0),
            chain: Chain::new(0),
            proposal: Vec::new(),
            placed: vec![0; betting.plans().len()],
            ngram_cycles: 0,
        }
    }

    /// Places the bet of the next cycle, which may draft `limit` tokens; an n-gram match goes into
    /// `cycle` at once.
    pub(super) fn begin(
        &mut self,
        betting: &mut Betting,
        costs: &Costs,
        limit: usize,
        cycle: &mut Cycle,
    ) -> Bet {
        self.chain = Chain::new(limit);
        let confirms = betting.knowledge.bank().mechanisms().confirmation;
        if confirms && !self.controller.is_forced() && betting.baseline.takes_due() {
            self.bet = self.controller.confirm();
            return self.bet;
        }
        self.proposal.clear();
        let room = self.chain.limit;
        let length =
            self.proposer.as_ref().map_or(0, |proposer| proposer.propose(room, &mut self.proposal));
        let found = Match { length, tokens: self.proposal.len() };
        self.bet = self.controller.choose(betting.odds(costs), self.chain, found);
        match self.bet {
            Bet::Plain(_) => {}
            Bet::Plan(index) => {
                self.placed[index] += 1;
                betting.uses[index] += 1;
            }
            Bet::Ngram(tokens) => {
                self.ngram_cycles += 1;
                cycle.append_match(&self.proposal[..tokens], length);
            }
        }
        self.bet
    }

    /// Takes in a draft step. Whether the token that it would draw with this confidence is worth
    /// verifying.
    pub(super) fn keeps(
        &mut self,
        betting: &mut Betting,
        step: &Drafted<'_>,
        confidence: f32,
    ) -> bool {
        let Bet::Plan(plan) = self.bet else { return false };
        betting.knowledge.observe_step(plan, confidence, step.cost, step.costs.context);
        self.controller.keeps(betting.odds(step.costs), plan, &mut self.chain, confidence)
    }

    /// After a token was drafted: adds the n-gram match that it leads to, if that pays, and closes
    /// the cycle if another step doesn't.
    pub(super) fn go_on(
        &mut self,
        betting: &Betting,
        costs: &Costs,
        limit: usize,
        cycle: &mut Cycle,
    ) {
        let Bet::Plan(plan) = self.bet else { return };
        self.chain =
            Chain { drafted: cycle.len(), limit: limit.min(self.chain.limit), ..self.chain };
        let Some(room) = self.chain.limit.checked_sub(self.chain.drafted).filter(|&room| room > 0)
        else {
            return;
        };
        self.proposal.clear();
        let length = self.proposer.as_mut().map_or(0, |proposer| {
            let pending: Vec<TokenId> = cycle.tokens().collect();
            proposer.propose_after(&pending, room, &mut self.proposal)
        });
        let found = Match { length, tokens: self.proposal.len() };
        let tail = self.controller.ngram_tail(betting.odds(costs), self.chain, found);
        if tail > 0 {
            cycle.append_match(&self.proposal[..tail], length);
        } else if !self.controller.goes_on(betting.odds(costs), plan, self.chain) {
            cycle.close();
        }
    }

    /// Takes in a finished cycle, which took the time of `spent_steps` plain steps.
    pub(super) fn finish(
        &mut self,
        betting: &mut Betting,
        confirmed: &Confirmed,
        spent_steps: f64,
    ) {
        // The token after the accepted ones was rejected; those after it were not judged.
        for (index, origin) in confirmed.origins.iter().enumerate().take(confirmed.accepted + 1) {
            let accepted = index < confirmed.accepted;
            let own = self.controller.offsets();
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
        let (bank, tokens) = (betting.knowledge.bank_mut(), confirmed.tokens.len());
        self.controller.observe_cycle(bank, self.bet, tokens, spent_steps);
    }

    /// Takes in committed tokens.
    pub(super) fn commit(&mut self, tokens: &[TokenId]) {
        self.proposer.iter_mut().for_each(|proposer| proposer.extend(tokens));
    }

    /// What the stream's drafts have taught and nobody was told yet.
    pub(super) fn taught(&self) -> &Learned {
        self.controller.own().taught()
    }

    /// The same, to be told.
    pub(super) fn take_taught(&mut self) -> Learned {
        self.controller.offsets().take_taught()
    }

    /// The plan of the last bet, if it was on one.
    pub(super) fn plan(&self) -> Option<usize> {
        match self.bet {
            Bet::Plan(plan) => Some(plan),
            _ => None,
        }
    }

    /// What it bet on so far: cycles by index of the plan.
    pub(super) fn placed(&self) -> &[usize] {
        &self.placed
    }

    /// Cycles that verified an n-gram match.
    pub(super) fn ngram_cycles(&self) -> usize {
        self.ngram_cycles
    }

    /// Whether the current cycle's bet does not look best.
    pub(super) fn is_exploring(&self) -> bool {
        self.controller.is_exploring()
    }

    /// Time lost to bets that did not look best, in plain steps.
    pub(super) fn explored(&self) -> f64 {
        self.controller.explored()
    }
}
