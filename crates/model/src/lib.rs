//! The model: blocks by architecture, the forward pass, key/value pages.
//!
//! There is one pass for everything ([`Runner::run`]): groups of rows, each with its stream's
//! pages, its entry sublayer and its skip mask. Streams that skip different sublayers share one
//! read of the weights.
//!
//! An architecture (`arch/`) draws a blueprint of its model from the header of a file; by it the
//! file's tensors become blocks, one for each sublayer ([`sublayer`]); the pass runs blocks and
//! knows no architecture.

#![forbid(unsafe_code)]

mod arch;
mod block;
mod blueprint;
mod bridge;
mod config;
mod draft_head;
mod error;
mod features;
mod floats;
mod header;
mod ids;
mod loader;
mod pages;
mod pass;
mod rope;
mod runner;
pub mod sampling;
mod scratch;
mod stand_in;
pub mod sublayer;
pub mod text;
mod weights;

use std::sync::Arc;

pub use arch::SUPPORTED_ARCHITECTURES;
pub use bridge::{Bridge, BridgeError};
pub use config::ModelConfig;
pub use draft_head::{DraftHead, DraftVocabulary};
pub use error::ModelError;
pub use floats::Rotation;
pub use ids::{LayerIndex, TokenId};
pub use pages::{PageLease, PagePool};
pub use pass::{
    Gate, GateStep, LogitsWanted, PassOutput, RowGroup, RowInput, Signs, SkipMask, SkippedKeys,
    StandInPart,
};
pub use runner::{Runner, RunnerOptions};
pub use stand_in::{
    MAX_STAND_IN_LAYERS, StandIn, StandInError, StandInLayer, StandInWeights, eight_bits,
};
pub use weights::Weights;

use blueprint::Blueprint;
use skipstone_gguf::GgufFile;

/// A loaded model: immutable, shared by everything that reads it.
pub struct Model {
    config: ModelConfig,
    weights: Weights,
}

// === impl Model ===

impl Model {
    /// Loads the model of `file` on `threads` threads; `progress` is told bytes done and bytes in
    /// total.
    pub fn load(
        file: Arc<GgufFile>,
        threads: usize,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self, ModelError> {
        let blueprint = arch::blueprint(file.manifest())?;
        Self::build(blueprint, file, threads, progress)
    }

    /// Builds what `blueprint` describes from the tensors of `file`.
    fn build(
        blueprint: Blueprint,
        file: Arc<GgufFile>,
        threads: usize,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self, ModelError> {
        let weights = Weights::load(file, &blueprint, threads, progress)?;
        Ok(Self { config: blueprint.config, weights })
    }

    /// Sizes and constants.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The weights.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }
}
