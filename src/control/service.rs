//! The control service: what a replica is and does, and the end of it.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Notify;
use tonic::{Request, Response, Status};

use super::reply;
use crate::server::wire;
use crate::server::wire::control_service_server::ControlService;
use crate::telemetry::{LogFilter, Readiness};
use skipstone_engine::{Observer, Submit};

/// Facts about what is served, and by what: all that does not change while the replica runs.
#[derive(Clone, Debug)]
pub struct ServerInfo {
    /// The model's name.
    pub model: String,
    /// Fingerprint of its file.
    pub fingerprint: String,
    /// Its architecture.
    pub architecture: String,
    /// Types of its weights, the most bytes first.
    pub weight_types: Vec<String>,
    /// Its layers.
    pub layers: usize,
    /// Tokens of a prompt and its new tokens together.
    pub context_length: usize,
    /// Tokens of the vocabulary.
    pub vocabulary: usize,
    /// Backend that runs it: `native` or `mistralrs`.
    pub backend: &'static str,
    /// Instruction set of the kernels.
    pub instruction_set: &'static str,
    /// Threads that compute.
    pub threads: usize,
    /// Streams that run at once.
    pub max_streams: usize,
    /// Positions of the key/value cache.
    pub kv_cache_tokens: usize,
    /// Moment at which the replica was ready.
    pub started: Instant,
}

/// The service. Clones share everything.
#[derive(Clone)]
pub struct Control {
    /// Facts about what is served.
    pub info: Arc<ServerInfo>,
    /// Takes the requests.
    pub engine: Arc<dyn Submit>,
    /// Says what it does with them.
    pub observer: Observer,
    /// Whether requests are welcome.
    pub readiness: Readiness,
    /// Filter of the log.
    pub log_filter: LogFilter,
    /// Told when somebody asks for the shutdown.
    pub drain: Arc<Notify>,
}

// === impl Control ===

impl Control {
    /// Reply that says what is served.
    pub(super) fn server(&self) -> wire::GetServerResponse {
        reply::server(&self.info, self.readiness.is_ready())
    }

    /// Reply that says what the replica is doing.
    pub(super) async fn activity(&self) -> wire::GetActivityResponse {
        reply::activity(&*self.observer.look().await)
    }
}

#[tonic::async_trait]
impl ControlService for Control {
    async fn get_server(
        &self,
        _: Request<wire::GetServerRequest>,
    ) -> Result<Response<wire::GetServerResponse>, Status> {
        Ok(Response::new(self.server()))
    }

    async fn get_activity(
        &self,
        _: Request<wire::GetActivityRequest>,
    ) -> Result<Response<wire::GetActivityResponse>, Status> {
        Ok(Response::new(self.activity().await))
    }

    async fn drain(
        &self,
        _: Request<wire::DrainRequest>,
    ) -> Result<Response<wire::DrainResponse>, Status> {
        let in_flight = reply::count(self.engine.in_flight());
        tracing::info!(in_flight, "the control service was asked to drain");
        self.drain.notify_one();
        Ok(Response::new(wire::DrainResponse { in_flight }))
    }

    async fn get_log_level(
        &self,
        _: Request<wire::GetLogLevelRequest>,
    ) -> Result<Response<wire::GetLogLevelResponse>, Status> {
        Ok(Response::new(wire::GetLogLevelResponse { filter: self.log_filter.get() }))
    }

    async fn set_log_level(
        &self,
        request: Request<wire::SetLogLevelRequest>,
    ) -> Result<Response<wire::SetLogLevelResponse>, Status> {
        let filter = request.into_inner().filter;
        let previous = self
            .log_filter
            .set(&filter)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        tracing::info!(filter, previous, "what is logged was changed");
        Ok(Response::new(wire::SetLogLevelResponse { previous }))
    }
}
