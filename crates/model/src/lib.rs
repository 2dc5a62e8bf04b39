//! The model: weights by architecture, the forward pass, key/value pages.
//!
//! There is one pass for everything ([`Runner::run`]): groups of rows, each with its stream's
//! pages, its entry sublayer and its skip mask. Streams that skip different sublayers share one
//! read of the weights.

#![forbid(unsafe_code)]

mod bridge;
mod config;
mod draft_head;
mod features;
mod ids;
mod pages;
mod pass;
mod runner;
pub mod sampling;
mod scratch;
pub mod sublayer;
pub mod text;
mod weights;

use std::sync::Arc;

pub use bridge::{Bridge, BridgeError};
pub use config::{ModelConfig, ModelError, RopeConfig, SUPPORTED_ARCHITECTURES};
pub use draft_head::{DraftHead, DraftVocabulary};
pub use ids::{LayerIndex, TokenId};
pub use pages::{PageLease, PagePool};
pub use pass::{LogitsWanted, PassOutput, RowGroup, RowInput, SkipMask};
pub use runner::{Runner, RunnerOptions};
pub use weights::Weights;

use skipstone_gguf::GgufFile;

/// A loaded model: immutable, shared by everything that reads it.
pub struct Model {
    config: ModelConfig,
    weights: Weights,
    rope_frequencies: Vec<f64>,
}

// === impl Model ===

impl Model {
    /// Loads the model of `file` on `threads` threads; `progress` is told bytes done and bytes in
    /// all.
    pub fn load(
        file: Arc<GgufFile>,
        threads: usize,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self, ModelError> {
        let config = ModelConfig::from_manifest(file.manifest())?;
        let weights = Weights::load(file, &config, threads, progress)?;
        let rope_frequencies = config.rope.frequencies(weights.rope_factors.as_deref());
        Ok(Self { config, weights, rope_frequencies })
    }

    /// Sizes and constants.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The weights.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// Radians per position of each rotary pair.
    fn rope_frequencies(&self) -> &[f64] {
        &self.rope_frequencies
    }
}
