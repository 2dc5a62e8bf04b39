//! Serves until told to stop, then ends in order and in bounded time.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::middleware;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tonic::codec::CompressionEncoding;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server;
use tonic_health::server::HealthReporter;
use tonic_reflection::pb::{v1, v1alpha};

use super::calls::OpenCalls;
use super::connection::Incoming;
use super::intake::Intake;
use super::limits::Limits;
use super::openai::{self, OpenAi};
use super::service::Generation;
use super::unread;
use super::wire;
use super::wire::generation_service_server::GenerationServiceServer;
use crate::telemetry::{Readiness, Tracing};
use skipstone_engine::{Speculation, Submit};
use skipstone_model::sampling::SamplingSettings;
use skipstone_model::text::TextModel;

/// Time for the last messages to leave, and for connections to notice that they were told to end.
const FLUSH: Duration = Duration::from_secs(1);

/// The health service's name for the server as a whole.
const WHOLE_SERVER: &str = "";

/// The sockets to serve on.
#[derive(Debug)]
pub struct Listeners {
    /// For gRPC.
    pub grpc: TcpListener,
    /// For the OpenAI-compatible HTTP interface, if that is wanted.
    pub openai: Option<TcpListener>,
}

/// The model behind the service.
#[derive(Clone, Debug)]
pub struct ServedModel {
    /// The name that requests may ask for.
    pub name: String,
    /// Text to tokens and back.
    pub text: Arc<TextModel>,
    /// Layers, for the checks of skip sets.
    pub layer_count: usize,
    /// Size of the vocabulary, for the checks of token ids.
    pub vocabulary: usize,
    /// Tokens that the engine accepts for a prompt and its new tokens together.
    pub context_length: usize,
    /// Whether the backend can draft.
    pub can_draft: bool,
}

/// Options of the server.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Bounds.
    pub limits: Limits,
    /// Drafting of requests that say nothing about it.
    pub default_speculation: Speculation,
    /// Values of unset sampling fields. Seed and logit bias are each request's own: a random seed,
    /// no bias.
    pub default_sampling: SamplingSettings,
    /// Whether the service describes itself to any client.
    pub reflection: bool,
    /// Told when requests are welcome, and when no more.
    pub readiness: Readiness,
    /// Destination of the spans of requests.
    pub tracing: Tracing,
}

