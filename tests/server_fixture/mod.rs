//! A server on loopback with a scripted engine behind it, and a client before it.

#![allow(dead_code, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests may assert too")]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use skipstone::engine::{
    CancelFlag, CommittedToken, Delta, Event, FinishReason, Finished, GenerationStream,
    Speculation, SpeculationStats, Started, StreamMessage, Submit, SubmitError, Timing, Usage,
    ValidRequest,
};
use skipstone::model::TokenId;
use skipstone::sampling::SamplingSettings;
use skipstone::server::wire::generation_service_client::GenerationServiceClient;
use skipstone::server::wire::{self, generation_spec};
use skipstone::server::{Limits, Listeners, ServeError, ServedModel, ServerOptions, serve};
use skipstone::telemetry::{Readiness, Tracing};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tonic::transport::Channel;

pub mod text;

pub const MODEL: &str = "tiny";
pub const LAYERS: usize = 8;
pub const CONTEXT: usize = 64;

/// No test waits longer for anything.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The engine's answer to the next request.
pub enum Script {
    /// Refuses it.
    Refuse(SubmitError),
    /// Sends these and lets go of the stream.
    Play(Vec<StreamMessage>),
    /// Sends these and keeps the stream open until the client cancels it.
    Hang(Vec<StreamMessage>),
    /// Sends these, and the second list once the pause is over.
    Pause(Vec<StreamMessage>, Duration, Vec<StreamMessage>),
}

/// Takes what it is given, notes it, and follows its scripts in order.
#[derive(Default)]
pub struct ScriptedEngine {
    scripts: Mutex<VecDeque<Script>>,
    requests: Mutex<Vec<ValidRequest>>,
    cancels: Mutex<Vec<CancelFlag>>,
    kept: Mutex<Vec<mpsc::Sender<StreamMessage>>>,
    draining: AtomicBool,
}

/// A running server.
pub struct Fixture {
    pub address: SocketAddr,
    /// Address of the OpenAI-compatible interface.
    pub openai: SocketAddr,
    pub engine: Arc<ScriptedEngine>,
    pub readiness: Readiness,
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<Result<(), ServeError>>,
}

pub fn options() -> ServerOptions {
    ServerOptions {
        limits: Limits { drain: Duration::from_secs(5), ..Limits::default() },
        default_speculation: Speculation::adaptive(None),
        default_sampling: SamplingSettings::default(),
        reflection: true,
        readiness: Readiness::default(),
        tracing: Tracing::default(),
    }
}

/// A request for three tokens after the given ones.
pub fn spec(ids: &[u32]) -> wire::GenerationSpec {
    wire::GenerationSpec {
        input: Some(generation_spec::Input::TokenIds(wire::TokenIds { ids: ids.to_vec() })),
        stop: Some(wire::StopCriteria { max_new_tokens: Some(3), ..Default::default() }),
        ..Default::default()
    }
}

pub fn started() -> StreamMessage {
    Ok(Event::Started(Started { prompt_tokens: 2, plan: None }))
}

pub fn delta(text: &str, tokens: &[(u32, bool)]) -> StreamMessage {
    let tokens: Vec<_> = tokens
        .iter()
        .map(|&(id, drafted)| CommittedToken {
            id: TokenId(id),
            logprob: None,
            top_logprobs: Vec::new(),
            drafted,
        })
        .collect();
    let accepted = tokens.iter().filter(|token| token.drafted).count();
    Ok(Event::Delta(Delta {
        text: text.to_owned(),
        tokens,
        drafted: accepted,
        accepted,
        ..Delta::default()
    }))
}

pub fn finished(reason: FinishReason, completion_tokens: usize) -> StreamMessage {
    Ok(Event::Finished(Box::new(Finished {
        reason,
        usage: Usage { prompt_tokens: 2, completion_tokens },
        speculation: SpeculationStats::default(),
        timing: Timing::default(),
    })))
}

/// A short result.
pub fn short() -> Script {
    Script::Play(vec![started(), delta("a", &[(65, false)]), finished(FinishReason::Length, 1)])
}

// === impl ScriptedEngine ===

impl ScriptedEngine {
    pub fn next(&self, script: Script) {
        self.scripts.lock().unwrap().push_back(script);
    }

