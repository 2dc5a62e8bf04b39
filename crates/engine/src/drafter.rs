//! The drafter of one stream: its policy, the plan that drafts now, and the cycle under way.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::account::StepTime;
use super::activity::PlanActivity;
use super::betting::Betting;
use super::cycle::{Chooser, Confirmed, Cycle};
use super::event::{ArmUse, DraftedBy, PlanSummary};
use super::options::EngineOptions;
use super::request::{Speculation, ValidRequest};
use super::step::{Step, StepKind};
use crate::adapt::{Costs, OffReason};
use crate::drafting::{
    Begin, Context, DraftPlan, DraftPolicy, DraftStep, FinishedCycle, Next, Origin, PromptStates,
    Setup, SharedStates,
};
use crate::lab::Lab;
use crate::record::{self, DraftCycle, DraftSource};
use skipstone_model::sampling::top_probability;
use skipstone_model::{DraftHead, Model, StandIn, TokenId};

/// Tiles of the head that a draft step reads beside the draft vocabulary, at most.
const MAX_EXTRA_TILES: usize = 96;

/// Rows of committed positions that one step takes at most to get a stand-in's keys and values.
const MAX_CATCH_UP: usize = 64;

/// The drafter of one stream. A stream that never drafts has no policy.
pub(super) struct Drafter {
    policy: Option<Box<dyn DraftPolicy>>,
    /// Name of the policy.
    name: &'static str,
    plan: Option<CurrentPlan>,
    cycle: Cycle,
    /// Spent on the current cycle.
    cycle_time: StepTime,
    /// Tokens drafted in a cycle at most.
    cap: usize,
    /// Positions, from the first on, whose keys and values of `keys_of` are those of committed
    /// tokens.
    keyed: usize,
    keys_of: Option<Arc<StandIn>>,
    /// Whether the cycle has begun, but its first step only brought those up to date.
    catches_up: bool,
    /// Tiles of the head for tokens of the stream that the draft vocabulary lacks.
    extra_tiles: Vec<u32>,
    /// Layers and tokens of the model.
    layers: usize,
    vocabulary: usize,
    /// A draft's logits over the whole vocabulary, for a draw.
    logits: Vec<f32>,
    random: ChaCha8Rng,
}

/// The plan of a stream.
struct CurrentPlan {
    plan: Arc<DraftPlan>,
    /// Its number among the policy's.
    arm: usize,
    /// Rises by one at each change.
    revision: u64,
}

/// State of a stream, as a decision needs it.
pub(super) struct Moment<'a> {
    pub(super) betting: &'a mut Betting,
    /// Current costs of rows.
    pub(super) costs: &'a Costs,
    /// Prompt and committed tokens.
    pub(super) tokens: &'a [TokenId],
    /// Of those, the prompt's.
    pub(super) prompt: usize,
    /// Tokens still to be generated.
    pub(super) left: usize,
}

/// A draft step's answer, and what it cost.
pub(super) struct DraftAnswer<'a> {
    /// The hidden state where the verify pass may enter.
    pub(super) entered: &'a [f32],
    /// Over the draft vocabulary, or the whole one.
    pub(super) logits: &'a [f32],
    /// Tokens of the model.
    pub(super) vocabulary: usize,
}

// === impl Drafter ===

impl Drafter {
    pub(super) fn new(
        request: &ValidRequest,
        options: &EngineOptions,
        betting: &mut Betting,
        (shared, model): (&mut SharedStates, &Model),
    ) -> Self {
        let mut drafter = Self {
            policy: None,
            name: "off",
            plan: None,
            cycle: Cycle::default(),
            cycle_time: StepTime::default(),
            cap: 0,
            keyed: 0,
            keys_of: None,
            catches_up: false,
            extra_tiles: Vec::new(),
            layers: model.config().layers,
            vocabulary: model.config().vocabulary,
            logits: Vec::new(),
            random: ChaCha8Rng::seed_from_u64(request.sampling.settings().seed),
        };
        let Speculation::Draft(wanted) = &request.speculation else { return drafter };
        let mut start = || {
            (wanted.policy.start)(&mut Setup {
                betting,
                shared,
                request: wanted,
                model,
                default_skip_set: &options.default_skip_set,
                target_speedup: options.target_speedup,
                confidence_threshold: options.confidence_threshold,
            })
        };
        let Ok(policy) = catch_unwind(AssertUnwindSafe(&mut start)) else {
            tracing::error!(policy = wanted.policy.name, "a policy can't start: a defect");
            return drafter;
        };
        let plan = policy.plan(betting);
        let plan = plan.filter(|plan| drafter.fits(plan));
        drafter.plan = plan.map(|plan| CurrentPlan { plan, arm: 0, revision: 1 });
        let own = policy.max_draft_tokens();
        drafter.cap = own.or(wanted.max_draft_tokens).unwrap_or(options.max_draft_tokens);
        drafter.name = wanted.policy.name;
        drafter.policy = Some(policy);
        request.prompt.iter().for_each(|&token| drafter.add_extra_tile(token));
        drafter
    }

