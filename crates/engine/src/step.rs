//! A stream's part in a pass, named once.

use std::sync::Arc;

use crate::adapt::{Costs, OffReason};
use crate::cost::{DraftShape, StepShape};
use crate::drafting::DraftPlan;
use crate::record::Phase;
use skipstone_model::{Model, PassOutput, StandIn};

/// A stream's part of a pass: rows that follow each other. The stream names it; the batch, the
/// books and the cost model read it, and nobody works out again what it means.
#[derive(Clone, Debug)]
pub struct Step {
    /// Its purpose.
    pub(crate) kind: StepKind,
    /// Rows, at least one.
    pub(crate) rows: usize,
    /// Position of the first row.
    pub(crate) position: usize,
    /// The first rows enter late...
    pub(crate) entered: usize,
    /// ...before this sublayer, with the state that a draft step left there.
    pub(crate) entry: usize,
    /// The plan that the rows follow; `None` runs the whole model.
    pub(crate) plan: Option<Arc<DraftPlan>>,
    /// Number of rows that want logits: the last ones.
    pub(crate) logits: usize,
    /// A stand-in whose keys and values the rows want beside their own.
    pub(crate) keys_of: Option<Arc<StandIn>>,
}

/// Purpose of a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum StepKind {
    /// The next tokens of the prompt.
    Prefill,
    /// One token through the whole model, and why no more.
    Plain(OffReason),
    /// One token through the draft plan.
    Draft,
    /// The drafted chain through the whole model.
    Verify,
}

/// Answer of the pass that made a stream's step.
pub(super) struct Answer<'a> {
    pub(super) output: PassOutput<'a>,
    /// The stream's group in the pass.
    pub(super) group: usize,
    /// Seconds of the pass that fall to this stream.
    pub(super) seconds: f64,
    /// Seconds that plain decoding would take for a token of this stream beside the same rows of
    /// others.
    pub(super) plain_seconds: f64,
    /// Costs of rows of such a pass for the stream.
    pub(super) costs: &'a Costs,
}

// === impl Step ===

impl Step {
    /// A step of the whole model over `rows` rows from `position` on, of which the last wants
    /// logits.
    pub(super) fn whole(kind: StepKind, position: usize, rows: usize) -> Self {
        let (entered, entry, plan, logits, keys_of) = (0, 0, None, 1, None);
        Self { kind, rows, position, entered, entry, plan, logits, keys_of }
    }

    /// Shape of the step: what it asks of a pass, as far as that costs time.
    pub(super) fn shape(&self, model: &Model) -> StepShape {
        let draft = self.plan.as_ref().map(|plan| DraftShape::of(plan, model));
        let Self { rows, position, entered, entry, logits, .. } = *self;
        StepShape { rows, entered, entry, position, logits, draft }
    }
}

// === impl StepKind ===

impl StepKind {
    pub(crate) fn phase(self) -> Phase {
        match self {
            Self::Prefill => Phase::Prefill,
            Self::Plain(_) => Phase::Plain,
            Self::Draft => Phase::Draft,
            Self::Verify => Phase::Verify,
        }
    }
}
