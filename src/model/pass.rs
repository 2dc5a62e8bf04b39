//! What one pass over the model is asked to do, and what it answers.

use super::ids::TokenId;

/// Rows of one stream that go through the model together: a prefill chunk, a plain step, a draft step or a verify.
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
    /// Keep the hidden states that enter this sublayer, for a later entry there.
    pub save_before: Option<usize>,
    /// Which rows want logits.
    pub logits: LogitsWanted,
}

/// Where a row enters the model.
#[derive(Clone, Copy, Debug)]
pub enum RowInput<'a> {
    /// At the embedding.
    Token(TokenId),
    /// Before sublayer `first`, with a hidden state saved by an earlier pass over the same token and position. The sublayers before were
    /// run exactly then, and their keys and values are in place.
    Hidden {
        /// The sublayer to enter at.
        first: usize,
        /// The hidden state, \[hidden\].
        state: &'a [f32],
    },
}

/// Which rows of a group go through the head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogitsWanted {
    /// None: a prefill chunk that is not the last.
    None,
    /// The last row.
    Last,
    /// Every row: a verify.
    All,
}

/// The sublayers that a row does not run, by index.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SkipMask(Vec<bool>);

/// The answer of a pass. Borrowed from the runner, which reuses the memory.
#[derive(Clone, Copy, Debug)]
pub struct PassOutput<'a> {
    pub(super) logits: &'a [f32],
    pub(super) vocabulary: usize,
    /// First logits row of each group.
    pub(super) logit_starts: &'a [usize],
    pub(super) saved: &'a [f32],
    pub(super) hidden: usize,
    /// First saved row of each group.
    pub(super) saved_starts: &'a [usize],
    /// Time of the whole pass, in seconds.
    pub seconds: f64,
}

// === impl SkipMask ===

impl SkipMask {
    /// A mask from one flag for each sublayer.
    pub fn new(skipped: Vec<bool>) -> Self {
        Self(skipped)
    }

    /// Whether sublayer `index` is skipped.
    pub fn skips(&self, index: usize) -> bool {
        self.0.get(index).copied().unwrap_or(false)
    }

    /// The first sublayer that is skipped: until there a draft is exact.
    pub fn first_skipped(&self) -> Option<usize> {
        self.0.iter().position(|&skipped| skipped)
    }

    /// Sublayers that are skipped.
    pub fn count(&self) -> usize {
        self.0.iter().filter(|&&skipped| skipped).count()
    }
}

// === impl LogitsWanted ===

impl LogitsWanted {
    /// Rows that want logits, out of `rows`.
    pub fn rows(self, rows: usize) -> std::ops::Range<usize> {
        match self {
            Self::None => rows..rows,
            Self::Last => rows.saturating_sub(1)..rows,
            Self::All => 0..rows,
        }
    }
}

// === impl PassOutput ===

impl<'a> PassOutput<'a> {
    /// Logits row `row` of group `group`, counting only the rows that wanted logits.
    pub fn logits(&self, group: usize, row: usize) -> &'a [f32] {
        &self.logits[(self.logit_starts[group] + row) * self.vocabulary..][..self.vocabulary]
    }

    /// The hidden state that row `row` of group `group` had before the group's `save_before`.
    pub fn saved(&self, group: usize, row: usize) -> &'a [f32] {
        &self.saved[(self.saved_starts[group] + row) * self.hidden..][..self.hidden]
    }
}
