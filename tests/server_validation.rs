//! Promise: a request that can't be served is refused with the field, the value and the remedy, and
//! never reaches the engine.

mod server_fixture;

use axum::http::uri::PathAndQuery;
use server_fixture::{CONTEXT, Fixture, LAYERS, MODEL, options, spec};
use skipstone::server::wire::generation_spec::Input;
use skipstone::server::{ERROR_DOMAIN, wire};
use tonic::{Code, Request};
use tonic_prost::ProstCodec;
use tonic_types::StatusExt;

struct Case {
    name: &'static str,
    change: fn(&mut wire::GenerationSpec),
    code: Code,
    /// Path of the field, for INVALID_ARGUMENT.
    field: &'static str,
    /// Parts of the message.
    says: &'static [&'static str],
}

fn sampling(spec: &mut wire::GenerationSpec) -> &mut wire::SamplingParams {
    spec.sampling.get_or_insert_default()
}

fn stop(spec: &mut wire::GenerationSpec) -> &mut wire::StopCriteria {
    spec.stop.get_or_insert_default()
}

fn skip(
    spec: &mut wire::GenerationSpec,
    mode: wire::SpeculationMode,
    attention: &[u32],
    mlp: &[u32],
) {
    spec.speculation = Some(wire::SpeculationParams {
        mode: mode.into(),
        max_draft_tokens: None,
        skip_set: Some(wire::SkipSet {
            attention_layers: attention.to_vec(),
            mlp_layers: mlp.to_vec(),
        }),
        ..Default::default()
    });
}

fn draft_length(spec: &mut wire::GenerationSpec, tokens: u32) {
    spec.speculation =
        Some(wire::SpeculationParams { max_draft_tokens: Some(tokens), ..Default::default() });
}

fn chat(spec: &mut wire::GenerationSpec, messages: &[(i32, &str)]) {
    let messages = messages
        .iter()
        .map(|&(role, content)| wire::ChatMessage { role, content: content.to_owned() })
        .collect();
    spec.input = Some(Input::Chat(wire::ChatInput { messages, add_generation_prompt: None }));
}

fn ids(spec: &mut wire::GenerationSpec, ids: Vec<u32>) {
    spec.input = Some(Input::TokenIds(wire::TokenIds { ids }));
}

const fn invalid(
    name: &'static str,
    field: &'static str,
    says: &'static [&'static str],
    change: fn(&mut wire::GenerationSpec),
) -> Case {
    Case { name, change, code: Code::InvalidArgument, field, says }
}

const STATIC: wire::SpeculationMode = wire::SpeculationMode::Static;
const ADAPTIVE: wire::SpeculationMode = wire::SpeculationMode::Adaptive;

