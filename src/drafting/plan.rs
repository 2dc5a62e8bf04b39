//! A draft plan: all that defines a drafter.

use super::skip_set::SkipSet;
use crate::model::SkipMask;

/// What to skip, how many tokens to draft at most, and when to stop earlier.
#[derive(Clone, PartialEq, Debug)]
pub struct DraftPlan {
    skip_set: SkipSet,
    mask: SkipMask,
    /// Tokens drafted in a cycle at most.
    pub max_draft_tokens: usize,
    /// A cycle stops drafting before a token whose draft probability is below this.
    pub confidence_threshold: f32,
}

// === impl DraftPlan ===

impl DraftPlan {
    /// A plan that skips `skip_set`.
    pub fn new(skip_set: SkipSet, max_draft_tokens: usize, confidence_threshold: f32) -> Self {
        let mask = skip_set.mask();
        Self { skip_set, mask, max_draft_tokens, confidence_threshold }
    }

    /// The sublayers that the draft does not run.
    pub fn skip_set(&self) -> &SkipSet {
        &self.skip_set
    }

    /// The same for a pass.
    pub fn mask(&self) -> &SkipMask {
        &self.mask
    }

    /// The first sublayer that the draft skips, or the number of sublayers if it skips none: everything before is exact, so
    /// the verify pass may enter there.
    pub fn exact_until(&self) -> usize {
        self.mask.first_skipped().unwrap_or(2 * self.skip_set.layer_count())
    }
}
