//! From a body to the gRPC request that asks for the same. Values are checked there; here, only
//! what one interface knows and the other does not.

use serde_json::{Map, Value};

use super::body::{self, Content, Extension, Logprobs, Message, Mode, Prompt, RequestBody, Stop};
use super::error::ApiError;
use super::paths::Paths;
use crate::server::status::clip;
use crate::server::wire;
use crate::server::wire::generation_spec::Input;

/// Bytes of what a client sent that an error repeats.
const SHOWN_BYTES: usize = 32;

/// Endpoint that a request is sent to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Endpoint {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completion,
}

/// A request that could be read.
#[derive(Debug)]
pub(super) struct Asked {
    /// The same as a gRPC request.
    pub(super) spec: wire::GenerationSpec,
    /// The client's names for its fields.
    pub(super) paths: Paths,
    /// Whether to send the answer as it is made.
    pub(super) stream: bool,
    /// Whether a stream ends with the token counts.
    pub(super) include_usage: bool,
}

/// Reads a body.
pub(super) fn parse(endpoint: Endpoint, bytes: &[u8]) -> Result<Asked, ApiError> {
    let fields: Map<String, Value> =
        serde_json::from_slice(bytes).map_err(|error| ApiError::no_object(&error.to_string()))?;
    if let Some((name, message)) = body::unserved(&fields) {
        return Err(ApiError::field(name, message));
    }
    let body: RequestBody = serde_path_to_error::deserialize(Value::Object(fields))
        .map_err(|error| ApiError::field(error.path().to_string(), error.inner().to_string()))?;
    let paths = Paths::of(endpoint, &body);
    let stream = body.stream.unwrap_or(false);
    if body.stream_options.is_some() && !stream {
        return Err(ApiError::field("stream_options", "stream_options needs stream: true"));
    }
    let include_usage = body.stream_options.as_ref().and_then(|options| options.include_usage);
    Ok(Asked {
        spec: spec(endpoint, body)?,
        paths,
        stream,
        include_usage: include_usage.unwrap_or(false),
    })
}

fn spec(endpoint: Endpoint, body: RequestBody) -> Result<wire::GenerationSpec, ApiError> {
    let output = output(endpoint, &body)?;
    let input = match endpoint {
        Endpoint::Chat => {
            let messages = body.messages.into_iter().flatten().enumerate();
            let messages = messages.map(|(place, message)| chat_message(place, message));
            let messages = messages.collect::<Result<_, _>>()?;
            Input::Chat(wire::ChatInput { messages, add_generation_prompt: None })
        }
        Endpoint::Completion => prompt(body.prompt)?,
    };
    let sampling = wire::SamplingParams {
        temperature: body.temperature,
        top_p: body.top_p,
        presence_penalty: body.presence_penalty,
        frequency_penalty: body.frequency_penalty,
        seed: body.seed.map(body::Seed::bits),
        logit_bias: body.logit_bias.into_iter().flatten().map(bias).collect::<Result<_, _>>()?,
        ..Default::default()
    };
    let stop_strings = match body.stop {
        None => Vec::new(),
        Some(Stop::One(text)) => vec![text],
        Some(Stop::Many(texts)) => texts,
    };
    let max_new_tokens = body.max_completion_tokens.or(body.max_tokens);
    Ok(wire::GenerationSpec {
        model: body.model.unwrap_or_default(),
        input: Some(input),
        sampling: Some(sampling),
        stop: Some(wire::StopCriteria { max_new_tokens, stop_strings, ..Default::default() }),
        output: Some(output),
        speculation: body.skipstone.map(speculation),
    })
}

fn chat_message(place: usize, message: Message) -> Result<wire::ChatMessage, ApiError> {
    let role = match message.role.as_str() {
        "system" | "developer" => wire::Role::System,
        "user" => wire::Role::User,
        "assistant" => wire::Role::Assistant,
        _ => {
            let role = clip(&message.role, SHOWN_BYTES);
            let text = format!(
                "the role {role:?} is not supported; use system, developer, user or assistant"
            );
            return Err(ApiError::field(format!("messages[{place}].role"), text));
        }
    };
    if message.tool_calls.is_some_and(|calls| !calls.is_empty()) {
        let text = "calls of tools are not supported; leave them out";
        return Err(ApiError::field(format!("messages[{place}].tool_calls"), text));
    }
    let content = match message.content {
        Some(Content::Text(text)) => text,
        Some(Content::Parts(parts)) => {
            let mut content = String::new();
            for (index, part) in parts.into_iter().enumerate() {
                let Some(text) = part.text.filter(|_| part.kind == "text") else {
                    let field = format!("messages[{place}].content[{index}].type");
                    return Err(ApiError::field(
                        field,
                        "the part is no text; send parts of the type text only",
                    ));
                };
                content.push_str(&text);
            }
            content
        }
        None => {
            let text = "the content is missing; send a string, \"\" for none";
            return Err(ApiError::field(format!("messages[{place}].content"), text));
        }
    };
    Ok(wire::ChatMessage { role: role.into(), content })
}

