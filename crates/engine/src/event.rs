//! Messages of the engine to a caller: started, then deltas, then finished, or an error instead.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::adapt::OffReason;
use crate::drafting::SkipSet;
use skipstone_model::TokenId;

/// One message of a stream.
#[derive(Clone, Debug)]
pub enum Event {
    /// Always first.
    Started(Started),
    /// The tokens that one step committed.
    Delta(Delta),
    /// Always last on success.
    Finished(Box<Finished>),
}

/// The stream was admitted.
#[derive(Clone, Debug)]
pub struct Started {
    /// Prompt length.
    pub prompt_tokens: usize,
    /// The plan at the start; `None` when drafting is off.
    pub plan: Option<PlanSummary>,
}

/// The current way to draft.
#[derive(Clone, PartialEq, Debug)]
pub struct PlanSummary {
    /// Sublayers skipped.
    pub skip_set: SkipSet,
    /// Cap on the draft length.
    pub max_draft_tokens: usize,
    /// Rises by one at each change.
    pub revision: u64,
}

/// The tokens that one step committed.
#[derive(Clone, Default, Debug)]
pub struct Delta {
    /// New text; may be empty while a character or a possible stop string is incomplete.
    pub text: String,
    /// The tokens; always filled, whatever the caller asked to see.
    pub tokens: Vec<CommittedToken>,
    /// Tokens drafted in this cycle.
    pub drafted: usize,
    /// Of those, accepted.
    pub accepted: usize,
    /// Their drafters.
    pub drafted_by: DraftedBy,
}

/// Drafters of the tokens of a cycle; a chain may mix both.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct DraftedBy {
    /// A plan, by its number among those of the policy.
    pub plan: Option<usize>,
    /// An n-gram match.
    pub ngram: bool,
}

/// One token that the full model confirmed.
#[derive(Clone, Debug)]
pub struct CommittedToken {
    /// Its id.
    pub id: TokenId,
    /// Natural logarithm of its probability under the full model, if asked for.
    pub logprob: Option<f32>,
    /// Alternatives, best first, if asked for.
    pub top_logprobs: Vec<(TokenId, f32)>,
    /// Whether a draft proposed it.
    pub drafted: bool,
}

/// The stream's end.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Reason why it ended.
    pub reason: FinishReason,
    /// Token counts.
    pub usage: Usage,
    /// Draft counts; all zero when drafting was off.
    pub speculation: SpeculationStats,
    /// Times.
    pub timing: Timing,
}

/// A reason why a stream ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FinishReason {
    /// The model's own end-of-sequence token.
    EndOfSequence,
    /// A stop string of the request.
    StopString(String),
    /// A stop token of the request.
    StopToken(TokenId),
    /// `max_new_tokens`.
    Length,
}

/// Token counts.
#[derive(Clone, Copy, Default, Debug, serde::Serialize)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens generated, the end-of-sequence or stop token included.
    pub completion_tokens: usize,
}

/// Draft and verify counts of one stream.
#[derive(Clone, Default, Debug)]
pub struct SpeculationStats {
    /// Name of the policy that drafted; `off` without one, empty for sums over streams.
    pub policy: &'static str,
    /// Cycles that drafted at least one token.
    pub drafts: usize,
    /// Tokens drafted.
    pub draft_tokens: usize,
    /// Of those, accepted.
    pub accepted_tokens: usize,
    /// Drafted tokens at each draft position.
    pub drafted_per_position: Vec<usize>,
    /// Accepted tokens at each draft position.
    pub accepted_per_position: Vec<usize>,
    /// Committed tokens x measured plain step / time spent; `None` without a baseline.
    pub estimated_speedup: Option<f64>,
    /// The plan at the end.
    pub final_plan: Option<PlanSummary>,
    /// Time of the stream's steps, by kind.
    pub phases: PhaseTimes,
    /// Plain steps by why they were plain.
    pub off: BTreeMap<OffReason, PhaseTime>,
    /// Cycles by what drafted them: plans by name, and `ngram`. Empty for a policy with one plan.
    pub arms: Vec<ArmUse>,
    /// Draft steps that left out each sublayer, attention at even indices; empty before the first.
    pub skipped_per_sublayer: Vec<usize>,
    /// Time that plain decoding would have taken for the tokens committed after the first, in
    /// seconds.
    pub plain_seconds: f64,
    /// Time that their draft, verify and plain steps took, in seconds.
    pub spent_seconds: f64,
}

/// Number of a stream's cycles that one plan, or n-gram matches, drafted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ArmUse {
    /// A plan's name, or `ngram`.
    pub name: String,
    /// Cycles.
    pub cycles: usize,
}

/// Time of a stream's steps, by kind.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
pub struct PhaseTimes {
    /// Passes over the prompt.
    pub prefill: PhaseTime,
    /// Draft steps, those that were too unsure to yield a token included.
    pub draft: PhaseTime,
    /// Verify passes, those of an empty draft included.
    pub verify: PhaseTime,
    /// Plain steps.
    pub plain: PhaseTime,
}

/// Steps of one kind.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
pub struct PhaseTime {
    /// Number of steps.
    pub steps: usize,
    /// The stream's share of their time.
    pub seconds: f64,
}

/// Times of one stream.
#[derive(Clone, Copy, Default, Debug)]
pub struct Timing {
    /// Time between submission and the first pass.
    pub queue: Duration,
    /// Time between submission and the first committed token.
    pub time_to_first_token: Duration,
    /// Time between the first committed token and the last.
    pub decode: Duration,
    /// Time between submission and the end.
    pub total: Duration,
}

/// A reason why a stream fails. `server` maps each to one gRPC code.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum GenerationError {
    /// The deadline passed.
    #[error("the deadline passed after {committed} of {wanted} tokens")]
    DeadlineExceeded {
        /// Tokens committed until then.
        committed: usize,
        /// `max_new_tokens`.
        wanted: usize,
    },
    /// The caller did not read its messages.
    #[error(
        "the stream was not read for {seconds} seconds; read faster, or raise engine.stall_timeout_seconds"
    )]
    ReaderStalled {
        /// The limit.
        seconds: u64,
    },
    /// The server shut down before the stream ended.
    #[error("the server is shutting down; send the request to another replica")]
    ShuttingDown,
    /// A fault of this request alone.
    #[error("the request failed: {0}")]
    Internal(String),
}

// === impl SpeculationStats ===

impl SpeculationStats {
    /// The stream's bets and its reasons to decode plainly, for logs: `layers 2-15 x 12, ngram x 3,
    /// no_gain 0.41 s`.
    pub fn story(&self) -> String {
        let arms = self.arms.iter().map(|arm| format!("{} x {}", arm.name, arm.cycles));
        let off = self
            .off
            .iter()
            .map(|(reason, time)| format!("{} {:.2} s", reason.name(), time.seconds));
        arms.chain(off).collect::<Vec<_>>().join(", ")
    }
}

// === impl FinishReason ===

impl FinishReason {
    /// The label of metrics and logs: the wire's name in lower case.
    pub fn name(&self) -> &'static str {
        match self {
            Self::EndOfSequence => "end_of_sequence",
            Self::StopString(_) | Self::StopToken(_) => "stop",
            Self::Length => "length",
        }
    }
}

// === impl GenerationError ===

impl GenerationError {
    /// The label of metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::DeadlineExceeded { .. } => "deadline",
            Self::ReaderStalled { .. } => "stalled",
            Self::ShuttingDown => "shutdown",
            Self::Internal(_) => "error",
        }
    }
}
