//! From the values of a GGUF file to the parts of a text model.

use crate::TokenId;

use super::added_tokens::{ends_output, role_of};
use super::byte_pair::Pipeline;
use super::sentencepiece::{self, SentencePiece};
use super::token_table::{TokenRole, TokenTable};
use super::{TextError, TokenType, Vocabulary, byte_level};

/// A tokenizer as it was read, before it becomes a [`super::TextModel`].
pub(super) struct TokenizerParts {
    pub(super) encoder: Encoder,
    pub(super) table: TokenTable,
    /// Tokens that a prompt begins with.
    pub(super) prefix: Vec<TokenId>,
    /// Tokens that a prompt ends with.
    pub(super) suffix: Vec<TokenId>,
    /// Tokens that end the output.
    pub(super) ends: Vec<TokenId>,
    /// The beginning-of-sequence token, for the chat template.
    pub(super) beginning: Option<TokenId>,
    /// The end-of-sequence token, for the chat template.
    pub(super) end: Option<TokenId>,
}

/// An encoder of text without special tokens.
pub(super) enum Encoder {
    /// The `tokenizers` crate.
    Pipeline(Box<Pipeline>),
    /// SentencePiece merging.
    SentencePiece(SentencePiece),
}

/// The kinds of tokenizer in `tokenizer.ggml.model`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    ByteLevel,
    SentencePiece,
}

// === impl Kind ===

impl Kind {
    fn from_name(name: &str) -> Result<Self, TextError> {
        match name {
            "gpt2" => Ok(Self::ByteLevel),
            "llama" => Ok(Self::SentencePiece),
            other => Err(unsupported(other)),
        }
    }
}

// === impl TokenizerParts ===

impl TokenizerParts {
    /// Checks the values and builds from them. `templates` tell markers from other added tokens.
    pub(super) fn from_vocabulary(
        vocabulary: &Vocabulary,
        templates: &[String],
    ) -> Result<Self, TextError> {
        let kind = Kind::from_name(&vocabulary.kind)?;
        vocabulary.check()?;
        let roles = roles(vocabulary, templates);
        let mut table = TokenTable::default();
        for (index, (text, &role)) in vocabulary.tokens.iter().zip(&roles).enumerate() {
            table.push(role, |bytes| match (kind, vocabulary.token_type(index)) {
                (Kind::SentencePiece, TokenType::Byte) => {
                    bytes.extend(sentencepiece::byte_of(text))
                }
                _ if role != TokenRole::Ordinary => bytes.extend_from_slice(text.as_bytes()),
                (Kind::SentencePiece, _) => sentencepiece::push_bytes(text, bytes),
                (Kind::ByteLevel, _) => byte_level::push_bytes(text, bytes),
            });
        }
        let encoder = match kind {
            Kind::ByteLevel => {
                Encoder::Pipeline(Box::new(Pipeline::byte_level(vocabulary, &roles)?))
            }
            Kind::SentencePiece => Encoder::SentencePiece(SentencePiece::new(vocabulary, &roles)?),
        };
        let id = |id: Option<u32>| id.map(TokenId);
        let (beginning, end) = (id(vocabulary.special.beginning), id(vocabulary.special.end));
        let add_beginning =
            vocabulary.add_beginning.unwrap_or_else(|| begins_by_default(kind, vocabulary));
        let add_end = vocabulary.add_end.unwrap_or(false);
        let named = vocabulary.tokens.iter().zip(&roles).enumerate();
        let named =
            named.filter(|(_, (text, role))| **role == TokenRole::Control && ends_output(text));
        Ok(Self {
            encoder,
            table,
            prefix: beginning.filter(|_| add_beginning).into_iter().collect(),
            suffix: end.filter(|_| add_end).into_iter().collect(),
            ends: distinct(vocabulary.special.ends().chain(named.map(|(index, _)| index as u32))),
            beginning,
            end,
        })
    }
}

/// The error for a kind of tokenizer that is not known.
pub(super) fn unsupported(kind: &str) -> TextError {
    TextError::UnsupportedModel {
        kind: kind.to_owned(),
        supported: "gpt2 (byte-level BPE), llama (SentencePiece)",
    }
}

/// Ids as tokens, each once, in the order of their first appearance.
pub(super) fn distinct(ids: impl Iterator<Item = u32>) -> Vec<TokenId> {
    let mut tokens = Vec::new();
    for token in ids.map(TokenId) {
        if !tokens.contains(&token) {
            tokens.push(token);
        }
    }
    tokens
}

/// Whether prompts begin with the beginning-of-sequence token in files that do not say: so do
/// SentencePiece models and the Llama 3 family, whose first converters left it out.
fn begins_by_default(kind: Kind, vocabulary: &Vocabulary) -> bool {
    let pre_tokenizer = vocabulary.pre_tokenizer.as_deref();
    kind == Kind::SentencePiece
        || matches!(pre_tokenizer, Some("llama-bpe" | "llama3" | "llama-v3"))
}

fn roles(vocabulary: &Vocabulary, templates: &[String]) -> Vec<TokenRole> {
    let tokens = vocabulary.tokens.iter().enumerate();
    let mut roles: Vec<TokenRole> = tokens
        .map(|(index, text)| role_of(text, vocabulary.token_type(index), templates))
        .collect();
    // Some files type these as normal, or have no types at all.
    let special = &vocabulary.special;
    for id in special.ends().chain(special.beginning).chain(special.unknown) {
        let text = &vocabulary.tokens[id as usize];
        if text.starts_with('<')
            && text.ends_with('>')
            && vocabulary.token_type(id as usize) != TokenType::Byte
        {
            roles[id as usize] = TokenRole::Control;
        }
    }
    roles
}
