//! The one way from a wire request to a request that the engine trusts.

use std::time::Instant;

use super::metadata::{self, RequestId};
use super::prompt::{Input, too_long};
use super::serve::{ServedModel, ServerOptions};
use super::violation::{RequestError, Violation, Violations};
use super::{fields, wire};
use skipstone_engine::{StopCriteria, ValidRequest};
use skipstone_model::text::EncodeOptions;

/// Context that a request is checked in, beside its own fields.
#[derive(Clone, Debug)]
pub struct CallContext<'a> {
    /// Names the request.
    pub id: &'a RequestId,
    /// Moment to give up.
    pub deadline: Option<Instant>,
    /// The model.
    pub model: &'a ServedModel,
    /// Limits and defaults.
    pub options: &'a ServerOptions,
}

/// Checks every field and tokenises the prompt.
///
/// Fields are checked before the prompt is tokenised, and all their faults are reported together.
/// Tokenising is work for a thread that may block.
pub fn parse_generation(
    spec: Option<wire::GenerationSpec>,
    call: &CallContext<'_>,
) -> Result<ValidRequest, RequestError> {
    let Some(spec) = spec else {
        return Err(Violation::new("spec", "the spec is missing; send at least an input").into());
    };
    let CallContext { id, deadline, model, options } = *call;
    check_model(&spec.model, model)?;

    let mut violations = Violations::default();
    let seed = metadata::random_number();
    let sampling =
        fields::sampling(spec.sampling, options, model.vocabulary, seed, &mut violations);
    let stop = fields::stop(spec.stop, &options.limits, model.vocabulary, &mut violations);
    let output = fields::output(spec.output, &options.limits, &mut violations);
    let speculation = fields::speculation(spec.speculation, options, model, &mut violations);
    let input = spec.input.map(generation_input);
    if input.is_none() {
        violations.add("spec.input", "the input is missing; send text, token_ids or chat");
    }
    violations.check()?;
    // Both are there, or a violation said so.
    let (Some(sampling), Some(input)) = (sampling, input) else {
        return Err(RequestError::Unchecked("a field was lost".to_owned()));
    };

    let field = input.field();
    let prompt = input.into_tokens(model, &options.limits)?;
    let stop = fit(stop, prompt.len(), field, call)?;
    Ok(ValidRequest {
        id: id.as_str().to_owned(),
        prompt,
        sampling,
        stop,
        output,
        speculation,
        deadline,
    })
}

/// Checks what is to be tokenised, and the model's name.
pub(super) fn parse_tokenize(
    request: wire::TokenizeRequest,
    model: &ServedModel,
) -> Result<Input, RequestError> {
    use wire::tokenize_request::Input as Sent;
    check_model(&request.model, model)?;
    let special = EncodeOptions {
        add_special: request.add_special_tokens.unwrap_or(true),
        parse_special: request.parse_special_tokens,
    };
    match request.input {
        Some(Sent::Text(text)) => Ok(Input::Text { text, special, field: "text" }),
        Some(Sent::Chat(chat)) => Ok(Input::Chat { chat, field: "chat" }),
        None => Err(Violation::new("input", "the input is missing; send text or chat").into()),
    }
}

fn generation_input(sent: wire::generation_spec::Input) -> Input {
    use wire::generation_spec::Input as Sent;
    match sent {
        Sent::Text(text) => {
            let special = EncodeOptions { add_special: true, parse_special: false };
            Input::Text { text, special, field: "spec.text" }
        }
        Sent::TokenIds(ids) => Input::Tokens { ids: ids.ids, field: "spec.token_ids" },
        Sent::Chat(chat) => Input::Chat { chat, field: "spec.chat" },
    }
}

fn check_model(asked: &str, model: &ServedModel) -> Result<(), RequestError> {
    if asked.is_empty() || asked == model.name {
        return Ok(());
    }
    Err(RequestError::UnknownModel { asked: asked.to_owned(), served: model.name.clone() })
}

/// Settles `max_new_tokens` once the length of the prompt is known.
fn fit(
    mut stop: StopCriteria,
    prompt: usize,
    field: &'static str,
    call: &CallContext<'_>,
) -> Result<StopCriteria, RequestError> {
    let context = call.model.context_length;
    let room = context.saturating_sub(prompt);
    if room == 0 {
        return Err(too_long(field, prompt, call.model));
    }
    let asked = stop.max_new_tokens;
    if asked > room {
        return Err(RequestError::TooLong(Violation::new(
            "spec.stop.max_new_tokens",
            format!(
                "the prompt has {prompt} tokens and max_new_tokens is {asked}, together {}; the \
                 context holds \
                 {context}: ask for at most {room}, or shorten the prompt",
                prompt + asked
            ),
        )));
    }
    if asked == 0 {
        stop.max_new_tokens = call.options.limits.max_new_tokens_default.max(1).min(room);
        if stop.min_new_tokens > stop.max_new_tokens {
            let (min, max) = (stop.min_new_tokens, stop.max_new_tokens);
            return Err(RequestError::TooLong(Violation::new(
                "spec.stop.min_new_tokens",
                format!(
                    "the prompt has {prompt} tokens, which leaves {max} of the context of \
                     {context}, and \
                     min_new_tokens is {min}; lower it, or shorten the prompt"
                ),
            )));
        }
    }
    Ok(stop)
}
