//! Promise: the OpenAI-compatible interface speaks of the same requests as gRPC does, in that
//! interface's words, and a client that goes away frees its place.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod server_fixture;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use server_fixture::{
    CONTEXT, Fixture, MODEL, PATIENCE, Script, delta, finished, options, started, wait_for,
};
use skipstone::engine::{
    CommittedToken, Delta, Event, FinishReason, GenerationError, Speculation, StreamMessage,
    SubmitError,
};
use skipstone::model::TokenId;
use skipstone::server::{Limits, ServerOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";
const JSON: &str = "content-type: application/json\r\n";

/// A response, with the names of its headers in lower case.
#[derive(Debug)]
struct Reply {
    status: u16,
    headers: HashMap<String, String>,
    body: String,
}

/// Sends a request; HTTP/1.0, so that the body comes without chunks and the connection ends with
/// it.
async fn send(address: SocketAddr, line: &str, headers: &str, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let length = body.len();
    let request = format!("{line} HTTP/1.0\r\n{headers}content-length: {length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

async fn read(mut stream: TcpStream) -> Reply {
    let mut text = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut text)).await.unwrap().unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines.map(|line| line.split_once(": ").unwrap());
    let headers =
        headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
    Reply { status, headers, body: body.to_owned() }
}

async fn post(fixture: &Fixture, path: &str, body: &Value) -> Reply {
    read(send(fixture.openai, &format!("POST {path}"), JSON, &body.to_string()).await).await
}

// === impl Reply ===

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Events that a stream sent, its end left out.
    fn events(&self) -> Vec<Value> {
        let data: Vec<&str> =
            self.body.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
        assert_eq!(data.last(), Some(&"[DONE]"), "{self:?}");
        data[..data.len() - 1].iter().map(|data| serde_json::from_str(data).unwrap()).collect()
    }
}

fn chat(fields: &Value) -> Value {
    let mut body = json!({"model": MODEL, "messages": [{"role": "user", "content": "a"}]});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    body
}

fn hello() -> Script {
    let tokens =
        vec![started(), delta("he", &[(104, false), (101, false)]), delta("y", &[(121, true)])];
    Script::Play(tokens.into_iter().chain([finished(FinishReason::EndOfSequence, 4)]).collect())
}

fn with_logprob() -> StreamMessage {
    let token = CommittedToken {
        id: TokenId(0xC3),
        logprob: Some(-0.5),
        top_logprobs: vec![(TokenId(0xC3), -0.5), (TokenId(97), -1.5)],
        drafted: false,
    };
    Ok(Event::Delta(Delta { tokens: vec![token], ..Delta::default() }))
}

