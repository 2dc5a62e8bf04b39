//! The model's tokenizer and chat template behind one type.

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::TokenId;
use skipstone_gguf::{GgufFile, Manifest};

use super::chat_template::{ChatMessage, ChatTemplate, Role};
use super::limits::TEXT_BYTES;
use super::parts::{Encoder, TokenizerParts, unsupported};
use super::segments::{ContentMarker, Unmarked};
use super::special_tokens::{Piece, TokenSet};
use super::token_table::{TokenRole, TokenTable};
use super::{Detokenizer, SpecialIds, TextError, Vocabulary, tokenizer_json};

/// Turns text and chats into tokens, and tokens into text. Share it in an [`Arc`].
pub struct TextModel {
    encoder: Encoder,
    table: Arc<TokenTable>,
    // Control tokens and markers: read only where the caller or the chat template may write them.
    specials: TokenSet,
    // Of those, the control tokens.
    controls: TokenSet,
    // Tokens that any text is split at.
    added: TokenSet,
    prefix: Vec<TokenId>,
    suffix: Vec<TokenId>,
    ends: Vec<TokenId>,
    template: Option<ChatTemplate>,
    max_bytes: usize,
}

/// Options for reading a text.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EncodeOptions {
    /// Add the beginning-of-sequence and end-of-sequence tokens that the model asks for.
    pub add_special: bool,
    /// Read written-out control tokens such as `<|im_end|>` as such. Only for text from a trusted
    /// caller.
    pub parse_special: bool,
}

// === impl TextModel ===

impl TextModel {
    /// Reads the tokenizer of a GGUF file, or the `tokenizer.json` beside it if the file has none
    /// that can be used. A chat template that is missing or invalid is replaced from
    /// `chat_template.jinja` or `tokenizer_config.json`.
    ///
    /// # Errors
    /// The fault of the file's own tokenizer if there is no other, else that of the other.
    pub fn from_gguf(file: &GgufFile) -> Result<Self, TextError> {
        let folder = file.path().parent().unwrap_or_else(|| Path::new("."));
        let own = Vocabulary::chat_template_of(file.manifest())?;
        let templates: Vec<String> = match tokenizer_json::chat_template(folder) {
            Ok(beside) => own.into_iter().chain(beside).collect(),
            Err(error) if own.is_some() => {
                tracing::warn!(%error, "the chat template beside the model is ignored");
                own.into_iter().collect()
            }
            Err(error) => return Err(error),
        };
        let parts = match Self::parts_of(file.manifest(), &templates) {
            Ok(parts) => parts,
            Err(error) => {
                let special = SpecialIds::from_metadata(file.manifest().metadata())?;
                let Some(parts) = tokenizer_json::load(folder, &special, &templates)? else {
                    return Err(error);
                };
                tracing::warn!(%error, "the tokenizer.json beside the model is used instead of the model's own");
                parts
            }
        };
        Self::from_parts(parts, &templates)
    }

    /// Reads the `tokenizer.json` of a folder, with the chat template and the special tokens of the
    /// files beside it.
    ///
    /// # Errors
    /// The fault of the files; a folder without `tokenizer.json` is [`TextError::TokenizerFile`].
    pub fn from_folder(folder: &Path) -> Result<Self, TextError> {
        let templates = Vec::from_iter(tokenizer_json::chat_template(folder)?);
        let parts =
            tokenizer_json::load(folder, &tokenizer_json::special_ids(folder)?, &templates)?
                .ok_or_else(|| TextError::TokenizerFile {
                    path: folder.join("tokenizer.json"),
                    reason: "it is missing".to_owned(),
                })?;
        Self::from_parts(parts, &templates)
    }

    /// Reads the tokenizer of a GGUF header.
    ///
    /// # Errors
    /// As [`TextModel::from_vocabulary`]; a header without a tokenizer is
    /// [`TextError::UnsupportedModel`].
    pub fn from_manifest(manifest: &Manifest) -> Result<Self, TextError> {
        let templates = Vec::from_iter(Vocabulary::chat_template_of(manifest)?);
        Self::from_parts(Self::parts_of(manifest, &templates)?, &templates)
    }