    /// Whether it may draft at all.
    pub(super) fn may_draft(&self) -> bool {
        self.policy.is_some()
    }

    /// Name of the policy; `off` without one.
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// The next step of a stream whose first `computed` positions are final. At the start of a
    /// cycle the policy chooses.
    pub(super) fn next_step(&mut self, moment: Moment<'_>, computed: usize) -> Step {
        let limit = self.limit(moment.left);
        let plain = |reason| Step::whole(StepKind::Plain(reason), computed, 1);
        let Some(policy) = self.policy.as_mut().filter(|_| self.cap > 0) else {
            return plain(OffReason::Request);
        };
        if limit == 0 {
            return plain(OffReason::Length);
        }
        if self.cycle.is_idle() && !self.catches_up {
            let begin = policy.begin(&mut moment.context(limit, &mut self.random));
            match begin {
                Begin::Plain(reason) => return plain(reason),
                Begin::Verify(proposal) => self.cycle.append(proposal, limit, self.vocabulary),
                Begin::Draft { plan, arm } if self.fits(&plan) => self.take_plan(plan, arm),
                // Made for another model: a defect of the policy, which costs speed only.
                Begin::Draft { .. } => return plain(OffReason::NoGain),
            }
        }
        if self.cycle.wants_verify(limit) {
            let rows = self.cycle.len() + 1;
            let entry = self.plan().map_or(0, |plan| plan.exact_until());
            let entered = self.cycle.fed();
            let whole = Step::whole(StepKind::Verify, computed, rows);
            return Step { entered, entry, logits: rows, ..whole };
        }
        let next = computed + self.cycle.fed();
        let plan = self.plan().cloned();
        // What was committed since the last such draft comes along.
        let first = match plan.as_ref().and_then(|plan| plan.stand_in()) {
            Some(stand_in) if self.cycle.fed() == 0 => self.keyed(stand_in).min(next),
            _ => next,
        };
        let rows = next + 1 - first;
        self.catches_up = rows > MAX_CATCH_UP;
        match self.catches_up {
            true => Step { plan, logits: 0, ..Step::whole(StepKind::Draft, first, MAX_CATCH_UP) },
            false => Step { plan, ..Step::whole(StepKind::Draft, first, rows) },
        }
    }

    /// The stand-in that it may draft by.
    pub(super) fn stand_in(&self, betting: &Betting) -> Option<Arc<StandIn>> {
        self.policy.as_ref().filter(|_| self.cap > 0)?.stand_in(betting)
    }

    /// Notes that the stand-in's keys and values of the positions before this one are those of
    /// committed tokens.
    pub(super) fn note_keys(&mut self, stand_in: &Arc<StandIn>, position: usize) {
        (self.keyed, self.keys_of) = (position, Some(Arc::clone(stand_in)));
    }

    /// Positions whose keys and values of this stand-in are right.
    fn keyed(&self, stand_in: &Arc<StandIn>) -> usize {
        let is_it = self.keys_of.as_ref().is_some_and(|other| Arc::ptr_eq(other, stand_in));
        if is_it { self.keyed } else { 0 }
    }

    /// Whether a plan was made for a model of this size.
    fn fits(&self, plan: &DraftPlan) -> bool {
        plan.skip_set().layer_count() == self.layers
    }

    /// Tokens that a cycle may draft now: the verify commits one token more than it accepts.
    fn limit(&self, left: usize) -> usize {
        self.cap.min(left.saturating_sub(1))
    }

