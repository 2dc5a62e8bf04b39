//! The seam for drafting: what decides, for one stream, what each cycle drafts.
//!
//! ```text
//! loop {                                 // one cycle
//!     begin -> plain step, a draft plan, or tokens to verify at once
//!     while drafting {
//!         (draft step)  keeps -> whether its token joins the chain
//!         next  -> one more draft step, or verify
//!     }
//!     (verify pass)     learn            // what became of the chain
//! }
//! ```
//!
//! A policy only decides. Draws, acceptance and rollback belong to the engine, so no policy can
//! change what a stream says: at worst it is slow.

use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use skipstone_model::{Model, PassOutput, StandIn, TokenId};

use super::plan::DraftPlan;
use super::registry::PolicyEntry;
use super::skip_set::SkipSet;
use crate::adapt::{Allowed, Costs, OffReason};
use crate::betting::Betting;
use crate::event::ArmUse;
use crate::lab::Lab;
use crate::record::DraftSource;

/// Decides what one stream drafts. Made by a [`PolicyEntry`] when the stream is admitted; lives on
/// the engine thread as long as the stream.
pub trait DraftPolicy: Send {
    /// Begins a cycle. [`Context::limit`] is at least 1.
    fn begin(&mut self, context: &mut Context<'_>) -> Begin;

    /// Takes in a draft step; returns whether its token joins the chain and is verified. The token
    /// is not drawn yet, and must not be: to drop one because it turned out unlikely would bias the
    /// output towards likely ones.
    fn keeps(&mut self, context: &mut Context<'_>, step: &DraftStep) -> bool;

    /// Says how the cycle goes on after a kept token. `chain` is what is drafted so far, shorter
    /// than [`Context::limit`].
    fn next(&mut self, context: &mut Context<'_>, chain: &[TokenId]) -> Next;

    /// Takes in a finished cycle, plain steps included.
    fn learn(&mut self, _context: &mut Context<'_>, _cycle: &FinishedCycle<'_>) {}

    /// Sublayers, ascending, whose entering states of the prompt's rows the policy wants to see.
    fn prompt_places(&self) -> &[usize] {
        &[]
    }

    /// Takes in the states of a part of the prompt, in the order of its tokens.
    fn see_prompt(&mut self, _states: &PromptStates<'_>) {}

    /// Takes in tokens of the prompt as they are read, then those that each cycle commits.
    fn commit(&mut self, _tokens: &[TokenId]) {}

    /// Runs passes of its own between two cycles, on pages that are not the stream's; returns
    /// whether it ran any. Their time counts as the stream's.
    fn study(&mut self, _lab: &mut Lab<'_>) -> bool {
        false
    }

    /// Cap on the draft length that the policy itself brings, in place of the request's.
    fn max_draft_tokens(&self) -> Option<usize> {
        None
    }

    /// The plan that drafts until a cycle names another; `None` if there is none.
    fn plan(&self, betting: &Betting) -> Option<Arc<DraftPlan>>;

    /// The stand-in that some plan of the policy may draft by: keys and values of it are written as
    /// the prompt is read.
    fn stand_in(&self, betting: &Betting) -> Option<Arc<StandIn>> {
        self.plan(betting)?.stand_in().cloned()
    }

    /// Name of the plan with number `arm` (see [`Begin::Draft`]), for operators.
    fn arm_name(&self, betting: &Betting, arm: usize) -> String;

    /// Cycles by what drafted them, for the stream's books; empty for a policy with one plan.
    fn arms(&self, _betting: &Betting) -> Vec<ArmUse> {
        Vec::new()
    }
}

/// All that a policy may use of the engine.
pub struct Context<'a> {
    /// Knowledge shared by all streams of the engine: plans, their acceptance, the cost of passes.
    pub betting: &'a mut Betting,
    /// Current costs of rows for the stream, in plain steps.
    pub costs: &'a Costs,
    /// Tokens that a cycle may draft now.
    pub limit: usize,
    /// Prompt and committed tokens.
    pub tokens: &'a [TokenId],
    /// Of those, the prompt's.
    pub prompt: usize,
    /// Random numbers of the stream's policy; those of sampling are others.
    pub random: &'a mut ChaCha8Rng,
}

/// Hidden states of rows of a prompt, before the sublayers of [`DraftPolicy::prompt_places`].
pub struct PromptStates<'a> {
    /// Rows.
    pub rows: usize,
    pub(crate) output: PassOutput<'a>,
    pub(crate) group: usize,
}

/// What a cycle does first.
pub enum Begin {
    /// A plain step, and why.
    Plain(OffReason),
    /// Draft steps.
    Draft {
        /// The plan to draft by. The plans of one stream share their draft vocabulary.
        plan: Arc<DraftPlan>,
        /// The plan's number among those of the policy.
        arm: usize,
    },
    /// A verify of tokens that cost nothing to draft.
    Verify(Proposal),
}

/// The continuation of a cycle.
pub enum Next {
    /// One more draft step of the plan.
    Draft,
    /// One more draft step, by another plan: a mask for each position of the chain. Both must be
    /// exact up to the same sublayer ([`DraftPlan::entering_at`]), or the chain ends here; and have
    /// their keys filled in ([`DraftPlan::with_filled_keys`]), unless attention is skipped more and
    /// more.
    DraftBy {
        /// The plan.
        plan: Arc<DraftPlan>,
        /// Its number among those of the policy.
        arm: usize,
    },
    /// A verify of the chain.
    Verify,
    /// A verify of the chain and of tokens that cost nothing to draft.
    Append(Proposal),
}

/// Tokens of an n-gram match.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Proposal {
    /// The tokens, at least one.
    pub tokens: Vec<TokenId>,
    /// Tokens that matched.
    pub matched: usize,
}

/// A draft step, before its token is drawn.
#[derive(Clone, Copy, Debug)]
pub struct DraftStep {
    /// The highest probability of the step.
    pub confidence: f32,
}

/// Origin of a drafted token, and what was known about it before it was judged.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Origin {
    /// A draft step of the stream's plan.
    Plan {
        /// The highest probability of the step.
        confidence: f32,
    },
    /// An n-gram match.
    Ngram {
        /// Length of the match.
        matched: usize,
        /// Tokens of the match before this one.
        place: usize,
    },
}

