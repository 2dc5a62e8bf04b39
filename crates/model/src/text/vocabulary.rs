//! The tokenizer as a GGUF file states it.

use skipstone_gguf::{Manifest, Metadata};

use super::TextError;

/// The tokenizer section of a GGUF file, as plain values. [`super::TextModel::from_vocabulary`]
/// checks it.
#[derive(Clone, Debug, Default)]
pub struct Vocabulary {
    /// `gpt2` (byte-level BPE) or `llama` (SentencePiece).
    pub kind: String,
    /// The name of the rules that split text before merging; only byte-level BPE has one.
    pub pre_tokenizer: Option<String>,
    /// The text of each token, by id. Byte-level BPE writes bytes as the 256 stand-in characters of
    /// GPT-2.
    pub tokens: Vec<String>,
    /// Type of each token, by id; empty means that all are normal.
    pub token_types: Vec<TokenType>,
    /// The score of each token, by id; needed by SentencePiece only.
    pub scores: Vec<f32>,
    /// Pairs that merge, best first, the halves separated by a space; needed by byte-level BPE
    /// only.
    pub merges: Vec<String>,
    /// Tokens with a role.
    pub special: SpecialIds,
    /// Whether prompts start with the beginning-of-sequence token; `None` leaves it to the kind.
    pub add_beginning: Option<bool>,
    /// Whether prompts end with the end-of-sequence token; `None` means no.
    pub add_end: Option<bool>,
    /// Whether text gets a space in front, so that its first word looks like any other; `None`
    /// means yes.
    pub add_space_prefix: Option<bool>,
    /// The chat template, in Jinja.
    pub chat_template: Option<String>,
}

/// Tokens with a role, by id.
#[derive(Clone, Copy, Debug, Default)]
pub struct SpecialIds {
    /// Starts a sequence.
    pub beginning: Option<u32>,
    /// Ends a sequence.
    pub end: Option<u32>,
    /// Ends a turn of a chat.
    pub end_of_turn: Option<u32>,
    /// Ends a message to a tool.
    pub end_of_message: Option<u32>,
    /// Stands for what the vocabulary can't express.
    pub unknown: Option<u32>,
}

/// Type of a token, by the numbers of GGUF's `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TokenType {
    /// A piece of ordinary text.
    #[default]
    Normal,
    /// Stands for what the vocabulary can't express.
    Unknown,
    /// Steers the model; never printed.
    Control,
    /// Text that is always one token.
    UserDefined,
    /// A place holder.
    Unused,
    /// One byte, written `<0x0A>`.
    Byte,
}

// === impl TokenType ===

impl TokenType {
    fn from_number(number: i32) -> Option<Self> {
        // 0 is "undefined", which converters of old files wrote for ordinary tokens.
        Some(match number {
            0 | 1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }
}

// === impl SpecialIds ===

impl SpecialIds {
    /// Reads the ids of a header.
    pub(super) fn from_metadata(metadata: &Metadata) -> Result<Self, TextError> {
        let id = |name: &str| metadata.u32(&format!("tokenizer.ggml.{name}_token_id"));
        Ok(Self {
            beginning: id("bos")?,
            end: id("eos")?,
            end_of_turn: id("eot")?,
            end_of_message: id("eom")?,
            unknown: id("unknown")?,
        })
    }

    /// The ids that end the output.
    pub(super) fn ends(&self) -> impl Iterator<Item = u32> {
        [self.end, self.end_of_turn, self.end_of_message].into_iter().flatten()
    }
}

// === impl Vocabulary ===

impl Vocabulary {
    /// Reads the tokenizer section of a header; `None` when the file has none.
    ///
    /// # Errors
    /// [`TextError::Metadata`] for keys of the wrong type, [`TextError::InvalidVocabulary`] for
    /// unknown token types.
    pub fn from_manifest(manifest: &Manifest) -> Result<Option<Self>, TextError> {
        let metadata = manifest.metadata();
        let (Some(kind), Some(tokens)) =
            (metadata.string("tokenizer.ggml.model")?, metadata.strings("tokenizer.ggml.tokens")?)
        else {
            return Ok(None);
        };
        let flag = |name: &str| metadata.bool(&format!("tokenizer.ggml.{name}"));
        Ok(Some(Self {
            kind: kind.to_owned(),
            pre_tokenizer: metadata.string("tokenizer.ggml.pre")?.map(str::to_owned),
            tokens: tokens.to_vec(),
            token_types: token_types(metadata)?,
            scores: metadata
                .f32s("tokenizer.ggml.scores")?
                .map(|scores| scores.to_vec())
                .unwrap_or_default(),
            merges: metadata.strings("tokenizer.ggml.merges")?.unwrap_or_default().to_vec(),
            special: SpecialIds::from_metadata(metadata)?,
            add_beginning: flag("add_bos_token")?,
            add_end: flag("add_eos_token")?,
            add_space_prefix: flag("add_space_prefix")?,
            chat_template: Self::chat_template_of(manifest)?,
        }))
    }

    /// The chat template of a header, which may be there when the tokenizer is not.
    pub(super) fn chat_template_of(manifest: &Manifest) -> Result<Option<String>, TextError> {
        Ok(manifest.metadata().string("tokenizer.chat_template")?.map(str::to_owned))
    }

    /// The type of a token; normal where the file says nothing.
    pub fn token_type(&self, index: usize) -> TokenType {
        self.token_types.get(index).copied().unwrap_or_default()
    }

    /// Checks what holds for every kind: sizes agree and ids exist.
    pub(super) fn check(&self) -> Result<(), TextError> {
        let count = self.tokens.len();
        if count == 0 || u32::try_from(count).is_err() {
            return Err(TextError::vocabulary(format!("it has {count} tokens")));
        }
        for (what, len) in [("token types", self.token_types.len()), ("scores", self.scores.len())]
        {
            if len != 0 && len != count {
                return Err(TextError::vocabulary(format!(
                    "it has {count} tokens but {len} {what}"
                )));
            }
        }
        let SpecialIds { beginning, end, end_of_turn, end_of_message, unknown } = self.special;
        for (name, id) in [
            ("bos", beginning),
            ("eos", end),
            ("eot", end_of_turn),
            ("eom", end_of_message),
            ("unknown", unknown),
        ] {
            if let Some(id) = id.filter(|&id| id as usize >= count) {
                return Err(TextError::vocabulary(format!(
                    "{name}_token_id is {id}, but there are {count} tokens"
                )));
            }
        }
        Ok(())
    }
}

fn token_types(metadata: &Metadata) -> Result<Vec<TokenType>, TextError> {
    let Some(numbers) = metadata.i32s("tokenizer.ggml.token_type")? else { return Ok(Vec::new()) };
    numbers
        .iter()
        .enumerate()
        .map(|(token, &number)| {
            TokenType::from_number(number).ok_or_else(|| {
                TextError::vocabulary(format!("token {token} has the unknown type {number}"))
            })
        })
        .collect()
}
