//! How an engine is set up.

use std::time::Duration;

use super::cost_file::CostFile;
use super::profiles::ProfileLink;
use crate::adapt::{FrontierPlan, Mechanisms};
use crate::drafting::SkipSet;
use skipstone_kernels::KvPrecision;

/// Sizes and limits of an engine.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Threads that compute, the engine's own included; at least 1.
    pub threads: usize,
    /// Streams that run at once.
    pub max_streams: usize,
    /// Requests that may wait.
    pub max_waiting: usize,
    /// Prompt tokens that one step may process, so that running streams keep their cadence.
    pub prefill_tokens_per_step: usize,
    /// How long a reader may take nothing before its stream is cancelled.
    pub stall_timeout: Duration,
    /// Messages held for a slow reader.
    pub event_buffer: usize,
    /// Positions of the key/value cache.
    pub kv_cache_tokens: usize,
    /// How keys and values are stored.
    pub kv_precision: KvPrecision,
    /// What a stream skips that names no skip set of its own.
    pub default_skip_set: SkipSet,
    /// The plans that adaptive streams bet on, the best first; empty is the plan of
    /// `default_skip_set` alone.
    pub frontier: Vec<FrontierPlan>,
    /// Whether bridges are learned from the streams that are served.
    pub learn_bridges: bool,
    /// Mechanisms that work; all but for measurements.
    pub mechanisms: Mechanisms,
    /// Whether skip sets next to those of the plans are tried, with bridges that are learned.
    pub search_plans: bool,
    /// Where costs are kept between runs, if they are to be.
    pub cost_file: Option<CostFile>,
    /// Where what streams learn is handed on, and the pool comes from.
    pub profiles: Option<ProfileLink>,
    /// Cap on the draft length of a stream that names none.
    pub max_draft_tokens: usize,
    /// Draft probability below which drafting stops.
    pub confidence_threshold: f32,
}
