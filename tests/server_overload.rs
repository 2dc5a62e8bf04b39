//! Promise: a request that finds no place is refused with the advice when to retry, and one that
//! comes to a server that is about to end is sent elsewhere.

mod server_fixture;

use std::time::Duration;

use server_fixture::{Fixture, Script, spec};
use skipstone::engine::{Submit, SubmitError};
use skipstone::server::wire;
use tonic::Code;
use tonic_types::StatusExt;

#[tokio::test]
async fn a_full_queue_says_when_to_retry() {
    let fixture = Fixture::start().await;
    let mut client = fixture.client().await;
    fixture.engine.next(Script::Refuse(SubmitError::QueueFull { waiting: 256 }));
    fixture.engine.next(Script::Refuse(SubmitError::QueueFull { waiting: 256 }));
    let unary =
        client.generate(wire::GenerateRequest { spec: Some(spec(&[1])) }).await.unwrap_err();
    let streamed = client
        .generate_stream(wire::GenerateStreamRequest { spec: Some(spec(&[1])) })
        .await
        .unwrap_err();
    for status in [unary, streamed] {
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        assert!(status.message().contains("256 requests wait"), "{status:?}");
        let details = status.get_error_details();
        assert_eq!(details.retry_info().unwrap().retry_delay, Some(Duration::from_secs(1)));
        let info = details.error_info().unwrap();
        assert_eq!(
            (info.reason.as_str(), info.metadata["waiting"].as_str()),
            ("QUEUE_FULL", "256")
        );
        assert_eq!(status.metadata().get("grpc-retry-pushback-ms").unwrap(), "1000");
    }
}

#[tokio::test]
async fn a_draining_engine_sends_requests_elsewhere() {
    let fixture = Fixture::start().await;
    fixture.engine.drain();
    let request = wire::GenerateRequest { spec: Some(spec(&[1])) };
    let status = fixture.client().await.generate(request).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(status.message().contains("another replica"), "{status:?}");
    assert_eq!(status.get_error_details().error_info().unwrap().reason, "SHUTTING_DOWN");
}
