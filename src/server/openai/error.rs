//! The one place where errors become HTTP: a status, and the error object of the interface.

use std::time::Duration;

use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tonic::Code;

use super::paths::Paths;
use crate::server::status::{self, CallError, MAX_VIOLATION_BYTES, MAX_VIOLATIONS, Reason};
use crate::server::violation::RequestError;

/// Tells clients of the interface that another try would end in the same way.
const SHOULD_RETRY: &str = "x-should-retry";

const INVALID_REQUEST: &str = "invalid_request_error";

/// An error as a client sees it.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    kind: &'static str,
    code: Option<String>,
    param: Option<String>,
    message: String,
    retry_after: Option<Duration>,
    /// Code under which the call counts in the metrics.
    pub(super) grpc: Code,
}

// === impl ApiError ===

impl ApiError {
    /// The error of a call, with the fields named as the client named them.
    pub(super) fn of(error: &CallError, paths: &Paths, retry_after: Duration) -> Self {
        let (grpc, reason) = status::classify(error);
        let (status, kind) = match reason {
            Reason::InvalidRequest | Reason::ContextExceeded => {
                (StatusCode::BAD_REQUEST, INVALID_REQUEST)
            }
            Reason::MessageTooLong => (StatusCode::PAYLOAD_TOO_LARGE, INVALID_REQUEST),
            Reason::UnknownModel => (StatusCode::NOT_FOUND, INVALID_REQUEST),
            Reason::QueueFull | Reason::ReaderStalled => {
                (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error")
            }
            Reason::ShuttingDown | Reason::EngineStopped => {
                (StatusCode::SERVICE_UNAVAILABLE, "server_error")
            }
            Reason::DeadlineExceeded => (StatusCode::GATEWAY_TIMEOUT, "server_error"),
            Reason::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "server_error"),
        };
        let violations = status::violations(error);
        let message = match violations {
            [] => error.to_string(),
            _ => violations
                .iter()
                .take(MAX_VIOLATIONS)
                .map(|found| {
                    format!(
                        "{}: {}",
                        paths.param(&found.field),
                        status::clip(&found.message, MAX_VIOLATION_BYTES)
                    )
                })
                .collect::<Vec<_>>()
                .join("; "),
        };
        let param = match error {
            CallError::Request(RequestError::UnknownModel { .. }) => Some("model".to_owned()),
            _ => violations.first().map(|found| paths.param(&found.field)),
        };
        let code = match reason {
            Reason::InvalidRequest => None,
            Reason::ContextExceeded => Some("context_length_exceeded".to_owned()),
            Reason::UnknownModel => Some("model_not_found".to_owned()),
            other => Some(other.as_str().to_ascii_lowercase()),
        };
        let retry_after = (reason == Reason::QueueFull).then_some(retry_after);
        Self { status, kind, code, param, message, retry_after, grpc }
    }

    /// A field that can't be accepted.
    pub(super) fn field(param: impl Into<String>, message: impl Into<String>) -> Self {
        let (param, message) = (Some(param.into()), message.into());
        Self { param, ..Self::refusal(StatusCode::BAD_REQUEST, Code::InvalidArgument, message) }
    }

    /// A body that is no JSON object.
    pub(super) fn no_object(fault: &str) -> Self {
        let message = format!("the body is not a JSON object: {fault}");
        Self::refusal(StatusCode::BAD_REQUEST, Code::InvalidArgument, message)
    }

    /// A body that does not say that it is JSON.
    pub(super) fn not_json() -> Self {
        let message =
            "the body's type is not application/json; set the header content-type".to_owned();
        Self::refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, Code::InvalidArgument, message)
    }

    /// A body that ended early or is too long.
    pub(super) fn unread_body(error: &axum::Error, most: usize) -> Self {
        let message = format!(
            "the body could not be read ({error}); at most {most} bytes are allowed (server.max_message_bytes)"
        );
        Self::refusal(StatusCode::PAYLOAD_TOO_LARGE, Code::OutOfRange, message)
    }

    /// A body that takes too long to come.
    pub(super) fn slow_body(allowed: Duration) -> Self {
        let message =
            format!("the body did not arrive within {} s; send it again", allowed.as_secs());
        Self::refusal(StatusCode::REQUEST_TIMEOUT, Code::Aborted, message)
    }

    /// A model that is not served.
    pub(super) fn unknown_model(asked: &str, served: &str) -> Self {
        let error =
            RequestError::UnknownModel { asked: asked.to_owned(), served: served.to_owned() };
        Self::of(&error.into(), &Paths::default(), Duration::ZERO)
    }

    /// A path that is not served.
    pub(super) fn unknown_path(path: &str) -> Self {
        let path = status::clip(path, MAX_VIOLATION_BYTES);
        let message = format!(
            "there is nothing at {path}; served are /v1/models, /v1/chat/completions and /v1/completions"
        );
        Self::refusal(StatusCode::NOT_FOUND, Code::Unimplemented, message)
    }

    /// A method that the path does not take.
    pub(super) fn wrong_method(method: &Method, path: &str) -> Self {
        let message = format!("{path} does not take {method}; GET models, POST completions");
        Self::refusal(StatusCode::METHOD_NOT_ALLOWED, Code::Unimplemented, message)
    }

    fn refusal(status: StatusCode, grpc: Code, message: String) -> Self {
        Self {
            status,
            kind: INVALID_REQUEST,
            code: None,
            param: None,
            message,
            retry_after: None,
            grpc,
        }
    }

    /// The error object.
    pub(super) fn object(&self) -> Value {
        json!({ "error": {
            "message": self.message, "type": self.kind, "param": self.param, "code": self.code,
        }})
    }

    /// The whole response.
    pub(super) fn respond(&self) -> Response {
        let mut response =
            (self.status, [(header::CONTENT_TYPE, "application/json")], self.object().to_string())
                .into_response();
        if let Some(pause) = self.retry_after {
            // Whole seconds are all that the header can say.
            let seconds = pause.as_millis().div_ceil(1000) as u64;
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.grpc == Code::DeadlineExceeded {
            response.headers_mut().insert(SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        response
    }
}
