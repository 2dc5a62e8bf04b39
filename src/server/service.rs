//! The generation service: takes calls, hands them to the engine, and words the replies.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, watch};
use tonic::{Code, Request, Response, Status};

use super::calls::{OpenCall, OpenCalls};
use super::metadata::{self, RequestId};
use super::reply::{Collected, Reply};
use super::request::{CallContext, parse_generation, parse_tokenize};
use super::response_stream::ResponseStream;
use super::running::{Lease, Running};
use super::serve::{ServedModel, ServerOptions};
use super::status::{self, CallError};
use super::violation::RequestError;
use super::wire;
use super::wire::generation_service_server::GenerationService;
use crate::engine::{Event, GenerationError, Speculation, Submit, ValidRequest};

/// A unary call is answered this long before its deadline: at the deadline itself the transport cuts it, and then says
/// CANCELLED instead of DEADLINE_EXCEEDED.
const TRANSPORT_MARGIN: Duration = Duration::from_millis(10);

/// The service. Clones share everything.
#[derive(Clone)]
pub(super) struct Generation {
    /// The model that answers.
    pub(super) model: Arc<ServedModel>,
    /// The engine.
    pub(super) engine: Arc<dyn Submit>,
    /// Limits and defaults.
    pub(super) options: Arc<ServerOptions>,
    /// Permits to tokenise, so that a burst of long prompts does not take the cores from the engine.
    pub(super) tokenisers: Arc<Semaphore>,
    /// Counts the calls.
    pub(super) calls: OpenCalls,
    /// Turns true when running calls must end.
    pub(super) ending: watch::Receiver<bool>,
}

// === impl Generation ===

impl Generation {
    /// Checks a request and hands it to the engine.
    async fn begin(&self, mut call: OpenCall, head: Head, spec: Option<wire::GenerationSpec>) -> Begun {
        let mode =
            spec.as_ref().and_then(|spec| spec.speculation.as_ref()).map(wire::SpeculationParams::mode);
        let id = head.id.clone();
        match self.submit(head, spec).await {
            Ok((events, request)) => {
                let lease = Lease { events, call, ending: self.ending.clone() };
                let reply = Reply {
                    id,
                    model: Arc::clone(&self.model),
                    seed: request.seed,
                    output: request.output,
                    off_reason: off_reason(mode, request.drafts),
                };
                Ok(Running::new(lease, reply, request.deadline, request.wanted))
            }
            Err(error) => {
                call.end(error.code());
                Err(self.refuse(&error, &id))
            }
        }
    }

    async fn submit(
        &self,
        head: Head,
        spec: Option<wire::GenerationSpec>,
    ) -> Result<(crate::engine::GenerationStream, Accepted), CallError> {
        let Head { id, metadata, received } = head;
        let deadline =
            metadata::deadline(&metadata, received, &self.options.limits).map_err(RequestError::from)?;
        let (model, options) = (Arc::clone(&self.model), Arc::clone(&self.options));
        let request = self
            .off_thread(move || {
                parse_generation(spec, &CallContext { id: &id, deadline, model: &model, options: &options })
            })
            .await?;
        let accepted = Accepted::of(&request);
        Ok((self.engine.submit(request)?, accepted))
    }

    /// Runs what may take milliseconds of computation apart from the threads that serve connections.
    async fn off_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, RequestError> + Send + 'static,
    ) -> Result<T, RequestError> {
        let unchecked = |fault: &dyn std::error::Error| RequestError::Unchecked(fault.to_string());
        let permit = Arc::clone(&self.tokenisers).acquire_owned().await.map_err(|fault| unchecked(&fault))?;
        // The permit goes with the work: a call that is dropped meanwhile does not stop it.
        let task = tokio::task::spawn_blocking(move || {
            let result = work();
            drop(permit);
            result
        });
        task.await.map_err(|fault| unchecked(&fault))?
    }

    fn refuse(&self, error: &CallError, id: &RequestId) -> Status {
        status::status(error, id, self.options.limits.retry_after)
    }
}

#[tonic::async_trait]
impl GenerationService for Generation {
    type GenerateStreamStream = ResponseStream;

