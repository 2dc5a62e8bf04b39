//! Promise: the server ends in order and in bounded time, whatever its peers do.

mod server_fixture;

use std::time::{Duration, Instant};

use server_fixture::{
    Fixture, Script, delta, finished, options, read_all, spec, started, wait_for,
};
use skipstone::engine::FinishReason;
use skipstone::server::wire;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

#[tokio::test]
async fn a_peer_that_says_nothing_does_not_hold_it_up() {
    let mut fixture = Fixture::start().await;
    let mut silent = TcpStream::connect(fixture.address).await.unwrap();
    // The connection is accepted before the server is told to stop: this call came after it on the
    // same listener.
    fixture
        .client()
        .await
        .generate(wire::GenerateRequest { spec: Some(spec(&[1])) })
        .await
        .unwrap();
    fixture.stop();
    let before = Instant::now();
    fixture.ended().await;
    assert!(before.elapsed() < Duration::from_secs(4), "{:?}", before.elapsed());
    assert!(hung_up(&mut silent).await, "the socket is still open");
}

#[tokio::test]
async fn a_peer_that_says_nothing_is_dropped_in_time() {
    let mut options = options();
    options.limits.handshake_timeout = Duration::from_millis(100);
    let fixture = Fixture::with(options).await;
    let mut silent = TcpStream::connect(fixture.address).await.unwrap();
    assert!(hung_up(&mut silent).await, "the socket is still open");
}

#[tokio::test]
async fn running_streams_finish() {
    let mut fixture = Fixture::start().await;
    let end = vec![delta("b", &[(66, false)]), finished(FinishReason::Length, 1)];
    fixture.engine.next(Script::Pause(vec![started()], Duration::from_millis(300), end));
    let request = wire::GenerateStreamRequest { spec: Some(spec(&[1])) };
    let stream = fixture.client().await.generate_stream(request).await.unwrap().into_inner();
    fixture.stop();
    assert_eq!(read_all(stream).await.unwrap().len(), 3);
    assert!(fixture.engine.is_draining());
    fixture.ended().await;
}

#[tokio::test]
async fn a_stream_that_outlasts_the_drain_is_told_so() {
    let mut options = options();
    options.limits.drain = Duration::from_millis(200);
    let mut fixture = Fixture::with(options).await;
    fixture.engine.next(Script::Hang(vec![started()]));
    let request = wire::GenerateStreamRequest { spec: Some(spec(&[1])) };
    let stream = fixture.client().await.generate_stream(request).await.unwrap().into_inner();
    fixture.stop();
    let before = Instant::now();
    let status = read_all(stream).await.unwrap_err();
    assert!(before.elapsed() < Duration::from_secs(4), "{:?}", before.elapsed());
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(status.message().contains("shutting down"), "{status:?}");
    fixture.engine.cancelled(0).await;
    fixture.ended().await;
}

#[tokio::test]
async fn health_and_readiness_turn_first() {
    let mut options = options();
    options.limits.withdrawal_grace = Duration::from_millis(500);
    let mut fixture = Fixture::with(options).await;
    let mut health = HealthClient::new(fixture.channel().await);
    let mut watch =
        health.watch(HealthCheckRequest { service: String::new() }).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    assert!(fixture.readiness.is_ready());

    fixture.stop();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    assert!(!fixture.readiness.is_ready());
    // During the grace requests still count: the load balancer has not noticed yet.
    let request = wire::GenerateRequest { spec: Some(spec(&[1])) };
    fixture.client().await.generate(request).await.unwrap();
    assert!(!fixture.engine.is_draining());
    // Whoever watches the health does not keep the server alive.
    while let Ok(Some(_)) = watch.message().await {}
    let engine = fixture.engine.clone();
    fixture.ended().await;
    wait_for("the drain", || engine.is_draining()).await;
}

#[tokio::test]
async fn new_connections_are_refused_afterwards() {
    let mut fixture = Fixture::start().await;
    let address = fixture.address;
    fixture
        .client()
        .await
        .generate(wire::GenerateRequest { spec: Some(spec(&[1])) })
        .await
        .unwrap();
    fixture.stop();
    fixture.ended().await;
    assert!(TcpStream::connect(address).await.is_err());
}

/// Whether the server closes the connection; it may greet first.
async fn hung_up(stream: &mut TcpStream) -> bool {
    let mut greeting = Vec::new();
    tokio::time::timeout(server_fixture::PATIENCE, stream.read_to_end(&mut greeting)).await.is_ok()
}
