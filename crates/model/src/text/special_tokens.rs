//! Finds tokens that are written out in text, such as `<|im_end|>`.

use std::ops::Range;

use super::TextError;
use crate::TokenId;

/// Bytes of one token of a set. Each byte of the file becomes a node of some 80 bytes, so a file
/// must not choose how long they are; known models have at most some 50.
const MAX_TOKEN_BYTES: usize = 1024;

/// Bytes of all tokens of a set.
const MAX_SET_BYTES: usize = 1 << 20;

/// A set of token texts, searched for the longest one that starts at a place.
///
/// A trie over bytes: the cost at each place of the text is bounded by the longest token, however
/// many there are.
#[derive(Debug, Default)]
pub(super) struct TokenSet {
    nodes: Vec<Node>,
    texts: Vec<String>,
}

#[derive(Debug, Default)]
struct Node {
    children: Vec<(u8, u32)>,
    token: Option<TokenId>,
}

/// A piece of split text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Piece<'t> {
    /// Text between tokens, never empty.
    Text(&'t str),
    /// A token that was written out.
    Token(TokenId),
}

// === impl TokenSet ===

impl TokenSet {
    /// # Errors
    /// [`TextError::InvalidVocabulary`] if a token, or all of them together, are longer than any
    /// model needs.
    pub(super) fn new<'t>(
        tokens: impl IntoIterator<Item = (&'t str, TokenId)>,
    ) -> Result<Self, TextError> {
        let mut set = Self { nodes: vec![Node::default()], texts: Vec::new() };
        let mut total = 0;
        for (text, token) in tokens {
            let bytes = text.len();
            total += bytes;
            if bytes > MAX_TOKEN_BYTES {
                let reason = format!(
                    "special token {token} has {bytes} bytes, at most {MAX_TOKEN_BYTES} are allowed"
                );
                return Err(TextError::vocabulary(reason));
            }
            if total > MAX_SET_BYTES {
                let reason =
                    format!("its special tokens have more than {MAX_SET_BYTES} bytes together");
                return Err(TextError::vocabulary(reason));
            }
            set.insert(text, token);
        }
        Ok(set)
    }

    fn insert(&mut self, text: &str, token: TokenId) {
        if text.is_empty() {
            return;
        }
        let mut at = 0_usize;
        for &byte in text.as_bytes() {
            let next = match self.nodes[at].children.binary_search_by_key(&byte, |child| child.0) {
                Ok(found) => self.nodes[at].children[found].1,
                Err(place) => {
                    let next = self.nodes.len() as u32;
                    self.nodes.push(Node::default());
                    self.nodes[at].children.insert(place, (byte, next));
                    next
                }
            };
            at = next as usize;
        }
        self.nodes[at].token = Some(token);
        self.texts.push(text.to_owned());
    }

    /// The texts of the set.
    pub(super) fn texts(&self) -> &[String] {
        &self.texts
    }

    /// The longest token that starts at the place and that `allowed` lets pass, with its length in
    /// bytes.
    pub(super) fn longest_at(
        &self,
        text: &[u8],
        start: usize,
        allowed: impl Fn(usize) -> bool,
    ) -> Option<(usize, TokenId)> {
        let mut node = self.nodes.first()?;
        let mut longest = None;
        for (index, byte) in text[start..].iter().enumerate() {
            let Ok(child) = node.children.binary_search_by_key(byte, |child| child.0) else {
                break;
            };
            node = &self.nodes[node.children[child].1 as usize];
            if let Some(token) = node.token.filter(|_| allowed(index + 1)) {
                longest = Some((index + 1, token));
            }
        }
        longest
    }

    /// Splits text at its tokens, leftmost first and longest first. `closed` ranges, sorted and
    /// disjoint, hold no token: one that touches such a range stays text. An empty range is a place
    /// that no token spans.
    pub(super) fn split<'t>(&self, text: &'t str, closed: &[Range<usize>]) -> Vec<Piece<'t>> {
        let bytes = text.as_bytes();
        let mut pieces = Vec::new();
        let (mut start, mut at, mut next_closed) = (0, 0, 0);
        while at < bytes.len() {
            while closed.get(next_closed).is_some_and(|range| range.end <= at) {
                next_closed += 1;
            }
            let free =
                |len: usize| closed.get(next_closed).is_none_or(|range| at + len <= range.start);
            let Some((len, token)) = self.longest_at(bytes, at, free) else {
                at += 1;
                continue;
            };
            if start < at {
                pieces.push(Piece::Text(&text[start..at]));
            }
            pieces.push(Piece::Token(token));
            at += len;
            start = at;
        }
        if start < bytes.len() {
            pieces.push(Piece::Text(&text[start..]));
        }
        pieces
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set() -> TokenSet {
        TokenSet::new([
            ("<a>", TokenId(1)),
            ("<a><b>", TokenId(2)),
            ("é!", TokenId(3)),
            ("", TokenId(9)),
        ])
        .unwrap()
    }

    #[test]
    fn the_longest_token_wins_and_closed_ranges_hold_none() {
        use Piece::{Text, Token};
        type Case = (&'static str, Option<Range<usize>>, &'static [Piece<'static>]);
        let cases: [Case; 9] = [
            ("", None, &[]),
            ("x<a>y", None, &[Text("x"), Token(TokenId(1)), Text("y")]),
            ("<a><b>", None, &[Token(TokenId(2))]),
            ("<a><b", None, &[Token(TokenId(1)), Text("<b")]),
            ("éé!<<a>", None, &[Text("é"), Token(TokenId(3)), Text("<"), Token(TokenId(1))]),
            ("<a><a>", Some(0..3), &[Text("<a>"), Token(TokenId(1))]),
            ("<a><a>", Some(1..1), &[Text("<a>"), Token(TokenId(1))]),
            ("<a><b>", Some(3..3), &[Token(TokenId(1)), Text("<b>")]),
            ("<a><a>", Some(2..4), &[Text("<a><a>")]),
        ];
        let mut wrong = Vec::new();
        for (text, closed, want) in cases {
            let got = set().split(text, closed.as_slice());
            if got != want {
                wrong.push((text, closed, got));
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    #[test]
    fn what_a_file_says_is_bounded() {
        let longest = "x".repeat(MAX_TOKEN_BYTES);
        let set = |texts: &[String]| {
            let tokens = texts.iter().enumerate();
            TokenSet::new(tokens.map(|(index, text)| (text.as_str(), TokenId(index as u32))))
                .map(|set| set.nodes.len())
        };
        assert_eq!(set(std::slice::from_ref(&longest)).unwrap(), MAX_TOKEN_BYTES + 1);
        let error = set(&[longest.clone() + "x"]).unwrap_err().to_string();
        assert!(error.contains("special token 0 has 1025 bytes"), "{error}");
        let many: Vec<String> = (0..=MAX_SET_BYTES / MAX_TOKEN_BYTES)
            .map(|index| format!("{index:0MAX_TOKEN_BYTES$}"))
            .collect();
        let error = set(&many).unwrap_err().to_string();
        assert!(error.contains("more than 1048576 bytes together"), "{error}");
    }

    #[test]
    fn an_empty_set_finds_nothing() {
        assert_eq!(TokenSet::new([]).unwrap().split("ab", &[]), vec![Piece::Text("ab")]);
        assert_eq!(TokenSet::default().split("ab", &[]), vec![Piece::Text("ab")]);
    }
}