/// Outcome of a cycle.
#[derive(Clone, Copy, Debug)]
pub struct FinishedCycle<'a> {
    /// Tokens committed, at least one.
    pub committed: usize,
    /// Drafted tokens that were accepted.
    pub accepted: usize,
    /// Origins of the drafted tokens. Those after the first rejected one were not judged.
    pub origins: &'a [Origin],
    /// Its time, in plain steps of the same company.
    pub steps: f64,
}

/// The policy that a request asks for, with its settings.
#[derive(Clone, PartialEq, Debug)]
pub struct PolicyRequest {
    /// The policy that decides.
    pub policy: &'static PolicyEntry,
    /// Cap on the draft length; `None` takes the server's default.
    pub max_draft_tokens: Option<usize>,
    /// Sublayers to skip, for a policy with one plan; `None` takes the server's default.
    pub skip_set: Option<SkipSet>,
    /// Bets that may be placed, for a policy that bets.
    pub allowed: Allowed,
}

/// Inputs that a policy starts from.
pub struct Setup<'a> {
    /// Knowledge shared by all streams.
    pub betting: &'a mut Betting,
    /// State that streams of a policy share beyond that.
    pub shared: &'a mut SharedStates,
    /// The request's policy and settings.
    pub request: &'a PolicyRequest,
    /// The model that drafts.
    pub model: &'a Model,
    /// Sublayers that a stream skips if it names no skip set of its own.
    pub default_skip_set: &'a SkipSet,
    /// Ratio of what a plain step reads to what an evenly spaced draft step is to read.
    pub target_speedup: f32,
    /// Draft probability below which drafting stops, where nothing else decides.
    pub confidence_threshold: f32,
}

/// State that the streams of a policy share beyond [`Betting`]: one value for each policy that
/// wants one, made when a stream first asks for it.
#[derive(Default)]
pub struct SharedStates(HashMap<&'static str, Arc<dyn Any + Send + Sync>>);

// === impl Origin ===

impl Origin {
    /// The source that drafted it.
    pub fn source(self) -> DraftSource {
        match self {
            Self::Plan { .. } => DraftSource::LayerSkip,
            Self::Ngram { .. } => DraftSource::Ngram,
        }
    }
}

// === impl PromptStates ===

impl PromptStates<'_> {
    /// The state of row `row` before the `place`-th of the policy's sublayers, \[hidden\].
    pub fn state(&self, place: usize, row: usize) -> &[f32] {
        self.output.saved(self.group, place, row)
    }
}

// === impl PolicyRequest ===

impl PolicyRequest {
    /// Leaves all but the policy to the server.
    pub fn new(policy: &'static PolicyEntry) -> Self {
        Self { policy, max_draft_tokens: None, skip_set: None, allowed: Allowed::default() }
    }
}

// === impl SharedStates ===

impl SharedStates {
    /// The value of policy `name`, made by `make` at the first call.
    pub fn get<T: Send + Sync + 'static>(
        &mut self,
        name: &'static str,
        make: impl Fn() -> T,
    ) -> Arc<T> {
        let made = || -> Arc<dyn Any + Send + Sync> { Arc::new(make()) };
        let found = Arc::clone(self.0.entry(name).or_insert_with(made));
        // Another type under this name would be a defect; the stream then has a value of its own.
        found.downcast().unwrap_or_else(|_| Arc::new(make()))
    }
}
