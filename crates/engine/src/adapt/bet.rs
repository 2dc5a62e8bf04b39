//! The bets that a stream may place, and the odds that they are decided by.

use super::costs::{Costs, MAX_ROWS};
use super::knowledge::Knowledge;

/// The bet of one cycle.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bet {
    /// A plain step, and why.
    Plain(OffReason),
    /// Drafts by this plan.
    Plan(usize),
    /// Verifies this many tokens of an n-gram match.
    Ngram(usize),
}

/// A reason why a step drafts nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum OffReason {
    /// The caller turned drafting off.
    Request,
    /// No bet looks better than a plain step.
    NoGain,
    /// There is no room for a draft: the output ends with the next token.
    Length,
    /// A plain step is due, to measure what drafts are compared with.
    Baseline,
    /// The backend can't draft.
    Backend,
}

/// A match that the n-gram proposer found: its length, and how many tokens follow it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Match {
    /// Tokens that match.
    pub length: usize,
    /// Tokens proposed.
    pub tokens: usize,
}

/// The bets that a stream may place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Allowed {
    /// Draft plans.
    pub plans: bool,
    /// N-gram matches.
    pub ngram: bool,
    /// Place them whatever the odds, each plan in turn, and draft as far as the limit: to measure
    /// what drafts are worth, and for tests.
    pub always: bool,
}

/// The basis of every decision: what is known, and what a step costs now.
#[derive(Clone, Copy, Debug)]
pub struct Odds<'a> {
    /// Knowledge shared by all streams.
    pub knowledge: &'a Knowledge,
    /// Current costs of rows.
    pub costs: &'a Costs,
}

/// The chain that a cycle has drafted so far.
#[derive(Clone, Copy, Debug)]
pub struct Chain {
    /// Its tokens.
    pub drafted: usize,
    /// Probability that all of them are accepted.
    pub survival: f64,
    /// Tokens that it may have at most.
    pub limit: usize,
}

// === impl Odds ===

impl Odds<'_> {
    /// A draft step of a plan now, in plain steps.
    pub(super) fn plan_cost(&self, plan: usize) -> f64 {
        self.costs.of_draft(self.knowledge.plan(plan).cost(self.costs.context))
    }
}

// === impl OffReason ===

impl OffReason {
    /// All of them, in order.
    pub const ALL: [Self; 5] =
        [Self::Request, Self::NoGain, Self::Length, Self::Baseline, Self::Backend];

    /// The label of metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::NoGain => "no_gain",
            Self::Length => "length",
            Self::Baseline => "baseline",
            Self::Backend => "backend",
        }
    }
}

// === impl Allowed ===

impl Default for Allowed {
    fn default() -> Self {
        Self { plans: true, ngram: true, always: false }
    }
}

// === impl Chain ===

impl Chain {
    /// Nothing drafted yet.
    pub fn new(limit: usize) -> Self {
        Self { drafted: 0, survival: 1.0, limit: limit.min(MAX_ROWS - 1) }
    }
}
