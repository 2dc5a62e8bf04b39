//! Text in and out of the model: tokens, chat templates, incremental decoding and stop strings.
//!
//! [`TextModel`] is what the rest of the crate uses. It is built from the tokenizer that the GGUF
//! file carries ([`Vocabulary`]), or from a `tokenizer.json` beside it. The way of a prompt:
//! `special_tokens` finds control tokens where they are allowed, `segments` keeps message contents
//! from being taken for them, and what lies between goes through byte-level BPE (`byte_pair`) or
//! SentencePiece merging (`sentencepiece`).
#![forbid(unsafe_code)]

mod added_tokens;
mod byte_level;
mod byte_pair;
mod chat_template;
mod detokenizer;
mod error;
mod large_stack;
mod parts;
mod pre_tokenizer;
mod segments;
mod sentencepiece;
mod special_tokens;
mod stop_strings;
mod strftime;
mod template_sandbox;
mod token_table;
mod tokenizer;
mod tokenizer_json;
mod vocabulary;

pub use chat_template::{ChatMessage, ChatTemplate, Role};
pub use detokenizer::Detokenizer;
pub use error::TextError;
pub use stop_strings::{StopMatcher, StopStep};
pub use tokenizer::{EncodeOptions, TextModel};
pub use vocabulary::{SpecialIds, TokenType, Vocabulary};

/// Limits on what one call may cost.
pub mod limits {
    /// Bytes of text that are tokenised in one call unless [`super::TextModel::with_max_bytes`]
    /// says otherwise; the largest message that the server takes.
    pub const TEXT_BYTES: usize = 1 << 20;
    /// Bytes of a stretch that the pre-tokeniser does not split (letters, punctuation, white
    /// space). Merging costs n log n and white space is scanned with backtracking, so stretches are
    /// bounded apart from the whole.
    pub const RUN_BYTES: usize = 64 << 10;
    /// Bytes of a chat template. The longest in use are about 20,000.
    pub const TEMPLATE_BYTES: usize = 64 << 10;
    /// Bytes that a chat template may add to the contents of the messages, beside four times their
    /// size.
    pub const TEMPLATE_OUTPUT_BYTES: usize = 256 << 10;
    /// Instructions of a chat template that one rendering may run.
    pub const TEMPLATE_FUEL: u64 = 50_000;
    /// Macros and includes inside one another.
    pub const TEMPLATE_RECURSION: usize = 64;
    /// Messages of a chat.
    pub const MESSAGES: usize = 1_024;
    /// Bytes of a `tokenizer.json`.
    pub const TOKENIZER_FILE_BYTES: u64 = 128 << 20;
}
