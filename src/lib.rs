//! Skipstone serves one language model over gRPC and makes it faster without changing what it says: it drafts tokens with a subset
//! of the model's own sublayers and verifies them with the whole model in one pass.
//!
//! Imports point downwards only: `cli`, `control` and `server` use `engine`, which uses `adapt`, `drafting`, `sampling` and `text`, which use
//! `model`, which uses `kernels` and `gguf`; `telemetry` is written to from above. See ARCHITECTURE.md for a walk through the folders.

pub mod adapt;
pub mod bench;
pub mod calibrate;
pub mod cli;
pub mod config;
pub mod control;
pub mod drafting;
pub mod engine;
pub mod gguf;
pub mod kernels;
#[cfg(feature = "mistralrs")]
pub mod mistralrs;
pub mod model;
pub mod sampling;
pub mod server;
pub mod telemetry;
pub mod text;
