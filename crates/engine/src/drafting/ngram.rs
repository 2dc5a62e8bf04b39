//! The n-gram proposer: a stream that repeats itself or its prompt is continued as it went on the
//! last time.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use skipstone_model::TokenId;

/// Proposes the continuation of the most recent earlier occurrence of the longest suffix that
/// occurred before.
///
/// This is prompt lookup decoding (Saxena 2023; also Yang et al. 2023, "Inference with Reference",
/// arXiv 2304.04487) over prompt and output, with the online index of SAM decoding (Hu et al. 2024,
/// arXiv 2411.10666) in a simpler form: not a suffix automaton, whose most recent occurrences cost
/// a walk along the suffix links a token, but a trie of all n-grams up to `max_match` tokens, where
/// each node knows where it ended last. One token costs `max_match` look-ups and adds at most
/// `max_match` nodes of some 20 bytes. The answer is exact: nodes are told apart by their tokens,
/// not by a hash of them.
#[derive(Clone, Debug)]
pub struct NgramProposer {
    min_match: usize,
    max_match: usize,
    tokens: Vec<TokenId>,
    /// The n-gram (a node) and one more token after it -> the (n+1)-gram.
    children: HashMap<(Node, TokenId), Node>,
    /// Last end of each node's n-gram, as a count of tokens.
    last_end: Vec<u32>,
    /// By length n: the node of the last n tokens, and where they ended before. Length 0 is the
    /// root.
    suffixes: Vec<Suffix>,
}

/// An n-gram; 0 is the empty one.
type Node = u32;

/// The last n tokens.
#[derive(Clone, Copy, Debug)]
struct Suffix {
    node: Node,
    /// Their end before this time; `NEVER` if this is the first.
    earlier_end: u32,
}

/// No n-gram of at least one token ends after 0 tokens.
const NEVER: u32 = 0;
const ROOT: Node = 0;

/// Record of a pending token, to take it back.
struct Undo {
    key: (Node, TokenId),
    node: Node,
    last_end: u32,
}

// === impl NgramProposer ===

impl NgramProposer {
    /// A proposer over an empty stream. Matches are `min_match` to `max_match` tokens long; both
    /// are raised to at least 1, and `max_match` to `min_match`.
    pub fn new(min_match: usize, max_match: usize) -> Self {
        let min_match = min_match.max(1);
        Self {
            min_match,
            max_match: max_match.max(min_match),
            tokens: Vec::new(),
            children: HashMap::new(),
            last_end: vec![NEVER],
            suffixes: vec![Suffix { node: ROOT, earlier_end: NEVER }],
        }
    }

    /// Appends committed tokens: first the prompt's, then those of each cycle.
    pub fn extend(&mut self, tokens: &[TokenId]) {
        self.tokens.reserve(tokens.len());
        for &token in tokens {
            self.push(token, &mut |_| {});
        }
    }

    /// Tokens taken in so far.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether nothing was taken in yet.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Replaces `out` by up to `max_tokens` proposed tokens and returns the length of the match, 0
    /// for none (`out` is then empty).
    ///
    /// A continuation that reaches the end of the stream goes on with what it has just proposed, so
    /// a loop is proposed for as long as asked for.
    pub fn propose(&self, max_tokens: usize, out: &mut Vec<TokenId>) -> usize {
        out.clear();
        let longest = self.suffixes.len() - 1;
        let found =
            (self.min_match..=longest).rev().find(|&n| self.suffixes[n].earlier_end != NEVER);
        let Some(matched) = found else { return 0 };
        let start = self.suffixes[matched].earlier_end as usize;
        for index in start..start + max_tokens {
            let next =
                self.tokens.get(index).or_else(|| out.get(index - self.tokens.len())).copied();
            out.extend(next);
        }
        matched
    }

    /// As [`NgramProposer::propose`], as if `pending` had been committed: continues a chain that is
    /// drafted and not verified yet.
    pub fn propose_after(
        &mut self,
        pending: &[TokenId],
        max_tokens: usize,
        out: &mut Vec<TokenId>,
    ) -> usize {
        let suffixes = self.suffixes.clone();
        let mut undo = Vec::with_capacity(pending.len() * self.max_match);
        for &token in pending {
            self.push(token, &mut |step| undo.push(step));
        }
        let matched = self.propose(max_tokens, out);
        while let Some(Undo { key, node, last_end }) = undo.pop() {
            if last_end == NEVER {
                // The newest node: they go in the reverse of the order they came in.
                self.children.remove(&key);
                self.last_end.truncate(node as usize);
            } else {
                self.last_end[node as usize] = last_end;
            }
        }
        self.tokens.truncate(self.tokens.len() - pending.len());
        self.suffixes = suffixes;
        matched
    }

