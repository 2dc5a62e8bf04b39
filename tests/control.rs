//! Promise: the admin port says what a replica is and does while it does it, and drains it; nobody
//! is told any text.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
mod server_fixture;

use std::net::SocketAddr;
use std::process::{Command, Output};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use common::engine::{fixed, options, prompt, request, wait_until_started};
use common::tiny_model::{Loaded, TinyModel};
use common::weights::Random;
use server_fixture::{PATIENCE, wait_for};
use skipstone::adapt::Allowed;
use skipstone::control::{Access, Control, ServerInfo, routes};
use skipstone::drafting::SkipSet;
use skipstone::engine::{Engine, GenerationStream, Speculation, Submit, ValidRequest};
use skipstone::server::wire::control_service_client::ControlServiceClient;
use skipstone::server::{Listeners, ServedModel, serve, wire};
use skipstone::telemetry::{ExporterHandle, LogFilter, LogFormat, Readiness};
use skipstone::telemetry::{init_logging, install, serve_admin};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use tonic::{Code, Request};
use tonic_reflection::pb::v1;

/// Nothing has this many tokens; streams of it run until they are dropped.
const ENDLESS: usize = 3000;

struct Replica {
    engine: Arc<Engine>,
    admin: SocketAddr,
    grpc: SocketAddr,
    served: JoinHandle<()>,
    loaded: Loaded,
}

/// The recorder and the logs belong to the process, so the tests share them.
fn process() -> (ExporterHandle, LogFilter) {
    static PROCESS: OnceLock<(ExporterHandle, LogFilter)> = OnceLock::new();
    PROCESS
        .get_or_init(|| (install().unwrap(), init_logging("warn", LogFormat::Text).unwrap()))
        .clone()
}

// === impl Replica ===

impl Replica {
    async fn start(access: Access) -> Self {
        let (exporter, log_filter) = process();
        let loaded = TinyModel::default().load();
        let engine_options = options(&loaded);
        let engine =
            Engine::start(Arc::clone(&loaded.model), Arc::clone(&loaded.text), engine_options)
                .unwrap();
        let engine = Arc::new(engine);
        let config = loaded.model.config().clone();
        let info = ServerInfo {
            model: "tiny".to_owned(),
            fingerprint: "ab".repeat(32),
            architecture: config.architecture.clone(),
            weight_types: vec!["Q8_0".to_owned()],
            layers: config.layers,
            context_length: config.context_length,
            vocabulary: config.vocabulary,
            backend: "native",
            instruction_set: "portable",
            threads: 1,
            max_streams: 8,
            kv_cache_tokens: 4096,
            started: Instant::now(),
        };
        let served_model = ServedModel {
            name: info.model.clone(),
            text: Arc::clone(&loaded.text),
            layer_count: config.layers,
            vocabulary: config.vocabulary,
            context_length: config.context_length,
            can_draft: true,
        };
        let (readiness, drain) = (Readiness::default(), Arc::new(Notify::new()));
        let control = Control {
            info: Arc::new(info),
            engine: Arc::clone(&engine) as _,
            observer: engine.observer(),
            readiness: readiness.clone(),
            log_filter,
            drain: Arc::clone(&drain),
        };
        let (grpc, listener) = (bind().await, bind().await);
        let (admin, grpc_address) = (listener.local_addr().unwrap(), grpc.local_addr().unwrap());
        let routes = routes(control, access).unwrap();
        let port =
            serve_admin(listener, exporter, readiness.clone(), routes, std::future::pending());
        tokio::spawn(port);
        let server_options =
            skipstone::server::ServerOptions { readiness, ..server_fixture::options() };
        let submit = Arc::clone(&engine) as _;
        let served = tokio::spawn(async move {
            let drained = async move { drain.notified().await };
            let listeners = Listeners { grpc, openai: None };
            serve(listeners, served_model, submit, server_options, drained).await.unwrap();
        });
        Self { engine, admin, grpc: grpc_address, served, loaded }
    }

    async fn client(&self) -> ControlServiceClient<Channel> {
        let channel = Channel::from_shared(format!("http://{}", self.admin)).unwrap();
        ControlServiceClient::new(channel.connect().await.unwrap())
    }

    /// A request with a prompt of eight tokens.
    fn request(&self, id: &str, tokens: usize, speculation: Speculation) -> ValidRequest {
        let prompt = prompt(8, self.loaded.model.config().vocabulary, &mut Random(5));
        ValidRequest { id: id.to_owned(), ..request(&prompt, tokens, speculation) }
    }

