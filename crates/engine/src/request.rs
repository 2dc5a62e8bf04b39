//! What a caller may ask of the engine. Values are checked before they get here: the engine trusts
//! them.

use std::time::{Duration, Instant};

use super::event::GenerationError;
use super::profiles::Traffic;
use crate::adapt::Allowed;
use crate::drafting::SkipSet;
use skipstone_model::TokenId;
use skipstone_model::sampling::SamplingParams;

/// A checked request. Built by the server from a wire request, or by the command line.
#[derive(Clone, Debug)]
pub struct ValidRequest {
    /// Names the request in logs and replies.
    pub id: String,
    /// The prompt, at least one token, each below the vocabulary size.
    pub prompt: Vec<TokenId>,
    /// How to choose tokens.
    pub sampling: SamplingParams,
    /// When to stop.
    pub stop: StopCriteria,
    /// What to report beside the text.
    pub output: OutputOptions,
    /// How to draft.
    pub speculation: Speculation,
    /// The traffic it belongs to.
    pub traffic: Traffic,
    /// Whether the service may learn from it: bridges from its hidden states, and what its drafts
    /// come to. Only sums over many streams are kept.
    pub teaches: bool,
    /// When to give up.
    pub deadline: Option<Instant>,
}

/// When a stream ends.
#[derive(Clone, Debug)]
pub struct StopCriteria {
    /// At most this many tokens, at least 1; prompt + this fits the context.
    pub max_new_tokens: usize,
    /// End-of-sequence and stops are ignored before this many tokens.
    pub min_new_tokens: usize,
    /// Texts that end the stream; they may span tokens.
    pub stop_strings: Vec<String>,
    /// Tokens that end the stream, beside the model's own.
    pub stop_token_ids: Vec<TokenId>,
    /// Whether the text includes the stop string that matched.
    pub include_stop_string: bool,
    /// Whether the model's own end-of-sequence tokens are ignored (benchmarks).
    pub ignore_end_of_sequence: bool,
}

/// What a stream reports beside its text.
#[derive(Clone, Copy, Default, Debug)]
pub struct OutputOptions {
    /// Report the tokens.
    pub tokens: bool,
    /// Report each token's log-probability under the full model.
    pub logprobs: bool,
    /// Also this many alternatives.
    pub top_logprobs: usize,
}

/// How a stream drafts.
#[derive(Clone, PartialEq, Debug)]
pub enum Speculation {
    /// Plain decoding.
    Off,
    /// By the published search of SWIFT, to compare with.
    Swift,
    /// One plan for the whole stream.
    Static {
        /// What to skip; `None` takes the server's default plan.
        skip_set: Option<SkipSet>,
        /// Cap on the draft length; `None` takes the server's default.
        max_draft_tokens: Option<usize>,
    },
    /// The server chooses and learns.
    Adaptive {
        /// Cap on the draft length; `None` takes the server's default.
        max_draft_tokens: Option<usize>,
        /// What it may bet on.
        allowed: Allowed,
    },
}

/// The client's clock began before the server's, by as long as the request took to arrive on a busy
/// machine.
const CLOCKS_APART: Duration = Duration::from_millis(50);

/// Whether a client that gives up at `now` does so because of its deadline: clients do by
/// themselves when it passes, and are heard a little before it passes here.
pub fn is_due(deadline: Option<Instant>, now: Instant) -> bool {
    deadline.is_some_and(|deadline| deadline <= now + CLOCKS_APART)
}

// === impl ValidRequest ===

impl ValidRequest {
    /// Whether its deadline has passed.
    pub(super) fn is_expired(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// The error that says so, after `committed` tokens.
    pub(super) fn deadline_error(&self, committed: usize) -> GenerationError {
        GenerationError::DeadlineExceeded { committed, wanted: self.stop.max_new_tokens }
    }

    /// The reason under which it counts if its client left at `now`.
    pub(super) fn abandoned(&self, now: Instant) -> &'static str {
        if is_due(self.deadline, now) { "deadline" } else { "cancelled" }
    }
}

// === impl Speculation ===

impl Speculation {
    /// The server chooses among everything it has.
    pub fn adaptive(max_draft_tokens: Option<usize>) -> Self {
        Self::Adaptive { max_draft_tokens, allowed: Allowed::default() }
    }
}
