//! How plans would have drafted what a stream said: the scores of auditions and of searches.

use std::sync::Arc;
use std::time::Instant;

use super::audition::PLACES;
use crate::drafting::{DraftPlan, SkipSet, SwiftSearch, matchness};
use skipstone_kernels::PAGE_POSITIONS;
use skipstone_model::sampling::top_probability;
use skipstone_model::{DraftHead, LogitsWanted, RowGroup, RowInput, Runner, SkipMask, TokenId};

/// Tokens that are scored at once, at most.
pub(super) const MAX_WINDOW: usize = 64;

/// Pages that scores are computed in, beyond those of the streams, whose own keys and values stay
/// as they are.
pub(super) struct Scratchpad {
    pages: Vec<u32>,
}

/// A stream's text as an audition looks at it.
pub(super) struct ScoredText<'a> {
    /// Its pages, which stay as they are.
    pub(super) pages: &'a [u32],
    /// Prompt and committed tokens.
    pub(super) tokens: &'a [TokenId],
    /// The part of the head that drafts use, if not all of it.
    pub(super) head: Option<DraftHead<'a>>,
}

/// The search of SWIFT, shared by all streams that use it, and the plan it stands at.
pub(super) struct Swift {
    search: SwiftSearch,
    plan: Arc<DraftPlan>,
    /// How often the plan has changed.
    changes: usize,
}

// === impl Scratchpad ===

impl Scratchpad {
    /// Pages that it takes: one for each side of an audition at each place, and for a window, which
    /// may begin late in a page.
    pub(super) const PAGES: usize = {
        let window = MAX_WINDOW.div_ceil(PAGE_POSITIONS) + 1;
        if window > 2 * PLACES { window } else { 2 * PLACES }
    };

    /// On the [`Scratchpad::PAGES`] pages from `first` on.
    pub(super) fn new(first: usize) -> Self {
        Self { pages: (first..first + Self::PAGES).map(|page| page as u32).collect() }
    }

    /// What a draft without the sublayers of `mask` thinks most likely after each of the tokens at
    /// `first..first + count` of a stream with these pages. The draft's own keys and values stand
    /// for those of the skipped-over tokens, as they do in a chain.
    pub(super) fn draft(
        &self,
        runner: &mut Runner,
        pages: &[u32],
        tokens: &[TokenId],
        first: usize,
        count: usize,
        mask: &SkipMask,
    ) -> Vec<TokenId> {
        let table = spare(runner, pages, first, &self.pages);
        let rows: Vec<RowInput<'_>> = tokens[first..][..count.min(MAX_WINDOW)]
            .iter()
            .map(|&token| RowInput::Token(token))
            .collect();
        let group = RowGroup {
            pages: &table,
            position: first,
            rows: &rows,
            skip: Some(mask),
            bridges: &[],
            save_before: &[],
            logits: LogitsWanted::All,
        };
        let output = runner.run(std::slice::from_ref(&group));
        (0..rows.len()).map(|row| top_probability(output.logits(0, row)).0).collect()
    }

    /// The tokens that each of two plans drafts after the tokens at `places`, and the seconds that
    /// took. As in the first step of a cycle, all earlier tokens have the full model's keys and
    /// values.
    pub(super) fn compare(
        &self,
        runner: &mut Runner,
        text: &ScoredText<'_>,
        places: &[usize],
        plans: [&DraftPlan; 2],
    ) -> (Vec<[TokenId; 2]>, f64) {
        let started = Instant::now();
        let jobs: Vec<(usize, &DraftPlan)> =
            places.iter().flat_map(|&place| plans.map(|plan| (place, plan))).collect();
        let mut tables = Vec::with_capacity(jobs.len());
        for (&(place, _), page) in jobs.iter().zip(self.pages.chunks(1)) {
            let table = spare(runner, text.pages, place, page);
            tables.push((table, [RowInput::Token(text.tokens[place])]));
        }
        let groups: Vec<RowGroup<'_>> = jobs
            .iter()
            .zip(&tables)
            .map(|(&(position, plan), (pages, rows))| RowGroup {
                pages,
                position,
                rows,
                skip: Some(plan.mask()),
                bridges: plan.bridges(),
                save_before: &[],
                logits: text.head.map_or(LogitsWanted::Last, LogitsWanted::Draft),
            })
            .collect();
        let output = runner.run(&groups);
        let drafted = |group: usize| {
            let (entry, _) = top_probability(output.logits(group, 0));
            text.head.map_or(entry, |head| head.token(entry.index()))
        };
        let pairs =
            (0..tables.len() / 2).map(|pair| [drafted(2 * pair), drafted(2 * pair + 1)]).collect();
        (pairs, started.elapsed().as_secs_f64())
    }
}

/// The table of a stream with these `pages` that goes on in spare ones from position `first` on.
/// The page that it lies in holds earlier positions too, so it is copied.
fn spare(runner: &mut Runner, pages: &[u32], first: usize, spare: &[u32]) -> Vec<u32> {
    let whole = first / PAGE_POSITIONS;
    runner.copy_page(pages[whole], spare[0]);
    pages[..whole].iter().chain(spare).copied().collect()
}

// === impl Swift ===

impl Swift {
    pub(super) fn new(search: SwiftSearch) -> Self {
        let plan = Self::plan_of(&search);
        Self { search, plan, changes: 0 }
    }

    fn plan_of(search: &SwiftSearch) -> Arc<DraftPlan> {
        Arc::new(DraftPlan::new(search.best().clone(), search.options().stop_threshold))
    }

    /// The plan to draft with.
    pub(super) fn plan(&self) -> &Arc<DraftPlan> {
        &self.plan
    }

    /// Tokens drafted in a cycle at most.
    pub(super) fn max_draft_tokens(&self) -> usize {
        self.search.options().max_draft_tokens
    }

    /// How often the plan has changed.
    pub(super) fn changes(&self) -> usize {
        self.changes
    }

    /// Whether a response of `generated` tokens is to be scored on.
    pub(super) fn wants_score(&self, generated: usize) -> bool {
        !self.search.is_finished() && generated > self.search.options().window + 1
    }

    /// One step of the search, on the first tokens of a response that began at `first`.
    pub(super) fn step(
        &mut self,
        scratchpad: &Scratchpad,
        runner: &mut Runner,
        pages: &[u32],
        tokens: &[TokenId],
        first: usize,
    ) {
        let count = self.search.options().window + 1;
        let Some(mask) = self.search.propose().map(SkipSet::mask) else { return };
        let drafted = scratchpad.draft(runner, pages, tokens, first, count, &mask);
        self.search.observe(matchness(&drafted, &tokens[first..]));
        if self.search.best() != self.plan.skip_set() {
            self.plan = Self::plan_of(&self.search);
            self.changes += 1;
        }
    }
}
