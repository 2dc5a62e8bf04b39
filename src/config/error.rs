//! Faults of a configuration, named by key and by the layer they came from.

use std::fmt;
use std::path::PathBuf;

/// One thing that is wrong.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file can't be read.
    #[error("can't read the configuration file {path}: {reason}", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's error.
        reason: String,
    },
    /// The file or a value is not TOML.
    #[error("{origin} is not valid TOML: {reason}")]
    Syntax {
        /// The layer.
        origin: String,
        /// The parser's error.
        reason: String,
    },
    /// No such key.
    #[error("unknown key `{key}` in {origin}{}", suggestion(nearest.as_deref()))]
    UnknownKey {
        /// The key as given.
        key: String,
        /// The layer.
        origin: String,
        /// The known key that looks most like it.
        nearest: Option<String>,
    },
    /// A variable that looks like a setting but is not read.
    #[error(
        "the environment variable {name} is not read; name it {correct} (two underscores after \
         the section)"
    )]
    MisspeltVariable {
        /// As found.
        name: String,
        /// As meant.
        correct: String,
    },
    /// The value does not have the key's type.
    #[error("{key} in {origin}: {reason}")]
    WrongType {
        /// The key.
        key: String,
        /// The layer.
        origin: String,
        /// Found and expected.
        reason: String,
    },
    /// The part of the program that uses the value refuses it.
    #[error("{key} in {origin} {problem}")]
    Invalid {
        /// The key.
        key: String,
        /// The layer.
        origin: String,
        /// The fault, and the remedy; continues the sentence.
        problem: String,
    },
    /// The value is of the right type, but not allowed.
    #[error("{key} = {value} in {origin}: must be {allowed}")]
    NotAllowed {
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// The layer.
        origin: String,
        /// Values that are allowed.
        allowed: String,
    },
}

/// Everything that is wrong, at least one thing.
#[derive(Clone, PartialEq, Debug)]
pub struct ConfigErrors(Vec<ConfigError>);

// === impl ConfigErrors ===

impl ConfigErrors {
    /// `Ok` if nothing is wrong.
    pub(super) fn check(errors: Vec<ConfigError>) -> Result<(), Self> {
        if errors.is_empty() { Ok(()) } else { Err(Self(errors)) }
    }

    /// Each thing that is wrong.
    pub fn iter(&self) -> impl Iterator<Item = &ConfigError> {
        self.0.iter()
    }
}

impl From<ConfigError> for ConfigErrors {
    fn from(error: ConfigError) -> Self {
        Self(vec![error])
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(formatter, "{separator}{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

fn suggestion(nearest: Option<&str>) -> String {
    nearest.map_or_else(
        || "; `skipstone config print` lists the known keys".to_owned(),
        |nearest| format!("; did you mean `{nearest}`?"),
    )
}
