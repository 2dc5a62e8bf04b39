//! The kinds that the engine tells metrics apart by: the values of their labels.

use super::catalogue;

/// Draft counts of one cycle.
#[derive(Clone, Copy, Debug)]
pub struct DraftCycle {
    /// Source of the drafts.
    pub source: DraftSource,
    /// Tokens drafted; a cycle without any is not counted.
    pub drafted: usize,
    /// Of those, accepted.
    pub accepted: usize,
}

/// Source of a draft.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DraftSource {
    /// The model's own layers.
    LayerSkip,
    /// Repetition in the stream's own text.
    Ngram,
}

/// An activity that the engine spends its time on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Draft steps.
    Draft,
    /// Verify passes.
    Verify,
    /// Plain steps.
    Plain,
    /// Prompts.
    Prefill,
}

// === impl DraftSource ===

impl DraftSource {
    /// All of them, in order.
    pub const ALL: [Self; 2] = [Self::LayerSkip, Self::Ngram];

    /// The value of the label `source`.
    pub fn label(self) -> &'static str {
        match self {
            Self::LayerSkip => "layer_skip",
            Self::Ngram => "ngram",
        }
    }
}

// === impl Phase ===

impl Phase {
    pub(super) fn metric(self) -> &'static catalogue::Metric {
        match self {
            Self::Draft => &catalogue::DRAFT_SECONDS,
            Self::Verify => &catalogue::VERIFY_SECONDS,
            Self::Plain => &catalogue::PLAIN_DECODE_SECONDS,
            Self::Prefill => &catalogue::PREFILL_SECONDS,
        }
    }
}