fn prompt(sent: Option<Prompt>) -> Result<Input, ApiError> {
    let one = |count: usize| {
        if count == 1 {
            return Ok(());
        }
        let text =
            format!("there are {count} prompts, one is served a request; send a request for each");
        Err(ApiError::field("prompt", text))
    };
    let ids = |ids| Input::TokenIds(wire::TokenIds { ids });
    match sent {
        Some(Prompt::Text(text)) => Ok(Input::Text(text)),
        Some(Prompt::Tokens(tokens)) => Ok(ids(tokens)),
        Some(Prompt::Texts(texts)) => {
            one(texts.len()).map(|()| Input::Text(texts.into_iter().next().unwrap_or_default()))
        }
        Some(Prompt::TokenLists(lists)) => {
            one(lists.len()).map(|()| ids(lists.into_iter().next().unwrap_or_default()))
        }
        None => Err(ApiError::field(
            "prompt",
            "the prompt is missing; send a string or a list of token ids",
        )),
    }
}

fn bias((token, bias): (String, f32)) -> Result<(u32, f32), ApiError> {
    let token = token.parse().map_err(|_| {
        let token = clip(&token, SHOWN_BYTES);
        ApiError::field(
            "logit_bias",
            format!("{token:?} is no token id; keys are numbers such as \"42\""),
        )
    })?;
    Ok((token, bias))
}

/// A chat sends a flag and a number of alternatives, a completion only the number.
fn output(endpoint: Endpoint, body: &RequestBody) -> Result<wire::OutputOptions, ApiError> {
    let top_logprobs = match (endpoint, body.logprobs) {
        (_, None) | (Endpoint::Chat, Some(Logprobs::Flag(false))) => {
            if body.top_logprobs.is_some_and(|count| count > 0) {
                return Err(ApiError::field("top_logprobs", "top_logprobs needs logprobs: true"));
            }
            return Ok(wire::OutputOptions::default());
        }
        (Endpoint::Chat, Some(Logprobs::Flag(true))) => body.top_logprobs.unwrap_or(0),
        (Endpoint::Completion, Some(Logprobs::Count(count))) => count,
        (Endpoint::Chat, Some(Logprobs::Count(_))) => {
            return Err(ApiError::field(
                "logprobs",
                "logprobs of a chat is true or false; see top_logprobs",
            ));
        }
        (Endpoint::Completion, Some(Logprobs::Flag(_))) => {
            let text = "logprobs of a completion is the number of alternatives; 0 reports the tokens alone";
            return Err(ApiError::field("logprobs", text));
        }
    };
    Ok(wire::OutputOptions { tokens: true, logprobs: true, top_logprobs })
}

fn speculation(sent: Extension) -> wire::SpeculationParams {
    let mode = match sent.mode {
        None => wire::SpeculationMode::Unspecified,
        Some(Mode::Off) => wire::SpeculationMode::Off,
        Some(Mode::Static) => wire::SpeculationMode::Static,
        Some(Mode::Adaptive) => wire::SpeculationMode::Adaptive,
    };
    let skip_set = sent.skip_set.map(|layers| wire::SkipSet {
        attention_layers: layers.attention_layers,
        mlp_layers: layers.mlp_layers,
    });
    wire::SpeculationParams {
        mode: mode.into(),
        max_draft_tokens: sent.max_draft_tokens,
        skip_set,
        policy: sent.policy.unwrap_or_default(),
    }
}

// === impl Endpoint ===

