//! The rules by which byte-level vocabularies split text before merging.
//!
//! A vocabulary's merges were learnt on text split by one of these rules, so encoding must split
//! the same way. GGUF files name the rule in `tokenizer.ggml.pre`; many names share one rule.

use tokenizers::PreTokenizerWrapper;
use tokenizers::SplitDelimiterBehavior::Isolated;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};

use super::TextError;

/// A rule by which text is split before merging.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SplitRule {
    /// GPT-2: contractions, letters, digits, the rest, each with the space before it.
    Gpt2,
    /// Every digit alone, then as GPT-2 (StarCoder, SmolLM).
    DigitsThenGpt2,
    /// As Llama 3, but every digit alone.
    Qwen2,
    /// Contractions in any case, digits in threes, line ends kept with the punctuation before them.
    Llama3,
}

/// The names in `tokenizer.ggml.pre` and their rules.
const NAMES: &[(&str, SplitRule)] = &[
    ("gpt-2", SplitRule::Gpt2),
    ("gpt2", SplitRule::Gpt2),
    ("phi-2", SplitRule::Gpt2),
    ("mpt", SplitRule::Gpt2),
    ("olmo", SplitRule::Gpt2),
    ("smollm", SplitRule::DigitsThenGpt2),
    ("starcoder", SplitRule::DigitsThenGpt2),
    ("refact", SplitRule::DigitsThenGpt2),
    ("command-r", SplitRule::DigitsThenGpt2),
    ("qwen2", SplitRule::Qwen2),
    ("deepseek-r1-qwen", SplitRule::Qwen2),
    ("stablelm2", SplitRule::Qwen2),
    ("llama-bpe", SplitRule::Llama3),
    ("llama3", SplitRule::Llama3),
    ("llama-v3", SplitRule::Llama3),
    ("dbrx", SplitRule::Llama3),
    ("smaug-bpe", SplitRule::Llama3),
];

const QWEN2_PATTERN: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const LLAMA3_PATTERN: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

// === impl SplitRule ===

impl SplitRule {
    /// The rule with this name. Files without a name, or with the name `default`, predate the key:
    /// their converters assumed GPT-2.
    pub(super) fn from_name(name: Option<&str>) -> Result<Self, TextError> {
        let name = match name {
            None | Some("default" | "") => {
                tracing::warn!(
                    "the model does not name its pre-tokeniser (tokenizer.ggml.pre); GPT-2's is assumed, \
                     token ids may differ from the original model's"
                );
                "gpt-2"
            }
            Some(name) => name,
        };
        let found = NAMES.iter().find(|(known, _)| *known == name);
        found.map(|(_, rule)| *rule).ok_or_else(|| TextError::UnsupportedPreTokenizer {
            name: name.to_owned(),
            supported: NAMES.iter().map(|(known, _)| *known).collect::<Vec<_>>().join(", "),
        })
    }

    /// Whether a stretch that is a token as a whole is not merged at all; Llama 3's own tokenizer
    /// looks it up first.
    pub(super) fn ignores_merges(self, name: Option<&str>) -> bool {
        self == Self::Llama3 && matches!(name, Some("llama-bpe" | "llama3" | "llama-v3"))
    }

    /// The splitter; it also writes bytes as the characters of the vocabulary.
    pub(super) fn build(self) -> Result<PreTokenizerWrapper, TextError> {
        let steps: Vec<PreTokenizerWrapper> = match self {
            Self::Gpt2 => vec![ByteLevel::new(false, false, true).into()],
            Self::DigitsThenGpt2 => {
                vec![Digits::new(true).into(), ByteLevel::new(false, false, true).into()]
            }
            Self::Qwen2 => vec![split(QWEN2_PATTERN)?, ByteLevel::new(false, false, false).into()],
            Self::Llama3 => {
                vec![split(LLAMA3_PATTERN)?, ByteLevel::new(false, false, false).into()]
            }
        };
        Ok(Sequence::new(steps).into())
    }
}

