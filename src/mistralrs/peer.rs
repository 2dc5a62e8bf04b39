//! mistral.rs as a peer of `bench decode`: in this process, and timed as our own engine is.

use std::time::{Duration, Instant};

use super::load::{LoadError, LoadOptions, load};
use super::predictor::MistralRsPredictor;
use crate::bench::{DecodePeer, PeerError};
use crate::config::{Device, ModelSource};
use skipstone_engine::{Prediction, Predictor};
use skipstone_model::TokenId;
use skipstone_model::sampling::argmax;

/// Longest time of one look for logits.
const PATIENCE: Duration = Duration::from_millis(100);

/// Decodes greedily with mistral.rs.
pub struct MistralRsPeer {
    predictor: MistralRsPredictor,
    ends: Vec<TokenId>,
}

// === impl MistralRsPeer ===

impl MistralRsPeer {
    /// Loads the model on `threads` threads of the CPU.
    ///
    /// # Errors
    /// As [`load`].
    pub fn load(source: &ModelSource, threads: usize) -> Result<Self, LoadError> {
        let loaded = load(&LoadOptions { source, device: Device::Cpu, threads })?;
        Ok(Self { predictor: loaded.predictor, ends: loaded.text.end_of_sequence().to_vec() })
    }

    /// The token after those so far.
    fn next(&mut self) -> Result<TokenId, PeerError> {
        loop {
            match self.predictor.wait(PATIENCE) {
                Prediction::Pending => {}
                Prediction::Failed(reason) => return Err(PeerError::Failed(reason)),
                Prediction::Logits(logits) => {
                    return argmax(&logits)
                        .ok_or_else(|| PeerError::Failed("no logit is finite".to_owned()));
                }
            }
        }
    }
}

impl DecodePeer for MistralRsPeer {
    fn name(&self) -> &str {
        "mistral.rs (mistralrs-core 0.8.1)"
    }

    fn generate(
        &mut self,
        prompt: &[TokenId],
        max_new_tokens: usize,
    ) -> Result<(f64, usize), PeerError> {
        // What an error left under way.
        self.predictor.end();
        while !self.predictor.is_free() {
            self.predictor.wait(PATIENCE);
        }
        self.predictor.begin(prompt, max_new_tokens).map_err(PeerError::Failed)?;
        let mut token = self.next()?;
        let (start, mut generated) = (Instant::now(), 1);
        while generated < max_new_tokens && !self.ends.contains(&token) {
            self.predictor.feed(token);
            token = self.next()?;
            generated += 1;
        }
        let seconds = start.elapsed().as_secs_f64();
        self.predictor.end();
        Ok((seconds, generated))
    }
}
