//! What a stream can want of a pass, and what it gets.

use crate::adapt::{Costs, OffReason};
use crate::record::Phase;
use skipstone_model::PassOutput;

/// What a stream wants of the next pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Work {
    /// The next tokens of the prompt.
    Prefill {
        /// How many.
        tokens: usize,
    },
    /// One token through the whole model, and why no more.
    Plain(OffReason),
    /// One token through the draft plan.
    Draft,
    /// The drafted chain through the whole model.
    Verify,
}

/// What a stream needs to know about the pass that did its work.
pub(super) struct Answer<'a> {
    pub(super) output: PassOutput<'a>,
    /// The stream's group in the pass.
    pub(super) group: usize,
    /// Seconds of the pass that fall to this stream.
    pub(super) seconds: f64,
    /// Seconds that plain decoding would take for a token of this stream beside the same rows of
    /// others.
    pub(super) plain_seconds: f64,
    /// Whether the pass did the work of no other stream.
    pub(super) alone: bool,
    /// What rows of such a pass cost the stream.
    pub(super) costs: &'a Costs,
}

// === impl Work ===

impl Work {
    pub(super) fn phase(self) -> Phase {
        match self {
            Self::Prefill { .. } => Phase::Prefill,
            Self::Plain(_) => Phase::Plain,
            Self::Draft => Phase::Draft,
            Self::Verify => Phase::Verify,
        }
    }
}
