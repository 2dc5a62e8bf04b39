//! Reports of the process to its operators: metrics for Prometheus, readiness, logs, spans.
//!
//! The catalogue is the one list of metrics; the recorder writes them, the exporter shows them. No
//! metric carries a prompt, or a label per request, session or profile.

#![forbid(unsafe_code)]

mod catalogue_page;
mod exporter;
mod logging;
mod readiness;
mod spans;

pub use skipstone_engine::record::{self, catalogue};

pub use catalogue_page::markdown as metrics_markdown;
pub use exporter::{ExporterHandle, InstallError, install, serve_admin};
pub use logging::{LogFilter, LogFormat, LoggingError, init_logging, parse_filter};
pub use readiness::Readiness;
pub use spans::{Tracing, TracingError};
