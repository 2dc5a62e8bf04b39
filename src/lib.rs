//! Skipstone serves one language model over gRPC and makes it faster without changing what it says:
//! it drafts tokens with a subset of the model's own sublayers and verifies them with the whole
//! model in one pass.
//!
//! Imports point downwards only: `cli`, `control` and `server` use `engine`, which uses `adapt`,
//! `drafting`, `sampling` and `text`, which use `model`, which uses `kernels` and `gguf`;
//! `telemetry` is written to from above. See ARCHITECTURE.md for a walk through the folders.

pub mod bench;
pub mod cli;
pub mod config;
pub mod control;
#[cfg(feature = "mistralrs")]
pub mod mistralrs;
pub mod server;
pub mod telemetry;

pub use skipstone_engine as engine;
pub use skipstone_engine::{adapt, calibrate, drafting};
pub use skipstone_gguf as gguf;
pub use skipstone_kernels as kernels;
pub use skipstone_model as model;
pub use skipstone_model::{sampling, text};
