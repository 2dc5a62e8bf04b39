//! Promise: a traced request shows up at the collector as one span with its phases as children,
//! within the caller's trace and without a word of text; a collector that is away costs no request.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod server_fixture;

use std::collections::HashMap;
use std::net::SocketAddr;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use server_fixture::{Fixture, PATIENCE, Script, delta, finished, options, spec, started};
use skipstone::engine::FinishReason;
use skipstone::server::{ServerOptions, wire};
use skipstone::telemetry::Tracing;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

struct Collector(mpsc::UnboundedSender<ExportTraceServiceRequest>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.send(request.into_inner()).unwrap();
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// A collector on loopback, and what it receives.
async fn collector() -> (SocketAddr, mpsc::UnboundedReceiver<ExportTraceServiceRequest>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, receiver) = mpsc::unbounded_channel();
    let server =
        tonic::transport::Server::builder().add_service(TraceServiceServer::new(Collector(sender)));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    (address, receiver)
}

/// All spans that were received once tracing has ended, by name.
async fn spans(
    tracing: Tracing,
    mut received: mpsc::UnboundedReceiver<ExportTraceServiceRequest>,
) -> HashMap<String, Span> {
    tokio::task::spawn_blocking(move || tracing.finish()).await.unwrap();
    let mut spans = HashMap::new();
    while let Ok(request) = received.try_recv() {
        let found = request.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
        spans.extend(found.flat_map(|scope| scope.spans).map(|span| (span.name.clone(), span)));
    }
    spans
}

fn attributes(span: &Span) -> HashMap<&str, Value> {
    let values = span.attributes.iter();
    values.map(|pair| (pair.key.as_str(), pair.value.clone().unwrap().value.unwrap())).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn script() -> Script {
    let deltas = [delta("secret", &[(97, false)]), delta("secret", &[(98, true), (99, false)])];
    let events = std::iter::once(started()).chain(deltas);
    Script::Play(events.chain([finished(FinishReason::EndOfSequence, 3)]).collect())
}

fn traced<T>(message: T, flags: &str) -> Request<T> {
    let mut request = Request::new(message);
    let parent = format!("00-{TRACE}-{CALLER}-{flags}");
    request.metadata_mut().insert("traceparent", parent.parse().unwrap());
    request.metadata_mut().insert("x-request-id", "mine".parse().unwrap());
    request
}

async fn fixture_with(tracing: &Tracing) -> Fixture {
    Fixture::with(ServerOptions { tracing: tracing.clone(), ..options() }).await
}

#[tokio::test]
async fn a_call_is_a_span_of_the_callers_trace_with_its_phases_as_children() {
    let (address, received) = collector().await;
    let tracing = Tracing::to_collector(&format!("http://{address}"), 1.0).unwrap();
    let mut fixture = fixture_with(&tracing).await;
    fixture.engine.next(script());
    let request = traced(wire::GenerateRequest { spec: Some(spec(&[1, 2])) }, "01");
    fixture.client().await.generate(request).await.unwrap();
    fixture.stop();
    fixture.ended().await;

    let spans = spans(tracing, received).await;
    let call = &spans["Generate"];
    assert_eq!(
        (hex(&call.trace_id), hex(&call.parent_span_id)),
        (TRACE.to_owned(), CALLER.to_owned())
    );
    let found = attributes(call);
    for (key, value) in [
        ("skipstone.request_id", Value::StringValue("mine".to_owned())),
        ("gen_ai.operation.name", Value::StringValue("text_completion".to_owned())),
        ("gen_ai.request.model", Value::StringValue(server_fixture::MODEL.to_owned())),
        ("gen_ai.request.max_tokens", Value::IntValue(3)),
        ("gen_ai.usage.input_tokens", Value::IntValue(2)),
        ("gen_ai.usage.output_tokens", Value::IntValue(3)),
        ("rpc.response.status_code", Value::StringValue("OK".to_owned())),
    ] {
        assert_eq!(found.get(key), Some(&value), "{key} among {found:?}");
    }
    let mut before = call.start_time_unix_nano;
    for phase in ["queue", "prefill", "decode"] {
        let span =
            spans.get(phase).unwrap_or_else(|| panic!("no {phase} among {:?}", spans.keys()));
        assert_eq!(span.parent_span_id, call.span_id, "{phase}");
        assert!(
            before <= span.start_time_unix_nano
                && span.start_time_unix_nano <= span.end_time_unix_nano,
            "{phase}"
        );
        before = span.end_time_unix_nano;
    }
    assert!(before <= call.end_time_unix_nano, "a phase outlasts its call");
    let decode = attributes(&spans["decode"]);
    for (key, value) in [("cycles", 2), ("tokens", 3), ("draft_tokens", 1), ("accepted_tokens", 1)]
    {
        assert_eq!(
            decode.get(format!("skipstone.{key}").as_str()),
            Some(&Value::IntValue(value)),
            "{key}: {decode:?}"
        );
    }
    assert!(!format!("{spans:?}").contains("secret"), "a span holds text: {spans:?}");
    assert_eq!(spans.len(), 4, "{:?}", spans.keys());
}

#[tokio::test]
async fn refusals_and_http_are_traced_and_what_is_not_sampled_is_not() {
    let (address, received) = collector().await;
    let tracing = Tracing::to_collector(&format!("http://{address}"), 1.0).unwrap();
    let mut fixture = fixture_with(&tracing).await;
    let mut client = fixture.client().await;
    client.generate(traced(wire::GenerateRequest { spec: Some(spec(&[1])) }, "00")).await.unwrap();
    client.generate_stream(wire::GenerateStreamRequest { spec: None }).await.unwrap_err();
    let mut http = TcpStream::connect(fixture.openai).await.unwrap();
    let request = format!("GET /v1/models HTTP/1.0\r\ntraceparent: 00-{TRACE}-{CALLER}-01\r\n\r\n");
    http.write_all(request.as_bytes()).await.unwrap();
    let mut reply = String::new();
    http.read_to_string(&mut reply).await.unwrap();
    fixture.stop();
    drop(client);
    fixture.ended().await;

    let spans = spans(tracing, received).await;
    assert!(!spans.contains_key("Generate"), "the caller said not to: {:?}", spans.keys());
    let refused = attributes(&spans["GenerateStream"]);
    assert_eq!(refused["error.type"], Value::StringValue("INVALID_ARGUMENT".to_owned()));
    assert_eq!(hex(&spans["Models"].parent_span_id), CALLER);
}

#[tokio::test]
async fn a_collector_that_is_away_costs_no_request() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let tracing = Tracing::to_collector(&format!("http://{nobody}"), 1.0).unwrap();
    let mut fixture = fixture_with(&tracing).await;
    let mut client = fixture.client().await;
    for _ in 0..50 {
        client.generate(wire::GenerateRequest { spec: Some(spec(&[1])) }).await.unwrap();
    }
    fixture.stop();
    drop(client);
    fixture.ended().await;
    let end = tokio::task::spawn_blocking(move || tracing.finish());
    tokio::time::timeout(PATIENCE, end).await.unwrap().unwrap();
}