    /// Builds from plain values.
    ///
    /// # Errors
    /// [`TextError::UnsupportedModel`], [`TextError::UnsupportedPreTokenizer`],
    /// [`TextError::InvalidVocabulary`], and the kinds of [`ChatTemplate::new`].
    pub fn from_vocabulary(vocabulary: &Vocabulary) -> Result<Self, TextError> {
        let templates = Vec::from_iter(vocabulary.chat_template.clone());
        Self::from_parts(TokenizerParts::from_vocabulary(vocabulary, &templates)?, &templates)
    }

    /// Sets the limit on the bytes of one text, or of one chat's contents;
    /// [`super::limits::TEXT_BYTES`] by default.
    #[must_use]
    pub fn with_max_bytes(mut self, max_bytes: usize) -> Self {
        self.max_bytes = max_bytes;
        self
    }

    fn parts_of(manifest: &Manifest, templates: &[String]) -> Result<TokenizerParts, TextError> {
        let vocabulary =
            Vocabulary::from_manifest(manifest)?.ok_or_else(|| unsupported("(none)"))?;
        TokenizerParts::from_vocabulary(&vocabulary, templates)
    }

    fn from_parts(parts: TokenizerParts, templates: &[String]) -> Result<Self, TextError> {
        let table = parts.table;
        let set = |wanted: fn(TokenRole) -> bool| {
            let tokens =
                (0..table.len() as u32).map(TokenId).filter(|&token| wanted(table.role(token)));
            let texts = tokens
                .filter_map(|token| Some((std::str::from_utf8(table.bytes(token)).ok()?, token)));
            TokenSet::new(texts)
        };
        let text_of =
            |token: Option<TokenId>| token.map_or_else(String::new, |token| lossy(&table, token));
        let (beginning, end) = (text_of(parts.beginning), text_of(parts.end));
        Ok(Self {
            encoder: parts.encoder,
            specials: set(|role| matches!(role, TokenRole::Control | TokenRole::Marker))?,
            controls: set(|role| role == TokenRole::Control)?,
            added: set(|role| role == TokenRole::Added)?,
            prefix: parts.prefix,
            suffix: parts.suffix,
            ends: parts.ends,
            template: first_valid(templates, &beginning, &end)?,
            max_bytes: TEXT_BYTES,
            table: Arc::new(table),
        })
    }

    /// The tokens of a text.
    ///
    /// # Errors
    /// [`TextError::TooLong`] and [`TextError::RunTooLong`] for text beyond the limits.
    pub fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<TokenId>, TextError> {
        self.check_bytes(text.len())?;
        let mut tokens = Vec::with_capacity(text.len() / 3 + 2);
        if options.add_special {
            tokens.extend(&self.prefix);
        }
        self.encode_pieces(text, options.parse_special.then_some(&[]), &mut tokens)?;
        if options.add_special {
            tokens.extend(&self.suffix);
        }
        Ok(tokens)
    }

    /// The tokens of a chat, as the model's template writes it. Message contents never become
    /// control tokens, and only the assistant's become markers such as `<think>`; the template
    /// itself decides on the beginning-of-sequence token.
    ///
    /// # Errors
    /// As [`TextModel::encode`], [`ChatTemplate::render`], and [`TextError::NoChatTemplate`].
    pub fn encode_chat(
        &self,
        messages: &[ChatMessage],
        add_generation_prompt: bool,
    ) -> Result<Vec<TokenId>, TextError> {
        let chat = self.render_marked(messages, add_generation_prompt)?;
        let mut tokens = Vec::with_capacity(chat.text.len() / 3 + 2);
        self.encode_pieces(&chat.text, Some(&chat.closed), &mut tokens)?;
        Ok(tokens)
    }

    /// The text of a chat, for inspection: encoding it again would read control tokens from the
    /// contents.
    ///
    /// # Errors
    /// As [`TextModel::encode_chat`].
    pub fn render_chat(
        &self,
        messages: &[ChatMessage],
        add_generation_prompt: bool,
    ) -> Result<String, TextError> {
        Ok(self.render_marked(messages, add_generation_prompt)?.text)
    }

    /// Whether the model has a chat template.
    pub fn has_chat_template(&self) -> bool {
        self.template.is_some()
    }

    /// Number of tokens, those of any role included.
    pub fn vocabulary_size(&self) -> usize {
        self.table.len()
    }

    /// The tokens that end the output: the model's end-of-sequence token first, then others that
    /// end a turn.
    pub fn end_of_sequence(&self) -> &[TokenId] {
        &self.ends
    }

