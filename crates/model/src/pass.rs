//! One pass over the model: its rows, and its answer.

use std::sync::Arc;

use super::bridge::Bridge;
use super::draft_head::DraftHead;
use super::features::Features;
use super::ids::TokenId;
use super::stand_in::StandIn;

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
    /// Decides row by row what else they don't run, from this sublayer on.
    pub gate: Option<(&'a dyn Gate, usize)>,
    /// Treatment of the keys and values of attention that they don't run.
    pub skipped_keys: SkippedKeys,
    /// Bridges that these rows take where a skipped run begins.
    pub bridges: &'a [Arc<Bridge>],
    /// What these rows want of a stand-in.
    pub stand_in: StandInPart<'a>,
    /// Keep the hidden states that enter these sublayers, for a later entry there or to learn from;
    /// ascending.
    pub save_before: &'a [usize],
    /// Rows that want logits.
    pub logits: LogitsWanted<'a>,
}

/// A row's entry into the model.
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

/// Rows of a group that go through the head.
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

/// Keys and values at the places of attention sublayers that a draft does not run. What an earlier
/// draft or another stream left there must never be read: drafts would not repeat, and would reveal
/// something of others.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum SkippedKeys {
    /// Nothing is written. Right where no later row of the chain runs what an earlier one skipped:
    /// where all have one mask, or masks that only grow.
    #[default]
    Unread,
    /// Projected from the state that passes by: a quarter of the sublayer's attention weights.
    /// Right for any masks.
    Fill,
}

/// Part of a stand-in that a group takes. Those of a pass that want keys only want the same one's.
#[derive(Clone, Copy, Default, Debug)]
pub enum StandInPart<'a> {
    /// None.
    #[default]
    None,
    /// Its keys and values: rows of the whole model, whose positions a later draft attends to.
    Keys(&'a StandIn),
    /// The last row drafts by it; the rows before, whose last states an earlier pass left, get its
    /// keys and values. The mask leaves out what it takes the place of.
    Draft(&'a StandIn),
}

/// Decides while a pass runs, sublayer by sublayer, whether a row goes on. A pure function of the
/// row's own states, so that a row drafts the same in any company.
pub trait Gate: std::fmt::Debug + Send + Sync {
    /// The first sublayer that it wants to decide about: before, all rows run all. Asked once, when
    /// the plan is made.
    fn first(&self) -> usize;

    /// The step of a row at `position` at `sublayer`, which is not before [`Gate::first`]. `signs`
    /// are those of the sublayers before, by index; `None` where the row did not run one.
    fn decide(&self, position: usize, sublayer: usize, signs: &[Option<Signs>]) -> GateStep;
}

/// A gated row's step at a sublayer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GateStep {
    /// It runs it.
    Run,
    /// It leaves it out.
    Skip,
    /// It leaves out this sublayer and all that follow. Bridges after it are applied nevertheless.
    Exit,
}

/// Effect of a sublayer on the state of a row.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Signs {
    /// Euclidean norm of the state before.
    pub before: f32,
    /// Euclidean norm of the state after.
    pub after: f32,
    /// Cosine of the angle between the two.
    pub cosine: f32,
}

/// The answer of a pass. Borrowed from the runner, which reuses the memory.
#[derive(Clone, Copy, Debug)]
pub struct PassOutput<'a> {
    pub(super) logits: &'a [f32],
    /// Tokens of the model.
    pub vocabulary: usize,
    /// Places of each group's logits.
    pub(super) logit_rows: &'a [LogitRows],
    pub(super) saved: &'a [f32],
    pub(super) hidden: usize,
    /// First saved row and rows of each group.
    pub(super) saved_rows: &'a [(usize, usize)],
    pub(super) features: &'a Features,
    pub(super) gated: &'a [GatedRow],
    /// First row of each group, among all.
    pub(super) first_rows: &'a [usize],
    /// Time of the whole pass, in seconds.
    pub seconds: f64,
}

/// A row that a gate decides about.
#[derive(Clone, Debug)]
pub(super) struct GatedRow {
    /// Its place among all rows.
    pub(super) row: usize,
    pub(super) signs: Vec<Option<Signs>>,
    pub(super) has_left: bool,
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
            gate: None,
            skipped_keys: SkippedKeys::default(),
            bridges: &[],
            stand_in: StandInPart::None,
            save_before: &[],
            logits: LogitsWanted::None,
        }
    }
}

// === impl StandInPart ===

impl<'a> StandInPart<'a> {
    /// The stand-in, where rows draft by it.
    pub(super) fn draft(self) -> Option<&'a StandIn> {
        match self {
            Self::Draft(stand_in) => Some(stand_in),
            Self::None | Self::Keys(_) => None,
        }
    }

    /// The stand-in, where rows want its keys and values only.
    pub(super) fn keys(self) -> Option<&'a StandIn> {
        match self {
            Self::Keys(stand_in) => Some(stand_in),
            Self::None | Self::Draft(_) => None,
        }
    }
}

// === impl Signs ===

impl Signs {
    /// Signs of a state before and after.
    pub(super) fn of(before: &[f32], after: &[f32]) -> Self {
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        let (old, new) = (dot(before, before).sqrt(), dot(after, after).sqrt());
        let cosine = dot(before, after) / (old * new).max(f64::MIN_POSITIVE);
        Self { before: old as f32, after: new as f32, cosine: cosine as f32 }
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

    /// Signs of row `row` of group `group` by sublayer; `None` for those that the row did not run.
    /// Empty where the group has no gate.
    pub fn signs(&self, group: usize, row: usize) -> &'a [Option<Signs>] {
        let wanted = self.first_rows[group] + row;
        let found = self.gated.iter().find(|gated| gated.row == wanted);
        found.map_or(&[], |gated| &gated.signs)
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

    /// Writes the feature that a bridge at this position of a stream with these pages reads of the
    /// position before into `out`, \[hidden\].
    pub fn feature_before(&self, pages: &[u32], position: usize, out: &mut [f32]) {
        self.features.read_before(pages, position, out);
    }
}