#[tokio::test]
async fn a_chat_is_answered_whole_or_in_chunks() {
    let fixture = Fixture::start().await;
    fixture.engine.next(hello());
    let reply = post(&fixture, CHAT, &chat(&json!({"max_tokens": 9, "seed": 3}))).await;
    let whole = reply.json();
    assert_eq!(
        (reply.status, &whole["object"], &whole["model"]),
        (200, &json!("chat.completion"), &json!(MODEL))
    );
    assert_eq!(whole["choices"][0]["message"]["content"], "hey");
    assert_eq!(whole["choices"][0]["finish_reason"], "stop");
    assert_eq!(
        whole["usage"],
        json!({"prompt_tokens": 2, "completion_tokens": 4, "total_tokens": 6})
    );
    assert_eq!(whole["skipstone"]["seed"], 3);
    assert_eq!(whole["skipstone"]["finish_reason"], "end_of_sequence");
    assert_eq!(whole["skipstone"]["off_reason"], "not_worthwhile");
    assert_eq!(whole["id"], format!("chatcmpl-{}", reply.headers["x-request-id"]));

    fixture.engine.next(hello());
    let options = json!({"stream": true, "stream_options": {"include_usage": true}});
    let reply = post(&fixture, CHAT, &chat(&options)).await;
    assert!(reply.headers["content-type"].starts_with("text/event-stream"), "{reply:?}");
    let events = reply.events();
    let said: String = events
        .iter()
        .filter_map(|event| event["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(said, "hey");
    assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
    let [.., last, counts] = &events[..] else { panic!("{events:?}") };
    assert_eq!(
        (&last["choices"][0]["finish_reason"], &last["usage"]),
        (&json!("stop"), &Value::Null)
    );
    assert_eq!(last["skipstone"]["finish_reason"], "end_of_sequence");
    assert_eq!((&counts["choices"], &counts["usage"]["total_tokens"]), (&json!([]), &json!(6)));
    assert!(events.iter().all(|event| event["object"] == "chat.completion.chunk"), "{events:?}");

    fixture.engine.next(hello());
    let events = post(&fixture, CHAT, &chat(&json!({"stream": true}))).await.events();
    assert!(
        events.iter().all(|event| event.get("usage").is_none()),
        "counts nobody asked for: {events:?}"
    );
}

#[tokio::test]
async fn a_completion_is_answered_whole_or_in_chunks() {
    let fixture = Fixture::start().await;
    let script = || {
        Script::Play(vec![
            started(),
            with_logprob(),
            with_logprob(),
            finished(FinishReason::Length, 2),
        ])
    };
    let wanted = json!({
        "tokens": ["\u{FFFD}", "\u{FFFD}"], "token_logprobs": [-0.5, -0.5], "text_offset": [0, 1],
        "top_logprobs": [{"\u{FFFD}": -0.5, "a": -1.5}, {"\u{FFFD}": -0.5, "a": -1.5}],
    });
    fixture.engine.next(script());
    let whole = post(&fixture, COMPLETIONS, &json!({"prompt": [1, 2], "logprobs": 2})).await.json();
    assert_eq!(whole["object"], "text_completion");
    assert_eq!(whole["choices"][0]["logprobs"], wanted);
    assert_eq!(
        (&whole["choices"][0]["text"], &whole["choices"][0]["finish_reason"]),
        (&json!(""), &json!("length"))
    );

    fixture.engine.next(script());
    let body = json!({"prompt": [1, 2], "logprobs": 2, "stream": true});
    let events = post(&fixture, COMPLETIONS, &body).await.events();
    let offsets: Vec<_> =
        events[..2].iter().map(|event| &event["choices"][0]["logprobs"]["text_offset"]).collect();
    assert_eq!(offsets, [&json!([0]), &json!([1])], "{events:?}");

    fixture.engine.next(script());
    let body = chat(&json!({"logprobs": true, "top_logprobs": 2}));
    let token =
        post(&fixture, CHAT, &body).await.json()["choices"][0]["logprobs"]["content"][0].clone();
    assert_eq!(
        (&token["bytes"], &token["top_logprobs"][1]["token"]),
        (&json!([0xC3]), &json!("a"))
    );
}

#[tokio::test]
async fn what_is_asked_for_reaches_the_engine() {
    let fixture = Fixture::start().await;
    let body = chat(&json!({
        "temperature": 0.5, "top_p": 0.25, "presence_penalty": 1.5, "frequency_penalty": -1.5, "stop": ["x", "y"],
        "logit_bias": {"65": 2}, "seed": 11, "max_completion_tokens": 5, "skipstone": {"mode": "off"},
        "some_field_of_the_future": {"a": 1},
    }));
    assert_eq!(post(&fixture, CHAT, &body).await.status, 200);
    let request = fixture.engine.requests().remove(0);
    let sampling = request.sampling.settings();
    assert_eq!((sampling.temperature, sampling.top_p, sampling.seed), (0.5, 0.25, 11));
    assert_eq!((sampling.presence_penalty, sampling.frequency_penalty), (1.5, -1.5));
    assert_eq!(sampling.logit_bias, [(TokenId(65), 2.0)]);
    assert_eq!((request.stop.max_new_tokens, request.stop.stop_strings.len()), (5, 2));
    assert_eq!(request.speculation, Speculation::Off);
    assert_eq!(request.prompt, [TokenId(97), TokenId(10)], "the chat template's");
}

#[tokio::test]
async fn errors_have_the_interface_s_form() {
    let fixture = Fixture::start().await;
    let refusals = [
        (SubmitError::QueueFull { waiting: 7 }, 429, "queue_full"),
        (SubmitError::Draining, 503, "shutting_down"),
        (SubmitError::Stopped, 503, "engine_stopped"),
    ];
    for (error, status, code) in refusals {
        fixture.engine.next(Script::Refuse(error));
        let reply = post(&fixture, CHAT, &chat(&json!({}))).await;
        let found = &reply.json()["error"];
        assert_eq!((reply.status, &found["code"]), (status, &json!(code)), "{reply:?}");
        assert_eq!(reply.headers.contains_key("retry-after"), status == 429, "{reply:?}");
    }
    let many: Vec<u32> = vec![1; CONTEXT];
    let cases = [
        (CHAT, chat(&json!({"temperature": -1})), 400, json!("temperature"), Value::Null),
        (CHAT, chat(&json!({"max_tokens": 0})), 400, json!("max_tokens"), Value::Null),
        (CHAT, chat(&json!({"n": 2})), 400, json!("n"), Value::Null),
        (CHAT, json!({"messages": []}), 400, json!("messages"), Value::Null),
        (
            CHAT,
            chat(&json!({"skipstone": {"max_draft_tokens": 99}})),
            400,
            json!("skipstone.max_draft_tokens"),
            Value::Null,
        ),
        (
            CHAT,
            chat(&json!({"max_tokens": CONTEXT})),
            400,
            json!("max_tokens"),
            json!("context_length_exceeded"),
        ),
        (
            COMPLETIONS,
            json!({"prompt": many}),
            400,
            json!("prompt"),
            json!("context_length_exceeded"),
        ),
        (COMPLETIONS, json!({"prompt": ""}), 400, json!("prompt"), Value::Null),
        (COMPLETIONS, json!({"prompt": [9999]}), 400, json!("prompt[0]"), Value::Null),
        (CHAT, chat(&json!({"model": "other"})), 404, json!("model"), json!("model_not_found")),
        ("/v1/embeddings", json!({}), 404, Value::Null, Value::Null),
        ("/v1/models", json!({}), 405, Value::Null, Value::Null),
    ];
    for (path, body, status, param, code) in cases {
        let reply = post(&fixture, path, &body).await;
        let found = &reply.json()["error"];
        assert_eq!(
            (reply.status, &found["param"], &found["code"]),
            (status, &param, &code),
            "{body}: {reply:?}"
        );
        assert_eq!(found["type"], "invalid_request_error", "{body}");
        assert!(found["message"].as_str().is_some_and(|text| text.len() > 10), "{body}: {reply:?}");
    }
    let plain = read(
        send(fixture.openai, &format!("POST {CHAT}"), "content-type: text/plain\r\n", "{}").await,
    );
    assert_eq!(plain.await.status, 415, "what a page of another site could send");
    let long = json!({"prompt": "a".repeat(Limits::default().max_message_bytes)});
    assert_eq!(post(&fixture, COMPLETIONS, &long).await.status, 413);
    assert!(fixture.engine.requests().is_empty(), "a refused request reached the engine");
}

#[tokio::test]
async fn models_are_listed_and_ids_are_echoed() {
    let fixture = Fixture::start().await;
    let list =
        read(send(fixture.openai, "GET /v1/models", "x-request-id: mine\r\n", "").await).await;
    assert_eq!(list.headers["x-request-id"], "mine");
    assert_eq!(list.json()["data"][0]["id"], MODEL);
    let one = read(send(fixture.openai, &format!("GET /v1/models/{MODEL}"), "", "").await).await;
    assert_eq!((one.status, &one.json()["object"]), (200, &json!("model")));
    let other = read(send(fixture.openai, "GET /v1/models/a/b", "", "").await).await;
    assert_eq!((other.status, &other.json()["error"]["code"]), (404, &json!("model_not_found")));
}

#[tokio::test]
async fn a_failure_after_the_first_chunk_is_an_event() {
    let fixture = Fixture::start().await;
    let error = GenerationError::ReaderStalled { seconds: 10 };
    fixture.engine.next(Script::Play(vec![started(), delta("a", &[(97, false)]), Err(error)]));
    let reply = post(&fixture, CHAT, &chat(&json!({"stream": true}))).await;
    let last = reply.body.lines().rfind(|line| line.starts_with("data: ")).unwrap();
    assert!(last.contains("\"code\":\"reader_stalled\""), "{reply:?}");
}

#[tokio::test]
async fn a_deadline_bounds_the_whole_answer() {
    let limits = Limits { default_deadline: Some(Duration::from_millis(50)), ..Limits::default() };
    let fixture = Fixture::with(ServerOptions { limits, ..options() }).await;
    fixture.engine.next(Script::Hang(vec![started()]));
    let reply = post(&fixture, CHAT, &chat(&json!({}))).await;
    assert_eq!(
        (reply.status, reply.headers["x-should-retry"].as_str()),
        (504, "false"),
        "{reply:?}"
    );
    fixture.engine.cancelled(0).await;
}

#[tokio::test]
async fn a_body_that_does_not_come_is_given_up() {
    let mut options = options();
    options.limits.body_timeout = Duration::from_millis(100);
    let fixture = Fixture::with(options).await;
    let mut stream = TcpStream::connect(fixture.openai).await.unwrap();
    let part = format!("POST {CHAT} HTTP/1.0\r\n{JSON}content-length: 100\r\n\r\n{{");
    stream.write_all(part.as_bytes()).await.unwrap();
    let reply = read(stream).await;
    assert_eq!(reply.status, 408, "{reply:?}");
    assert!(
        reply.json()["error"]["message"].as_str().unwrap().contains("did not arrive"),
        "{reply:?}"
    );
}

#[tokio::test]
async fn a_client_that_goes_away_cancels_its_request() {
    let fixture = Fixture::start().await;
    for (place, stream) in [true, false].into_iter().enumerate() {
        fixture.engine.next(Script::Hang(vec![started(), delta("a", &[(97, false)])]));
        let body = chat(&json!({ "stream": stream })).to_string();
        let client = send(fixture.openai, &format!("POST {CHAT}"), JSON, &body).await;
        wait_for("the request", || fixture.engine.requests().len() == place + 1).await;
        assert!(!fixture.engine.is_cancelled(place), "stream: {stream}");
        drop(client);
        fixture.engine.cancelled(place).await;
    }
}

#[tokio::test]
async fn a_shutdown_lets_running_answers_finish() {
    let mut fixture = Fixture::start().await;
    let rest = vec![delta("b", &[(98, false)]), finished(FinishReason::Length, 2)];
    let pause = Duration::from_millis(300);
    fixture.engine.next(Script::Pause(vec![started(), delta("a", &[(97, false)])], pause, rest));
    let body = chat(&json!({"stream": true})).to_string();
    let client = send(fixture.openai, &format!("POST {CHAT}"), JSON, &body).await;
    let silent = TcpStream::connect(fixture.openai).await.unwrap();
    wait_for("the request", || !fixture.engine.requests().is_empty()).await;
    fixture.stop();
    wait_for("the drain", || fixture.engine.is_draining()).await;
    let events = read(client).await.events();
    assert_eq!(events[2]["choices"][0]["delta"]["content"], "b", "{events:?}");
    let openai = fixture.openai;
    fixture.ended().await;
    assert!(TcpStream::connect(openai).await.is_err(), "the port is still open");
    drop(silent);
}
