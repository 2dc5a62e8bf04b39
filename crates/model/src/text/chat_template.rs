//! Chat messages to text, by the Jinja template of the model.

use minijinja::value::Serde;
use minijinja::{Environment, Value, context};
use serde::Serialize;

use super::TextError;
use super::large_stack::on_large_stack;
use super::limits::{MESSAGES, TEMPLATE_BYTES, TEMPLATE_OUTPUT_BYTES};
use super::template_sandbox::{CappedOutput, environment};

/// Author of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions for the whole chat.
    System,
    /// The person or program that asks.
    User,
    /// The model.
    Assistant,
}

/// One message of a chat.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ChatMessage {
    /// Its author.
    pub role: Role,
    /// Its text; never read as control tokens.
    pub content: String,
}

/// A compiled chat template.
///
/// Rendering follows the conventions of the `transformers` library (the variables `messages`,
/// `add_generation_prompt`, `bos_token`, `eos_token`, `tools` and `documents`, the functions
/// `raise_exception` and `strftime_now`) and is bounded by [`super::limits`].
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    beginning: String,
    end: String,
}

const NAME: &str = "chat_template";

// === impl ChatMessage ===

impl ChatMessage {
    /// A message.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into() }
    }
}

// === impl ChatTemplate ===

impl ChatTemplate {
    /// Compiles a template; `beginning` and `end` are the texts of the model's sequence tokens,
    /// empty if it has none.
    ///
    /// # Errors
    /// [`TextError::TemplateTooLarge`] and [`TextError::TemplateInvalid`].
    pub fn new(
        source: impl Into<String>,
        beginning: impl Into<String>,
        end: impl Into<String>,
    ) -> Result<Self, TextError> {
        let (source, beginning, end) = (source.into(), beginning.into(), end.into());
        if source.len() > TEMPLATE_BYTES {
            return Err(TextError::TemplateTooLarge { bytes: source.len(), max: TEMPLATE_BYTES });
        }
        let environment = on_large_stack(|| {
            let mut environment = environment().map_err(invalid)?;
            environment.add_template_owned(NAME, source.clone()).map_err(invalid)?;
            Ok(environment)
        })?;
        Ok(Self { environment, source, beginning, end })
    }

    /// The template as it was given.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The text of a chat; `add_generation_prompt` opens the model's turn at the end.
    ///
    /// # Errors
    /// [`TextError::TooManyMessages`], and the `Template...` kinds for what the template does at
    /// run time.
    pub fn render(
        &self,
        messages: &[ChatMessage],
        add_generation_prompt: bool,
    ) -> Result<String, TextError> {
        if messages.len() > MESSAGES {
            return Err(TextError::TooManyMessages { messages: messages.len(), max: MESSAGES });
        }
        let content_bytes: usize = messages.iter().map(|message| message.content.len()).sum();
        let max = content_bytes.saturating_mul(4).saturating_add(TEMPLATE_OUTPUT_BYTES);
        on_large_stack(|| {
            let mut output = CappedOutput::new(max);
            let template = self.environment.get_template(NAME).map_err(invalid)?;
            let values = context! {
                messages => Value::from(Serde(messages)),
                add_generation_prompt,
                bos_token => self.beginning.as_str(),
                eos_token => self.end.as_str(),
                tools => (),
                documents => (),
            };
            let outcome = template.render_captured_to(values, &mut output).map(|_| ());
            output.finish(outcome)
        })
    }
}

fn invalid(error: minijinja::Error) -> TextError {
    TextError::TemplateInvalid { reason: error.to_string() }
}
