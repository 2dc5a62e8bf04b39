//! Promise: the server says by standard services whether it is healthy and what it offers.

#![allow(clippy::unwrap_used, reason = "helpers of tests may assert too")]

mod server_fixture;

use server_fixture::{Fixture, options};
use tokio_stream::StreamExt;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::{v1, v1alpha};

#[tokio::test]
async fn health_knows_the_server_and_the_service() {
    let fixture = Fixture::start().await;
    let mut client = HealthClient::new(fixture.channel().await);
    for service in ["", "skipstone.v1.GenerationService"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let response = client.check(request).await.unwrap().into_inner();
        assert_eq!(response.status(), ServingStatus::Serving, "{service:?}");
    }
    let unknown = HealthCheckRequest { service: "skipstone.v1.Nothing".to_owned() };
    assert_eq!(client.check(unknown).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn reflection_lists_the_services() {
    let fixture = Fixture::start().await;
    let mut client =
        v1::server_reflection_client::ServerReflectionClient::new(fixture.channel().await);
    let list = v1::server_reflection_request::MessageRequest::ListServices(String::new());
    let request = v1::ServerReflectionRequest { host: String::new(), message_request: Some(list) };
    let replies =
        client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
    let reply = first(replies).await.message_response;
    let Some(v1::server_reflection_response::MessageResponse::ListServicesResponse(services)) =
        reply
    else {
        panic!("{reply:?}");
    };
    let names: Vec<_> = services.service.iter().map(|service| service.name.as_str()).collect();
    for name in [
        "skipstone.v1.GenerationService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
    ] {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
    assert!(!names.contains(&"skipstone.v1.ControlService"), "another port's: {names:?}");
}

#[tokio::test]
async fn reflection_answers_old_clients() {
    let fixture = Fixture::start().await;
    let mut client =
        v1alpha::server_reflection_client::ServerReflectionClient::new(fixture.channel().await);
    let symbol = "skipstone.v1.GenerationSpec".to_owned();
    let ask = v1alpha::server_reflection_request::MessageRequest::FileContainingSymbol(symbol);
    let request =
        v1alpha::ServerReflectionRequest { host: String::new(), message_request: Some(ask) };
    let replies =
        client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
    let reply = first(replies).await.message_response;
    let Some(v1alpha::server_reflection_response::MessageResponse::FileDescriptorResponse(files)) =
        reply
    else {
        panic!("{reply:?}");
    };
    assert_eq!(files.file_descriptor_proto.len(), 1);
}

#[tokio::test]
async fn reflection_can_be_off() {
    let mut options = options();
    options.reflection = false;
    let fixture = Fixture::with(options).await;
    let mut client =
        v1::server_reflection_client::ServerReflectionClient::new(fixture.channel().await);
    let request = v1::ServerReflectionRequest { host: String::new(), message_request: None };
    let status = client.server_reflection_info(tokio_stream::once(request)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented, "{status:?}");
}

async fn first<T>(mut replies: tonic::Streaming<T>) -> T {
    replies.next().await.unwrap().unwrap()
}
