//! The bytes that each token prints, by id.

use crate::TokenId;

/// The bytes and the role of every token.
///
/// All bytes lie in one block, as a vocabulary of 150,000 small allocations would cost several
/// times its size.
#[derive(Debug, Default)]
pub(super) struct TokenTable {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    roles: Vec<TokenRole>,
}

/// A token's role in text.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum TokenRole {
    /// A piece of text.
    #[default]
    Ordinary,
    /// Text that is always one token, in any text.
    Added,
    /// As `Added`, but it marks a place in a chat (`<think>`, `<|user|>`): never made from the
    /// content of a message, save the assistant's own.
    Marker,
    /// Steers the model: prints nothing, and is made from text only where the caller allows it.
    Control,
}

// === impl TokenTable ===

impl TokenTable {
    /// Adds the next token.
    pub(super) fn push(&mut self, role: TokenRole, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.bytes);
        self.ends.push(self.bytes.len());
        self.roles.push(role);
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The bytes of a token, also of those that print nothing; empty for an id beyond the table.
    pub(super) fn bytes(&self, token: TokenId) -> &[u8] {
        let index = token.index();
        let Some(&end) = self.ends.get(index) else { return &[] };
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start..end]
    }

    /// The role of a token; control for an id beyond the table, as such ids come from padded
    /// vocabularies.
    pub(super) fn role(&self, token: TokenId) -> TokenRole {
        self.roles.get(token.index()).copied().unwrap_or(TokenRole::Control)
    }

    /// Bytes that a token adds to the model's output.
    pub(super) fn printed(&self, token: TokenId) -> &[u8] {
        if self.role(token) == TokenRole::Control { &[] } else { self.bytes(token) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_tokens_and_unknown_ids_print_nothing() {
        let mut table = TokenTable::default();
        for (text, role) in
            [("ab", TokenRole::Ordinary), ("<s>", TokenRole::Control), ("", TokenRole::Ordinary)]
        {
            table.push(role, |bytes| bytes.extend_from_slice(text.as_bytes()));
        }
        table.push(TokenRole::Marker, |bytes| bytes.extend_from_slice(b"<t>"));
        let printed: Vec<&[u8]> = (0..5).map(|id| table.printed(TokenId(id))).collect();
        assert_eq!(printed, [&b"ab"[..], b"", b"", b"<t>", b""]);
        assert_eq!(table.bytes(TokenId(1)), b"<s>");
        assert_eq!((table.len(), table.bytes(TokenId(9))), (4, &b""[..]));
    }
}
