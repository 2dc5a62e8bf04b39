//! The one place where errors become gRPC statuses, with `google.rpc` details.

use std::collections::HashMap;
use std::time::Duration;

use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::metadata::RequestId;
use super::unread::UnreadMessage;
use super::violation::{RequestError, Violation};
use skipstone_engine::{GenerationError, SubmitError};

/// The `domain` of every `ErrorInfo`.
pub const ERROR_DOMAIN: &str = "skipstone";

/// The key that tells native gRPC clients when to retry: they don't read `RetryInfo` themselves.
const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// Clients refuse a status of more than 8 KiB, where the message counts threefold if it is not
/// ASCII and the details, which hold the message again, by four thirds. Much of both repeats what
/// the client sent.
pub(super) const MAX_VIOLATIONS: usize = 8;
pub(super) const MAX_VIOLATION_BYTES: usize = 250;
const MAX_MESSAGE_BYTES: usize = 700;

/// Anything that ends a call without a result.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum CallError {
    /// The message did not get as far as to be a request.
    #[error(transparent)]
    Unread(#[from] UnreadMessage),
    /// The request can't be accepted.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The engine did not take it.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// It failed while it ran.
    #[error(transparent)]
    Generation(#[from] GenerationError),
    /// The engine let go of the stream.
    #[error(
        "the engine ended the stream without a result; retry, and report it with the request id \
         if it recurs"
    )]
    Unfinished,
}

/// The `reason` of an `ErrorInfo`: for programs, which should not read messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// Fields can't be accepted: see `BadRequest`.
    InvalidRequest,
    /// The message has more bytes than are read.
    MessageTooLong,
    /// Prompt and new tokens exceed the context.
    ContextExceeded,
    /// Another model is served.
    UnknownModel,
    /// Too much is waiting.
    QueueFull,
    /// The server is about to end.
    ShuttingDown,
    /// The engine thread ended.
    EngineStopped,
    /// The deadline passed.
    DeadlineExceeded,
    /// The client did not read its stream.
    ReaderStalled,
    /// A fault of the server.
    Internal,
}

/// The status of an error. `retry_after` is what a client is asked to wait where waiting helps.
pub(super) fn status(error: &CallError, id: &RequestId, retry_after: Duration) -> Status {
    let (code, reason) = classify(error);
    log(error, id);
    let mut details = ErrorDetails::with_error_info(reason.as_str(), ERROR_DOMAIN, facts(error));
    let mut metadata = MetadataMap::new();
    id.write_to(&mut metadata);
    for Violation { field, message } in violations(error).iter().take(MAX_VIOLATIONS) {
        details.add_bad_request_violation(field, clip(message, MAX_VIOLATION_BYTES));
    }
    // A reader that stalled gains nothing by another try after a pause, so it is not invited to
    // one.
    if reason == Reason::QueueFull {
        details.set_retry_info(Some(retry_after));
        metadata.insert(PUSHBACK, MetadataValue::from(retry_after.as_millis() as u64));
    }
    let message = clip(&error.to_string(), MAX_MESSAGE_BYTES);
    Status::with_error_details_and_metadata(code, message, details, metadata)
}

/// Notes an error that ends a call.
pub(super) fn log(error: &CallError, id: &RequestId) {
    let (code, reason) = classify(error);
    if code == Code::Internal {
        tracing::error!(request_id = id.as_str(), %error, "a call failed");
    } else {
        // Not the message: it may repeat what the client sent, and logs hold no prompt text.
        tracing::debug!(
            request_id = id.as_str(),
            reason = reason.as_str(),
            "a call ended without a result"
        );
    }
}

/// The gRPC code of an error, and its reason.
pub(super) fn classify(error: &CallError) -> (Code, Reason) {
    match error {
        CallError::Unread(UnreadMessage::TooLong { .. }) => {
            (Code::OutOfRange, Reason::MessageTooLong)
        }
        CallError::Unread(UnreadMessage::Malformed { .. }) => {
            (Code::InvalidArgument, Reason::InvalidRequest)
        }
        CallError::Request(error) => match error {
            RequestError::Invalid(_) => (Code::InvalidArgument, Reason::InvalidRequest),
            RequestError::TooLong(_) => (Code::InvalidArgument, Reason::ContextExceeded),
            RequestError::UnknownModel { .. } => (Code::NotFound, Reason::UnknownModel),
            RequestError::Unchecked(_) => (Code::Internal, Reason::Internal),
        },
        CallError::Submit(error) => match error {
            SubmitError::QueueFull { .. } => (Code::ResourceExhausted, Reason::QueueFull),
            SubmitError::Draining => (Code::Unavailable, Reason::ShuttingDown),
            SubmitError::Stopped => (Code::Unavailable, Reason::EngineStopped),
        },
        CallError::Generation(error) => match error {
            GenerationError::DeadlineExceeded { .. } => {
                (Code::DeadlineExceeded, Reason::DeadlineExceeded)
            }
            GenerationError::ReaderStalled { .. } => {
                (Code::ResourceExhausted, Reason::ReaderStalled)
            }
            GenerationError::ShuttingDown => (Code::Unavailable, Reason::ShuttingDown),
            GenerationError::Internal(_) => (Code::Internal, Reason::Internal),
        },
        CallError::Unfinished => (Code::Internal, Reason::Internal),
    }
}

