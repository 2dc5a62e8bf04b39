//! mistral.rs as the second backend, for what the native engine does not run; see docs/backends.md.
//!
//! Of mistral.rs only the model is used: tokens in, logits out. Tokenizer, chat template, sampling,
//! stops and queue are Skipstone's own, so a request means the same with both backends. There is
//! never more than one sequence in flight: mistralrs-core 0.8.1 mixes up the streams of a batch on
//! the CPU.

#![forbid(unsafe_code)]

mod device;
mod facts;
mod load;
mod peer;
mod predictor;

pub use load::{LoadError, LoadOptions, Loaded, load};
pub use peer::MistralRsPeer;
pub use predictor::MistralRsPredictor;
