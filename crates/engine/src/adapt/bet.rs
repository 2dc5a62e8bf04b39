//! What a stream can bet on, and what a bet is decided from.

use super::costs::{Costs, MAX_ROWS};
use super::knowledge::Knowledge;

/// What a cycle does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bet {
    /// A plain step, and why.
    Plain(OffReason),
    /// Drafts by this plan.
    Plan(usize),
    /// Verifies this many tokens of an n-gram match.
    Ngram(usize),
}

/// Why a step drafts nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum OffReason {
    /// The caller turned drafting off.
    Request,
    /// No bet looks better than a plain step.
    NoGain,
    /// There is no room for a draft: the output ends with the next token.
    Length,
    /// A plain step is due, which tells what drafts are compared with.
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

/// Which bets a stream may place.
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

/// What every decision is made from: what is known, and what a step costs now.
#[derive(Clone, Copy, Debug)]
pub struct Odds<'a> {
    /// What all streams learned.
    pub knowledge: &'a Knowledge,
    /// What rows cost now.
    pub costs: &'a Costs,
}

/// The chain that a cycle has drafted so far.
#[derive(Clone, Copy, Debug)]
pub struct Chain {
    /// Its tokens.
    pub drafted: usize,
    /// How likely all of them are accepted.
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