pub(super) fn violations(error: &CallError) -> &[Violation] {
    match error {
        CallError::Request(RequestError::Invalid(violations)) => violations,
        CallError::Request(RequestError::TooLong(violation)) => std::slice::from_ref(violation),
        _ => &[],
    }
}

/// The numbers and names of a message, for programs.
fn facts(error: &CallError) -> HashMap<String, String> {
    let fact = |key: &str, value: String| HashMap::from([(key.to_owned(), value)]);
    match error {
        CallError::Submit(SubmitError::QueueFull { waiting }) => {
            fact("waiting", waiting.to_string())
        }
        CallError::Request(RequestError::UnknownModel { served, .. }) => {
            fact("served_model", served.clone())
        }
        CallError::Generation(GenerationError::DeadlineExceeded { committed, .. }) => {
            fact("committed_tokens", committed.to_string())
        }
        _ => HashMap::new(),
    }
}

pub(super) fn clip(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let end = (0..=most).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    format!("{}...", &text[..end])
}

/// A code as the label of a metric.
pub(super) fn code_label(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

// === impl CallError ===

impl CallError {
    /// The gRPC code.
    pub(super) fn code(&self) -> Code {
        classify(self).0
    }
}

// === impl Reason ===

impl Reason {
    /// The value on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "INVALID_REQUEST",
            Self::MessageTooLong => "MESSAGE_TOO_LONG",
            Self::ContextExceeded => "CONTEXT_EXCEEDED",
            Self::UnknownModel => "UNKNOWN_MODEL",
            Self::QueueFull => "QUEUE_FULL",
            Self::ShuttingDown => "SHUTTING_DOWN",
            Self::EngineStopped => "ENGINE_STOPPED",
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::ReaderStalled => "READER_STALLED",
            Self::Internal => "INTERNAL",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skipstone_engine::record::labels::CODES;

    fn of(error: impl Into<CallError>) -> Status {
        let id = RequestId::of_call(&MetadataMap::new());
        status(&error.into(), &id, Duration::from_millis(1500))
    }

    #[test]
    fn every_error_has_its_code_and_reason() {
        let invalid = RequestError::Invalid(vec![Violation::new("spec", "is wrong")]);
        let unknown = RequestError::UnknownModel { asked: "other".into(), served: "this".into() };
        let said = String::new();
        let cases: [(CallError, Code, &str); 12] = [
            (
                UnreadMessage::TooLong { said: said.clone() }.into(),
                Code::OutOfRange,
                "MESSAGE_TOO_LONG",
            ),
            (UnreadMessage::Malformed { said }.into(), Code::InvalidArgument, "INVALID_REQUEST"),
            (invalid.into(), Code::InvalidArgument, "INVALID_REQUEST"),
            (
                RequestError::TooLong(Violation::new("x", "y")).into(),
                Code::InvalidArgument,
                "CONTEXT_EXCEEDED",
            ),
            (unknown.into(), Code::NotFound, "UNKNOWN_MODEL"),
            (SubmitError::QueueFull { waiting: 9 }.into(), Code::ResourceExhausted, "QUEUE_FULL"),
            (SubmitError::Draining.into(), Code::Unavailable, "SHUTTING_DOWN"),
            (SubmitError::Stopped.into(), Code::Unavailable, "ENGINE_STOPPED"),
            (
                GenerationError::DeadlineExceeded { committed: 3, wanted: 9 }.into(),
                Code::DeadlineExceeded,
                "DEADLINE_EXCEEDED",
            ),
            (
                GenerationError::ReaderStalled { seconds: 10 }.into(),
                Code::ResourceExhausted,
                "READER_STALLED",
            ),
            (GenerationError::Internal("x".into()).into(), Code::Internal, "INTERNAL"),
            (CallError::Unfinished, Code::Internal, "INTERNAL"),
        ];
        for (error, code, reason) in cases {
            let status = of(error.clone());
            let details = status.get_error_details();
            let info = details.error_info().unwrap();
            assert_eq!((status.code(), info.reason.as_str()), (code, reason), "{error:?}");
            assert_eq!(info.domain, ERROR_DOMAIN);
            assert_eq!(details.retry_info().is_some(), reason == "QUEUE_FULL", "{error:?}");
            assert_eq!(
                status.metadata().contains_key(PUSHBACK),
                reason == "QUEUE_FULL",
                "{error:?}"
            );
        }
    }

    #[test]
    fn every_code_is_a_known_label() {
        let unknown = (0..=16).map(|code| code_label(Code::from_i32(code)));
        let unknown: Vec<_> = unknown.filter(|label| !CODES.contains(label)).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }

    #[test]
    fn a_status_stays_small_whatever_was_sent() {
        let many = (0..500)
            .map(|place| Violation::new(format!("f[{place}]"), "\u{1F980}".repeat(100_000)));
        let status = of(RequestError::Invalid(many.collect()));
        let bytes = 3 * status.message().len() + status.details().len() * 4 / 3;
        assert!(bytes < 8_192 - 512, "{bytes}");
        assert_eq!(
            status.get_error_details().bad_request().unwrap().field_violations.len(),
            MAX_VIOLATIONS
        );
    }
}
