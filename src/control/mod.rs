//! The admin port's control of a running replica: the gRPC service, the same data as JSON, and the
//! live page that draws it.
//!
//! [`routes`] adds them to the metrics and the health of the process. Nothing here shows text of a
//! prompt or an output.

#![forbid(unsafe_code)]

mod access;
mod page;
mod reply;
mod routes;
mod service;

pub use access::{Access, AccessError};
pub use routes::routes;
pub use service::{Control, ServerInfo};
