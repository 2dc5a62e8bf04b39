//! Splitting and merging by the `tokenizers` crate: byte-level BPE from GGUF, and anything from a
//! tokenizer.json.

use std::collections::HashMap;

use tokenizers::models::bpe::BPE;
use tokenizers::{
    Model, ModelWrapper, NormalizedString, Normalizer, NormalizerWrapper, OffsetReferential,
    OffsetType, PreTokenizedString, PreTokenizer, PreTokenizerWrapper,
};

use crate::TokenId;

use super::limits::RUN_BYTES;
use super::pre_tokenizer::SplitRule;
use super::token_table::TokenRole;
use super::{TextError, Vocabulary};

/// The steps that turn text without special tokens into token ids.
pub(super) struct Pipeline {
    pub(super) normalizer: Option<NormalizerWrapper>,
    pub(super) pre_tokenizer: Option<PreTokenizerWrapper>,
    /// Pre-tokeniser of text that is not at the start of the whole, where that differs.
    pub(super) inner_pre_tokenizer: Option<PreTokenizerWrapper>,
    pub(super) model: ModelWrapper,
}

// === impl Pipeline ===

impl Pipeline {
    /// Byte-level BPE with the vocabulary's merges. Control tokens and markers are left out, so
    /// that no text merges to one.
    pub(super) fn byte_level(
        vocabulary: &Vocabulary,
        roles: &[TokenRole],
    ) -> Result<Self, TextError> {
        let name = vocabulary.pre_tokenizer.as_deref();
        let rule = SplitRule::from_name(name)?;
        let mut special = HashMap::new();
        let mut ids = HashMap::with_capacity(vocabulary.tokens.len());
        for (id, (token, role)) in vocabulary.tokens.iter().zip(roles).enumerate() {
            if matches!(role, TokenRole::Control | TokenRole::Marker) {
                special.insert(token.as_str(), id);
            } else if !token.is_empty() {
                ids.insert(token.clone(), id as u32);
            }
        }
        let mut merges = Vec::with_capacity(vocabulary.merges.len());
        for (rank, merge) in vocabulary.merges.iter().enumerate() {
            let Some((left, right)) = merge.split_once(' ') else {
                return Err(TextError::vocabulary(format!(
                    "merge {rank} (`{merge}`) is not a pair"
                )));
            };
            let whole = [left, right].concat();
            let parts = [left, right, &whole];
            if let Some(missing) = parts.iter().find(|part| !ids.contains_key(**part)) {
                if special.contains_key(*missing) {
                    continue;
                }
                return Err(TextError::vocabulary(format!(
                    "merge {rank} (`{merge}`) needs the token `{missing}`, which is missing"
                )));
            }
            merges.push((left.to_owned(), right.to_owned()));
        }
        let model = BPE::builder()
            .vocab_and_merges(ids.into_iter().collect::<tokenizers::models::bpe::Vocab>(), merges)
            .ignore_merges(rule.ignores_merges(name))
            .build()
            .map_err(|error| TextError::vocabulary(format!("its merges can't be used: {error}")))?;
        Ok(Self {
            normalizer: None,
            pre_tokenizer: Some(rule.build()?),
            inner_pre_tokenizer: None,
            model: model.into(),
        })
    }

    /// Appends the tokens of a text; `at_start` says whether anything comes before it.
    pub(super) fn encode(
        &self,
        text: &str,
        at_start: bool,
        ids: &mut Vec<TokenId>,
    ) -> Result<(), TextError> {
        let failed = |error: tokenizers::Error| TextError::Encoding { reason: error.to_string() };
        check_run(longest_white_space(text))?;
        let mut pieces = match &self.normalizer {
            Some(normalizer) => {
                let mut normalized = NormalizedString::from(text);
                normalizer.normalize(&mut normalized).map_err(failed)?;
                PreTokenizedString::from(normalized)
            }
            None => PreTokenizedString::from(text),
        };
        let inner = self.inner_pre_tokenizer.as_ref().filter(|_| !at_start);
        if let Some(pre_tokenizer) = inner.or(self.pre_tokenizer.as_ref()) {
            pre_tokenizer.pre_tokenize(&mut pieces).map_err(failed)?;
        }
        for (piece, ..) in pieces.get_splits(OffsetReferential::Original, OffsetType::None) {
            // Every byte is one character here, of up to two bytes.
            check_run(piece.chars().count())?;
            ids.extend(
                self.model.tokenize(piece).map_err(failed)?.iter().map(|token| TokenId(token.id)),
            );
        }
        Ok(())
    }
}