const CASES: &[Case] = &[
    Case {
        name: "another model",
        change: |s| s.model = "gpt".into(),
        code: Code::NotFound,
        field: "",
        says: &["\"gpt\"", "\"tiny\""],
    },
    invalid("no input", "spec.input", &["missing", "token_ids"], |s| s.input = None),
    invalid("no tokens", "spec.token_ids", &["empty", "at least one"], |s| ids(s, vec![])),
    invalid("empty text", "spec.text", &["empty"], |s| s.input = Some(Input::Text(String::new()))),
    invalid("much text", "spec.text", &["262145 bytes", "262144 are allowed", "shorten"], |s| {
        s.input = Some(Input::Text("x ".repeat(131_073)[..262_145].to_owned()));
    }),
    invalid(
        "token beyond the vocabulary",
        "spec.token_ids.ids[1]",
        &["4000000000", "vocabulary"],
        |s| {
            ids(s, vec![1, 4_000_000_000]);
        },
    ),
    invalid("empty chat", "spec.chat.messages", &["0 messages"], |s| chat(s, &[])),
    invalid(
        "message without a role",
        "spec.chat.messages[1].role",
        &["role 0", "ROLE_USER"],
        |s| {
            chat(s, &[(2, "hello"), (0, "you")]);
        },
    ),
    invalid(
        "prompt fills the context",
        "spec.token_ids",
        &["64 tokens", "holds 64", "at most 63"],
        |s| {
            ids(s, vec![1; CONTEXT]);
        },
    ),
    invalid(
        "no room for the new tokens",
        "spec.stop.max_new_tokens",
        &["60", "is 5", "65", "at most 4"],
        |s| {
            ids(s, vec![1; 60]);
            stop(s).max_new_tokens = Some(5);
        },
    ),
    invalid(
        "unknown policy",
        "spec.speculation.policy",
        &["\"fast\"", "adaptive, static, unified, swift"],
        |s| {
            let policy = "fast".to_owned();
            s.speculation = Some(wire::SpeculationParams { policy, ..Default::default() });
        },
    ),
    invalid(
        "a policy and a mode",
        "spec.speculation.policy",
        &["\"swift\"", "SPECULATION_MODE_OFF", "set one"],
        |s| {
            s.speculation = Some(wire::SpeculationParams {
                policy: "swift".to_owned(),
                mode: wire::SpeculationMode::Off.into(),
                ..Default::default()
            });
        },
    ),
    invalid("no new tokens", "spec.stop.max_new_tokens", &["is 0", "Tokenize"], |s| {
        stop(s).max_new_tokens = Some(0)
    }),
    invalid("least above most", "spec.stop.min_new_tokens", &["is 4", "is 3"], |s| {
        stop(s).min_new_tokens = Some(4)
    }),
    invalid(
        "least above the room",
        "spec.stop.min_new_tokens",
        &["60 tokens", "leaves 4", "is 5"],
        |s| {
            ids(s, vec![1; 60]);
            s.stop = Some(wire::StopCriteria { min_new_tokens: Some(5), ..Default::default() });
        },
    ),
    invalid("empty stop string", "spec.stop.stop_strings[1]", &["0 bytes", "1 to 256"], |s| {
        stop(s).stop_strings = vec!["a".into(), String::new()];
    }),
    invalid("long stop string", "spec.stop.stop_strings[0]", &["257 bytes"], |s| {
        stop(s).stop_strings = vec!["x".repeat(257)];
    }),
    invalid(
        "many stop strings",
        "spec.stop.stop_strings",
        &["17 stop strings", "at most 16"],
        |s| {
            stop(s).stop_strings = vec!["x".into(); 17];
        },
    ),
    invalid(
        "stop token beyond the vocabulary",
        "spec.stop.stop_token_ids[0]",
        &["4000000000"],
        |s| {
            stop(s).stop_token_ids = vec![4_000_000_000];
        },
    ),
    invalid(
        "many stop tokens",
        "spec.stop.stop_token_ids",
        &["65 stop tokens", "at most 64"],
        |s| {
            stop(s).stop_token_ids = vec![1; 65];
        },
    ),
    invalid("NaN temperature", "spec.sampling.temperature", &["NaN", "greedy"], |s| {
        sampling(s).temperature = Some(f32::NAN);
    }),
    invalid("NaN top_p", "spec.sampling.top_p", &["NaN"], |s| sampling(s).top_p = Some(f32::NAN)),
    invalid("NaN bias", "spec.sampling.logit_bias", &["NaN"], |s| {
        sampling(s).logit_bias.insert(1, f32::NAN);
    }),
    invalid("cold temperature", "spec.sampling.temperature", &["-1"], |s| {
        sampling(s).temperature = Some(-1.0)
    }),
    invalid("zero top_p", "spec.sampling.top_p", &["is 0"], |s| sampling(s).top_p = Some(0.0)),
    invalid("min_p of one", "spec.sampling.min_p", &["is 1"], |s| sampling(s).min_p = Some(1.0)),
    invalid("infinite penalty", "spec.sampling.presence_penalty", &["inf"], |s| {
        sampling(s).presence_penalty = Some(f32::INFINITY);
    }),
    invalid("bias beyond the vocabulary", "spec.sampling.logit_bias", &["4000000000"], |s| {
        sampling(s).logit_bias.insert(4_000_000_000, 1.0);
    }),
    invalid("many alternatives", "spec.output.top_logprobs", &["is 21", "at most 20"], |s| {
        s.output = Some(wire::OutputOptions { top_logprobs: 21, ..Default::default() });
    }),
    invalid(
        "no draft",
        "spec.speculation.max_draft_tokens",
        &["is 0", "SPECULATION_MODE_OFF"],
        |s| {
            draft_length(s, 0);
        },
    ),
    invalid("long draft", "spec.speculation.max_draft_tokens", &["is 17", "1 to 16"], |s| {
        draft_length(s, 17)
    }),
    invalid("skip set of a learner", "spec.speculation.skip_set", &["_STATIC", "_ADAPTIVE"], |s| {
        skip(s, ADAPTIVE, &[2], &[]);
    }),
    invalid("skip set without a layer", "spec.speculation.skip_set", &["names no layer"], |s| {
        skip(s, STATIC, &[], &[]);
    }),
    invalid(
        "skipped stranger",
        "spec.speculation.skip_set.attention_layers",
        &["layer 8", "8 layers"],
        |s| {
            skip(s, STATIC, &[LAYERS as u32], &[]);
        },
    ),
    invalid(
        "skipped first layer",
        "spec.speculation.skip_set.mlp_layers",
        &["layer 0", "1 to 7"],
        |s| {
            skip(s, STATIC, &[2], &[0]);
        },
    ),
    invalid("unknown mode", "spec.speculation.mode", &["mode 9"], |s| {
        s.speculation = Some(wire::SpeculationParams { mode: 9, ..Default::default() });
    }),
];

