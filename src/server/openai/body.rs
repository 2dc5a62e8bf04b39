//! The bodies of requests as they are sent. Fields that are not listed are ignored, as clients of
//! this interface expect.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

/// A body of either endpoint; `request` says which field belongs where.
#[derive(Deserialize, Default, Debug)]
#[serde(default)]
pub(super) struct RequestBody {
    pub(super) model: Option<String>,
    pub(super) messages: Option<Vec<Message>>,
    pub(super) prompt: Option<Prompt>,
    pub(super) max_tokens: Option<u32>,
    pub(super) max_completion_tokens: Option<u32>,
    pub(super) temperature: Option<f32>,
    pub(super) top_p: Option<f32>,
    pub(super) stop: Option<Stop>,
    pub(super) seed: Option<Seed>,
    pub(super) presence_penalty: Option<f32>,
    pub(super) frequency_penalty: Option<f32>,
    pub(super) logit_bias: Option<BTreeMap<String, f32>>,
    pub(super) logprobs: Option<Logprobs>,
    pub(super) top_logprobs: Option<u32>,
    pub(super) stream: Option<bool>,
    pub(super) stream_options: Option<StreamOptions>,
    pub(super) skipstone: Option<Extension>,
}

/// One message of a chat.
#[derive(Deserialize, Debug)]
pub(super) struct Message {
    pub(super) role: String,
    pub(super) content: Option<Content>,
    /// Tool calls, of assistants that made any.
    pub(super) tool_calls: Option<Vec<Value>>,
}

/// The text of a message.
#[derive(Deserialize, Debug)]
#[serde(
    untagged,
    expecting = "send a string, or a list of parts such as {\"type\": \"text\", \"text\": \"...\"}"
)]
pub(super) enum Content {
    Text(String),
    Parts(Vec<Part>),
}

/// A part of a message.
#[derive(Deserialize, Debug)]
pub(super) struct Part {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) text: Option<String>,
}

/// A prompt to complete. The interface allows several; one is served.
#[derive(Deserialize, Debug)]
#[serde(untagged, expecting = "send a string or a list of token ids, or a list of one of either")]
pub(super) enum Prompt {
    Text(String),
    Tokens(Vec<u32>),
    Texts(Vec<String>),
    TokenLists(Vec<Vec<u32>>),
}

/// Stop strings.
#[derive(Deserialize, Debug)]
#[serde(untagged, expecting = "send a string or a list of strings")]
pub(super) enum Stop {
    One(String),
    Many(Vec<String>),
}

/// A seed; negative ones are numbers of 64 bits as well.
#[derive(Deserialize, Clone, Copy, Debug)]
#[serde(untagged, expecting = "send a whole number of 64 bits")]
pub(super) enum Seed {
    Unsigned(u64),
    Signed(i64),
}

/// A request for log-probabilities; completions send a number of alternatives instead.
#[derive(Deserialize, Clone, Copy, Debug)]
#[serde(
    untagged,
    expecting = "send true or false for a chat, a number of alternatives for a completion"
)]
pub(super) enum Logprobs {
    Flag(bool),
    Count(u32),
}

/// Options of streams.
#[derive(Deserialize, Default, Debug)]
#[serde(default)]
pub(super) struct StreamOptions {
    pub(super) include_usage: Option<bool>,
}

/// The way to draft: this server's own field.
#[derive(Deserialize, Default, Debug)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Extension {
    pub(super) mode: Option<Mode>,
    pub(super) policy: Option<String>,
    pub(super) max_draft_tokens: Option<u32>,
    pub(super) skip_set: Option<SkipLayers>,
}

/// The mode of drafting.
#[derive(Deserialize, Clone, Copy, Debug)]
#[serde(rename_all = "lowercase")]
pub(super) enum Mode {
    Off,
    Static,
    Adaptive,
}

/// The sublayers that drafts skip.
#[derive(Deserialize, Default, Debug)]
#[serde(default, deny_unknown_fields)]
pub(super) struct SkipLayers {
    pub(super) attention_layers: Vec<u32>,
    pub(super) mlp_layers: Vec<u32>,
}

/// A field of the interface that is not served: accepted where it asks for nothing, refused with a
/// reason elsewhere.
struct Unserved {
    name: &'static str,
    asks_for_nothing: fn(&Value) -> bool,
    remedy: &'static str,
}

