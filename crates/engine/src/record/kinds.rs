//! What the engine tells metrics apart by: the values of their labels.

use super::catalogue;

/// What one cycle drafted.
#[derive(Clone, Copy, Debug)]
pub struct DraftCycle {
    /// Who drafted.
    pub source: DraftSource,
    /// Tokens drafted; a cycle without any is not counted.
    pub drafted: usize,
    /// Of those, accepted.
    pub accepted: usize,
}

/// Who drafted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DraftSource {
    /// The model's own layers.
    LayerSkip,
    /// Repetition in the stream's own text.
    Ngram,
}

/// What changed a draft plan.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PlanChange {
    /// A stream bet on another plan than before.
    Bet,
    /// A learned bridge replaced one.
    Bridge,
    /// A skip set that was found replaced one.
    Search,
}

/// What the engine spends its time on.
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

/// What a profile store is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StoreOperation {
    /// Read a record.
    Get,
    /// Add to a record.
    Merge,
    /// Replace a record.
    Put,
    /// Remove a record.
    Delete,
    /// List the keys.
    List,
    /// Make everything durable.
    Flush,
}

/// How a profile store answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StoreOutcome {
    /// As asked.
    Ok,
    /// There is no such record.
    Missing,
    /// What it held was no sound record, and counts as none.
    Rejected,
    /// It failed.
    Error,
    /// It had failed a moment ago, and was not asked.
    Skipped,
    /// Too late for the request, which started without.
    Timeout,
}

// === impl DraftSource ===

impl DraftSource {
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

// === impl PlanChange ===

impl PlanChange {
    /// The value of the label `cause`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Bet => "bet",
            Self::Bridge => "bridge",
            Self::Search => "search",
        }
    }
}

// === impl StoreOperation ===

impl StoreOperation {
    /// The value of the label `op`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Merge => "merge",
            Self::Put => "put",
            Self::Delete => "delete",
            Self::List => "list",
            Self::Flush => "flush",
        }
    }
}

// === impl StoreOutcome ===

impl StoreOutcome {
    /// The value of the label `outcome`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Missing => "missing",
            Self::Rejected => "rejected",
            Self::Error => "error",
            Self::Skipped => "skipped",
            Self::Timeout => "timeout",
        }
    }
}
