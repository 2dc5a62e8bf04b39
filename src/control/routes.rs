//! The admin port's routes for control: gRPC, JSON and the live page.

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, Version, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tonic::Status;
use tonic::server::NamedService;

use super::access::Access;
use super::page::live_page;
use super::service::Control;
use crate::server::descriptors;
use crate::server::wire::control_service_server::ControlServiceServer;

/// Message to a browser that may not read the data.
const NOT_ALLOWED: &str = "send the token of control.token_file as `Authorization: Bearer TOKEN`";

/// The gRPC service with its reflection; `/api/server` and `/api/activity`, which are two of its
/// replies as JSON; and `/`, the page that draws these.
///
/// # Errors
/// If the compiled descriptors don't load.
pub fn routes(control: Control, access: Access) -> Result<Router, tonic_reflection::server::Error> {
    let names = [ControlServiceServer::<Control>::NAME];
    let (v1, v1alpha) = (descriptors(&names).build_v1()?, descriptors(&names).build_v1alpha()?);
    let service = ControlServiceServer::new(control.clone());
    let grpc = Router::new()
        .route_service(&path_of(&v1), v1)
        .route_service(&path_of(&v1alpha), v1alpha)
        .route_service(&path_of(&service), service)
        .layer(middleware::from_fn_with_state(access.clone(), guard_grpc));
    let json = Router::new()
        .route("/api/server", get(server))
        .route("/api/activity", get(activity))
        .with_state(control)
        .layer(middleware::from_fn_with_state(access, guard_json));
    Ok(Router::new().route("/", get(live_page)).merge(json).merge(grpc))
}

fn path_of<S: NamedService>(_: &S) -> String {
    format!("/{}/{{method}}", S::NAME)
}

async fn server(State(control): State<Control>) -> Response {
    json(&control.server())
}

async fn activity(State(control): State<Control>) -> Response {
    json(&control.activity().await)
}

fn json(reply: &impl serde::Serialize) -> Response {
    match serde_json::to_string(reply) {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// A page of a stranger, open in an operator's browser, can send requests here, but none by HTTP/2
/// without TLS: so it can't drain.
async fn guard_grpc(State(access): State<Access>, request: Request, next: Next) -> Response {
    if request.version() != Version::HTTP_2 {
        return (StatusCode::HTTP_VERSION_NOT_SUPPORTED, "gRPC needs HTTP/2\n").into_response();
    }
    if !access.allows(request.headers()) {
        return Status::unauthenticated(NOT_ALLOWED)
            .into_http::<tonic::body::Body>()
            .into_response();
    }
    next.run(request).await
}

async fn guard_json(State(access): State<Access>, request: Request, next: Next) -> Response {
    let mut response = if access.allows(request.headers()) {
        next.run(request).await
    } else {
        let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
        (StatusCode::UNAUTHORIZED, challenge, format!("{NOT_ALLOWED}\n")).into_response()
    };
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
