//! Promise: the exit status of `skipstone healthcheck` says whether a server serves.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests may assert by panicking, as tests do

use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Output};

use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic_health::ServingStatus;

async fn healthcheck(address: SocketAddr, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_skipstone"));
    command.env_clear().arg("healthcheck").arg(address.to_string()).args(arguments);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

#[tokio::test]
async fn the_status_follows_the_server() {
    let (reporter, service) = tonic_health::server::health_reporter();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(
        Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener)),
    );

    for (status, code, said) in [
        (ServingStatus::Serving, 0, ""),
        (ServingStatus::NotServing, 1, "NOT_SERVING"),
        (ServingStatus::Serving, 0, ""),
    ] {
        reporter.set_service_status("", status).await;
        let output = healthcheck(address, &[]).await;
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{status}: {stderr}");
        assert!(stderr.contains(said), "{status}: {stderr}");
    }
    let unknown = healthcheck(address, &["--service", "nobody.v1.Nothing"]).await;
    assert_eq!(unknown.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&unknown.stderr).contains("knows no service \"nobody.v1.Nothing\"")
    );
}

#[tokio::test]
async fn nobody_there_and_a_silent_peer_are_failures() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // Accepts by its backlog and never answers.
    let silent = healthcheck(address, &["--timeout", "1"]).await;
    assert_eq!(silent.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&silent.stderr).contains("did not answer within 1 s"),
        "{silent:?}"
    );

    drop(listener);
    let gone = healthcheck(address, &[]).await;
    assert_eq!(gone.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&gone.stderr).contains("is the server running?"), "{gone:?}");
}
