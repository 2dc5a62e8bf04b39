//! How one stream drafts: its plan, its bets and the cycle under way.

use std::sync::Arc;

use super::account::StepTime;
use super::activity::PlanActivity;
use super::bets::{Bets, Betting};
use super::cycle::{Chooser, Confirmed, Cycle, Origin};
use super::event::{DraftedBy, PlanSummary};
use super::options::EngineOptions;
use super::parts::{Outline, attention_share};
use super::request::{Speculation, ValidRequest};
use super::work::Work;
use crate::adapt::{Bet, Costs, OffReason};
use crate::drafting::DraftPlan;
use crate::record::{self, DraftCycle, DraftSource, PlanChange};
use skipstone_model::sampling::top_probability;
use skipstone_model::{DraftHead, Model, TokenId};

/// Tiles of the head that a draft step reads beside the draft vocabulary, at most.
const MAX_EXTRA_TILES: usize = 96;

/// What a stream drafts with. A stream that never drafts has no plan and no bets.
pub(super) struct Drafter {
    plan: Option<CurrentPlan>,
    policy: Policy,
    cycle: Cycle,
    /// Spent on the current cycle.
    cycle_time: StepTime,
    /// Tokens drafted in a cycle at most.
    cap: usize,
    /// Tiles of the head for tokens of the stream that the draft vocabulary lacks.
    extra_tiles: Vec<u32>,
    /// A draft's logits over the whole vocabulary, for a draw.
    logits: Vec<f32>,
}

/// Who decides what a cycle drafts.
enum Policy {
    /// One plan, stopped before a token that is unsure.
    Static,
    /// The controller.
    Adaptive(Box<Bets>),
    /// The plan that SWIFT's search stands at, stopped after a token that is unsure.
    Swift,
}

/// The plan of a stream, and its number among those the stream had.
struct CurrentPlan {
    plan: Arc<DraftPlan>,
    /// Drafts in its place for one cycle, to be tried.
    tried: Option<Arc<DraftPlan>>,
    /// Its place in the frontier.
    index: usize,
    revision: u64,
}

/// A draft step's answer, and what it cost.
pub(super) struct Drafted<'a> {
    /// The hidden state where the verify pass may enter.
    pub(super) entered: &'a [f32],
    /// Over the draft vocabulary, or the whole one.
    pub(super) logits: &'a [f32],
    /// Tokens of the model.
    pub(super) vocabulary: usize,
    /// The time of the step over that of a plain one, if it had the pass to itself: with others,
    /// what falls to it is an estimate.
    pub(super) cost: Option<f64>,
    /// What rows cost now.
    pub(super) costs: &'a Costs,
}

// === impl Drafter ===

impl Drafter {
    pub(super) fn new(request: &ValidRequest, options: &EngineOptions, betting: &Betting) -> Self {
        let (plan, policy, cap) = match &request.speculation {
            Speculation::Off => (None, Policy::Static, Some(0)),
            Speculation::Static { skip_set, max_draft_tokens } => {
                let skip_set = skip_set.as_ref().unwrap_or(&options.default_skip_set).clone();
                let plan = Arc::new(DraftPlan::new(skip_set, options.confidence_threshold));
                (Some(plan), Policy::Static, *max_draft_tokens)
            }
            Speculation::Adaptive { allowed, max_draft_tokens } => {
                let plan = betting.plans().first().map(|frontier| Arc::clone(&frontier.plan));
                let bets = Bets::new(betting, *allowed, request);
                (plan, Policy::Adaptive(Box::new(bets)), *max_draft_tokens)
            }
            Speculation::Swift => {
                let plan = Arc::clone(betting.swift.plan());
                (Some(plan), Policy::Swift, Some(betting.swift.max_draft_tokens()))
            }
        };
        let mut drafter = Self {
            plan: plan.map(|plan| CurrentPlan { plan, tried: None, index: 0, revision: 1 }),
            policy,
            cycle: Cycle::default(),
            cycle_time: StepTime::default(),
            cap: cap.unwrap_or(options.max_draft_tokens),
            extra_tiles: Vec::new(),
            logits: Vec::new(),
        };
        request.prompt.iter().for_each(|&token| drafter.add_extra_tile(token));
        drafter
    }

