//! The names that a client of this interface has for the fields of the gRPC request, for errors.

use super::body::RequestBody;
use super::request::Endpoint;

/// The names that depend on the request.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Paths {
    input: &'static str,
    max_tokens: &'static str,
    top_logprobs: &'static str,
}

// === impl Paths ===

impl Paths {
    /// The names in `body`.
    pub(super) fn of(endpoint: Endpoint, body: &RequestBody) -> Self {
        let is_old = body.max_completion_tokens.is_none() && body.max_tokens.is_some();
        match endpoint {
            Endpoint::Chat => Self {
                input: "messages",
                max_tokens: if is_old { "max_tokens" } else { "max_completion_tokens" },
                top_logprobs: "top_logprobs",
            },
            Endpoint::Completion => {
                Self { input: "prompt", max_tokens: "max_tokens", top_logprobs: "logprobs" }
            }
        }
    }

    /// The client's name for `field` of the gRPC request.
    pub(super) fn param(&self, field: &str) -> String {
        let Some(path) = field.strip_prefix("spec.") else { return field.to_owned() };
        for (prefix, name) in [
            ("chat.messages", "messages"),
            ("chat", self.input),
            ("text", self.input),
            ("token_ids.ids", "prompt"),
            ("token_ids", self.input),
            ("input", self.input),
            ("stop.max_new_tokens", self.max_tokens),
            ("stop.stop_strings", "stop"),
            ("output.top_logprobs", self.top_logprobs),
            ("speculation", "skipstone"),
            ("sampling.", ""),
        ] {
            if let Some(rest) = path.strip_prefix(prefix) {
                return format!("{name}{rest}");
            }
        }
        path.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_named_as_the_client_names_them() {
        let chat = Paths::of(Endpoint::Chat, &RequestBody::default());
        let old =
            Paths::of(Endpoint::Chat, &RequestBody { max_tokens: Some(1), ..Default::default() });
        let completion = Paths::of(Endpoint::Completion, &RequestBody::default());
        for (paths, field, wanted) in [
            (&chat, "spec.stop.max_new_tokens", "max_completion_tokens"),
            (&old, "spec.stop.max_new_tokens", "max_tokens"),
            (&completion, "spec.stop.max_new_tokens", "max_tokens"),
            (&chat, "spec.output.top_logprobs", "top_logprobs"),
            (&completion, "spec.output.top_logprobs", "logprobs"),
            (&chat, "spec.chat", "messages"),
            (&chat, "spec.chat.messages[3].role", "messages[3].role"),
            (&completion, "spec.text", "prompt"),
            (&completion, "spec.token_ids", "prompt"),
            (&completion, "spec.token_ids.ids[4]", "prompt[4]"),
            (&chat, "spec.stop.stop_strings[1]", "stop[1]"),
            (&chat, "spec.sampling.top_p", "top_p"),
            (&chat, "spec.speculation.skip_set.mlp_layers", "skipstone.skip_set.mlp_layers"),
            (&chat, "metadata.grpc-timeout", "metadata.grpc-timeout"),
        ] {
            assert_eq!(paths.param(field), wanted, "{field}");
        }
    }
}