const UNSERVED: &[Unserved] = &[
    Unserved { name: "n", asks_for_nothing: is_one, remedy: "send a request for each choice" },
    Unserved { name: "best_of", asks_for_nothing: is_one, remedy: "leave it out" },
    Unserved { name: "suffix", asks_for_nothing: is_empty, remedy: "leave it out" },
    Unserved {
        name: "echo",
        asks_for_nothing: is_false,
        remedy: "put the prompt before the text yourself",
    },
    Unserved { name: "tools", asks_for_nothing: is_empty, remedy: "leave it out" },
    Unserved { name: "tool_choice", asks_for_nothing: is_no_call, remedy: "leave it out" },
    Unserved { name: "functions", asks_for_nothing: is_empty, remedy: "leave it out" },
    Unserved { name: "function_call", asks_for_nothing: is_no_call, remedy: "leave it out" },
    Unserved {
        name: "response_format",
        asks_for_nothing: is_text_format,
        remedy: "answers are plain text",
    },
    Unserved { name: "modalities", asks_for_nothing: is_text_only, remedy: "answers are text" },
    Unserved { name: "audio", asks_for_nothing: is_empty, remedy: "answers are text" },
    Unserved { name: "web_search_options", asks_for_nothing: |_| false, remedy: "leave it out" },
];

/// The first field in `body` that asks for something that is not served: its name, and what is
/// wrong.
pub(super) fn unserved(body: &Map<String, Value>) -> Option<(&'static str, String)> {
    UNSERVED.iter().find_map(|Unserved { name, asks_for_nothing, remedy }| {
        let value = body.get(*name).filter(|value| !value.is_null() && !asks_for_nothing(value))?;
        // Numbers and flags are worth repeating; the rest may be long.
        let value = if value.is_number() || value.is_boolean() {
            format!(" {value}")
        } else {
            String::new()
        };
        Some((*name, format!("{name}{value} is not supported; {remedy}")))
    })
}

fn is_one(value: &Value) -> bool {
    value.as_u64() == Some(1)
}

fn is_false(value: &Value) -> bool {
    value.as_bool() == Some(false)
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

fn is_no_call(value: &Value) -> bool {
    matches!(value.as_str(), Some("none" | "auto"))
}

fn is_text_format(value: &Value) -> bool {
    value.get("type").and_then(Value::as_str) == Some("text")
}

fn is_text_only(value: &Value) -> bool {
    value.as_array().is_some_and(|kinds| kinds.iter().all(|kind| kind.as_str() == Some("text")))
}

// === impl Seed ===

impl Seed {
    /// The seed's 64 bits.
    pub(super) fn bits(self) -> u64 {
        match self {
            Self::Unsigned(seed) => seed,
            Self::Signed(seed) => seed.cast_unsigned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_that_are_not_served_are_refused_only_where_they_ask_for_something() {
        let harmless = json!({
            "n": 1, "best_of": null, "suffix": "", "echo": false, "tools": [], "tool_choice": "none",
            "function_call": "auto", "response_format": {"type": "text"}, "modalities": ["text"], "audio": null,
            "user": "somebody", "store": true, "metadata": {"a": "b"}
        });
        assert_eq!(unserved(harmless.as_object().unwrap()), None);
        let mut taken = Vec::new();
        for (name, value) in [
            ("n", json!(2)),
            ("n", json!("1")),
            ("best_of", json!(3)),
            ("suffix", json!("end")),
            ("echo", json!(true)),
            ("tools", json!([{"type": "function"}])),
            ("tool_choice", json!("required")),
            ("functions", json!([{}])),
            ("function_call", json!({"name": "f"})),
            ("response_format", json!({"type": "json_object"})),
            ("modalities", json!(["text", "audio"])),
            ("audio", json!({"voice": "x"})),
            ("web_search_options", json!({})),
        ] {
            let body = Map::from_iter([(name.to_owned(), value.clone())]);
            let refused = unserved(&body);
            if !refused.is_some_and(|(field, message)| field == name && message.contains(name)) {
                taken.push(format!("{name}: {value}"));
            }
        }
        assert!(taken.is_empty(), "{taken:?}");
    }
}
