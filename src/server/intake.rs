//! The way of a call to the engine, whatever wire it came by: its deadline, every check, its
//! submission.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{Semaphore, watch};
use tonic::metadata::MetadataMap;

use super::calls::OpenCall;
use super::metadata::{self, RequestId};
use super::reply::Reply;
use super::request::{CallContext, parse_generation};
use super::running::{Lease, Running};
use super::serve::{ServedModel, ServerOptions};
use super::status::CallError;
use super::violation::RequestError;
use super::wire;
use skipstone_engine::{GenerationStream, OutputOptions, Speculation, Submit, ValidRequest};

/// State that the services share. Clones share everything.
#[derive(Clone)]
pub(super) struct Intake {
    /// The model that answers.
    pub(super) model: Arc<ServedModel>,
    /// The engine.
    pub(super) engine: Arc<dyn Submit>,
    /// Limits and defaults.
    pub(super) options: Arc<ServerOptions>,
    /// Permits to tokenise, so that a burst of long prompts does not take the cores from the
    /// engine.
    pub(super) tokenisers: Arc<Semaphore>,
    /// Turns true when running calls must end.
    pub(super) ending: watch::Receiver<bool>,
}

/// The parts of a call beside its message.
#[derive(Debug)]
pub(super) struct Head {
    /// Names the call.
    pub(super) id: RequestId,
    /// The metadata, or the headers of an HTTP request.
    pub(super) metadata: MetadataMap,
    /// Moment at which it came in.
    pub(super) received: Instant,
}

/// The parts that replies need of a request that now belongs to the engine.
struct Accepted {
    seed: u64,
    output: OutputOptions,
    drafts: bool,
    deadline: Option<Instant>,
    wanted: usize,
}

// === impl Intake ===

impl Intake {
    /// Checks a request and hands it to the engine; an error is noted in `call`.
    pub(super) async fn begin(
        &self,
        mut call: OpenCall,
        head: Head,
        spec: Option<wire::GenerationSpec>,
    ) -> Result<Running, CallError> {
        let mode = spec
            .as_ref()
            .and_then(|spec| spec.speculation.as_ref())
            .map(wire::SpeculationParams::mode);
        let id = head.id.clone();
        match self.submit(&mut call, head, spec).await {
            Ok((events, request)) => {
                let lease = Lease { events, call, ending: self.ending.clone() };
                let reply = Reply {
                    id,
                    model: Arc::clone(&self.model),
                    seed: request.seed,
                    output: request.output,
                    off_reason: off_reason(mode, request.drafts, self.model.can_draft),
                };
                Ok(Running::new(lease, reply, request.deadline, request.wanted))
            }
            Err(error) => {
                call.end(error.code());
                Err(error)
            }
        }
    }

    async fn submit(
        &self,
        call: &mut OpenCall,
        head: Head,
        spec: Option<wire::GenerationSpec>,
    ) -> Result<(GenerationStream, Accepted), CallError> {
        let Head { id, metadata, received } = head;
        let deadline = metadata::deadline(&metadata, received, &self.options.limits)
            .map_err(RequestError::from)?;
        call.expect_by(deadline);
        let (model, options) = (Arc::clone(&self.model), Arc::clone(&self.options));
        let operation = operation(spec.as_ref());
        let request = self
            .off_thread(move || {
                parse_generation(
                    spec,
                    &CallContext { id: &id, deadline, model: &model, options: &options },
                )
            })
            .await?;
        let accepted = Accepted::of(&request);
        call.span().queued(&self.model.name, operation, &request);
        Ok((self.engine.submit(request)?, accepted))
    }

    /// Runs what may take milliseconds of computation apart from the threads that serve
    /// connections.
    pub(super) async fn off_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, RequestError> + Send + 'static,
    ) -> Result<T, RequestError> {
        let unchecked = |fault: &dyn std::error::Error| RequestError::Unchecked(fault.to_string());
        let permit = Arc::clone(&self.tokenisers)
            .acquire_owned()
            .await
            .map_err(|fault| unchecked(&fault))?;
        // The permit goes with the work: a call that is dropped meanwhile does not stop it.
        let task = tokio::task::spawn_blocking(move || {
            let result = work();
            drop(permit);
            result
        });
        task.await.map_err(|fault| unchecked(&fault))?
    }
}

// === impl Head ===

impl Head {
    /// Reads the id of a call that came in now.
    pub(super) fn new(metadata: MetadataMap) -> Self {
        Self { id: RequestId::of_call(&metadata), metadata, received: Instant::now() }
    }
}

// === impl Accepted ===

impl Accepted {
    fn of(request: &ValidRequest) -> Self {
        Self {
            seed: request.sampling.settings().seed,
            output: request.output,
            drafts: request.speculation != Speculation::Off,
            deadline: request.deadline,
            wanted: request.stop.max_new_tokens,
        }
    }
}

/// Name of the operation in traces.
fn operation(spec: Option<&wire::GenerationSpec>) -> &'static str {
    match spec.and_then(|spec| spec.input.as_ref()) {
        Some(wire::generation_spec::Input::Chat(_)) => "chat",
        _ => "text_completion",
    }
}

fn off_reason(
    mode: Option<wire::SpeculationMode>,
    drafts: bool,
    can_draft: bool,
) -> Option<wire::SpeculationOffReason> {
    match mode {
        _ if drafts => None,
        Some(wire::SpeculationMode::Off) => Some(wire::SpeculationOffReason::Requested),
        _ if !can_draft => Some(wire::SpeculationOffReason::Backend),
        _ => Some(wire::SpeculationOffReason::ServerDefault),
    }
}
