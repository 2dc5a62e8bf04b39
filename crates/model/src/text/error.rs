//! The reasons why text can't be turned into tokens.

use std::path::PathBuf;

use skipstone_gguf::MetadataError;

/// A fault of the model's tokenizer files, or of the text that was given.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// The GGUF file names a kind of tokenizer that is not known.
    #[error(
        "the tokenizer kind `{kind}` is not supported (supported: {supported}); put the model's tokenizer.json beside the GGUF file"
    )]
    UnsupportedModel {
        /// The value of `tokenizer.ggml.model`.
        kind: String,
        /// The kinds that are known.
        supported: &'static str,
    },
    /// The GGUF file names a way of splitting text that is not known.
    #[error(
        "the pre-tokeniser `{name}` is not supported (supported: {supported}); put the model's tokenizer.json beside the GGUF file"
    )]
    UnsupportedPreTokenizer {
        /// The value of `tokenizer.ggml.pre`.
        name: String,
        /// The names that are known.
        supported: String,
    },
    /// The vocabulary contradicts itself.
    #[error(
        "the tokenizer of the model is invalid: {reason}; convert the model again, or put its tokenizer.json beside the GGUF file"
    )]
    InvalidVocabulary {
        /// The fault.
        reason: String,
    },
    /// A metadata key holds something else than it should.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// A tokenizer.json or tokenizer_config.json can't be used.
    #[error("can't use {}: {reason}; download it again from the model's source", path.display())]
    TokenizerFile {
        /// The file.
        path: PathBuf,
        /// The fault.
        reason: String,
    },
    /// The text is longer than allowed.
    #[error("the text has {bytes} bytes, {max} are allowed; shorten it")]
    TooLong {
        /// Bytes of the text.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// The text has a long stretch that can't be split.
    #[error(
        "the text has a stretch of {bytes} bytes without a place to split it, {max} are allowed; break it up"
    )]
    RunTooLong {
        /// Bytes of the stretch.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// The tokenizer library refused the text.
    #[error("the text can't be tokenised: {reason}")]
    Encoding {
        /// The library's message.
        reason: String,
    },
    /// A chat was given, but the model has no chat template.
    #[error(
        "the model has no chat template; send the prompt as text, or put a tokenizer_config.json with one beside the GGUF file"
    )]
    NoChatTemplate,
    /// More messages than allowed.
    #[error("the chat has {messages} messages, {max} are allowed; drop the oldest")]
    TooManyMessages {
        /// Messages of the chat.
        messages: usize,
        /// The limit.
        max: usize,
    },
    /// The contents leave no character that could mark them.
    #[error(
        "the messages use every private-use character of Unicode, none is left to mark them with; remove some"
    )]
    NoMarkerLeft,
    /// The chat template is larger than allowed.
    #[error(
        "the model's chat template has {bytes} bytes, {max} are allowed; put a smaller one into tokenizer_config.json beside the GGUF file"
    )]
    TemplateTooLarge {
        /// Bytes of the template.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// The chat template can't be compiled.
    #[error(
        "the model's chat template is invalid: {reason}; put a valid one into tokenizer_config.json beside the GGUF file"
    )]
    TemplateInvalid {
        /// The fault, with the line.
        reason: String,
    },
    /// The chat template refused the messages by `raise_exception`.
    #[error("the model's chat template refuses these messages: {message}")]
    TemplateRefused {
        /// The template's message.
        message: String,
    },
    /// The chat template failed on these messages.
    #[error("the model's chat template failed: {reason}")]
    TemplateFailed {
        /// The failure, with the line.
        reason: String,
    },
    /// The chat template ran for too long.
    #[error(
        "the model's chat template ran more than {max} instructions; send fewer messages, or use another template"
    )]
    TemplateOutOfFuel {
        /// The limit.
        max: u64,
    },
    /// The chat template wrote too much.
    #[error(
        "the model's chat template wrote more than {max} bytes; send shorter messages, or use another template"
    )]
    TemplateOutputTooLarge {
        /// The limit.
        max: usize,
    },
}

// === impl TextError ===

impl TextError {
    /// Whether the request is at fault rather than the model's files: the server answers
    /// `INVALID_ARGUMENT`.
    pub fn blames_request(&self) -> bool {
        match self {
            Self::TooLong { .. }
            | Self::RunTooLong { .. }
            | Self::Encoding { .. }
            | Self::NoChatTemplate
            | Self::TooManyMessages { .. }
            | Self::NoMarkerLeft
            | Self::TemplateRefused { .. }
            | Self::TemplateFailed { .. }
            | Self::TemplateOutOfFuel { .. }
            | Self::TemplateOutputTooLarge { .. } => true,
            Self::UnsupportedModel { .. }
            | Self::UnsupportedPreTokenizer { .. }
            | Self::InvalidVocabulary { .. }
            | Self::Metadata(_)
            | Self::TokenizerFile { .. }
            | Self::TemplateTooLarge { .. }
            | Self::TemplateInvalid { .. } => false,
        }
    }

    pub(super) fn vocabulary(reason: impl Into<String>) -> Self {
        Self::InvalidVocabulary { reason: reason.into() }
    }
}
