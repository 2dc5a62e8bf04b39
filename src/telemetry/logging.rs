//! Logs: one line an event to standard error, as text for people or as JSON for collectors.

use std::io::{self, IsTerminal};
use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::filter::{LevelFilter, ParseError};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer, Registry};

/// Format of a log line.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// A reason why logging can't start.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The filter can't be read.
    #[error(
        "the log filter {filter:?} is not valid: {source}; use a level such as \"info\", or \
         \"info,skipstone=debug\""
    )]
    Filter {
        /// The filter.
        filter: String,
        /// The filter's fault.
        source: ParseError,
    },
    /// Part of it is one word, and no level. The filter's own syntax would take it for a module,
    /// and log nothing else.
    #[error(
        "the log filter {filter:?} is not valid: {word:?} is no level; use error, warn, info, \
         debug, trace or off, \
         and MODULE=LEVEL for a module"
    )]
    Word {
        /// The filter.
        filter: String,
        /// The word.
        word: String,
    },
    /// Nobody means to log nothing but what has no level; `off` says so.
    #[error("the log filter is empty; use a level such as \"info\", or \"off\"")]
    Empty,
    /// Logging started before.
    #[error("logging is set up already: {0}")]
    Occupied(#[from] TryInitError),
    /// The filter can't be changed any more.
    #[error("the log filter can't be changed: {0}; restart the process with log.level")]
    Reload(#[from] reload::Error),
}

/// The filter of the log, and the way to change it. Clones share it.
#[derive(Clone, Debug)]
pub struct LogFilter {
    current: Arc<Mutex<String>>,
    handle: reload::Handle<EnvFilter, Registry>,
}

/// Starts logging for the whole process. `filter` is a level, or levels by module:
/// `info,skipstone=debug`.
pub fn init_logging(filter: &str, format: LogFormat) -> Result<LogFilter, LoggingError> {
    let (layer, handle) = reload::Layer::new(parse_filter(filter)?);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    let lines = match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(layer).with(lines).try_init()?;
    Ok(LogFilter { current: Arc::new(Mutex::new(filter.to_owned())), handle })
}

/// Reads a filter.
///
/// # Errors
/// [`LoggingError::Filter`], [`LoggingError::Word`] and [`LoggingError::Empty`].
pub fn parse_filter(filter: &str) -> Result<EnvFilter, LoggingError> {
    if filter.trim().is_empty() {
        return Err(LoggingError::Empty);
    }
    let words = filter.split(',').map(str::trim);
    let is_word =
        |part: &str| part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if let Some(word) =
        words.filter(|part| is_word(part)).find(|word| word.parse::<LevelFilter>().is_err())
    {
        return Err(LoggingError::Word { filter: filter.to_owned(), word: word.to_owned() });
    }
    EnvFilter::builder()
        .parse(filter)
        .map_err(|source| LoggingError::Filter { filter: filter.to_owned(), source })
}

// === impl LogFilter ===

impl LogFilter {
    /// The filter in use.
    pub fn get(&self) -> String {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes what is logged from now on; returns what was logged before.
    pub fn set(&self, filter: &str) -> Result<String, LoggingError> {
        let parsed = parse_filter(filter)?;
        // Held while the filter changes, so that what is reported is what holds.
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        self.handle.reload(parsed)?;
        Ok(std::mem::replace(&mut *current, filter.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_by_name_what_is_no_filter() {
        for (filter, named) in [
            ("skipstone=loud", "skipstone=loud"),
            ("inof", "\"inof\" is no level"),
            ("warn,skipstone", "\"skipstone\" is no level"),
            (" ", "is empty"),
        ] {
            let error = parse_filter(filter).unwrap_err().to_string();
            assert!(error.contains(named) && error.contains("info"), "{filter:?}: {error}");
        }
        for filter in [
            "info",
            "WARN,skipstone=debug",
            "off",
            "info,",
            "skipstone::engine",
            "[call{id}]=trace",
        ] {
            assert!(parse_filter(filter).is_ok(), "{filter:?}");
        }
    }
}