fn split(pattern: &str) -> Result<PreTokenizerWrapper, TextError> {
    let pattern = SplitPattern::Regex(pattern.to_owned());
    let split = Split::new(pattern, Isolated, false).map_err(|error| {
        TextError::vocabulary(format!("its splitting rule does not compile: {error}"))
    })?;
    Ok(split.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::byte_level;
    use crate::text::limits::RUN_BYTES;
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

    fn splits(rule: SplitRule, text: &str) -> Vec<String> {
        let mut pieces = PreTokenizedString::from(text);
        rule.build().unwrap().pre_tokenize(&mut pieces).unwrap();
        let pieces = pieces.get_splits(OffsetReferential::Original, OffsetType::None);
        let plain = |piece: &str| {
            let mut bytes = Vec::new();
            byte_level::push_bytes(piece, &mut bytes);
            String::from_utf8(bytes).unwrap()
        };
        pieces.into_iter().map(|(piece, ..)| plain(piece)).collect()
    }

    #[test]
    fn rules_split_where_their_models_do() {
        use SplitRule::{DigitsThenGpt2, Gpt2, Llama3, Qwen2};
        let cases: &[(SplitRule, &str, &[&str])] = &[
            (
                Gpt2,
                "Hello  world's 1234!?\n\nx",
                &["Hello", " ", " world", "'s", " 1234", "!?", "\n", "\n", "x"],
            ),
            (Gpt2, "IT'S été", &["IT", "'", "S", " été"]),
            (DigitsThenGpt2, "a1234 b", &["a", "1", "2", "3", "4", " b"]),
            (DigitsThenGpt2, "x 12.5", &["x", " ", "1", "2", ".", "5"]),
            (Qwen2, "IT'S 1234", &["IT", "'S", " ", "1", "2", "3", "4"]),
            (Qwen2, "a.b\n\n  c", &["a", ".b", "\n\n", " ", " c"]),
            (Qwen2, "f();\r\n\tx", &["f", "();\r\n", "\tx"]),
            (Llama3, "1234567 It's", &["123", "456", "7", " It", "'s"]),
            (Llama3, "a!!\nb   ", &["a", "!!\n", "b", "   "]),
            (Llama3, "你好，世界", &["你好", "，世界"]),
        ];
        let wrong: Vec<_> = cases
            .iter()
            .map(|(rule, text, want)| (rule, text, splits(*rule, text), want))
            .filter(|(_, _, got, want)| got != *want)
            .collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    #[test]
    fn the_longest_white_space_allowed_is_within_the_backtracking_limit() {
        // Beyond that limit the library would stop splitting without a word.
        for rule in
            [SplitRule::Gpt2, SplitRule::DigitsThenGpt2, SplitRule::Qwen2, SplitRule::Llama3]
        {
            let text = format!("{}x y", " ".repeat(RUN_BYTES));
            let got = splits(rule, &text);
            assert_eq!(got.len(), 3, "{rule:?}");
            assert_eq!(
                (got[0].len(), got[1].as_str(), got[2].as_str()),
                (RUN_BYTES - 1, " x", " y"),
                "{rule:?}"
            );
        }
    }

    #[test]
    fn names_are_known_or_refused_with_the_remedy() {
        let names =
            [(Some("smollm"), SplitRule::DigitsThenGpt2), (Some("llama3"), SplitRule::Llama3)];
        for (name, rule) in
            names.into_iter().chain([(None, SplitRule::Gpt2), (Some("default"), SplitRule::Gpt2)])
        {
            assert_eq!(SplitRule::from_name(name).unwrap(), rule, "{name:?}");
        }
        let error = SplitRule::from_name(Some("tekken")).unwrap_err().to_string();
        for part in ["`tekken`", "llama-bpe", "tokenizer.json"] {
            assert!(error.contains(part), "{error}");
        }
        assert!(SplitRule::Llama3.ignores_merges(Some("llama-bpe")));
        assert!(!SplitRule::Llama3.ignores_merges(Some("dbrx")));
    }
}
