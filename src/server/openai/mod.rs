//! The OpenAI-compatible HTTP interface: chat completions, completions and models.
//!
//! A request becomes the gRPC request that asks for the same (`body`, `request`) and goes the same
//! way, so it meets the same checks and limits; what comes back is worded anew (`reply`, `chunks`).
//! `error` is the one place where errors become HTTP.

mod body;
mod chunks;
mod error;
mod paths;
mod reply;
mod request;

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, Method, Request, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};
use tonic::Code;
use tonic::metadata::MetadataMap;

use super::calls::OpenCalls;
use super::connection::Incoming;
use super::intake::{Head, Intake};
use super::limits::Limits;
use super::metadata::{REQUEST_ID, RequestId};
use super::status;
use error::ApiError;
use reply::Words;
use request::{Asked, Endpoint};

/// State that the handlers share.
pub(super) struct OpenAi {
    intake: Intake,
    calls: OpenCalls,
    /// The model's creation as clients see it, in seconds since 1970: when it began to be served.
    since: u64,
}

/// The label of metrics for both ways to ask for models.
const MODELS: &str = "Models";

type Shared = State<Arc<OpenAi>>;

/// Serves until `stop` completes and the connections are closed.
pub(super) async fn serve(
    incoming: Incoming,
    openai: OpenAi,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let router = Router::new()
        .route("/v1/models", get(models))
        .route("/v1/models/{*id}", get(model))
        .route("/v1/chat/completions", post(chat_completions))
        .route("/v1/completions", post(completions))
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .with_state(Arc::new(openai));
    axum::serve(incoming, router).with_graceful_shutdown(stop).await
}

async fn chat_completions(State(openai): Shared, request: Request<Body>) -> Response {
    openai.generate(Endpoint::Chat, request).await
}

async fn completions(State(openai): Shared, request: Request<Body>) -> Response {
    openai.generate(Endpoint::Completion, request).await
}

async fn models(State(openai): Shared, headers: HeaderMap) -> Response {
    let head = Head::new(MetadataMap::from_headers(headers));
    openai.calls.open(MODELS, &head).end(Code::Ok);
    let list = json!({ "object": "list", "data": [openai.model()] });
    answer(&head.id, Ok(json_response(&list)))
}

async fn model(State(openai): Shared, Path(asked): Path<String>, headers: HeaderMap) -> Response {
    let head = Head::new(MetadataMap::from_headers(headers));
    let mut call = openai.calls.open(MODELS, &head);
    let served = &openai.intake.model.name;
    let result = if asked == *served {
        Ok(json_response(&openai.model()))
    } else {
        Err(ApiError::unknown_model(&asked, served))
    };
    call.end(result.as_ref().map_or_else(|error| error.grpc, |_| Code::Ok));
    answer(&head.id, result)
}

async fn unknown_path(uri: Uri, headers: HeaderMap) -> Response {
    answer(&id_of(headers), Err(ApiError::unknown_path(uri.path())))
}

async fn wrong_method(method: Method, uri: Uri, headers: HeaderMap) -> Response {
    answer(&id_of(headers), Err(ApiError::wrong_method(&method, uri.path())))
}

// === impl OpenAi ===

impl OpenAi {
    pub(super) fn new(intake: Intake, calls: OpenCalls) -> Self {
        Self { intake, calls, since: now() }
    }

    async fn generate(&self, endpoint: Endpoint, request: Request<Body>) -> Response {
        let (parts, body) = request.into_parts();
        let is_json = is_json(&parts.headers);
        let head = Head::new(MetadataMap::from_headers(parts.headers));
        let mut call = self.calls.open(endpoint.method(), &head);
        let id = head.id.clone();
        let asked = match self.read(endpoint, is_json, body).await {
            Ok(asked) => asked,
            Err(error) => {
                call.end(error.grpc);
                return answer(&id, Err(error));
            }
        };
        let Asked { spec, paths, stream, include_usage } = asked;
        let retry_after = self.intake.options.limits.retry_after;
        let result = match self.intake.begin(call, head, Some(spec)).await {
            Ok(mut running) => {
                let words = Words::new(endpoint, &running, now());
                if stream {
                    Ok(chunks::respond(running, words, include_usage))
                } else {
                    running.collect().await.map(|response| json_response(&words.whole(response)))
                }
            }
            Err(error) => Err(error),
        };
        let result = result.map_err(|error| {
            status::log(&error, &id);
            ApiError::of(&error, &paths, retry_after)
        });
        answer(&id, result)
    }

    async fn read(&self, endpoint: Endpoint, is_json: bool, body: Body) -> Result<Asked, ApiError> {
        if !is_json {
            return Err(ApiError::not_json());
        }
        let Limits { max_message_bytes: most, body_timeout, .. } = self.intake.options.limits;
        let bytes = tokio::time::timeout(body_timeout, to_bytes(body, most))
            .await
            .map_err(|_| ApiError::slow_body(body_timeout))?
            .map_err(|error| ApiError::unread_body(&error, most))?;
        request::parse(endpoint, &bytes)
    }

    fn model(&self) -> Value {
        json!({
            "id": self.intake.model.name,
            "object": "model",
            "created": self.since,
            "owned_by": "skipstone",
            "context_length": self.intake.model.context_length,
        })
    }
}

/// Pages of other sites can send anything else to a local service without asking the browser's
/// user.
fn is_json(headers: &HeaderMap) -> bool {
    let kind =
        headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
}

fn id_of(headers: HeaderMap) -> RequestId {
    RequestId::of_call(&MetadataMap::from_headers(headers))
}

fn json_response(value: &Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

fn answer(id: &RequestId, result: Result<Response, ApiError>) -> Response {
    let mut response = result.unwrap_or_else(|error| error.respond());
    // Can't fail: the characters of an id are all valid in headers.
    if let Ok(value) = HeaderValue::from_str(id.as_str()) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}
