//! What a step asks of a pass, as far as it costs time.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::drafting::DraftPlan;
use skipstone_model::Model;

/// A stream's part of a pass: rows that follow each other.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct StepShape {
    /// Rows.
    pub rows: usize,
    /// The first so many enter late...
    #[serde(default)]
    pub entered: usize,
    /// ...before this sublayer.
    #[serde(default)]
    pub entry: usize,
    /// Position of the first row.
    pub position: usize,
    /// Rows that want logits.
    pub logits: usize,
    /// What the rows skip; `None` runs the whole model.
    #[serde(default)]
    pub draft: Option<DraftShape>,
}

/// What a draft step leaves out and adds.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct DraftShape {
    /// Runs of sublayers, ascending.
    pub skipped: Vec<Range<usize>>,
    /// The draft vocabulary as a share of the whole, 0 to 1.
    pub vocabulary: f64,
    /// Bytes of what fills the gaps / bytes of the model.
    #[serde(alias = "bridges")]
    pub fillers: f64,
    /// Of those, what all rows read. The rest is read by the last row only: where a stand-in
    /// drafts, the rows before want its keys and values.
    #[serde(default)]
    pub keys: f64,
    /// Attention blocks of the fillers.
    #[serde(default)]
    pub attentions: usize,
}

// === impl StepShape ===

impl StepShape {
    /// `rows` rows of the whole model from `position` on, of which the last want logits.
    pub fn whole(position: usize, rows: usize, logits: usize) -> Self {
        Self { rows, entered: 0, entry: 0, position, logits, draft: None }
    }

    /// Rows that run this sublayer.
    pub(super) fn rows_at(&self, sublayer: usize) -> usize {
        if self.draft.as_ref().is_some_and(|draft| draft.skips(sublayer)) {
            return 0;
        }
        if sublayer < self.entry { self.rows.saturating_sub(self.entered) } else { self.rows }
    }

    /// Whether it looks at a draft vocabulary.
    pub(super) fn drafts_words(&self) -> bool {
        self.vocabulary() < 1.0
    }

    /// The vocabulary that it looks at, as a share of the whole.
    pub(super) fn vocabulary(&self) -> f64 {
        self.draft.as_ref().map_or(1.0, |draft| draft.vocabulary)
    }
}

// === impl DraftShape ===

impl DraftShape {
    /// Of `plan`.
    pub fn of(plan: &DraftPlan, model: &Model) -> Self {
        let weights = model.weights();
        let bridges: usize = plan.bridges().iter().map(|bridge| bridge.bytes()).sum();
        let stand_in = plan.stand_in();
        let share = |bytes: usize| (bytes as f64 / weights.head_bytes() as f64).min(1.0);
        let of_model = |bytes: usize| bytes as f64 / weights.bytes() as f64;
        Self {
            skipped: plan.gaps().iter().map(|gap| gap.span.clone()).collect(),
            vocabulary: plan.vocabulary().map_or(1.0, |vocabulary| share(vocabulary.bytes())),
            fillers: of_model(bridges + stand_in.map_or(0, |stand_in| stand_in.bytes())),
            keys: of_model(stand_in.map_or(0, |stand_in| stand_in.key_bytes())),
            attentions: stand_in.map_or(0, |stand_in| stand_in.layers()),
        }
    }

    fn skips(&self, sublayer: usize) -> bool {
        self.skipped.iter().any(|run| run.contains(&sublayer))
    }
}
