//! From gRPC messages to the objects of the interface.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::request::Endpoint;
use crate::server::running::Running;
use crate::server::serve::ServedModel;
use crate::server::wire;
use skipstone_model::TokenId;

/// The parts that the objects of one request have in common.
#[derive(Debug)]
pub(super) struct Words {
    endpoint: Endpoint,
    id: String,
    created: u64,
    model: Arc<ServedModel>,
    seed: u64,
}

/// The result in an object, apart from what is the same for all choices.
#[derive(Default)]
pub(super) struct Choice {
    /// The message, the delta or the text.
    pub(super) said: Value,
    /// The log-probabilities of the tokens in it.
    pub(super) logprobs: Value,
    /// Reason why it ended, if it did.
    pub(super) finish_reason: Option<&'static str>,
}

// === impl Words ===

impl Words {
    /// `created` is now, in seconds since 1970.
    pub(super) fn new(endpoint: Endpoint, running: &Running, created: u64) -> Self {
        let prefix = match endpoint {
            Endpoint::Chat => "chatcmpl",
            Endpoint::Completion => "cmpl",
        };
        let reply = &running.reply;
        Self {
            endpoint,
            id: format!("{prefix}-{}", reply.id.as_str()),
            created,
            model: Arc::clone(&reply.model),
            seed: reply.seed,
        }
    }

    /// The whole result.
    pub(super) fn whole(&self, response: wire::GenerateResponse) -> Value {
        let logprobs = self.logprobs(&response.tokens, &mut 0);
        let said = match self.endpoint {
            Endpoint::Chat => {
                json!({ "role": "assistant", "content": response.text, "refusal": null })
            }
            Endpoint::Completion => response.text.into(),
        };
        let end = wire::StreamFinished {
            finish: response.finish,
            usage: response.usage,
            speculation: response.speculation,
            timing: response.timing,
            ..Default::default()
        };
        let key = if self.endpoint == Endpoint::Chat { "message" } else { "text" };
        let choice = Choice { said, logprobs, finish_reason: Some(finish_reason(&end)) };
        let mut object = self.object("", &[choice.into_value(key)]);
        object.insert("usage".to_owned(), usage(&end));
        object.insert("skipstone".to_owned(), self.extension(&end));
        Value::Object(object)
    }

    /// The first chunk of a stream; completions have none.
    pub(super) fn opening(&self) -> Option<Map<String, Value>> {
        (self.endpoint == Endpoint::Chat).then(|| {
            let said = json!({ "role": "assistant", "content": "" });
            self.chunk(Choice { said, ..Choice::default() })
        })
    }

    /// The chunk of one step; none where it brings nothing to read. `offset` counts the characters
    /// of a stream.
    pub(super) fn step(
        &self,
        delta: wire::TokenDelta,
        offset: &mut usize,
    ) -> Option<Map<String, Value>> {
        if delta.text.is_empty() && delta.tokens.is_empty() {
            return None;
        }
        let logprobs = self.logprobs(&delta.tokens, offset);
        let said = match self.endpoint {
            Endpoint::Chat => json!({ "content": delta.text }),
            Endpoint::Completion => delta.text.into(),
        };
        Some(self.chunk(Choice { said, logprobs, finish_reason: None }))
    }

    /// The last chunk with a choice.
    pub(super) fn closing(&self, end: &wire::StreamFinished) -> Map<String, Value> {
        let said = match self.endpoint {
            Endpoint::Chat => json!({}),
            Endpoint::Completion => "".into(),
        };
        let finish_reason = Some(finish_reason(end));
        let mut object = self.chunk(Choice { said, finish_reason, ..Choice::default() });
        object.insert("skipstone".to_owned(), self.extension(end));
        object
    }

    /// The chunk after the last, with the token counts alone.
    pub(super) fn counts(&self, end: &wire::StreamFinished) -> Map<String, Value> {
        let mut object = self.object(".chunk", &[]);
        object.insert("usage".to_owned(), usage(end));
        object
    }

    fn chunk(&self, choice: Choice) -> Map<String, Value> {
        let key = if self.endpoint == Endpoint::Chat { "delta" } else { "text" };
        self.object(".chunk", &[choice.into_value(key)])
    }

