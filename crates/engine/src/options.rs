//! The settings of an engine.

use std::path::PathBuf;
use std::time::Duration;

use super::cost::CostFile;
use crate::adapt::{Mechanisms, Seat};
use crate::drafting::{SkipSet, unified};
use skipstone_kernels::KvPrecision;
use skipstone_model::Model;

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
    /// Time that a reader may take nothing before its stream is cancelled.
    pub stall_timeout: Duration,
    /// Messages held for a slow reader.
    pub event_buffer: usize,
    /// Positions of the key/value cache.
    pub kv_cache_tokens: usize,
    /// Precision that keys and values are stored in.
    pub kv_precision: KvPrecision,
    /// Sublayers that a stream skips if it names no skip set of its own.
    pub default_skip_set: SkipSet,
    /// Ratio of what a plain step reads to what an evenly spaced draft step is to read.
    pub target_speedup: f32,
    /// The plans that adaptive streams bet on, the best first; without any they bet on n-gram
    /// matches alone.
    pub frontier: Vec<Seat>,
    /// Mechanisms that work; all but for measurements.
    pub mechanisms: Mechanisms,
    /// The file that keeps costs between runs, if one is to.
    pub cost_file: Option<CostFile>,
    /// The file that each pass is written to, to see how well it was priced; `None` writes nothing.
    pub pass_log: Option<PathBuf>,
    /// Cap on the draft length of a stream that names none.
    pub max_draft_tokens: usize,
    /// Draft probability below which drafting stops.
    pub confidence_threshold: f32,
}

// === impl EngineOptions ===

impl EngineOptions {
    /// Default of [`EngineOptions::prefill_tokens_per_step`].
    pub const PREFILL_TOKENS_PER_STEP: usize = 64;

    /// For one model: all cores that the process may use, eight streams with a context of up to
    /// 4,096 positions each. Without a frontier only n-gram matches are bet on.
    pub fn new(model: &Model) -> Self {
        let (weights, config) = (model.weights(), model.config());
        let bytes: Vec<usize> =
            (0..config.sublayers()).map(|index| weights.sublayer_bytes(index)).collect();
        let target_speedup = 1.25;
        let max_streams = 8;
        Self {
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            max_streams,
            max_waiting: 256,
            prefill_tokens_per_step: Self::PREFILL_TOKENS_PER_STEP,
            stall_timeout: Duration::from_secs(10),
            event_buffer: 32,
            kv_cache_tokens: max_streams * config.context_length.min(4096),
            kv_precision: KvPrecision::default(),
            default_skip_set: unified(&bytes, weights.head_bytes(), target_speedup),
            target_speedup,
            frontier: Vec::new(),
            mechanisms: Mechanisms::default(),
            cost_file: None,
            pass_log: None,
            max_draft_tokens: 8,
            confidence_threshold: 0.6,
        }
    }
}
