//! The gRPC service: from wire requests to the engine and back, its limits, and an orderly end.
//!
//! A call passes `metadata` (id, deadline), `request` and `fields` (every check, once), `service` (submission), and its
//! events come back through `reply`. Each error becomes a gRPC status in `status` and nowhere else.

#![forbid(unsafe_code)]

mod calls;
mod connection;
mod fields;
mod limits;
mod metadata;
mod prompt;
mod reply;
mod request;
mod response_stream;
mod running;
mod serve;
mod service;
mod status;
mod violation;
pub mod wire;

pub use limits::Limits;
pub use metadata::{REQUEST_ID, RequestId};
pub use request::{CallContext, parse_generation};
pub(crate) use serve::descriptors;
pub use serve::{ServeError, ServedModel, ServerOptions, serve};
pub use status::{ERROR_DOMAIN, Reason};
pub use violation::{RequestError, Violation};