#[tokio::test]
async fn each_fault_is_named_with_its_value_and_remedy() {
    let fixture = Fixture::start().await;
    let mut client = fixture.client().await;
    let mut failures = Vec::new();
    for case in CASES {
        let mut spec = spec(&[1, 2]);
        (case.change)(&mut spec);
        let unary = client.generate(wire::GenerateRequest { spec: Some(spec.clone()) }).await.err();
        let streamed =
            client.generate_stream(wire::GenerateStreamRequest { spec: Some(spec) }).await.err();
        for (method, status) in [("unary", unary), ("streamed", streamed)] {
            let Some(status) = status else {
                failures.push(format!("{} ({method}): accepted", case.name));
                continue;
            };
            let details = status.get_error_details();
            let field = details.bad_request().map_or("", |bad| &bad.field_violations[0].field);
            let domain = details.error_info().map_or("", |info| &info.domain);
            let said = case.says.iter().all(|part| status.message().contains(part));
            if status.code() != case.code || field != case.field || domain != ERROR_DOMAIN || !said
            {
                failures.push(format!("{} ({method}): {field:?} {status:?}", case.name));
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
    assert!(fixture.engine.requests().is_empty(), "a faulty request reached the engine");
}

#[tokio::test]
async fn all_faulty_fields_are_named_at_once() {
    let fixture = Fixture::start().await;
    let mut spec = spec(&[1]);
    (sampling(&mut spec).temperature, sampling(&mut spec).top_p) = (Some(-1.0), Some(2.0));
    stop(&mut spec).stop_strings = vec![String::new()];
    draft_length(&mut spec, 99);
    spec.input = None;
    let status = fixture
        .client()
        .await
        .generate(wire::GenerateRequest { spec: Some(spec) })
        .await
        .unwrap_err();
    let details = status.get_error_details();
    let fields: Vec<_> = details
        .bad_request()
        .unwrap()
        .field_violations
        .iter()
        .map(|violation| violation.field.as_str())
        .collect();
    let wanted = [
        "spec.sampling.temperature",
        "spec.sampling.top_p",
        "spec.stop.stop_strings[0]",
        "spec.speculation.max_draft_tokens",
        "spec.input",
    ];
    assert_eq!(fields, wanted);
}

#[tokio::test]
async fn a_request_without_a_spec_is_refused() {
    let fixture = Fixture::start().await;
    let status =
        fixture.client().await.generate(wire::GenerateRequest { spec: None }).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("spec"), "{status:?}");
}

#[tokio::test]
async fn a_message_above_the_limit_is_refused_unread() {
    let fixture = Fixture::start().await;
    let mut spec = spec(&[1]);
    spec.input = Some(Input::Text("x".repeat(2 * 1024 * 1024)));
    let status = fixture
        .client()
        .await
        .generate(wire::GenerateRequest { spec: Some(spec) })
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
    assert!(
        status.message().contains("1048576")
            && status.message().contains("server.max_message_bytes"),
        "{status:?}"
    );
    assert_eq!(status.get_error_details().error_info().unwrap().reason, "MESSAGE_TOO_LONG");
    assert!(status.metadata().contains_key("x-request-id"), "{status:?}");
    // The server is none the worse for it.
    let response = fixture
        .client()
        .await
        .generate(wire::GenerateRequest { spec: Some(self::spec(&[1])) })
        .await;
    assert_eq!(response.unwrap().into_inner().text, "a");
}

#[tokio::test]
async fn a_message_of_another_kind_is_refused_as_all_faults_are() {
    let fixture = Fixture::start().await;
    let mut grpc = tonic::client::Grpc::new(fixture.channel().await);
    grpc.ready().await.unwrap();
    let path = PathAndQuery::from_static("/skipstone.v1.GenerationService/GenerateStream");
    let codec = ProstCodec::<prost_types::Timestamp, wire::GenerateStreamResponse>::default();
    let time = prost_types::Timestamp { seconds: 1, nanos: 0 };
    let status = grpc.server_streaming(Request::new(time), path, codec).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert!(status.message().contains("generation.proto"), "{status:?}");
    assert_eq!(status.get_error_details().error_info().unwrap().reason, "INVALID_REQUEST");
}

#[tokio::test]
async fn unset_fields_take_the_servers_defaults() {
    let fixture = Fixture::start().await;
    let mut spec = spec(&[1, 2]);
    spec.stop = None;
    spec.model = MODEL.to_owned();
    fixture.client().await.generate(wire::GenerateRequest { spec: Some(spec) }).await.unwrap();
    let requests = fixture.engine.requests();
    let request = &requests[0];
    assert_eq!(request.stop.max_new_tokens, CONTEXT - 2, "what is left of the context");
    assert_eq!(request.sampling.settings().temperature, 0.0);
    assert_eq!(request.deadline, None);
    assert_eq!(request.speculation, skipstone::engine::Speculation::adaptive(None));
}

#[tokio::test]
async fn text_of_tokens_that_the_model_lacks_is_refused() {
    let fixture = Fixture::with_vocabulary(options(), 1).await;
    let mut spec = spec(&[0]);
    spec.input = Some(Input::Text("ab".to_owned()));
    let status = fixture
        .client()
        .await
        .generate(wire::GenerateRequest { spec: Some(spec) })
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    for part in ["the tokenizer", "its vocabulary ends at 1", "its own tokenizer"] {
        assert!(status.message().contains(part), "{status:?}");
    }
    assert!(fixture.engine.requests().is_empty());
}
