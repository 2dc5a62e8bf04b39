//! Promise: a stream starts, brings one message for each step of the engine, and finishes; the
//! unary call brings the same in one piece.

mod server_fixture;

use server_fixture::{Fixture, MODEL, Script, delta, finished, read_all, short, spec, started};
use skipstone::engine::{CommittedToken, Delta, Event, FinishReason};
use skipstone::model::TokenId;
use skipstone::server::wire;
use skipstone::server::wire::finish_info::Matched;
use skipstone::server::wire::generate_stream_response::Event as WireEvent;
use tonic::Request;

fn script() -> Script {
    Script::Play(vec![
        started(),
        delta("ab", &[(65, true), (66, true)]),
        delta("", &[(67, false)]),
        delta("c!", &[(68, true), (69, false)]),
        finished(FinishReason::StopString("!".into()), 5),
    ])
}

#[tokio::test]
async fn one_message_for_each_step() {
    let fixture = Fixture::start().await;
    fixture.engine.next(script());
    let request = wire::GenerateStreamRequest { spec: Some(spec(&[1, 2])) };
    let response = fixture.client().await.generate_stream(request).await.unwrap();
    let events = read_all(response.into_inner()).await.unwrap();
    let [WireEvent::Started(started), deltas @ .., WireEvent::Finished(finished)] = &events[..]
    else {
        panic!("{events:#?}");
    };
    assert_eq!((started.model.as_str(), started.prompt_tokens), (MODEL, 2));
    let steps: Vec<_> = deltas
        .iter()
        .map(|event| match event {
            WireEvent::Delta(delta) => (delta.text.as_str(), delta.drafted, delta.tokens.len()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        steps,
        [("ab", 2, 0), ("", 0, 0), ("c!", 1, 0)],
        "tokens are there only if asked for"
    );
    let finish = finished.finish.as_ref().unwrap();
    assert_eq!(finish.reason(), wire::FinishReason::Stop);
    assert_eq!(finish.matched, Some(Matched::StopString("!".into())));
    assert_eq!(finished.usage.unwrap().completion_tokens, 5);
}

#[tokio::test]
async fn the_unary_call_brings_it_in_one_piece() {
    let fixture = Fixture::start().await;
    fixture.engine.next(script());
    let mut spec = spec(&[1, 2]);
    spec.output = Some(wire::OutputOptions { tokens: true, ..Default::default() });
    let response =
        fixture.client().await.generate(wire::GenerateRequest { spec: Some(spec) }).await.unwrap();
    let response = response.into_inner();
    assert_eq!(response.text, "abc!");
    let origins: Vec<_> = response.tokens.iter().map(|token| (token.id, token.origin())).collect();
    let (draft, target) = (wire::TokenOrigin::Draft, wire::TokenOrigin::Target);
    assert_eq!(origins, [(65, draft), (66, draft), (67, target), (68, draft), (69, target)]);
}

#[tokio::test]
async fn log_probabilities_bring_the_tokens_with_them() {
    let fixture = Fixture::start().await;
    let token = CommittedToken {
        id: TokenId(65),
        logprob: Some(-0.5),
        top_logprobs: vec![(TokenId(65), -0.5), (TokenId(66), -1.5)],
        drafted: false,
    };
    let delta = Delta { text: "a".into(), tokens: vec![token], ..Delta::default() };
    let messages = vec![started(), Ok(Event::Delta(delta)), finished(FinishReason::Length, 1)];
    fixture.engine.next(Script::Play(messages));
    let mut spec = spec(&[1]);
    spec.output = Some(wire::OutputOptions { top_logprobs: 2, ..Default::default() });
    let response =
        fixture.client().await.generate(wire::GenerateRequest { spec: Some(spec) }).await.unwrap();
    let tokens = response.into_inner().tokens;
    assert_eq!((tokens.len(), tokens[0].logprob), (1, Some(-0.5)));
    let alternatives: Vec<_> =
        tokens[0].top_logprobs.iter().map(|other| (other.id, other.logprob)).collect();
    assert_eq!(alternatives, [(65, -0.5), (66, -1.5)]);
    let asked = fixture.engine.requests()[0].output;
    assert!(asked.tokens && asked.logprobs && asked.top_logprobs == 2, "{asked:?}");
}

#[tokio::test]
async fn the_reply_names_the_request() {
    let fixture = Fixture::start().await;
    let mut client = fixture.client().await;
    let mut request = Request::new(wire::GenerateRequest { spec: Some(spec(&[1])) });
    request.metadata_mut().insert("x-request-id", "edge-7".parse().unwrap());
    let response = client.generate(request).await.unwrap();
    assert_eq!(response.metadata().get("x-request-id").unwrap(), "edge-7");
    assert_eq!(response.into_inner().request_id, "edge-7");
    assert_eq!(fixture.engine.requests()[0].id, "edge-7");

    let mut request = Request::new(wire::GenerateRequest { spec: None });
    request.metadata_mut().insert("x-request-id", "edge-8".parse().unwrap());
    let status = client.generate(request).await.unwrap_err();
    assert_eq!(status.metadata().get("x-request-id").unwrap(), "edge-8", "errors name it too");

    let response = client
        .generate_stream(wire::GenerateStreamRequest { spec: Some(spec(&[1])) })
        .await
        .unwrap();
    let made = response.metadata().get("x-request-id").unwrap().to_str().unwrap().to_owned();
    let events = read_all(response.into_inner()).await.unwrap();
    assert!(
        matches!(&events[0], WireEvent::Started(started) if started.request_id == made),
        "{made} {events:?}"
    );
}

#[tokio::test]
async fn the_reply_names_the_seed() {
    let fixture = Fixture::start().await;
    let mut client = fixture.client().await;
    let mut seeds = Vec::new();
    for seed in [Some(7), Some(0), None, None] {
        let mut spec = spec(&[1]);
        spec.sampling = Some(wire::SamplingParams { seed, ..Default::default() });
        let response = client.generate(wire::GenerateRequest { spec: Some(spec) }).await.unwrap();
        seeds.push(response.into_inner().seed);
    }
    let used: Vec<_> =
        fixture.engine.requests().iter().map(|request| request.sampling.settings().seed).collect();
    assert_eq!(seeds, used);
    assert_eq!(seeds[..2], [7, 0]);
    assert_ne!(seeds[2], seeds[3], "an unset seed is random");
}

#[tokio::test]
async fn the_end_says_why_nothing_was_drafted() {
    use wire::{SpeculationMode as Mode, SpeculationOffReason as Reason};
    for (server, mode, reason) in [
        (true, Mode::Off, Reason::Requested),
        (true, Mode::Unspecified, Reason::NotWorthwhile),
        (false, Mode::Unspecified, Reason::ServerDefault),
        (false, Mode::Adaptive, Reason::NotWorthwhile),
    ] {
        let mut options = server_fixture::options();
        if !server {
            options.default_speculation = skipstone::engine::Speculation::Off;
        }
        let fixture = Fixture::with(options).await;
        fixture.engine.next(short());
        let mut spec = spec(&[1]);
        spec.speculation =
            Some(wire::SpeculationParams { mode: mode.into(), ..Default::default() });
        let response = fixture
            .client()
            .await
            .generate(wire::GenerateRequest { spec: Some(spec) })
            .await
            .unwrap();
        assert_eq!(
            response.into_inner().speculation.unwrap().off_reason(),
            reason,
            "{server} {mode:?}"
        );
    }
}

#[tokio::test]
async fn a_stream_that_the_engine_lets_go_is_an_error() {
    let fixture = Fixture::start().await;
    fixture.engine.next(Script::Play(vec![started(), delta("a", &[(65, false)])]));
    let request = wire::GenerateStreamRequest { spec: Some(spec(&[1])) };
    let response = fixture.client().await.generate_stream(request).await.unwrap();
    let status = read_all(response.into_inner()).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Internal, "{status:?}");
}

#[tokio::test]
async fn tokenize_counts_text_and_chat() {
    let fixture = Fixture::start().await;
    let mut client = fixture.client().await;
    let message = wire::ChatMessage { role: wire::Role::User.into(), content: "hello".into() };
    for input in [
        wire::tokenize_request::Input::Text("hello".into()),
        wire::tokenize_request::Input::Chat(wire::ChatInput {
            messages: vec![message],
            add_generation_prompt: None,
        }),
    ] {
        let request = wire::TokenizeRequest { input: Some(input), ..Default::default() };
        let response = client.tokenize(request).await.unwrap().into_inner();
        assert_eq!(response.token_count as usize, response.token_ids.len());
        assert!(response.token_count >= 5, "{response:?}");
        assert_eq!(response.context_length as usize, server_fixture::CONTEXT);
    }
    let status = client.tokenize(wire::TokenizeRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status:?}");
}