    /// Drafts by `plan` from now on. Plans of one stream share their draft vocabulary, so its extra
    /// tiles stay right.
    fn take_plan(&mut self, plan: Arc<DraftPlan>, arm: usize) {
        let current = self.plan.get_or_insert_with(|| CurrentPlan {
            plan: Arc::clone(&plan),
            arm,
            revision: 1,
        });
        if Arc::ptr_eq(&plan, &current.plan) {
            return;
        }
        record::plan_changed();
        current.revision += 1;
        (current.plan, current.arm) = (plan, arm);
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
    pub(super) fn plan(&self) -> Option<&Arc<DraftPlan>> {
        self.plan.as_ref().map(|current| &current.plan)
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

    /// Takes in a draft step.
    pub(super) fn draft(
        &mut self,
        step: &DraftAnswer<'_>,
        moment: Moment<'_>,
        chooser: Chooser<'_>,
    ) {
        let limit = self.limit(moment.left);
        let Some(plan) = self.plan() else { return };
        record::sublayers_skipped(plan.skip_set(), 1);
        let Some(mut policy) = self.policy.take() else { return };
        self.cycle.feed(step.entered);
        // Judged before the draw, and by the most likely token whichever is drawn.
        let (place, confidence) = top_probability(step.logits);
        let mut random = self.random.clone();
        let mut context = moment.context(limit, &mut random);
        if policy.keeps(&mut context, &DraftStep { confidence }) {
            self.draw(step, place.index(), confidence, chooser);
            if !self.cycle.wants_verify(limit) {
                let chain: Vec<TokenId> = self.cycle.tokens().collect();
                match policy.next(&mut context, &chain) {
                    Next::Draft => {}
                    Next::DraftBy { plan, arm } => {
                        let fits = self.fits(&plan);
                        match fits && self.plan().is_some_and(|now| plan.may_follow(now)) {
                            true => self.take_plan(plan, arm),
                            false => self.cycle.close(),
                        }
                    }
                    Next::Verify => self.cycle.close(),
                    Next::Append(proposal) => {
                        self.cycle.append(proposal, limit, self.vocabulary);
                    }
                }
            }
        } else {
            self.cycle.close();
        }
        self.random = random;
        self.policy = Some(policy);
    }

    /// Adds a token to the chain: the one at `place` of a step's logits, of which `confidence` is
    /// the probability, or one drawn.
    fn draw(
        &mut self,
        step: &DraftAnswer<'_>,
        place: usize,
        confidence: f32,
        chooser: Chooser<'_>,
    ) {
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
    pub(super) fn settle(&mut self, confirmed: &Confirmed, moment: Moment<'_>) -> StepTime {
        let Confirmed { origins, accepted, tokens, .. } = confirmed;
        for source in DraftSource::ALL {
            let count = |origins: &[Origin]| {
                origins.iter().filter(|origin| origin.source() == source).count()
            };
            let (drafted, accepted) = (count(origins), count(&origins[..*accepted]));
            record::draft_cycle(self.name, &DraftCycle { source, drafted, accepted });
        }
        record::draft_chain(origins.len(), *accepted);
        let time = std::mem::take(&mut self.cycle_time);
        let limit = self.limit(moment.left);
        if let Some(policy) = &mut self.policy {
            let cycle = FinishedCycle {
                committed: tokens.len(),
                accepted: *accepted,
                origins,
                steps: time.spent_steps,
            };
            policy.learn(&mut moment.context(limit, &mut self.random), &cycle);
        }
        time
    }

    /// Sublayers whose entering states of the prompt's rows the policy wants to see.
    pub(super) fn prompt_places(&self) -> &[usize] {
        self.policy.as_ref().map_or(&[], |policy| policy.prompt_places())
    }

    /// Shows the policy states of the prompt.
    pub(super) fn see_prompt(&mut self, states: &PromptStates<'_>) {
        self.policy.iter_mut().for_each(|policy| policy.see_prompt(states));
    }

    /// Takes in tokens of the prompt that were read.
    pub(super) fn read(&mut self, tokens: &[TokenId]) {
        self.policy.iter_mut().for_each(|policy| policy.commit(tokens));
    }

    /// Takes in committed tokens.
    pub(super) fn commit(&mut self, tokens: &[TokenId]) {
        tokens.iter().for_each(|&token| self.add_extra_tile(token));
        self.read(tokens);
    }

    /// Lets the policy run passes of its own, if no cycle is under way; returns whether it did.
    pub(super) fn study(&mut self, lab: &mut Lab<'_>) -> bool {
        match &mut self.policy {
            Some(policy) if self.cycle.is_idle() => policy.study(lab),
            _ => false,
        }
    }

    /// Drafters of the last cycle's tokens, which came from `origins`.
    pub(super) fn drafted_by(&self, origins: &[Origin]) -> DraftedBy {
        let has = |source| origins.iter().any(|origin| origin.source() == source);
        let arm = self.plan.as_ref().map_or(0, |current| current.arm);
        DraftedBy {
            plan: has(DraftSource::LayerSkip).then_some(arm),
            ngram: has(DraftSource::Ngram),
        }
    }

    /// Summary of the plan, for the caller.
    pub(super) fn summary(&self) -> Option<PlanSummary> {
        self.plan.as_ref().map(|current| PlanSummary {
            skip_set: current.plan.skip_set().clone(),
            max_draft_tokens: self.cap,
            revision: current.revision,
        })
    }

    /// Current plan, for operators.
    pub(super) fn activity(&self, betting: &Betting) -> Option<PlanActivity> {
        let current = self.plan.as_ref().filter(|_| self.cap > 0)?;
        let name = self.policy.as_ref()?.arm_name(betting, current.arm);
        Some(PlanActivity::new(name, &current.plan, self.cap, current.revision))
    }

    /// Cycles by what drafted them.
    pub(super) fn arms(&self, betting: &Betting) -> Vec<ArmUse> {
        self.policy.as_ref().map_or_else(Vec::new, |policy| policy.arms(betting))
    }
}

// === impl Moment ===

impl<'a> Moment<'a> {
    fn context(self, limit: usize, random: &'a mut ChaCha8Rng) -> Context<'a> {
        let Self { betting, costs, tokens, prompt, .. } = self;
        Context { betting, costs, limit, tokens, prompt, random }
    }
}
