//! Passes that a policy runs on its own, to see how a plan would have drafted what a stream said.

use skipstone_kernels::PAGE_POSITIONS;
use skipstone_model::sampling::top_probability;
use skipstone_model::{LogitsWanted, RowGroup, RowInput, Runner, SkipMask, TokenId};

/// Tokens that one pass looks at, at most.
const MAX_WINDOW: usize = 64;

/// Pages that such passes write, beyond those of the streams, whose own stay as they are.
pub(super) struct SparePages(Vec<u32>);

/// A stream's text, and the means to run passes over it.
pub struct Lab<'a> {
    pub(super) runner: &'a mut Runner,
    pub(super) spare: &'a SparePages,
    pub(super) pages: &'a [u32],
    pub(super) tokens: &'a [TokenId],
    pub(super) prompt: usize,
}

// === impl SparePages ===

impl SparePages {
    /// Pages that a window takes, which may begin late in a page.
    pub(super) const COUNT: usize = MAX_WINDOW.div_ceil(PAGE_POSITIONS) + 1;

    /// The [`SparePages::COUNT`] pages from `first` on.
    pub(super) fn new(first: usize) -> Self {
        Self((first..first + Self::COUNT).map(|page| page as u32).collect())
    }
}

// === impl Lab ===

impl Lab<'_> {
    /// Prompt and committed tokens.
    pub fn tokens(&self) -> &[TokenId] {
        self.tokens
    }

    /// Of those, the prompt's.
    pub fn prompt(&self) -> usize {
        self.prompt
    }

    /// The tokens that a draft without the sublayers of `mask` thinks most likely after each of the
    /// tokens at `first..first + count`, of which at most 64 are looked at. The draft's own keys
    /// and values stand for those of the tokens in between, as they do in a chain.
    pub fn draft(&mut self, first: usize, count: usize, mask: &SkipMask) -> Vec<TokenId> {
        let whole = first / PAGE_POSITIONS;
        // The page that `first` lies in holds earlier positions, too.
        self.runner.copy_page(self.pages[whole], self.spare.0[0]);
        let table: Vec<u32> = self.pages[..whole].iter().chain(&self.spare.0).copied().collect();
        let rows: Vec<RowInput<'_>> = self.tokens[first..][..count.min(MAX_WINDOW)]
            .iter()
            .map(|&token| RowInput::Token(token))
            .collect();
        let group = RowGroup {
            skip: Some(mask),
            logits: LogitsWanted::All,
            ..RowGroup::new(&table, first, &rows)
        };
        let output = self.runner.run(std::slice::from_ref(&group));
        (0..rows.len()).map(|row| top_probability(output.logits(0, row)).0).collect()
    }
}