    /// A stream that is in the batch.
    async fn running(&self, id: &str, speculation: Speculation) -> GenerationStream {
        let mut stream = self.engine.submit(self.request(id, ENDLESS, speculation)).unwrap();
        tokio::task::spawn_blocking(move || {
            wait_until_started(&mut stream);
            stream
        })
        .await
        .unwrap()
    }

    /// Reads a stream to its end.
    async fn finish(&self, id: &str, tokens: usize, speculation: Speculation) {
        let mut stream = self.engine.submit(self.request(id, tokens, speculation)).unwrap();
        while let Some(event) = stream.next().await {
            event.unwrap();
        }
    }

    /// One request by HTTP/1.1, and all of the answer.
    async fn http(&self, request_line: &str, headers: &str) -> String {
        let mut stream = TcpStream::connect(self.admin).await.unwrap();
        let request =
            format!("{request_line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        answer
    }
}

/// Runs `skipstone status`.
async fn status(address: SocketAddr, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_skipstone"));
    command.env_clear().arg("status").arg(address.to_string()).args(arguments);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

async fn bind() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

async fn activity(client: &mut ControlServiceClient<Channel>) -> wire::GetActivityResponse {
    client.get_activity(wire::GetActivityRequest {}).await.unwrap().into_inner()
}

#[tokio::test]
async fn it_says_what_is_served() {
    let replica = Replica::start(Access::open()).await;
    let server =
        replica.client().await.get_server(wire::GetServerRequest {}).await.unwrap().into_inner();
    assert!(server.is_ready && server.uptime_seconds >= 0.0 && server.threads == 1, "{server:?}");
    let model = server.model.unwrap();
    assert_eq!((model.layers, model.vocabulary, model.context_length), (6, 48, 4096), "{model:?}");
    assert_eq!(model.weight_types, ["Q8_0"]);
}

#[tokio::test]
async fn a_running_stream_is_seen_to_move() {
    let replica = Replica::start(Access::open()).await;
    let mut client = replica.client().await;
    let skip_set = SkipSet::new(&[2, 3], &[3], 6).unwrap();
    let stream = replica.running("watched", fixed(&skip_set, 3)).await;
    let mut last = 0;
    // As many looks as it takes to see three different counts.
    for moves in 0..3 {
        let before = Instant::now();
        loop {
            let seen = activity(&mut client).await;
            let [one] = &seen.running[..] else { panic!("one stream runs, {seen:?}") };
            assert_eq!((one.request_id.as_str(), one.prompt_tokens), ("watched", 8));
            assert_eq!(one.policy, "static");
            if one.committed_tokens > last {
                last = one.committed_tokens;
                break;
            }
            assert!(before.elapsed() < PATIENCE, "stuck at {last} after {moves} moves");
        }
    }
    let seen = activity(&mut client).await;
    let one = &seen.running[0];
    assert_eq!(one.state(), wire::StreamState::Decode);
    let plan = one.plan.as_ref().unwrap();
    assert_eq!((plan.name.as_str(), plan.max_draft_tokens), ("request", 3));
    assert_eq!(plan.skip_set.as_ref().unwrap().attention_layers, [2, 3]);
    let account = one.account.as_ref().unwrap();
    let steps = account.draft_steps;
    assert!(steps > 0 && account.drafts > 0, "{account:?}");
    let skipped: Vec<u64> =
        (0..12).map(|index| if [4, 6, 7].contains(&index) { steps } else { 0 }).collect();
    assert_eq!(account.skipped_per_sublayer, skipped, "attention at even numbers");
    assert_eq!(account.drafted_per_position.len(), 3);
    let phases = account.phases.as_ref().unwrap();
    assert!(phases.prefill > 0.0 && phases.draft > 0.0 && phases.verify > 0.0, "{phases:?}");
    assert!(seen.kv_cache_usage > 0.0 && seen.plain_step_seconds > 0.0, "{seen:?}");
    drop(stream);
    wait_for("the end of the stream", || replica.engine.in_flight() == 0).await;
    let seen = activity(&mut client).await;
    assert_eq!(seen.finished[0].finish_reason, "cancelled");
}

#[tokio::test]
async fn what_ended_is_remembered_and_summed_up() {
    let replica = Replica::start(Access::open()).await;
    let mut client = replica.client().await;
    assert_eq!(activity(&mut client).await.totals.unwrap().committed_tokens, 0);
    let always = Allowed { always: true, ..Allowed::default() };
    let adaptive = Speculation::betting(Some(4), always);
    replica.finish("first", 20, Speculation::Off).await;
    replica.finish("second", 30, adaptive).await;
    wait_for("the last stream to be swept", || replica.engine.in_flight() == 0).await;
    let seen = activity(&mut client).await;
    assert!(seen.running.is_empty(), "{seen:?}");
    let [second, first] = &seen.finished[..] else { panic!("two streams ended: {seen:?}") };
    assert_eq!((first.request_id.as_str(), first.policy.as_str()), ("first", "off"));
    assert!(first.plan.is_none() && first.account.as_ref().unwrap().drafts == 0, "{first:?}");
    assert_eq!(first.account.as_ref().unwrap().off_seconds.keys().collect::<Vec<_>>(), ["request"]);
    assert_eq!(second.policy, "adaptive");
    assert!(second.plan.is_none(), "nothing was calibrated: only n-grams are bet on");
    let totals = seen.totals.unwrap();
    assert_eq!((totals.prompt_tokens, totals.committed_tokens), (16, 50));
    assert_eq!(totals.finished, [("length".to_owned(), 2)].into());
    let (sum, parts) =
        (totals.account.unwrap(), [first, second].map(|one| one.account.as_ref().unwrap()));
    let added =
        |of: fn(&wire::DecodingAccount) -> f64| parts.iter().map(|part| of(part)).sum::<f64>();
    assert!((sum.spent_seconds - added(|part| part.spent_seconds)).abs() < 1e-9, "{sum:?}");
    assert_eq!(sum.draft_tokens as f64, added(|part| part.draft_tokens as f64));
}

#[tokio::test]
async fn the_page_s_data_is_the_service_s() {
    let replica = Replica::start(Access::open()).await;
    let _stream = replica.running("as-json", Speculation::Off).await;
    let answer = replica.http("GET /api/activity", "").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("application/json"), "{answer}");
    let json: serde_json::Value =
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(json["running"][0]["request_id"], "as-json");
    assert_eq!(json["running"][0]["policy"], "off");
    assert!(
        ["STREAM_STATE_PREFILL", "STREAM_STATE_DECODE"]
            .map(Some)
            .contains(&json["running"][0]["state"].as_str())
    );
    assert_eq!(json["running"][0]["finish_reason"], "");
    let answer = replica.http("GET /api/server", "").await;
    assert!(
        answer.contains(r#""weight_types":["Q8_0"]"#) && answer.contains("no-store"),
        "{answer}"
    );
    let answer = replica.http("GET /metrics", "").await;
    assert!(answer.contains("skipstone_requests_running"), "metrics are still there: {answer}");
}

#[tokio::test]
async fn the_page_comes_with_a_strict_policy() {
    let replica = Replica::start(Access::open()).await;
    let answer = replica.http("GET /", "").await;
    let (head, page) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("content-type: text/html"), "{head}");
    let policy = head.lines().find(|line| line.starts_with("content-security-policy: ")).unwrap();
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert!(page.trim_end().ends_with("</html>"), "it is cut off");
}

#[tokio::test]
async fn drain_ends_the_server_and_lets_streams_finish() {
    let replica = Replica::start(Access::open()).await;
    let mut stream = replica.engine.submit(replica.request("last", 200, Speculation::Off)).unwrap();
    let reply = replica.client().await.drain(wire::DrainRequest {}).await.unwrap().into_inner();
    assert!(reply.in_flight <= 1, "{reply:?}");
    let refused = || replica.engine.submit(replica.request("late", 3, Speculation::Off)).is_err();
    wait_for("new requests to be refused", refused).await;
    let mut events = 0;
    while let Some(event) = stream.next().await {
        event.unwrap();
        events += 1;
    }
    assert!(events > 2, "the stream was cut after {events} events");
    tokio::time::timeout(PATIENCE, replica.served).await.unwrap().unwrap();
}

#[tokio::test]
async fn the_log_level_changes_while_it_runs() {
    let replica = Replica::start(Access::open()).await;
    let mut client = replica.client().await;
    let mut set = async |filter: &str| {
        let request = wire::SetLogLevelRequest { filter: filter.to_owned() };
        client.set_log_level(request).await.map(|reply| reply.into_inner().previous)
    };
    assert_eq!(set("error,skipstone=debug").await.unwrap(), "warn");
    assert!(tracing::enabled!(target: "skipstone", tracing::Level::DEBUG));
    assert!(!tracing::enabled!(target: "other", tracing::Level::WARN));
    for (filter, why) in
        [(" ", "is empty"), ("skipstone=loud", "is not valid"), ("inof", "no level")]
    {
        let status = set(filter).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{filter:?}: {status:?}");
        assert!(status.message().contains(why), "{filter:?}: {status:?}");
    }
    assert_eq!(
        set("warn").await.unwrap(),
        "error,skipstone=debug",
        "what was refused changed nothing"
    );
    assert!(!tracing::enabled!(target: "skipstone", tracing::Level::DEBUG));
}

#[tokio::test]
async fn a_token_keeps_strangers_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    std::fs::write(&path, "a token of some length").unwrap();
    let replica = Replica::start(Access::from_file(&path).unwrap()).await;
    let mut client = replica.client().await;
    let status = client.drain(wire::DrainRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
    let mut request = Request::new(wire::GetServerRequest {});
    request
        .metadata_mut()
        .insert("authorization", "Bearer a token of some length".parse().unwrap());
    assert!(client.get_server(request).await.is_ok());
    for (path, headers, status) in [
        ("/api/activity", "", "401"),
        ("/api/server", "authorization: Bearer another\r\n", "401"),
        ("/api/activity", "authorization: Bearer a token of some length\r\n", "200"),
        ("/healthz", "", "200"),
        ("/metrics", "", "200"),
    ] {
        let answer = replica.http(&format!("GET {path}"), headers).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path} {headers:?}: {answer}");
    }
    assert!(!replica.served.is_finished(), "a stranger drained it");
}