/// A reason why serving ends by itself.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The transport failed.
    #[error("the gRPC server failed: {0}")]
    Transport(#[from] tonic::transport::Error),
    /// The HTTP interface failed.
    #[error("the OpenAI-compatible server failed: {0}")]
    OpenAi(#[from] io::Error),
    /// The compiled descriptors don't load.
    #[error("gRPC reflection can't start: {0}; turn it off (server.reflection)")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// The parts that a shutdown acts on.
struct Shutdown {
    engine: Arc<dyn Submit>,
    calls: OpenCalls,
    health: HealthReporter,
    readiness: Readiness,
    limits: Limits,
    stop_accepting: watch::Sender<bool>,
    end_calls: watch::Sender<bool>,
    end_connections: watch::Sender<bool>,
}

/// Serves the model on `listeners` until `shutdown` completes, then lets running calls finish
/// within `limits.drain`.
///
/// The shutdown in order: health and readiness turn negative; after the grace no request and no
/// connection is taken; calls that outlast the drain end with UNAVAILABLE; then all connections
/// end, half-open ones included.
pub async fn serve(
    listeners: Listeners,
    model: ServedModel,
    engine: Arc<dyn Submit>,
    options: ServerOptions,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let ends = Shutdown {
        engine: Arc::clone(&engine),
        calls: OpenCalls::new(options.tracing.tracer()),
        health: HealthReporter::new(),
        readiness: options.readiness.clone(),
        limits: options.limits.clone(),
        stop_accepting: watch::Sender::new(false),
        end_calls: watch::Sender::new(false),
        end_connections: watch::Sender::new(false),
    };
    let incoming = |listener| {
        Incoming::new(listener, options.limits.handshake_timeout, ends.end_connections.subscribe())
    };
    let (grpc, http) = (incoming(listeners.grpc), listeners.openai.map(incoming));
    let reflection = options.reflection;
    let intake = Intake {
        model: Arc::new(model),
        engine,
        tokenisers: Arc::new(Semaphore::new(options.limits.concurrent_tokenisers.max(1))),
        options: Arc::new(options),
        ending: ends.end_calls.subscribe(),
    };
    let (calls, stop_http) = (ends.calls.clone(), stop(ends.stop_accepting.subscribe()));
    let generation = Generation { intake: intake.clone(), calls: calls.clone() };
    let grpc = router(generation, ends.health.clone(), reflection)
        .await?
        .serve_with_incoming_shutdown(grpc, stop(ends.stop_accepting.subscribe()));
    let http = async move {
        match http {
            None => Ok(()),
            Some(incoming) => openai::serve(incoming, OpenAi::new(intake, calls), stop_http).await,
        }
    };
    let mut servers = pin!(async {
        tokio::try_join!(async { Ok::<_, ServeError>(grpc.await?) }, async { Ok(http.await?) })
    });

    ends.readiness.set(true);
    tokio::select! {
        result = &mut servers => {
            ends.readiness.set(false);
            result?;
            return Ok(());
        }
        () = shutdown => {}
    }
    tokio::select! {
        result = &mut servers => { result?; }
        () = ends.run() => tracing::warn!("connections were left open at the end"),
    }
    Ok(())
}

async fn stop(mut asked: watch::Receiver<bool>) {
    // An error means that the sender is gone: the end as well.
    let _ = asked.wait_for(|stop| *stop).await;
}

async fn router(
    service: Generation,
    health: HealthReporter,
    reflection: bool,
) -> Result<tonic::transport::server::Router, ServeError> {
    let limits = service.intake.options.limits.clone();
    health.set_service_status(WHOLE_SERVER, ServingStatus::Serving).await;
    health.set_serving::<GenerationServiceServer<Generation>>().await;
    let health = health_server::HealthServer::new(
        tonic_health::server::HealthService::from_health_reporter(health),
    );
    // Replies are not compressed: their messages are tens of bytes, and the cores belong to the
    // model.
    let calls = service.calls.clone();
    let generation = GenerationServiceServer::new(service)
        .max_decoding_message_size(limits.max_message_bytes)
        .accept_compressed(CompressionEncoding::Gzip);
    let generation = Routes::new(generation)
        .into_axum_router()
        .layer(middleware::from_fn_with_state(calls, unread::refuse));
    let (reflection, old_reflection) = if reflection {
        let names = [GenerationServiceServer::<Generation>::NAME, health_server::SERVICE_NAME];
        (Some(descriptors(&names).build_v1()?), Some(descriptors(&names).build_v1alpha()?))
    } else {
        (None, None)
    };
    let router = Server::builder()
        .max_concurrent_streams(limits.max_streams_per_connection)
        // Clients that cancel much may have all their streams reset at once.
        .http2_max_pending_accept_reset_streams(Some(
            2 * limits.max_streams_per_connection as usize,
        ))
        .http2_max_header_list_size(limits.max_header_list_bytes)
        .initial_stream_window_size(limits.stream_window_bytes)
        .initial_connection_window_size(limits.connection_window_bytes)
        .http2_keepalive_interval(Some(limits.keep_alive))
        .http2_keepalive_timeout(Some(limits.keep_alive))
        .add_routes(generation.into())
        .add_service(health)
        .add_optional_service(reflection)
        .add_optional_service(old_reflection);
    Ok(router)
}

/// Describes all messages; lists `services`, which are those of a port, and itself.
pub(crate) fn descriptors(services: &[&str]) -> tonic_reflection::server::Builder<'static> {
    let own = [
        v1::server_reflection_server::SERVICE_NAME,
        v1alpha::server_reflection_server::SERVICE_NAME,
    ];
    let builder = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(wire::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
    own.iter().chain(services).fold(builder, |builder, name| builder.with_service_name(*name))
}

// === impl Shutdown ===

impl Shutdown {
    /// Runs beside the server, which ends by itself as soon as its last connection is closed.
    async fn run(mut self) {
        let service = GenerationServiceServer::<Generation>::NAME;
        self.readiness.set(false);
        for name in [WHOLE_SERVER, service] {
            self.health.set_service_status(name, ServingStatus::NotServing).await;
        }
        tracing::info!(open_calls = self.calls.count(), "shutting down");
        tokio::time::sleep(self.limits.withdrawal_grace).await;

        self.engine.drain();
        self.stop_accepting.send_replace(true);
        // Ends the streams of those who watch the health, which would keep their connections open.
        for name in [WHOLE_SERVER, service] {
            self.health.clear_service_status(name).await;
        }
        if tokio::time::timeout(self.limits.drain, self.calls.idle()).await.is_err() {
            tracing::warn!(
                open_calls = self.calls.count(),
                "calls are ended: the drain took too long"
            );
            self.end_calls.send_replace(true);
        }
        tokio::time::sleep(FLUSH).await;
        self.end_connections.send_replace(true);
        tokio::time::sleep(FLUSH).await;
    }
}
