//! Promise: the page shows every metric of the catalogue, described, with buckets, and what calls
//! did.
//!
//! One test: the recorder belongs to the process.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests may assert too")]

mod server_fixture;

use std::net::SocketAddr;
use std::time::Duration;

use server_fixture::{Fixture, PATIENCE, Script, short, spec, started};
use skipstone::drafting::SkipSet;
use skipstone::server::wire;
use skipstone::telemetry::catalogue::{ALL, Kind};
use skipstone::telemetry::record::{self, BuildInfo, DraftCycle, DraftSource, Phase};
use skipstone::telemetry::{Readiness, install, serve_admin};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tonic::Request;

#[tokio::test]
async fn the_page_agrees_with_the_catalogue() {
    let exporter = install().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let readiness = Readiness::default();
    let others = axum::Router::new();
    tokio::spawn(serve_admin(
        listener,
        exporter,
        readiness.clone(),
        others,
        std::future::pending(),
    ));

    let page = get(address, "/metrics").await;
    assert!(
        page.contains("\nskipstone_requests_running 0\n"),
        "the page shows zeros before the first request: {page}"
    );
    record_everything().await;
    let page = get(address, "/metrics").await;
    assert!(page.starts_with("HTTP/1.1 200"), "{page}");
    assert!(page.contains("content-type: text/plain; version=0.0.4"), "{page}");
    let mut missing = Vec::new();
    for metric in ALL {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram(_) => "histogram",
        };
        let name = metric.name;
        let lines = [format!("# HELP {name} {}", metric.help), format!("# TYPE {name} {kind}")];
        if let Kind::Histogram(buckets) = metric.kind {
            let prefix = format!("{name}_bucket{{");
            let bounds = buckets.iter().map(|bound| format!("le=\"{bound}\""));
            missing.extend(bounds.filter(|bound| {
                !page.lines().any(|line| line.starts_with(&prefix) && line.contains(bound))
            }));
        }
        for label in metric.labels {
            let labelled = page
                .lines()
                .any(|line| line.starts_with(name) && line.contains(&format!("{label}=\"")));
            assert!(labelled, "{name} has no label {label}");
        }
        missing.extend(lines.into_iter().filter(|line| !page.contains(line)));
    }
    assert!(missing.is_empty(), "{missing:#?} in {page}");
    let known = |name: &str| ALL.iter().any(|metric| metric.name == name);
    let strangers: Vec<_> = page
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .filter(|name| !known(name))
        .collect();
    assert!(strangers.is_empty(), "{strangers:?} are not in the catalogue");
    for line in [
        "skipstone_requests_total{method=\"Generate\",code=\"OUT_OF_RANGE\"} 1",
        "skipstone_requests_total{method=\"Generate\",code=\"OK\"} 1",
        "skipstone_requests_total{method=\"GenerateStream\",code=\"INVALID_ARGUMENT\"} 1",
        "skipstone_spec_decode_verify_seconds_total 0.5",
        "skipstone_time_to_first_token_seconds_count 1",
    ] {
        assert!(page.lines().any(|found| found == line), "{line} is not in {page}");
    }
    clients_leave(address).await;
    if let Ok(path) = std::env::var("SKIPSTONE_METRICS_PAGE") {
        // For `promtool check metrics < FILE`.
        std::fs::write(path, page.split_once("\r\n\r\n").unwrap().1).unwrap();
    }

    assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 503"));
    readiness.set(true);
    assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
    assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200"));
    assert!(install().is_err(), "a second recorder would silence the first");
}

async fn record_everything() {
    let fixture = Fixture::start().await;
    fixture.engine.next(short());
    let mut client = fixture.client().await;
    client.generate(wire::GenerateRequest { spec: Some(spec(&[1])) }).await.unwrap();
    client.generate_stream(wire::GenerateStreamRequest { spec: None }).await.unwrap_err();
    let endless = spec(&vec![1; 2 * 1024 * 1024]);
    client.generate(wire::GenerateRequest { spec: Some(endless) }).await.unwrap_err();

    record::build_info(&BuildInfo { model: "tiny", instruction_set: "none" });
    let source = DraftSource::LayerSkip;
    record::draft_cycle("static", &DraftCycle { source, drafted: 4, accepted: 2 });
    record::draft_chain(4, 2);
    record::sublayers_skipped(&SkipSet::new(&[2], &[3], 8).unwrap(), 4);
    record::phase_seconds(Phase::Verify, 0.5);
    record::plain_step_seconds(0.01);
    record::time_to_first_token(0.1);
    record::inter_token(0.02);
    record::time_per_output_token(0.01);
    record::queue_time(0.0);
    record::request_latency(1.0);
    record::request_finished("length");
    record::request_speedup("static", 1.2);
    record::request_acceptance("static", 0.5);
    record::tokens(10, 20);
    record::running(1);
    record::waiting(2);
    record::kv_usage(0.25);
}

/// A client that leaves counts by what it sees: its own choice, or its deadline, at which gRPC
/// libraries leave by themselves.
async fn clients_leave(address: SocketAddr) {
    let fixture = Fixture::start().await;
    for (timeout, code) in [("300S", "CANCELLED"), ("20m", "DEADLINE_EXCEEDED")] {
        fixture.engine.next(Script::Hang(vec![started()]));
        let mut request = Request::new(wire::GenerateStreamRequest { spec: Some(spec(&[1])) });
        request.metadata_mut().insert("grpc-timeout", timeout.parse().unwrap());
        // On a slow machine the short one has no answer at all.
        drop(fixture.client().await.generate_stream(request).await);
        let line =
            format!("\nskipstone_requests_total{{method=\"GenerateStream\",code=\"{code}\"}} 1\n");
        let seen = async {
            while !get(address, "/metrics").await.contains(&line) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, seen)
            .await
            .unwrap_or_else(|_| panic!("waited in vain for {line}"));
    }
}

/// The reply to one request, headers included.
async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    reply
}