#[tokio::test]
async fn the_command_line_tells_what_the_service_tells() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    std::fs::write(&path, "a token of some length\n").unwrap();
    let replica = Replica::start(Access::from_file(&path).unwrap()).await;
    let skip_set = SkipSet::new(&[2, 3], &[3], 6).unwrap();
    let _stream = replica.running("watched", fixed(&skip_set, 3)).await;
    let token = ["--token-file", path.to_str().unwrap()];

    let table = status(replica.admin, &token).await;
    let said = String::from_utf8_lossy(&table.stdout);
    assert!(table.status.success(), "{table:?}");
    for part in [
        "tiny (llama, 6 layers, Q8_0)",
        "takes requests; 1 of 8 streams run",
        "watched",
        "request, skips 3 of 12",
    ] {
        assert!(said.contains(part), "{part:?} is not in\n{said}");
    }
    let json = status(replica.admin, &[&token[..], &["--json"]].concat()).await;
    let told: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(told["activity"]["running"][0]["request_id"], "watched");
    assert_eq!(told["server"]["model"]["layers"], 6);

    let nobody = bind().await.local_addr().unwrap();
    for (address, says) in
        [(replica.admin, "--token-file"), (replica.grpc, "metrics.listen"), (nobody, "can't reach")]
    {
        let refused = status(address, &[]).await;
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(
            refused.status.code() == Some(1) && said.contains(says),
            "{says:?} is not in {said}"
        );
    }
}

