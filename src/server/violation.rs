//! Faults of a request, field by field.

/// A field that can't be accepted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Path of the field: `spec.sampling.temperature`.
    pub field: String,
    /// The fault, with the value, and what to send instead.
    pub message: String,
}

/// A reason why a request is refused before it reaches the engine.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RequestError {
    /// Fields can't be accepted; all that were found.
    #[error("{}", describe(.0))]
    Invalid(Vec<Violation>),
    /// The prompt and the new tokens don't fit.
    #[error("{}: {}", .0.field, .0.message)]
    TooLong(Violation),
    /// Another model is served.
    #[error("the model {asked:?} is not served here; ask for {served:?}, or leave the name empty")]
    UnknownModel {
        /// The name in the request.
        asked: String,
        /// The one that is served.
        served: String,
    },
    /// The check itself failed.
    #[error("the request could not be checked: {0}")]
    Unchecked(String),
}

/// Collects violations, so that a caller sees all of them at once.
#[derive(Debug, Default)]
pub(super) struct Violations(Vec<Violation>);

// === impl Violation ===

impl Violation {
    /// A violation of `field`.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

// === impl Violations ===

impl Violations {
    /// Adds one.
    pub(super) fn add(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.0.push(Violation::new(field, message));
    }

    /// Refuses the request if there are any.
    pub(super) fn check(self) -> Result<(), RequestError> {
        if self.0.is_empty() { Ok(()) } else { Err(RequestError::Invalid(self.0)) }
    }
}

impl From<Violation> for RequestError {
    fn from(violation: Violation) -> Self {
        Self::Invalid(vec![violation])
    }
}

fn describe(violations: &[Violation]) -> String {
    let lines: Vec<String> = violations
        .iter()
        .map(|violation| format!("{}: {}", violation.field, violation.message))
        .collect();
    lines.join("; ")
}
