//! Promise: a client that goes away cancels its request at once, also while the engine has nothing
//! to send.

mod server_fixture;

use server_fixture::{Fixture, PATIENCE, Script, spec, started, wait_for};
use skipstone::server::wire;

#[tokio::test]
async fn dropping_a_stream_cancels_the_request() {
    let fixture = Fixture::start().await;
    fixture.engine.next(Script::Hang(vec![started()]));
    let request = wire::GenerateStreamRequest { spec: Some(spec(&[1])) };
    let mut stream = fixture.client().await.generate_stream(request).await.unwrap().into_inner();
    stream.message().await.unwrap();
    assert!(!fixture.engine.is_cancelled(0), "cancelled though the client reads");
    drop(stream);
    fixture.engine.cancelled(0).await;
}

#[tokio::test]
async fn dropping_a_unary_call_cancels_the_request() {
    let fixture = Fixture::start().await;
    fixture.engine.next(Script::Hang(vec![started()]));
    let mut client = fixture.client().await;
    let call = tokio::spawn(async move {
        client.generate(wire::GenerateRequest { spec: Some(spec(&[1])) }).await.is_ok()
    });
    wait_for("the request", || !fixture.engine.requests().is_empty()).await;
    assert!(!fixture.engine.is_cancelled(0), "cancelled though the client waits");
    call.abort();
    fixture.engine.cancelled(0).await;
}

#[tokio::test]
async fn losing_the_connection_cancels_the_request() {
    let fixture = Fixture::start().await;
    fixture.engine.next(Script::Hang(vec![started()]));
    let address = fixture.address;
    // A runtime of its own, because its end closes the client's sockets without a farewell.
    let client = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let url = format!("http://{address}");
            let mut client = wire::generation_service_client::GenerationServiceClient::connect(url)
                .await
                .unwrap();
            let request = wire::GenerateStreamRequest { spec: Some(spec(&[1])) };
            let mut stream = client.generate_stream(request).await.unwrap().into_inner();
            stream.message().await.unwrap();
            std::mem::forget(stream);
        });
    });
    tokio::time::timeout(PATIENCE, tokio::task::spawn_blocking(move || client.join().unwrap()))
        .await
        .unwrap()
        .unwrap();
    fixture.engine.cancelled(0).await;
}
