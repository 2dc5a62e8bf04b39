//! Promise: a call's deadline reaches the engine, within the server's limits, and bounds a unary
//! call by itself.

mod server_fixture;

use std::time::{Duration, Instant};

use server_fixture::{Fixture, Script, options, read_all, spec, started};
use skipstone::engine::GenerationError;
use skipstone::server::wire;
use tonic::{Code, Request};

#[tokio::test]
async fn the_clients_deadline_reaches_the_engine() {
    let fixture = Fixture::start().await;
    let mut request = Request::new(wire::GenerateStreamRequest { spec: Some(spec(&[1])) });
    request.set_timeout(Duration::from_secs(300));
    let before = Instant::now();
    let response = fixture.client().await.generate_stream(request).await.unwrap();
    read_all(response.into_inner()).await.unwrap();
    let left = fixture.engine.requests()[0].deadline.unwrap() - before;
    assert!((Duration::from_secs(300)..Duration::from_secs(330)).contains(&left), "{left:?}");
}

#[tokio::test]
async fn the_servers_limit_cuts_it() {
    let mut options = options();
    options.limits.max_deadline = Some(Duration::from_secs(60));
    let fixture = Fixture::with(options).await;
    let mut request = Request::new(wire::GenerateRequest { spec: Some(spec(&[1])) });
    request.set_timeout(Duration::from_secs(300));
    let before = Instant::now();
    fixture.client().await.generate(request).await.unwrap();
    let left = fixture.engine.requests()[0].deadline.unwrap() - before;
    assert!((Duration::from_secs(60)..Duration::from_secs(90)).contains(&left), "{left:?}");
}

#[tokio::test]
async fn a_unary_call_ends_at_its_deadline_even_if_the_engine_hangs() {
    let mut options = options();
    options.limits.default_deadline = Some(Duration::from_millis(200));
    let fixture = Fixture::with(options).await;
    fixture.engine.next(Script::Hang(vec![started()]));
    let request = wire::GenerateRequest { spec: Some(spec(&[1])) };
    let status = fixture.client().await.generate(request).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    assert!(status.message().contains("0 of 3 tokens"), "{status:?}");
    fixture.engine.cancelled(0).await;
}

#[tokio::test]
async fn the_engines_verdict_ends_a_stream() {
    let fixture = Fixture::start().await;
    let error = GenerationError::DeadlineExceeded { committed: 2, wanted: 3 };
    fixture.engine.next(Script::Play(vec![started(), Err(error)]));
    let request = wire::GenerateStreamRequest { spec: Some(spec(&[1])) };
    let response = fixture.client().await.generate_stream(request).await.unwrap();
    let status = read_all(response.into_inner()).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    assert!(status.message().contains("2 of 3 tokens"), "{status:?}");
}

#[tokio::test]
async fn a_deadline_that_can_not_be_read_is_refused() {
    let fixture = Fixture::start().await;
    let mut request = Request::new(wire::GenerateRequest { spec: Some(spec(&[1])) });
    request.metadata_mut().insert("grpc-timeout", "soon".parse().unwrap());
    let status = fixture.client().await.generate(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert!(status.message().contains("\"soon\""), "{status:?}");
}