    fn object(&self, suffix: &str, choices: &[Value]) -> Map<String, Value> {
        let kind = match self.endpoint {
            Endpoint::Chat => format!("chat.completion{suffix}"),
            Endpoint::Completion => "text_completion".to_owned(),
        };
        let fields = [
            ("id", Value::from(self.id.as_str())),
            ("object", kind.into()),
            ("created", self.created.into()),
            ("model", self.model.name.as_str().into()),
            ("choices", choices.into()),
        ];
        fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    fn logprobs(&self, tokens: &[wire::Token], offset: &mut usize) -> Value {
        if tokens.iter().all(|token| token.logprob.is_none()) {
            return Value::Null;
        }
        match self.endpoint {
            Endpoint::Chat => {
                let content: Vec<Value> =
                    tokens.iter().map(|token| self.chat_token(token)).collect();
                json!({ "content": content, "refusal": null })
            }
            Endpoint::Completion => completion_tokens(tokens, offset),
        }
    }

    fn chat_token(&self, token: &wire::Token) -> Value {
        let one = |id: u32, text: &str, logprob: Option<f32>| {
            let bytes = self.model.text.token_bytes(TokenId(id));
            json!({ "token": text, "logprob": logprob, "bytes": bytes })
        };
        let mut value = one(token.id, &token.text, token.logprob);
        let top = token.top_logprobs.iter().map(|top| one(top.id, &top.text, Some(top.logprob)));
        value["top_logprobs"] = top.collect();
        value
    }

    /// Fields that this server adds to the final object.
    fn extension(&self, end: &wire::StreamFinished) -> Value {
        let stats = end.speculation.clone().unwrap_or_default();
        let plan = stats.final_plan.as_ref().map(|plan| {
            let skipped = plan.skip_set.clone().unwrap_or_default();
            json!({
                "attention_layers": skipped.attention_layers,
                "mlp_layers": skipped.mlp_layers,
                "max_draft_tokens": plan.max_draft_tokens,
                "revision": plan.revision,
            })
        });
        let off = (stats.drafts == 0)
            .then(|| lower_case(stats.off_reason().as_str_name(), "SPECULATION_OFF_REASON_"));
        let timing = end.timing.unwrap_or_default();
        json!({
            "seed": self.seed,
            "finish_reason": end.finish.as_ref().map(|finish| lower_case(finish.reason().as_str_name(), "FINISH_REASON_")),
            "drafts": stats.drafts,
            "draft_tokens": stats.draft_tokens,
            "accepted_tokens": stats.accepted_tokens,
            "drafted_per_position": stats.drafted_per_position,
            "accepted_per_position": stats.accepted_per_position,
            "estimated_speedup": stats.estimated_speedup,
            "off_reason": off,
            "final_plan": plan,
            "timing": {
                "queue_seconds": seconds(timing.queue),
                "time_to_first_token_seconds": seconds(timing.time_to_first_token),
                "decode_seconds": seconds(timing.decode),
                "total_seconds": seconds(timing.total),
            },
        })
    }
}

// === impl Choice ===

impl Choice {
    fn into_value(self, key: &str) -> Value {
        json!({
            "index": 0,
            key: self.said,
            "logprobs": self.logprobs,
            "finish_reason": self.finish_reason,
        })
    }
}

fn completion_tokens(tokens: &[wire::Token], offset: &mut usize) -> Value {
    let offsets: Vec<usize> = tokens
        .iter()
        .map(|token| {
            let start = *offset;
            *offset += token.text.chars().count();
            start
        })
        .collect();
    let top: Vec<Map<String, Value>> = tokens
        .iter()
        .map(|token| {
            token.top_logprobs.iter().map(|top| (top.text.clone(), top.logprob.into())).collect()
        })
        .collect();
    json!({
        "tokens": tokens.iter().map(|token| token.text.as_str()).collect::<Vec<_>>(),
        "token_logprobs": tokens.iter().map(|token| token.logprob).collect::<Vec<_>>(),
        "top_logprobs": top,
        "text_offset": offsets,
    })
}

fn finish_reason(end: &wire::StreamFinished) -> &'static str {
    match end.finish.as_ref().map(wire::FinishInfo::reason) {
        Some(wire::FinishReason::Length) => "length",
        _ => "stop",
    }
}

fn usage(end: &wire::StreamFinished) -> Value {
    let usage = end.usage.unwrap_or_default();
    json!({
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": u64::from(usage.prompt_tokens) + u64::from(usage.completion_tokens),
    })
}

fn lower_case(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_ascii_lowercase()
}

fn seconds(duration: Option<prost_types::Duration>) -> Option<f64> {
    duration.map(|duration| duration.seconds as f64 + f64::from(duration.nanos) / 1e9)
}
