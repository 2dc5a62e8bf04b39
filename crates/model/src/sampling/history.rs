//! The tokens that a stream has so far, for the penalties.

use std::collections::HashMap;

use crate::TokenId;

/// Counts of a stream's tokens. Drafted tokens are pushed while their successors are drafted or
/// verified, because each position must be penalised for what precedes it, and popped when they
/// fall.
#[derive(Clone, Default, Debug)]
pub struct TokenHistory {
    counts: HashMap<TokenId, Count>,
    generated: Vec<TokenId>,
}

/// Occurrences of a token.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Count {
    prompt: u32,
    generated: u32,
}

// === impl TokenHistory ===

impl TokenHistory {
    /// The history of a stream that has generated nothing.
    pub fn new(prompt: &[TokenId]) -> Self {
        let mut history = Self::default();
        for &token in prompt {
            history.counts.entry(token).or_default().prompt += 1;
        }
        history
    }

    /// Appends a generated token, drafted or committed.
    pub fn push(&mut self, token: TokenId) {
        self.counts.entry(token).or_default().generated += 1;
        self.generated.push(token);
    }

    /// Takes back the last generated token; `None` if there is none. The prompt stays.
    pub fn pop(&mut self) -> Option<TokenId> {
        let token = self.generated.pop()?;
        if let Some(count) = self.counts.get_mut(&token) {
            count.generated -= 1;
            if *count == Count::default() {
                self.counts.remove(&token);
            }
        }
        Some(token)
    }

    /// Takes back generated tokens until `length` are left; does nothing if there are fewer.
    pub fn truncate(&mut self, length: usize) {
        while self.generated.len() > length {
            self.pop();
        }
    }

    /// The generated tokens, in order.
    pub fn generated(&self) -> &[TokenId] {
        &self.generated
    }

    /// Each token that occurs, with its occurrences in the output. In no fixed order.
    pub(super) fn occurrences(&self) -> impl Iterator<Item = (TokenId, u32)> {
        self.counts.iter().map(|(&token, count)| (token, count.generated))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(history: &TokenHistory) -> Vec<(u32, u32)> {
        let mut counts: Vec<_> =
            history.occurrences().map(|(token, count)| (token.0, count)).collect();
        counts.sort_unstable();
        counts
    }

    #[test]
    fn the_prompt_is_seen_but_not_generated() {
        let history = TokenHistory::new(&[TokenId(3), TokenId(1), TokenId(3)]);
        assert_eq!(sorted(&history), [(1, 0), (3, 0)]);
        assert!(history.generated().is_empty());
    }

    #[test]
    fn a_draft_that_falls_leaves_no_trace() {
        let mut history = TokenHistory::new(&[TokenId(3)]);
        history.push(TokenId(3));
        let before = sorted(&history);
        for token in [3, 7, 7, 1] {
            history.push(TokenId(token));
        }
        assert_eq!(sorted(&history), [(1, 1), (3, 2), (7, 2)]);
        assert_eq!(history.pop(), Some(TokenId(1)));
        history.truncate(1);
        assert_eq!(sorted(&history), before);
        assert_eq!(history.generated(), [TokenId(3)]);
        history.truncate(5);
        assert_eq!(history.pop(), Some(TokenId(3)));
        assert_eq!((history.pop(), sorted(&history)), (None, vec![(3, 0)]));
    }
}