impl Endpoint {
    /// The label of metrics.
    pub(super) fn method(self) -> &'static str {
        match self {
            Self::Chat => "ChatCompletions",
            Self::Completion => "Completions",
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refusal(endpoint: Endpoint, body: &Value) -> String {
        match parse(endpoint, body.to_string().as_bytes()) {
            Ok(asked) => format!("taken: {:?}", asked.spec),
            Err(error) => error.object()["error"]["param"].to_string(),
        }
    }

    #[test]
    fn a_chat_becomes_the_request_that_asks_for_the_same() {
        let body = json!({
            "model": "m", "max_tokens": 3, "max_completion_tokens": 5, "temperature": 0.5, "top_p": 0.9, "stop": "x",
            "seed": -1, "presence_penalty": 1, "frequency_penalty": 2, "logit_bias": {"7": -3}, "logprobs": true,
            "top_logprobs": 2, "stream": true, "stream_options": {"include_usage": true}, "user": "u",
            "messages": [
                {"role": "developer", "content": "a"},
                {"role": "user", "content": [{"type": "text", "text": "b"}, {"type": "text", "text": "c"}]},
            ],
            "skipstone": {"mode": "static", "max_draft_tokens": 4, "skip_set": {"mlp_layers": [2]}},
        });
        let asked = parse(Endpoint::Chat, body.to_string().as_bytes()).unwrap();
        let message = |role: wire::Role, content: &str| wire::ChatMessage {
            role: role.into(),
            content: content.to_owned(),
        };
        let wanted = wire::GenerationSpec {
            model: "m".to_owned(),
            input: Some(Input::Chat(wire::ChatInput {
                messages: vec![message(wire::Role::System, "a"), message(wire::Role::User, "bc")],
                add_generation_prompt: None,
            })),
            sampling: Some(wire::SamplingParams {
                temperature: Some(0.5),
                top_p: Some(0.9),
                presence_penalty: Some(1.0),
                frequency_penalty: Some(2.0),
                seed: Some(u64::MAX),
                logit_bias: [(7, -3.0)].into(),
                ..Default::default()
            }),
            stop: Some(wire::StopCriteria {
                max_new_tokens: Some(5),
                stop_strings: vec!["x".to_owned()],
                ..Default::default()
            }),
            output: Some(wire::OutputOptions { tokens: true, logprobs: true, top_logprobs: 2 }),
            speculation: Some(wire::SpeculationParams {
                mode: wire::SpeculationMode::Static.into(),
                max_draft_tokens: Some(4),
                skip_set: Some(wire::SkipSet { attention_layers: vec![], mlp_layers: vec![2] }),
                policy: String::new(),
            }),
        };
        assert_eq!(asked.spec, wanted);
        assert!(asked.stream && asked.include_usage);
    }

    #[test]
    fn prompts_come_in_four_forms() {
        let ids = |ids: &[u32]| Input::TokenIds(wire::TokenIds { ids: ids.to_vec() });
        for (prompt, wanted) in [
            (json!("a"), Input::Text("a".to_owned())),
            (json!(["a"]), Input::Text("a".to_owned())),
            (json!([1, 2]), ids(&[1, 2])),
            (json!([[1, 2]]), ids(&[1, 2])),
        ] {
            let body = json!({"prompt": prompt, "logprobs": 0}).to_string();
            let spec = parse(Endpoint::Completion, body.as_bytes()).unwrap().spec;
            assert_eq!(spec.input, Some(wanted), "{prompt}");
            assert!(spec.output.unwrap().logprobs, "{prompt}");
        }
    }

    #[test]
    fn what_can_t_be_read_is_refused_by_the_name_of_its_field() {
        use Endpoint::{Chat, Completion};
        let hello = json!([{"role": "user", "content": "hello"}]);
        let chat = |field: &str, value: Value| json!({"messages": hello, field: value});
        let completion = |field: &str, value: Value| json!({"prompt": "a", field: value});
        let mut wrong = Vec::new();
        for (endpoint, body, param) in [
            (Chat, json!([]), "null"),
            (Chat, json!("text"), "null"),
            (Chat, chat("temperature", json!("hot")), "\"temperature\""),
            (Chat, chat("max_tokens", json!(-1)), "\"max_tokens\""),
            (Chat, chat("seed", json!(0.5)), "\"seed\""),
            (Chat, chat("stop", json!([1])), "\"stop\""),
            (Chat, chat("n", json!(2)), "\"n\""),
            (Chat, chat("logit_bias", json!({"x": 1})), "\"logit_bias\""),
            (Chat, chat("logprobs", json!(3)), "\"logprobs\""),
            (Chat, chat("top_logprobs", json!(3)), "\"top_logprobs\""),
            (Chat, chat("stream_options", json!({})), "\"stream_options\""),
            (Chat, chat("skipstone", json!({"mode": "fast"})), "\"skipstone.mode\""),
            (Chat, chat("skipstone", json!({"tokens": 3})), "\"skipstone.tokens\""),
            (Chat, json!({"messages": [{"content": "a"}]}), "\"messages[0]\""),
            (Chat, json!({"messages": [{"role": "tool", "content": "a"}]}), "\"messages[0].role\""),
            (Chat, json!({"messages": [{"role": "user"}]}), "\"messages[0].content\""),
            (
                Chat,
                json!({"messages": [{"role": "user", "content": 7}]}),
                "\"messages[0].content\"",
            ),
            (
                Chat,
                json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
                "\"messages[0].content[0].type\"",
            ),
            (
                Chat,
                json!({"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]}),
                "\"messages[0].tool_calls\"",
            ),
            (Completion, json!({}), "\"prompt\""),
            (Completion, completion("prompt", json!(["a", "b"])), "\"prompt\""),
            (Completion, completion("prompt", json!([[1], [2]])), "\"prompt\""),
            (Completion, completion("prompt", json!({"a": 1})), "\"prompt\""),
            (Completion, completion("logprobs", json!(true)), "\"logprobs\""),
            (Completion, completion("echo", json!(true)), "\"echo\""),
        ] {
            let found = refusal(endpoint, &body);
            if found != param {
                wrong.push(format!("{endpoint:?} {body}: {found}, wanted {param}"));
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}
