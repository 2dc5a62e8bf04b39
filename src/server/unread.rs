//! Messages that the transport refuses before the service sees them: worded and counted like all
//! other refusals.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

use super::calls::OpenCalls;
use super::intake::Head;
use super::status::{self, CallError};

/// The methods of the service, by their paths.
const METHODS: [(&str, &str); 3] = [
    ("/skipstone.v1.GenerationService/Generate", "Generate"),
    ("/skipstone.v1.GenerationService/GenerateStream", "GenerateStream"),
    ("/skipstone.v1.GenerationService/Tokenize", "Tokenize"),
];

/// A reason why a message does not reach the service. `said` is what the transport says of it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum UnreadMessage {
    /// It is too long, as it came or once it was unpacked.
    #[error(
        "the message is too long ({said}); send a shorter one, or have server.max_message_bytes \
         raised"
    )]
    TooLong {
        /// The transport's words, with the limit.
        said: String,
    },
    /// It is no such message.
    #[error(
        "the message can't be decoded ({said}); send what skipstone/v1/generation.proto describes"
    )]
    Malformed {
        /// The transport's words, with the place.
        said: String,
    },
}

/// Lets calls pass, and gives those refusals their details that come without: the service's own
/// have them.
pub(super) async fn refuse(
    State(calls): State<OpenCalls>,
    request: Request<Body>,
    next: Next,
) -> Response {
    let Some((_, method)) = METHODS.iter().find(|(path, _)| *path == request.uri().path()) else {
        return next.run(request).await;
    };
    let headers = request.headers().clone();
    let response = next.run(request).await;
    let refused =
        Status::from_header_map(response.headers()).filter(|status| status.details().is_empty());
    let Some(error) = refused.as_ref().and_then(UnreadMessage::of) else { return response };
    let head = Head::new(MetadataMap::from_headers(headers));
    let error = CallError::from(error);
    calls.open(method, &head).end(error.code());
    // No pause makes such a message better, so none is named.
    status::status(&error, &head.id, Duration::ZERO)
        .into_http::<tonic::body::Body>()
        .into_response()
}

// === impl UnreadMessage ===

impl UnreadMessage {
    fn of(status: &Status) -> Option<Self> {
        let said = status.message().to_owned();
        match status.code() {
            Code::OutOfRange | Code::ResourceExhausted => Some(Self::TooLong { said }),
            Code::Internal => Some(Self::Malformed { said }),
            _ => None,
        }
    }
}