    async fn generate(
        &self,
        request: Request<wire::GenerateRequest>,
    ) -> Result<Response<wire::GenerateResponse>, Status> {
        let call = self.calls.open("Generate");
        let (head, message) = Head::split(request);
        let mut running = self.begin(call, head, message.spec).await?;
        match collect(&mut running).await {
            Ok(response) => Ok(named(Response::new(response), &running.reply.id)),
            Err(error) => Err(self.refuse(&error, &running.reply.id)),
        }
    }

    async fn generate_stream(
        &self,
        request: Request<wire::GenerateStreamRequest>,
    ) -> Result<Response<ResponseStream>, Status> {
        let call = self.calls.open("GenerateStream");
        let (head, message) = Head::split(request);
        let id = head.id.clone();
        let running = self.begin(call, head, message.spec).await?;
        Ok(named(Response::new(ResponseStream::new(running, self.options.limits.retry_after)), &id))
    }

    async fn tokenize(
        &self,
        request: Request<wire::TokenizeRequest>,
    ) -> Result<Response<wire::TokenizeResponse>, Status> {
        let mut call = self.calls.open("Tokenize");
        let (head, message) = Head::split(request);
        let (model, options) = (Arc::clone(&self.model), Arc::clone(&self.options));
        let tokens = self
            .off_thread(move || parse_tokenize(message, &model)?.into_tokens(&model, &options.limits))
            .await
            .map_err(CallError::from);
        match tokens {
            Ok(tokens) => {
                call.end(Code::Ok);
                let response = wire::TokenizeResponse {
                    token_count: tokens.len() as u32,
                    token_ids: tokens.into_iter().map(|token| token.0).collect(),
                    context_length: self.model.context_length as u32,
                };
                Ok(named(Response::new(response), &head.id))
            }
            Err(error) => {
                call.end(error.code());
                Err(self.refuse(&error, &head.id))
            }
        }
    }
}

/// A request that the engine has taken, or the answer that it was not.
type Begun = Result<Running, Status>;

/// What a call says beside its message.
struct Head {
    id: RequestId,
    metadata: tonic::metadata::MetadataMap,
    received: Instant,
}

/// What the replies need of a request that now belongs to the engine.
struct Accepted {
    seed: u64,
    output: crate::engine::OutputOptions,
    drafts: bool,
    deadline: Option<Instant>,
    wanted: usize,
}

// === impl Head ===

impl Head {
    fn split<T>(request: Request<T>) -> (Self, T) {
        let (metadata, _, message) = request.into_parts();
        let id = RequestId::of_call(&metadata);
        (Self { id, metadata, received: Instant::now() }, message)
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

/// Gathers a stream into one reply.
async fn collect(running: &mut Running) -> Result<wire::GenerateResponse, CallError> {
    let mut collected = Collected::default();
    let cut = running.deadline.and_then(|deadline| deadline.checked_sub(TRANSPORT_MARGIN));
    loop {
        let event = match cut {
            None => running.next().await,
            Some(cut) => match tokio::time::timeout_at(cut.into(), running.next()).await {
                Ok(event) => event,
                Err(_) => {
                    let committed = collected.committed();
                    let error =
                        GenerationError::DeadlineExceeded { committed, wanted: running.wanted }.into();
                    running.end(Code::DeadlineExceeded);
                    return Err(error);
                }
            },
        };
        match event {
            Some(Ok(Event::Started(_))) => {}
            Some(Ok(Event::Delta(delta))) => collected.add(delta, &running.reply),
            Some(Ok(Event::Finished(finished))) => return Ok(running.reply.response(collected, *finished)),
            Some(Err(error)) => return Err(error),
            None => return Err(CallError::Unfinished),
        }
    }
}

fn off_reason(mode: Option<wire::SpeculationMode>, drafts: bool) -> Option<wire::SpeculationOffReason> {
    match mode {
        _ if drafts => None,
        Some(wire::SpeculationMode::Off) => Some(wire::SpeculationOffReason::Requested),
        _ => Some(wire::SpeculationOffReason::ServerDefault),
    }
}

fn named<T>(mut response: Response<T>, id: &RequestId) -> Response<T> {
    id.write_to(response.metadata_mut());
    response
}