    /// What to do next, if `left` tokens are still to be generated. An adaptive stream places the
    /// bet of its next cycle here.
    pub(super) fn next_work(&mut self, left: usize, betting: &mut Betting, costs: &Costs) -> Work {
        if self.cap == 0 {
            return Work::Plain(OffReason::Request);
        }
        let limit = self.limit(left);
        if limit == 0 {
            return Work::Plain(OffReason::Length);
        }
        if self.cycle.is_idle() {
            match &mut self.policy {
                Policy::Static => {}
                Policy::Swift => {
                    let (plan, changes) =
                        (Arc::clone(betting.swift.plan()), betting.swift.changes());
                    self.take_plan(plan, changes, false);
                }
                Policy::Adaptive(bets) => {
                    match bets.begin(betting, costs, limit, &mut self.cycle) {
                        Bet::Plain(reason) => return Work::Plain(reason),
                        Bet::Ngram(_) => return Work::Verify,
                        Bet::Plan(index) => {
                            let (plan, tries) =
                                (Arc::clone(&betting.plans()[index].plan), bets.is_exploring());
                            self.take_plan(plan, index, tries);
                        }
                    }
                }
            }
        }
        if self.cycle.wants_verify(limit) { Work::Verify } else { Work::Draft }
    }

    /// Tokens that a cycle may draft now: the verify commits one token more than it accepts.
    fn limit(&self, left: usize) -> usize {
        self.cap.min(left.saturating_sub(1))
    }

    /// Drafts by `plan` from now on, or only `tries` it for a cycle. Plans of one frontier share
    /// their draft vocabulary, so the stream's extra tiles stay right.
    fn take_plan(&mut self, plan: Arc<DraftPlan>, index: usize, tries: bool) {
        let Some(current) = &mut self.plan else { return };
        current.tried = None;
        if Arc::ptr_eq(&plan, &current.plan) {
            return;
        }
        if tries {
            current.tried = Some(plan);
            return;
        }
        // Another plan in the same seat was counted when it got there.
        if index != current.index {
            record::plan_changed(PlanChange::Bet);
        }
        current.revision += 1;
        (current.plan, current.index) = (plan, index);
    }

    /// Makes sure that drafts can say `token`.
    fn add_extra_tile(&mut self, token: TokenId) {
        let vocabulary = self.plan.as_ref().and_then(|current| current.plan.vocabulary());
        let Some(tile) = vocabulary.and_then(|vocabulary| vocabulary.extra_tile(token)) else {
            return;
        };
        // What was said long ago makes room for what is said now.
        let place = self.extra_tiles.iter().position(|&other| other == tile);
        match place {
            Some(place) => self.extra_tiles[place..].rotate_left(1),
            None => {
                if self.extra_tiles.len() == MAX_EXTRA_TILES {
                    self.extra_tiles.remove(0);
                }
                self.extra_tiles.push(tile);
            }
        }
    }

    /// The plan that drafts now.
    pub(super) fn plan(&self) -> Option<&DraftPlan> {
        self.plan.as_ref().map(|current| &**current.tried.as_ref().unwrap_or(&current.plan))
    }

    /// The cycle under way.
    pub(super) fn cycle(&self) -> &Cycle {
        &self.cycle
    }

