//! SentencePiece BPE, as models of the first Llama generations use it.
//!
//! Starting from single characters, the neighbours whose concatenation is the piece with the best
//! score merge, the leftmost of equals first, until none is left (the procedure of SentencePiece's
//! BPE model, which has scores in place of merge ranks). Characters that are no piece become byte
//! tokens, or the unknown token.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

use crate::TokenId;

use super::token_table::TokenRole;
use super::{TextError, TokenType, Vocabulary};

/// Stands for a space inside pieces.
pub(super) const SPACE: char = '\u{2581}';

/// The pieces and their scores.
#[derive(Debug)]
pub(super) struct SentencePiece {
    pieces: HashMap<String, (TokenId, f32)>,
    // The longest piece, in bytes: longer concatenations need no look-up.
    longest: usize,
    bytes: Vec<Option<TokenId>>,
    unknown: Option<TokenId>,
    space_prefix: bool,
}

/// A part of the text that is one piece, in a linked list.
struct Symbol {
    start: usize,
    // Zero once it was merged into its left neighbour.
    len: usize,
    previous: Option<usize>,
    next: Option<usize>,
}

/// Two neighbours that may merge.
#[derive(PartialEq)]
struct PossibleMerge {
    score: f32,
    left: usize,
    right: usize,
    // Length of both together, which shows whether either has changed since.
    len: usize,
}

// === impl SentencePiece ===

impl SentencePiece {
    pub(super) fn new(vocabulary: &Vocabulary, roles: &[TokenRole]) -> Result<Self, TextError> {
        if vocabulary.scores.is_empty() {
            return Err(TextError::vocabulary(
                "a SentencePiece tokenizer needs scores, but it has none",
            ));
        }
        let mut this = Self {
            pieces: HashMap::with_capacity(vocabulary.tokens.len()),
            longest: 0,
            bytes: vec![None; 256],
            unknown: vocabulary.special.unknown.map(TokenId),
            space_prefix: vocabulary.add_space_prefix.unwrap_or(true),
        };
        for (index, ((text, &score), role)) in
            vocabulary.tokens.iter().zip(&vocabulary.scores).zip(roles).enumerate()
        {
            let token = TokenId(index as u32);
            match vocabulary.token_type(index) {
                TokenType::Byte => {
                    let byte = byte_of(text).ok_or_else(|| {
                        TextError::vocabulary(format!(
                            "token {index} (`{text}`) is of type byte but names none"
                        ))
                    })?;
                    this.bytes[usize::from(byte)] = Some(token);
                }
                TokenType::Unknown => this.unknown = this.unknown.or(Some(token)),
                TokenType::Normal | TokenType::UserDefined
                    if *role == TokenRole::Ordinary || *role == TokenRole::Added =>
                {
                    this.longest = this.longest.max(text.len());
                    this.pieces.insert(
                        text.clone(),
                        (token, if score.is_nan() { f32::NEG_INFINITY } else { score }),
                    );
                }
                _ => {}
            }
        }
        if this.unknown.is_none() && this.bytes.contains(&None) {
            return Err(TextError::vocabulary(
                "it has neither an unknown token nor all 256 byte tokens",
            ));
        }
        Ok(this)
    }

    /// Appends the tokens of a text; `at_start` says that it begins the whole or follows a special
    /// token, where a space goes in front.
    pub(super) fn encode(&self, text: &str, at_start: bool, ids: &mut Vec<TokenId>) {
        let mut escaped = String::with_capacity(text.len() + 3);
        if at_start && self.space_prefix {
            escaped.push(SPACE);
        }
        escaped
            .extend(text.chars().map(|character| if character == ' ' { SPACE } else { character }));

        let mut symbols = symbols_of(&escaped);
        let mut candidates = BinaryHeap::new();
        for left in 0..symbols.len().saturating_sub(1) {
            candidates.extend(self.candidate(&escaped, &symbols, left));
        }
        while let Some(PossibleMerge { left, right, len, .. }) = candidates.pop() {
            let stale = symbols[left].len == 0 || symbols[right].len == 0;
            if stale || symbols[left].len + symbols[right].len != len {
                continue;
            }
            let after = symbols[right].next;
            symbols[left].len = len;
            symbols[left].next = after;
            symbols[right].len = 0;
            if let Some(after) = after {
                symbols[after].previous = Some(left);
            }
            candidates.extend(self.candidate(&escaped, &symbols, left));
            if let Some(previous) = symbols[left].previous {
                candidates.extend(self.candidate(&escaped, &symbols, previous));
            }
        }
        for symbol in symbols.iter().filter(|symbol| symbol.len > 0) {
            let piece = &escaped[symbol.start..symbol.start + symbol.len];
            match self.pieces.get(piece) {
                Some(&(token, _)) => ids.push(token),
                None => self.spell_out(piece, ids),
            }
        }
    }

    /// The merge of a symbol with the one after it, if the two make a piece.
    fn candidate(&self, text: &str, symbols: &[Symbol], left: usize) -> Option<PossibleMerge> {
        let right = symbols[left].next?;
        let len = symbols[left].len + symbols[right].len;
        if len > self.longest {
            return None;
        }
        let start = symbols[left].start;
        let &(_, score) = self.pieces.get(&text[start..start + len])?;
        Some(PossibleMerge { score, left, right, len })
    }

