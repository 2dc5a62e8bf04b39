//! What a stream can want of a pass.

use crate::adapt::OffReason;
use crate::telemetry::record::Phase;

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
