//! Requests to the engine. Values are checked before they get here: the engine trusts them.

use std::time::{Duration, Instant};

use super::event::GenerationError;
use crate::drafting::{PolicyRequest, policy};
use skipstone_model::TokenId;
use skipstone_model::sampling::{InvalidSampling, SamplingParams, SamplingSettings};

/// A checked request. Built by the server from a wire request, or by the command line.
#[derive(Clone, Debug)]
pub struct ValidRequest {
    /// Names the request in logs and replies.
    pub id: String,
    /// The prompt, at least one token, each below the vocabulary size.
    pub prompt: Vec<TokenId>,
    /// Settings for choosing tokens.
    pub sampling: SamplingParams,
    /// Criteria for stopping.
    pub stop: StopCriteria,
    /// Options for what is reported beside the text.
    pub output: OutputOptions,
    /// The way to draft.
    pub speculation: Speculation,
    /// Moment to give up.
    pub deadline: Option<Instant>,
}

/// Criteria for the end of a stream.
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

/// Options for what a stream reports beside its text.
#[derive(Clone, Copy, Default, Debug)]
pub struct OutputOptions {
    /// Report the tokens.
    pub tokens: bool,
    /// Report each token's log-probability under the full model.
    pub logprobs: bool,
    /// Also this many alternatives.
    pub top_logprobs: usize,
}

/// The way a stream drafts.
#[derive(Clone, PartialEq, Debug)]
pub enum Speculation {
    /// Plain decoding.
    Off,
    /// Drafting by a policy.
    Draft(PolicyRequest),
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
    /// A greedy request that drafts by the default policy. The prompt has at least one token, and
    /// fits the context together with `max_new_tokens`, which is at least 1.
    ///
    /// # Errors
    /// Never with the sampling of greedy decoding; others may be set afterwards.
    pub fn greedy(prompt: Vec<TokenId>, max_new_tokens: usize) -> Result<Self, InvalidSampling> {
        Ok(Self {
            id: "embedded".to_owned(),
            prompt,
            sampling: SamplingParams::new(SamplingSettings::default(), 0)?,
            stop: StopCriteria {
                max_new_tokens,
                min_new_tokens: 0,
                stop_strings: Vec::new(),
                stop_token_ids: Vec::new(),
                include_stop_string: false,
                ignore_end_of_sequence: false,
            },
            output: OutputOptions::default(),
            speculation: Speculation::adaptive(None),
            deadline: None,
        })
    }

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
    /// Drafting by the policy that is called `name`; `None` if there is none.
    pub fn by(name: &str) -> Option<Self> {
        policy(name).map(|policy| Self::Draft(PolicyRequest::new(policy)))
    }
}
