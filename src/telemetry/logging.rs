//! Logs: one line an event to standard error, as text for people or as JSON for collectors.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::util::TryInitError;

/// How a log line looks.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Why logging can't start.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The filter can't be read.
    #[error(
        "the log filter {filter:?} is not valid: {source}; use a level such as \"info\", or \"info,skipstone=debug\""
    )]
    Filter {
        /// The filter.
        filter: String,
        /// What is wrong with it.
        source: ParseError,
    },
    /// Logging started before.
    #[error("logging is set up already: {0}")]
    Occupied(#[from] TryInitError),
}

/// Starts logging for the whole process. `filter` is a level, or levels by module: `info,skipstone=debug`.
pub fn init_logging(filter: &str, format: LogFormat) -> Result<(), LoggingError> {
    let filter = parse_filter(filter)?;
    let mut builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    if !io::stderr().is_terminal() {
        builder = builder.with_ansi(false);
    }
    match format {
        LogFormat::Text => start(builder.finish()),
        LogFormat::Json => start(builder.json().flatten_event(true).finish()),
    }
}

fn start(subscriber: impl Into<tracing::Dispatch>) -> Result<(), LoggingError> {
    use tracing_subscriber::util::SubscriberInitExt;
    Ok(subscriber.try_init()?)
}

fn parse_filter(filter: &str) -> Result<EnvFilter, LoggingError> {
    EnvFilter::builder()
        .parse(filter)
        .map_err(|source| LoggingError::Filter { filter: filter.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_a_filter_that_is_not_valid() {
        let error = parse_filter("skipstone=loud").unwrap_err().to_string();
        assert!(error.contains("skipstone=loud") && error.contains("info"), "{error}");
        for filter in ["info", "warn,skipstone=debug", "off"] {
            assert!(parse_filter(filter).is_ok(), "{filter}");
        }
    }
}
