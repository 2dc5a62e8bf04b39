//! From the input of a request to prompt tokens, with caps on what tokenising may cost.

use super::limits::Limits;
use super::serve::ServedModel;
use super::violation::{RequestError, Violation};
use super::wire;
use skipstone_model::TokenId;
use skipstone_model::text::{ChatMessage, EncodeOptions, Role, TextError};

/// Text of any kind that is to be tokenised, and the path of its field.
#[derive(Debug)]
pub(super) enum Input {
    /// Text as it is.
    Text {
        /// The text.
        text: String,
        /// Treatment of special tokens.
        special: EncodeOptions,
        /// Path of the field.
        field: &'static str,
    },
    /// Tokens that were made before.
    Tokens {
        /// The ids.
        ids: Vec<u32>,
        /// Path of the field.
        field: &'static str,
    },
    /// A chat for the model's template.
    Chat {
        /// The chat.
        chat: wire::ChatInput,
        /// Path of the field.
        field: &'static str,
    },
}

// === impl Input ===

impl Input {
    /// Path of the field that the input came from.
    pub(super) fn field(&self) -> &'static str {
        match self {
            Self::Text { field, .. } | Self::Tokens { field, .. } | Self::Chat { field, .. } => {
                field
            }
        }
    }

    /// Checks the size of the input, then turns it into at least one token. Slow for long text.
    pub(super) fn into_tokens(
        self,
        model: &ServedModel,
        limits: &Limits,
    ) -> Result<Vec<TokenId>, RequestError> {
        let field = self.field();
        let tokens = match self {
            Self::Text { text, special, field } => {
                check_bytes(field, text.len(), limits)?;
                model.text.encode(&text, special).map_err(|error| text_error(field, &error))?
            }
            Self::Tokens { ids, field } => known_tokens(field, &ids, model)?,
            Self::Chat { chat, field } => {
                let add_generation_prompt = chat.add_generation_prompt.unwrap_or(true);
                let messages = chat_messages(field, chat, limits)?;
                let tokens = model.text.encode_chat(&messages, add_generation_prompt);
                tokens.map_err(|error| text_error(field, &error))?
            }
        };
        if tokens.is_empty() {
            return Err(Violation::new(field, "the input is empty; send at least one token").into());
        }
        let vocabulary = model.vocabulary;
        if let Some(token) = tokens.iter().find(|token| token.index() >= vocabulary) {
            let message = format!(
                "the tokenizer turns it into the token {token}, which the model does not have: \
                 its vocabulary ends at {vocabulary}. The operator \
                 should serve the model with its own tokenizer; other inputs may do"
            );
            return Err(Violation::new(field, message).into());
        }
        Ok(tokens)
    }
}

fn check_bytes(field: &str, bytes: usize, limits: &Limits) -> Result<(), Violation> {
    let most = limits.max_prompt_bytes;
    if bytes <= most {
        return Ok(());
    }
    let message = format!(
        "the text has {bytes} bytes, {most} are allowed (server.max_prompt_bytes); shorten it"
    );
    Err(Violation::new(field, message))
}

fn known_tokens(
    field: &str,
    ids: &[u32],
    model: &ServedModel,
) -> Result<Vec<TokenId>, RequestError> {
    if ids.len() >= model.context_length {
        return Err(too_long(field, ids.len(), model));
    }
    let vocabulary = model.vocabulary;
    match ids.iter().enumerate().find(|(_, id)| TokenId(**id).index() >= vocabulary) {
        Some((place, id)) => {
            let message = format!(
                "the token {id} does not exist; the vocabulary has the tokens below {vocabulary}"
            );
            Err(Violation::new(format!("{field}.ids[{place}]"), message).into())
        }
        None => Ok(ids.iter().copied().map(TokenId).collect()),
    }
}

fn chat_messages(
    field: &str,
    chat: wire::ChatInput,
    limits: &Limits,
) -> Result<Vec<ChatMessage>, RequestError> {
    let (count, most) = (chat.messages.len(), limits.max_chat_messages);
    if count == 0 || count > most {
        let message = format!("the chat has {count} messages; send 1 to {most}");
        return Err(Violation::new(format!("{field}.messages"), message).into());
    }
    check_bytes(field, chat.messages.iter().map(|message| message.content.len()).sum(), limits)?;
    let messages = chat.messages.into_iter().enumerate().map(|(place, message)| {
        let role = match wire::Role::try_from(message.role) {
            Ok(wire::Role::System) => Role::System,
            Ok(wire::Role::User) => Role::User,
            Ok(wire::Role::Assistant) => Role::Assistant,
            Ok(wire::Role::Unspecified) | Err(_) => {
                return Err(Violation::new(
                    format!("{field}.messages[{place}].role"),
                    format!(
                        "the role {} is none; use ROLE_SYSTEM, ROLE_USER or ROLE_ASSISTANT",
                        message.role
                    ),
                ));
            }
        };
        Ok(ChatMessage { role, content: message.content })
    });
    Ok(messages.collect::<Result<_, _>>()?)
}

fn text_error(field: &str, error: &TextError) -> RequestError {
    if error.blames_request() {
        Violation::new(field, error.to_string()).into()
    } else {
        RequestError::Unchecked(error.to_string())
    }
}

/// The refusal of a prompt that leaves no room for a new token.
pub(super) fn too_long(field: &str, tokens: usize, model: &ServedModel) -> RequestError {
    let context = model.context_length;
    RequestError::TooLong(Violation::new(
        field,
        format!(
            "the prompt has {tokens} tokens, the context holds {context} for prompt and new \
             tokens together; \
             send at most {}",
            context.saturating_sub(1)
        ),
    ))
}