#[tokio::test]
async fn what_a_browser_can_send_does_not_drain() {
    let replica = Replica::start(Access::open()).await;
    // An empty gRPC message. A page of a stranger can make a browser post it without asking.
    let answer = replica
        .http(
            "POST /skipstone.v1.ControlService/Drain",
            "content-type: text/plain\r\ncontent-length: 5\r\n\r\n\0\0\0\0",
        )
        .await;
    assert!(answer.starts_with("HTTP/1.1 505"), "{answer}");
    assert!(replica.engine.submit(replica.request("goes on", 3, Speculation::Off)).is_ok());
}

#[tokio::test]
async fn reflection_lists_what_the_port_has() {
    let replica = Replica::start(Access::open()).await;
    let channel =
        Channel::from_shared(format!("http://{}", replica.admin)).unwrap().connect().await.unwrap();
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(channel);
    let list = v1::server_reflection_request::MessageRequest::ListServices(String::new());
    let request = v1::ServerReflectionRequest { host: String::new(), message_request: Some(list) };
    let mut replies =
        client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
    let text = format!("{:?}", replies.message().await.unwrap().unwrap());
    assert!(text.contains("skipstone.v1.ControlService"), "{text}");
    assert!(!text.contains("skipstone.v1.GenerationService"), "{text}");
}
