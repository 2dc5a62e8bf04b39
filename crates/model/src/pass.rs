//! What one pass over the model is asked to do, and what it answers.

use std::sync::Arc;

use super::bridge::Bridge;
use super::draft_head::DraftHead;
use super::features::Features;
use super::ids::TokenId;

/// Rows of one stream that go through the model together: a prefill chunk, a plain step, a draft
/// step or a verify.
#[derive(Clone, Debug)]
pub struct RowGroup<'a> {
    /// The stream's pages, in order of position; there is one for every position of the group.
    pub pages: &'a [u32],
    /// Position of the first row; the others follow.
    pub position: usize,
    /// The rows.
    pub rows: &'a [RowInput<'a>],
    /// Sublayers that these rows don't run; `None` runs all.
    pub skip: Option<&'a SkipMask>,
    /// Bridges that these rows take where a skipped run begins.
    pub bridges: &'a [Arc<Bridge>],
    /// Keep the hidden states that enter these sublayers, for a later entry there or to learn from;
    /// ascending.
    pub save_before: &'a [usize],
    /// Which rows want logits.
    pub logits: LogitsWanted<'a>,
}

/// Where a row enters the model.
#[derive(Clone, Copy, Debug)]
pub enum RowInput<'a> {
    /// At the embedding.
    Token(TokenId),
    /// Before sublayer `first`, with a hidden state saved by an earlier pass over the same token
    /// and position. The sublayers before were run exactly then, and their keys and values are in
    /// place.
    Hidden {
        /// The sublayer to enter at.
        first: usize,
        /// The hidden state, \[hidden\].
        state: &'a [f32],
    },
}

/// Which rows of a group go through the head.
#[derive(Clone, Copy, Debug)]
pub enum LogitsWanted<'a> {
    /// None: a prefill chunk that is not the last.
    None,
    /// The last row.
    Last,
    /// Every row: a verify.
    All,
    /// The last row, over some tokens only.
    Draft(DraftHead<'a>),
}

/// The sublayers that a row does not run, by index.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SkipMask {
    skipped: Vec<bool>,
    first: Option<usize>,
}

/// The answer of a pass. Borrowed from the runner, which reuses the memory.
#[derive(Clone, Copy, Debug)]
pub struct PassOutput<'a> {
    pub(super) logits: &'a [f32],
    /// Tokens of the model.
    pub vocabulary: usize,
    /// Where each group's logits lie.
    pub(super) logit_rows: &'a [LogitRows],
    pub(super) saved: &'a [f32],
    pub(super) hidden: usize,
    /// First saved row and rows of each group.
    pub(super) saved_rows: &'a [(usize, usize)],
    pub(super) features: &'a Features,
    /// Time of the whole pass, in seconds.
    pub seconds: f64,
}

/// The logits of one group, in the memory of all.
#[derive(Clone, Copy, Debug)]
pub(super) struct LogitRows {
    pub(super) start: usize,
    pub(super) width: usize,
}

// === impl RowGroup ===

impl<'a> RowGroup<'a> {
    /// Rows that run the whole model from `position` on, keep nothing and want no logits: what
    /// callers change field by field.
    pub fn new(pages: &'a [u32], position: usize, rows: &'a [RowInput<'a>]) -> Self {
        Self {
            pages,
            position,
            rows,
            skip: None,
            bridges: &[],
            save_before: &[],
            logits: LogitsWanted::None,
        }
    }
}

// === impl SkipMask ===

impl SkipMask {
    /// A mask from one flag for each sublayer.
    pub fn new(skipped: Vec<bool>) -> Self {
        let first = skipped.iter().position(|&skipped| skipped);
        Self { skipped, first }
    }

    /// Whether sublayer `index` is skipped.
    pub fn skips(&self, index: usize) -> bool {
        self.skipped.get(index).copied().unwrap_or(false)
    }

    /// The first sublayer that is skipped: until there a draft is exact.
    pub fn first_skipped(&self) -> Option<usize> {
        self.first
    }

    /// The same as a list: the place where a draft's states are saved for its verify.
    pub fn entry(&self) -> &[usize] {
        self.first.as_slice()
    }
}

// === impl LogitsWanted ===

impl LogitsWanted<'_> {
    /// Rows that want logits over the whole vocabulary, out of `rows`.
    pub(super) fn full_rows(self, rows: usize) -> std::ops::Range<usize> {
        match self {
            Self::None | Self::Draft(_) => rows..rows,
            Self::Last => rows.saturating_sub(1)..rows,
            Self::All => 0..rows,
        }
    }
}

// === impl PassOutput ===

impl<'a> PassOutput<'a> {
    /// Logits row `row` of group `group`, counting only the rows that wanted logits. Over the whole
    /// vocabulary, or as wide as the draft head.
    pub fn logits(&self, group: usize, row: usize) -> &'a [f32] {
        let LogitRows { start, width } = self.logit_rows[group];
        &self.logits[start + row * width..][..width]
    }

    /// The hidden state that row `row` of group `group` had before the `place`-th sublayer of the
    /// group's `save_before`.
    pub fn saved(&self, group: usize, place: usize, row: usize) -> &'a [f32] {
        let (start, rows) = self.saved_rows[group];
        &self.saved[(start + place * rows + row) * self.hidden..][..self.hidden]
    }

    /// Appends what a bridge reads that begins where the state of this row was saved, as for
    /// [`PassOutput::saved`]: that state, then the feature of the position before `position` of a
    /// stream with these pages; \[2 hidden\].
    pub fn append_bridge_input(
        &self,
        (group, place, row): (usize, usize, usize),
        pages: &[u32],
        position: usize,
        inputs: &mut Vec<f32>,
    ) {
        inputs.extend_from_slice(self.saved(group, place, row));
        let start = inputs.len();
        inputs.resize(start + self.hidden, 0.0);
        self.feature_before(pages, position, &mut inputs[start..]);
    }

    /// What a bridge at this position of a stream with these pages reads of the position before,
    /// into `out`, \[hidden\].
    pub fn feature_before(&self, pages: &[u32], position: usize, out: &mut [f32]) {
        self.features.read_before(pages, position, out);
    }
}
