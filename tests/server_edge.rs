//! Promise: one connection can neither hold more calls nor send larger headers than the limits say,
//! and a client that tries does not harm the others.

mod server_fixture;

use std::time::Duration;

use server_fixture::{Fixture, Script, options, spec, started, wait_for};
use skipstone::server::wire;
use tonic::Request;

#[tokio::test]
async fn a_connection_holds_no_more_calls_than_the_limit() {
    let mut options = options();
    options.limits.max_streams_per_connection = 2;
    let fixture = Fixture::with(options).await;
    let client = fixture.client().await;
    let mut calls = Vec::new();
    for _ in 0..2 {
        fixture.engine.next(Script::Hang(vec![started()]));
    }
    for _ in 0..3 {
        let mut client = client.clone();
        let request = wire::GenerateRequest { spec: Some(spec(&[1])) };
        calls.push(tokio::spawn(async move { client.generate(request).await.is_ok() }));
    }
    wait_for("two requests", || fixture.engine.requests().len() == 2).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(fixture.engine.requests().len(), 2, "a third call was let in");
    for call in calls {
        call.abort();
    }
    fixture.engine.cancelled(0).await;
    fixture.engine.cancelled(1).await;
    // The places are free again, on the same connection.
    let mut client = client;
    client.generate(wire::GenerateRequest { spec: Some(spec(&[1])) }).await.unwrap();
}

#[tokio::test]
async fn headers_above_the_limit_are_refused() {
    let fixture = Fixture::start().await;
    let mut client = fixture.client().await;
    for (bytes, accepted) in [(8 * 1024, true), (32 * 1024, false)] {
        let mut request = Request::new(wire::GenerateRequest { spec: Some(spec(&[1])) });
        request.metadata_mut().insert("x-filler", "x".repeat(bytes).parse().unwrap());
        let result = client.generate(request).await;
        assert_eq!(result.is_ok(), accepted, "{bytes} bytes: {result:?}");
    }
    assert_eq!(fixture.engine.requests().len(), 1);
    client.generate(wire::GenerateRequest { spec: Some(spec(&[1])) }).await.unwrap();
}