    fn spell_out(&self, character: &str, ids: &mut Vec<TokenId>) {
        let bytes: Option<Vec<TokenId>> =
            character.bytes().map(|byte| self.bytes[usize::from(byte)]).collect();
        match bytes {
            Some(bytes) => ids.extend(bytes),
            None => ids.extend(self.unknown),
        }
    }
}

// === impl PossibleMerge ===

impl Eq for PossibleMerge {}

impl Ord for PossibleMerge {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then_with(|| other.left.cmp(&self.left))
    }
}

impl PartialOrd for PossibleMerge {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// One symbol for each character.
fn symbols_of(text: &str) -> Vec<Symbol> {
    let mut symbols: Vec<Symbol> = text
        .char_indices()
        .enumerate()
        .map(|(index, (start, character))| Symbol {
            start,
            len: character.len_utf8(),
            previous: index.checked_sub(1),
            next: Some(index + 1),
        })
        .collect();
    if let Some(last) = symbols.last_mut() {
        last.next = None;
    }
    symbols
}

/// The byte that a token of type byte stands for.
pub(super) fn byte_of(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None }
}

/// Appends the text of a piece, with its spaces.
pub(super) fn push_bytes(piece: &str, bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(piece.replace(SPACE, " ").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 0 <unk>, then pieces by falling score, then byte tokens if asked for.
    fn sentencepiece(pieces: &[&str], with_bytes: bool, space_prefix: bool) -> SentencePiece {
        let mut vocabulary =
            Vocabulary { add_space_prefix: Some(space_prefix), ..Vocabulary::default() };
        let mut add = |text: String, kind, score| {
            vocabulary.tokens.push(text);
            vocabulary.token_types.push(kind);
            vocabulary.scores.push(score);
        };
        add("<unk>".to_owned(), TokenType::Unknown, 0.0);
        for (rank, piece) in pieces.iter().enumerate() {
            add((*piece).to_owned(), TokenType::Normal, -(rank as f32));
        }
        for byte in (0..256).filter(|_| with_bytes) {
            add(format!("<0x{byte:02X}>"), TokenType::Byte, 0.0);
        }
        let roles = vec![TokenRole::Ordinary; vocabulary.tokens.len()];
        SentencePiece::new(&vocabulary, &roles).unwrap()
    }

    fn ids(sentencepiece: &SentencePiece, text: &str, at_start: bool) -> Vec<u32> {
        let mut ids = Vec::new();
        sentencepiece.encode(text, at_start, &mut ids);
        ids.into_iter().map(|id| id.0).collect()
    }

    #[test]
    fn the_best_score_merges_first_and_the_leftmost_of_equals() {
        //              1     2     3      4    5    6    7
        let pieces = ["bc", "ab", "▁a", "a", "b", "c", "▁"];
        let cases: [(&str, bool, &[u32]); 7] = [
            ("abc", false, &[4, 1]),      // bc before ab
            ("ababc", false, &[2, 4, 1]), // then ab where it is left
            ("a a", false, &[4, 3]),
            ("a", true, &[3]),
            ("", true, &[7]),
            ("", false, &[]),
            ("abab", false, &[2, 2]),
        ];
        let model = sentencepiece(&pieces, false, true);
        let wrong: Vec<_> =
            cases.iter().filter(|(text, start, want)| ids(&model, text, *start) != *want).collect();
        assert!(wrong.is_empty(), "{wrong:?}");
        assert_eq!(ids(&sentencepiece(&pieces, false, false), "a", true), [4], "no space in front");
        assert_eq!(ids(&sentencepiece(&["aa", "a"], false, false), "aaa", true), [1, 2]);
    }

    #[test]
    fn unknown_characters_become_bytes_or_the_unknown_token() {
        let with_bytes = sentencepiece(&["a"], true, false);
        let first_byte = 2;
        assert_eq!(ids(&with_bytes, "aé", true), [1, first_byte + 0xC3, first_byte + 0xA9]);
        // The text of a byte token is not the byte token.
        assert!(ids(&with_bytes, "<0x0A>", true).iter().all(|&id| id != first_byte + 0x0A));
        assert_eq!(ids(&sentencepiece(&["a"], false, false), "aé", true), [1, 0]);
    }

    #[test]
    fn unusable_vocabularies_are_refused() {
        let no_scores = Vocabulary { tokens: vec!["a".to_owned()], ..Vocabulary::default() };
        let no_fallback = Vocabulary { scores: vec![0.0], ..no_scores.clone() };
        let bad_byte = Vocabulary { token_types: vec![TokenType::Byte], ..no_fallback.clone() };
        for (vocabulary, part) in
            [(no_scores, "scores"), (no_fallback, "unknown"), (bad_byte, "byte")]
        {
            let error =
                SentencePiece::new(&vocabulary, &[TokenRole::Ordinary]).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn long_texts_take_n_log_n() {
        let model = sentencepiece(&["aa", "aaaa", "aaaaaaaa", "a"], false, false);
        // A quadratic procedure would take minutes for this.
        assert_eq!(ids(&model, &"a".repeat(1 << 18), true).len(), 1 << 15);
    }
}