    fn push(&mut self, token: TokenId, on_change: &mut dyn FnMut(Undo)) {
        self.tokens.push(token);
        let end = self.tokens.len() as u32;
        if self.suffixes.len() <= self.max_match {
            self.suffixes.push(Suffix { node: ROOT, earlier_end: NEVER });
        }
        // From the longest down: the (n+1)-gram that ends here grows from the n-gram that ended one
        // token ago.
        for length in (1..self.suffixes.len()).rev() {
            let key = (self.suffixes[length - 1].node, token);
            let node = match self.children.entry(key) {
                Entry::Occupied(entry) => *entry.get(),
                Entry::Vacant(entry) => {
                    self.last_end.push(NEVER);
                    *entry.insert((self.last_end.len() - 1) as Node)
                }
            };
            let earlier_end = std::mem::replace(&mut self.last_end[node as usize], end);
            on_change(Undo { key, node, last_end: earlier_end });
            self.suffixes[length] = Suffix { node, earlier_end };
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The same by looking at every place: the longest match, the last of those, read on past the
    /// end.
    fn naive(text: &[TokenId], min: usize, max: usize, max_tokens: usize) -> (usize, Vec<TokenId>) {
        for length in (min..=max.min(text.len().saturating_sub(1))).rev() {
            let suffix = &text[text.len() - length..];
            let Some(end) =
                (length..text.len()).rev().find(|&end| &text[end - length..end] == suffix)
            else {
                continue;
            };
            let mut whole = text.to_vec();
            (0..max_tokens).for_each(|index| whole.push(whole[end + index]));
            return (length, whole.split_off(text.len()));
        }
        (0, Vec::new())
    }

    fn ids(text: &str) -> Vec<TokenId> {
        text.bytes().map(|byte| TokenId(byte.into())).collect()
    }

    #[test]
    fn the_last_occurrence_of_the_longest_suffix_is_continued() {
        for (text, limits, expected_match, expected) in [
            ("", (1, 4), 0, ""),
            ("a", (1, 4), 0, ""),
            ("abc", (1, 4), 0, ""),
            ("the cat. the", (2, 8), 3, " cat"),
            ("abXabYab", (2, 4), 2, "Yab"),    // the most recent
            ("cabXabYcab", (2, 4), 3, "XabY"), // the longest before the most recent
            ("cabXabYcab", (2, 2), 2, "Ycab"), // no longer than allowed
            ("aXa", (2, 4), 0, ""),            // no shorter than allowed
            ("abab", (1, 4), 2, "abab"),       // a loop goes on
            ("aaaa", (1, 8), 3, "aaaa"),       // an occurrence may overlap the suffix
        ] {
            let mut proposer = NgramProposer::new(limits.0, limits.1);
            proposer.extend(&ids(text));
            let mut out = vec![TokenId(999)];
            let matched = proposer.propose(expected.len().max(1), &mut out);
            assert_eq!((matched, &out), (expected_match, &ids(expected)), "{text:?} {limits:?}");
        }
    }

    #[test]
    fn memory_grows_by_a_bounded_number_of_nodes() {
        let mut proposer = NgramProposer::new(2, 6);
        let text: Vec<TokenId> = (0..1000).map(TokenId).collect();
        proposer.extend(&text);
        assert!(proposer.last_end.len() <= 6 * 1000 + 1, "{}", proposer.last_end.len());
        let before = (proposer.last_end.len(), proposer.children.len());
        proposer.propose_after(&[TokenId(5000), TokenId(1)], 4, &mut Vec::new());
        assert_eq!(
            (proposer.last_end.len(), proposer.children.len()),
            before,
            "pending tokens leave nothing"
        );
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_naive_search(
            text in prop::collection::vec(0_u32..4, 0..80),
            pending in prop::collection::vec(0_u32..4, 0..10),
            min in 1_usize..4,
            extra in 0_usize..6,
            max_tokens in 0_usize..12,
        ) {
            let tokens = |ids: &[u32]| ids.iter().copied().map(TokenId).collect::<Vec<_>>();
            let (text, pending, max) = (tokens(&text), tokens(&pending), min + extra);
            let mut proposer = NgramProposer::new(min, max);
            let mut out = Vec::new();
            for end in 0..=text.len() {
                if end > 0 {
                    proposer.extend(&text[end - 1..end]);
                }
                let committed = &text[..end];
                let with_pending = [committed, &pending].concat();
                let matched = proposer.propose_after(&pending, max_tokens, &mut out);
                prop_assert_eq!((matched, out.clone()), naive(&with_pending, min, max, max_tokens));
                // The pending tokens must have left no trace.
                let matched = proposer.propose(max_tokens, &mut out);
                prop_assert_eq!((matched, out.clone()), naive(committed, min, max, max_tokens));
            }
        }
    }
}