    pub fn requests(&self) -> Vec<ValidRequest> {
        self.requests.lock().unwrap().clone()
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Waits until the caller of the `index`-th accepted request has lost interest.
    pub async fn cancelled(&self, index: usize) {
        let cancelled = || self.cancels.lock().unwrap().get(index).is_some_and(CancelFlag::is_set);
        wait_for("the cancel flag", cancelled).await;
    }

    pub fn is_cancelled(&self, index: usize) -> bool {
        self.cancels.lock().unwrap()[index].is_set()
    }
}

impl Submit for ScriptedEngine {
    fn submit(&self, request: ValidRequest) -> Result<GenerationStream, SubmitError> {
        let script = self.scripts.lock().unwrap().pop_front().unwrap_or_else(short);
        if self.is_draining() {
            return Err(SubmitError::Draining);
        }
        let (sender, receiver) = mpsc::channel(64);
        match script {
            Script::Refuse(error) => return Err(error),
            Script::Play(messages) => send(&sender, messages),
            Script::Hang(messages) => {
                send(&sender, messages);
                self.kept.lock().unwrap().push(sender);
            }
            Script::Pause(first, pause, second) => {
                send(&sender, first);
                tokio::spawn(async move {
                    tokio::time::sleep(pause).await;
                    send(&sender, second);
                });
            }
        }
        let cancel = CancelFlag::default();
        self.requests.lock().unwrap().push(request);
        self.cancels.lock().unwrap().push(cancel.clone());
        Ok(GenerationStream::new(receiver, cancel))
    }

    fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    fn in_flight(&self) -> usize {
        self.cancels.lock().unwrap().iter().filter(|cancel| !cancel.is_set()).count()
    }
}

/// A script that ends before its client has read it all is what some tests are about, so a full or
/// closed channel is no fault.
fn send(sender: &mpsc::Sender<StreamMessage>, messages: Vec<StreamMessage>) {
    for message in messages {
        let _ = sender.try_send(message);
    }
}

// === impl Fixture ===

impl Fixture {
    pub async fn start() -> Self {
        Self::with(options()).await
    }

    pub async fn with(options: ServerOptions) -> Self {
        Self::with_vocabulary(options, text::model().vocabulary_size()).await
    }

    /// A model of `vocabulary` tokens, whatever its tokenizer knows.
    pub async fn with_vocabulary(options: ServerOptions, vocabulary: usize) -> Self {
        let grpc = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let http = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, openai) = (grpc.local_addr().unwrap(), http.local_addr().unwrap());
        let listeners = Listeners { grpc, openai: Some(http) };
        let engine = Arc::new(ScriptedEngine::default());
        let text = Arc::new(text::model());
        let model = ServedModel {
            name: MODEL.to_owned(),
            vocabulary,
            text,
            layer_count: LAYERS,
            context_length: CONTEXT,
            can_draft: true,
        };
        let readiness = options.readiness.clone();
        let (stop, stopped) = oneshot::channel();
        let submit: Arc<dyn Submit> = Arc::clone(&engine) as _;
        let served = tokio::spawn(async move {
            serve(listeners, model, submit, options, async {
                let _ = stopped.await;
            })
            .await
        });
        Self { address, openai, engine, readiness, stop: Some(stop), served }
    }

    pub async fn channel(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.address)).unwrap().connect().await.unwrap()
    }

    pub async fn client(&self) -> GenerationServiceClient<Channel> {
        GenerationServiceClient::new(self.channel().await)
    }

    /// Tells the server to shut down.
    pub fn stop(&mut self) {
        let _ = self.stop.take().map(|stop| stop.send(()));
    }

    /// Waits until the server has shut down.
    pub async fn ended(self) {
        let result = tokio::time::timeout(PATIENCE, self.served).await;
        result.expect("the server should have ended").unwrap().unwrap();
    }
}

/// Waits until something holds.
pub async fn wait_for(what: &str, holds: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Reads a stream to its end.
pub async fn read_all(
    mut stream: tonic::Streaming<wire::GenerateStreamResponse>,
) -> Result<Vec<wire::generate_stream_response::Event>, tonic::Status> {
    let mut events = Vec::new();
    while let Some(message) = stream.message().await? {
        events.push(message.event.expect("a message without an event"));
    }
    Ok(events)
}