    /// Whether the token steers the model and prints nothing.
    pub fn is_special(&self, token: TokenId) -> bool {
        self.table.role(token) == TokenRole::Control
    }

    /// The text of one token for display, control tokens written out and incomplete characters
    /// replaced.
    pub fn token_text(&self, token: TokenId) -> String {
        lossy(&self.table, token)
    }

    /// The bytes of one token, control tokens written out; part of a character where it has only
    /// part of it.
    pub fn token_bytes(&self, token: TokenId) -> &[u8] {
        self.table.bytes(token)
    }

    /// A detokeniser for one stream.
    pub fn detokenizer(&self) -> Detokenizer {
        Detokenizer::new(Arc::clone(&self.table))
    }

    /// The text of a whole output, as a detokeniser would give it.
    pub fn decode(&self, tokens: &[TokenId]) -> String {
        let mut detokenizer = self.detokenizer();
        let mut text: String = tokens.iter().map(|&token| detokenizer.push(token)).collect();
        text.push_str(&detokenizer.finish());
        text
    }

    fn render_marked(
        &self,
        messages: &[ChatMessage],
        add_generation_prompt: bool,
    ) -> Result<Unmarked, TextError> {
        let template = self.template.as_ref().ok_or(TextError::NoChatTemplate)?;
        self.check_bytes(messages.iter().map(|message| message.content.len()).sum())?;
        let mut marker = ContentMarker::new(template.source(), messages)?;
        let marked: Vec<ChatMessage> = messages
            .iter()
            .map(|message| {
                // Markers such as `</think>` are a part of what models say, and templates look for
                // them there.
                let foreign =
                    if message.role == Role::Assistant { &self.controls } else { &self.specials };
                ChatMessage::new(message.role, marker.mark(&message.content, foreign))
            })
            .collect();
        Ok(marker.unmark(&template.render(&marked, add_generation_prompt)?))
    }

    /// Appends the tokens of a text. Special tokens are read outside the `closed` ranges if there
    /// are any, else not.
    fn encode_pieces(
        &self,
        text: &str,
        closed: Option<&[Range<usize>]>,
        tokens: &mut Vec<TokenId>,
    ) -> Result<(), TextError> {
        let pieces = closed
            .map_or_else(|| vec![Piece::Text(text)], |closed| self.specials.split(text, closed));
        let mut first = true;
        let mut after_token = true;
        for piece in pieces {
            let inner = match piece {
                Piece::Text(text) => self.added.split(text, &[]),
                token @ Piece::Token(_) => vec![token],
            };
            for piece in inner {
                let is_token = matches!(piece, Piece::Token(_));
                match (piece, &self.encoder) {
                    (Piece::Token(token), _) => tokens.push(token),
                    (Piece::Text(text), Encoder::Pipeline(pipeline)) => {
                        pipeline.encode(text, first, tokens)?
                    }
                    (Piece::Text(text), Encoder::SentencePiece(pieces)) => {
                        pieces.encode(text, after_token, tokens)
                    }
                }
                after_token = is_token;
                first = false;
            }
        }
        Ok(())
    }

    fn check_bytes(&self, bytes: usize) -> Result<(), TextError> {
        if bytes > self.max_bytes {
            Err(TextError::TooLong { bytes, max: self.max_bytes })
        } else {
            Ok(())
        }
    }
}

impl fmt::Debug for TextModel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("TextModel")
            .field("vocabulary_size", &self.vocabulary_size())
            .field("end_of_sequence", &self.ends)
            .field("has_chat_template", &self.has_chat_template())
            .finish_non_exhaustive()
    }
}

fn lossy(table: &TokenTable, token: TokenId) -> String {
    String::from_utf8_lossy(table.bytes(token)).into_owned()
}

/// The first template that compiles; if none does, the first one's error.
fn first_valid(
    templates: &[String],
    beginning: &str,
    end: &str,
) -> Result<Option<ChatTemplate>, TextError> {
    let mut first_error = None;
    for template in templates {
        match ChatTemplate::new(template, beginning, end) {
            Ok(template) => {
                if let Some(error) = first_error {
                    tracing::warn!(%error, "the chat template beside the model is used instead of the model's own");
                }
                return Ok(Some(template));
            }
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    first_error.map_or(Ok(None), Err)
}
