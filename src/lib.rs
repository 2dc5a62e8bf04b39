//! Skipstone serves one language model over gRPC and makes it faster without changing what it says: it drafts tokens with a subset
//! of the model's own sublayers and verifies them with the whole model in one pass.
//!
//! Imports point downwards only: `cli` and `server` use `engine`, which uses `drafting`, `sampling`, `text` and `telemetry`, which use
//! `model`, which uses `kernels` and `gguf`. See ARCHITECTURE.md for a walk through the folders.

pub mod drafting;
pub mod gguf;
pub mod kernels;
pub mod model;
pub mod sampling;