fn check_run(bytes: usize) -> Result<(), TextError> {
    if bytes > RUN_BYTES { Err(TextError::RunTooLong { bytes, max: RUN_BYTES }) } else { Ok(()) }
}

/// Bytes of the longest stretch of white space: the splitting rules scan it with backtracking, so
/// it is bounded before they run.
fn longest_white_space(text: &str) -> usize {
    let (mut longest, mut run) = (0, 0);
    for character in text.chars() {
        run = if character.is_whitespace() { run + character.len_utf8() } else { 0 };
        longest = longest.max(run);
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vocabulary(pre: &str, tokens: &[&str], merges: &[&str]) -> Vocabulary {
        Vocabulary {
            kind: "gpt2".to_owned(),
            pre_tokenizer: Some(pre.to_owned()),
            tokens: tokens.iter().map(|token| (*token).to_owned()).collect(),
            merges: merges.iter().map(|merge| (*merge).to_owned()).collect(),
            ..Vocabulary::default()
        }
    }

    fn ids(pipeline: &Pipeline, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        pipeline.encode(text, true, &mut ids).unwrap();
        ids.into_iter().map(|id| id.0).collect()
    }

    fn ordinary(count: usize) -> Vec<TokenRole> {
        vec![TokenRole::Ordinary; count]
    }

    #[test]
    fn merges_apply_by_rank_within_a_split() {
        // 0 a, 1 b, 2 space, 3 ab, 4 space+a, 5 1, 6 aba (a whole that no merge reaches)
        let tokens = ["a", "b", "Ġ", "ab", "Ġa", "1", "aba"];
        let cases: [(&str, &str, &[u32]); 6] = [
            ("gpt-2", "ab a", &[3, 4]),
            ("smollm", "ab11", &[3, 5, 5]),
            ("qwen2", "aab", &[0, 3]),
            ("llama-bpe", "aba", &[6]),
            ("dbrx", "aba", &[3, 0]),
            ("gpt-2", "", &[]),
        ];
        let mut wrong = Vec::new();
        for (pre, text, want) in cases {
            let vocabulary = vocabulary(pre, &tokens, &["a b", "Ġ a"]);
            let got = ids(&Pipeline::byte_level(&vocabulary, &ordinary(7)).unwrap(), text);
            if got != want {
                wrong.push((pre, text, got, want));
            }
        }
        assert!(wrong.is_empty(), "{wrong:?}");
    }

    #[test]
    fn text_never_merges_to_a_control_token() {
        let vocabulary = vocabulary("gpt-2", &["a", "b", "ab"], &["a b"]);
        let pipeline = Pipeline::byte_level(&vocabulary, &ordinary(3)).unwrap();
        assert_eq!(ids(&pipeline, "ab"), [2]);
        let roles = [TokenRole::Ordinary, TokenRole::Ordinary, TokenRole::Control];
        let pipeline = Pipeline::byte_level(&vocabulary, &roles).unwrap();
        assert_eq!(ids(&pipeline, "ab"), [0, 1]);
    }

    #[test]
    fn broken_merges_are_refused() {
        let cases = [
            ("a", "merge 0 (`a`) is not a pair"),
            ("a c", "`c`"),
            ("b a", "`ba`"),
            ("a  b", "` b`"),
        ];
        for (merge, part) in cases {
            let vocabulary = vocabulary("gpt-2", &["a", "b", "ab"], &[merge]);
            let error = Pipeline::byte_level(&vocabulary, &ordinary(3))
                .err()
                .map(|error| error.to_string());
            assert!(error.as_ref().is_some_and(|error| error.contains(part)), "{merge}: {error:?}");
        }
    }

    #[test]
    fn unsplit_stretches_are_bounded() {
        let vocabulary = vocabulary("gpt-2", &["a", "aa", "Ġ", "_"], &["a a"]);
        let pipeline = Pipeline::byte_level(&vocabulary, &ordinary(4)).unwrap();
        for unit in ["a", " ", "_", "\n"] {
            let mut out = Vec::new();
            let refused = pipeline.encode(&unit.repeat(RUN_BYTES + 1), true, &mut out);
            assert!(
                matches!(refused, Err(TextError::RunTooLong { bytes, .. }) if bytes == RUN_BYTES + 1),
                "{unit:?}"
            );
            pipeline.encode(&format!("{}a", unit.repeat(RUN_BYTES - 1)), true, &mut out).unwrap();
        }
    }
}
