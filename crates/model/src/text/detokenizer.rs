//! Tokens to text, one token at a time.

use std::sync::Arc;

use crate::TokenId;

use super::token_table::TokenTable;

/// Turns a stream of tokens into text that is complete UTF-8 at every step.
///
/// A token may end inside a character; its bytes wait for the next token. Bytes that can't become a
/// character are replaced by U+FFFD, as [`String::from_utf8_lossy`] would on all of them at once.
/// Control tokens print nothing.
#[derive(Clone, Debug)]
pub struct Detokenizer {
    table: Arc<TokenTable>,
    // The start of a character whose end has not come yet: at most 3 bytes between calls.
    pending: Vec<u8>,
}

// === impl Detokenizer ===

impl Detokenizer {
    pub(super) fn new(table: Arc<TokenTable>) -> Self {
        Self { table, pending: Vec::with_capacity(64) }
    }

    /// Takes the next token and returns the text that it completes, possibly none.
    pub fn push(&mut self, token: TokenId) -> String {
        self.pending.extend_from_slice(self.table.printed(token));
        let mut text = String::with_capacity(self.pending.len());
        let mut rest = self.pending.as_slice();
        while !rest.is_empty() {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(std::str::from_utf8(valid).unwrap_or_default());
                    rest = after;
                    let Some(invalid) = error.error_len() else { break };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &rest[invalid..];
                }
            }
        }
        let consumed = self.pending.len() - rest.len();
        self.pending.drain(..consumed);
        text
    }

    /// Ends the stream: U+FFFD if a character is unfinished, else nothing. The next token starts
    /// afresh.
    pub fn finish(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::token_table::TokenRole;
    use proptest::prelude::*;

    /// A table whose token `i` is the `i`-th byte, and 256 and up the given texts; 300 is a control
    /// token.
    fn detokenizer() -> Detokenizer {
        let mut table = TokenTable::default();
        for byte in 0..=255_u8 {
            table.push(TokenRole::Ordinary, |bytes| bytes.push(byte));
        }
        table.push(TokenRole::Control, |bytes| bytes.extend_from_slice(b"<end>"));
        Detokenizer::new(Arc::new(table))
    }

    #[test]
    fn characters_wait_for_their_last_byte() {
        let mut detokenizer = detokenizer();
        let steps: Vec<String> =
            "a€".bytes().map(|byte| detokenizer.push(TokenId(byte.into()))).collect();
        assert_eq!(steps, ["a", "", "", "€"]);
        assert_eq!(detokenizer.push(TokenId(0xE2)), "");
        assert_eq!(detokenizer.push(TokenId(256)), "", "a control token prints nothing");
        assert_eq!(detokenizer.push(TokenId(b'x'.into())), "\u{FFFD}x");
        assert_eq!(detokenizer.push(TokenId(0xF0)), "");
        assert_eq!(detokenizer.finish(), "\u{FFFD}");
        assert_eq!(detokenizer.finish(), "");
    }

    #[test]
    fn it_can_go_to_another_thread() {
        fn check<T: Send + 'static>() {}
        check::<Detokenizer>();
    }

    proptest! {
        #[test]
        fn steps_equal_the_whole(bytes in proptest::collection::vec(prop_oneof![any::<u8>(), 0x80..=0xF4_u8], 0..64)) {
            let mut detokenizer = detokenizer();
            let mut text: String = bytes.iter().map(|&byte| detokenizer.push(TokenId(byte.into()))).collect();
            text.push_str(&detokenizer.finish());
            prop_assert_eq!(text, String::from_utf8_lossy(&bytes));
        }
    }
}
