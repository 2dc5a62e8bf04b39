//! The service: from wire requests to the engine and back, its limits, and an orderly end.
//!
//! A gRPC call comes in at `service`, an HTTP request at `openai`, which makes the same wire
//! request of it. Both pass `intake`: `metadata` (id, deadline), `request` and `fields` (every
//! check, once), submission. Events come back through `running` and `reply`. Each error gets its
//! gRPC code in `status` and nowhere else; `unread` brings those there that the transport meets.

#![forbid(unsafe_code)]

mod call_span;
mod calls;
mod connection;
mod fields;
mod intake;
mod limits;
mod metadata;
mod openai;
mod prompt;
mod reply;
mod request;
mod running;
mod serve;
mod service;
mod status;
mod unread;
mod violation;
pub mod wire;

pub use limits::Limits;
pub use metadata::{REQUEST_ID, RequestId};
pub use request::{CallContext, parse_generation};
pub(crate) use serve::descriptors;
pub use serve::{Listeners, ServeError, ServedModel, ServerOptions, serve};
pub use status::{ERROR_DOMAIN, Reason};
pub use violation::{RequestError, Violation};