    /// The part of the head that drafts use, if not all of it.
    pub(super) fn head(&self) -> Option<DraftHead<'_>> {
        let vocabulary = self.plan()?.vocabulary()?;
        Some(DraftHead { vocabulary, extra_tiles: &self.extra_tiles })
    }

    /// Books a draft, verify or plain step.
    pub(super) fn spend(&mut self, time: StepTime) {
        self.cycle_time.add(time);
    }

    /// Takes in a draft step, if `left` tokens are still to be generated.
    pub(super) fn draft(
        &mut self,
        step: &Drafted<'_>,
        left: usize,
        chooser: Chooser<'_>,
        betting: &mut Betting,
    ) {
        let limit = self.limit(left);
        let Some(plan) = self.plan() else { return };
        record::sublayers_skipped(plan.skip_set(), 1);
        let threshold = plan.confidence_threshold;
        self.cycle.feed(step.entered);
        // Judged before the draw, and by the most likely token whichever is drawn: to drop a token
        // because it itself turned out unlikely would favour the likely ones.
        let (place, confidence) = top_probability(step.logits);
        let is_sure = confidence >= threshold;
        let keeps = match &mut self.policy {
            Policy::Static => is_sure,
            Policy::Swift => true,
            Policy::Adaptive(bets) => bets.keeps(betting, step, confidence),
        };
        if keeps {
            self.draw(step, place.index(), confidence, chooser);
        }
        match &mut self.policy {
            Policy::Adaptive(bets) if keeps => {
                bets.go_on(betting, step.costs, limit, &mut self.cycle)
            }
            Policy::Static | Policy::Swift if is_sure => {}
            _ => self.cycle.close(),
        }
    }

    /// Adds a token to the chain: the one at `place` of a step's logits, of which `confidence` is
    /// the probability, or one drawn.
    fn draw(&mut self, step: &Drafted<'_>, place: usize, confidence: f32, chooser: Chooser<'_>) {
        if confidence > 0.0 && chooser.sampler.takes_peak() {
            let token = self.head().map_or(TokenId(place as u32), |head| head.token(place));
            return self.cycle.take(token, confidence);
        }
        let mut scattered = std::mem::take(&mut self.logits);
        let logits = match self.head() {
            Some(head) => {
                scattered.clear();
                scattered.resize(step.vocabulary, f32::NEG_INFINITY);
                head.scatter(step.logits, &mut scattered);
                &scattered
            }
            None => step.logits,
        };
        self.cycle.draw(logits, confidence, chooser);
        self.logits = scattered;
    }

    /// Judges the chain; see [`Cycle::judge`].
    pub(super) fn cycle_mut(&mut self) -> &mut Cycle {
        &mut self.cycle
    }

    /// Books a cycle that committed tokens; returns its time.
    pub(super) fn settle(&mut self, confirmed: &Confirmed, betting: &mut Betting) -> StepTime {
        let from = |source: DraftSource| {
            let is_from = |origin: &Origin| origin.source() == source;
            let count =
                |origins: &[Origin]| origins.iter().filter(|origin| is_from(origin)).count();
            let accepted = count(&confirmed.origins[..confirmed.accepted]);
            DraftCycle { source, drafted: count(&confirmed.origins), accepted }
        };
        record::draft_cycle(&from(DraftSource::LayerSkip));
        record::draft_cycle(&from(DraftSource::Ngram));
        record::draft_chain(confirmed.origins.len(), confirmed.accepted);
        let time = std::mem::take(&mut self.cycle_time);
        if let Policy::Adaptive(bets) = &mut self.policy {
            bets.finish(betting, confirmed, time.spent_steps);
        }
        time
    }

    /// Takes in committed tokens.
    pub(super) fn commit(&mut self, tokens: &[TokenId]) {
        tokens.iter().for_each(|&token| self.add_extra_tile(token));
        if let Policy::Adaptive(bets) = &mut self.policy {
            bets.commit(tokens);
        }
    }

    /// What drafted the tokens of the last cycle, which came from `origins`.
    pub(super) fn drafted_by(&self, origins: &[Origin]) -> DraftedBy {
        let has = |source| origins.iter().any(|origin| origin.source() == source);
        let plan = self.bets().and_then(Bets::plan).unwrap_or(0);
        DraftedBy {
            plan: has(DraftSource::LayerSkip).then_some(plan),
            ngram: has(DraftSource::Ngram),
        }
    }

    /// What is told about the plan.
    pub(super) fn summary(&self) -> Option<PlanSummary> {
        self.plan.as_ref().map(|current| PlanSummary {
            skip_set: current.plan.skip_set().clone(),
            max_draft_tokens: self.cap,
            revision: current.revision,
        })
    }

    /// What operators are told about the plan.
    pub(super) fn activity(&self, betting: &Betting) -> Option<PlanActivity> {
        let current = self.plan.as_ref().filter(|_| self.cap > 0)?;
        let name = match &self.policy {
            Policy::Static => "request",
            Policy::Swift => "swift",
            Policy::Adaptive(_) => {
                // Another plan may have taken the seat since this cycle began.
                let known =
                    betting.plans().iter().find(|known| Arc::ptr_eq(&known.plan, &current.plan));
                known.map_or("replaced", |known| &known.name)
            }
        };
        Some(PlanActivity::new(name.to_owned(), &current.plan, self.cap, current.revision))
    }

    /// The bets, if it is adaptive.
    pub(super) fn bets(&self) -> Option<&Bets> {
        match &self.policy {
            Policy::Adaptive(bets) => Some(bets),
            Policy::Static | Policy::Swift => None,
        }
    }

    /// The same, to change.
    pub(super) fn bets_mut(&mut self) -> Option<&mut Bets> {
        match &mut self.policy {
            Policy::Adaptive(bets) => Some(bets),
            Policy::Static | Policy::Swift => None,
        }
    }

    /// Whether it drafts by SWIFT's search.
    pub(super) fn is_swift(&self) -> bool {
        matches!(self.policy, Policy::Swift)
    }

    /// The share that `work` over so many rows, at `context` positions, has in a pass of `in_pass`
    /// rows, roughly and in plain steps.
    pub(super) fn share(
        &self,
        work: Work,
        (rows, in_pass): (usize, usize),
        context: usize,
        betting: &Betting,
        model: &Model,
    ) -> f64 {
        let (weight, attention) = match (work, self.plan()) {
            (Work::Draft, Some(plan)) => {
                (betting.parts.cost(&Outline::of(plan, model)), attention_share(plan))
            }
            _ => (rows as f64, 1.0),
        };
        let baseline = &betting.baseline;
        baseline.share(weight, in_pass) + attention * baseline.context_share(context, rows)
    }
}
