//! Teacher-forced passes over a model, and the bits they give.

use skipstone::model::{
    LogitsWanted, Model, PageLease, PagePool, RowGroup, RowInput, Runner, RunnerOptions, SkipMask,
    TokenId,
};
use std::sync::Arc;

use skipstone::kernels::Isa;

/// Logits, bit by bit.
pub type Bits = Vec<u32>;

pub fn bits(logits: &[f32]) -> Bits {
    logits.iter().map(|logit| logit.to_bits()).collect()
}

/// A runner and pages for `positions` positions.
pub fn runner(
    model: &Arc<Model>,
    isa: Isa,
    threads: usize,
    positions: usize,
) -> (Runner, PagePool) {
    let pages = PagePool::pages_for(positions);
    let options = RunnerOptions { pages, threads, isa, ..RunnerOptions::default() };
    (Runner::with_options(model.clone(), options), PagePool::new(pages))
}

/// A group of rows of one stream.
pub fn group<'a>(lease: &'a PageLease, position: usize, rows: &'a [RowInput<'a>]) -> RowGroup<'a> {
    RowGroup { logits: LogitsWanted::All, ..RowGroup::new(lease.pages(), position, rows) }
}

/// The same rows through a draft plan that skips `mask`, their states kept for a late entry.
pub fn drafted<'a>(group: RowGroup<'a>, mask: &'a SkipMask) -> RowGroup<'a> {
    RowGroup { skip: Some(mask), save_before: mask.entry(), ..group }
}

pub fn inputs(tokens: &[TokenId]) -> Vec<RowInput<'static>> {
    tokens.iter().map(|&token| RowInput::Token(token)).collect()
}

/// Feeds `tokens` from position 0 in chunks of `chunk` rows; the logits after each token.
pub fn forced(
    runner: &mut Runner,
    lease: &PageLease,
    tokens: &[TokenId],
    chunk: usize,
) -> Vec<Bits> {
    let mut all = Vec::with_capacity(tokens.len());
    for (index, part) in tokens.chunks(chunk).enumerate() {
        let rows = inputs(part);
        let output = runner.run(&[group(lease, index * chunk, &rows)]);
        all.extend((0..part.len()).map(|row| bits(output.logits(0, row))));
    }
    all
}

/// The first position at which two runs differ.
pub fn first_difference(expected: &[Bits], found: &[Bits]) -> Option<usize> {
    assert_eq!(expected.len(), found.len(), "runs of different lengths can't be compared");
    expected.iter().zip(found).position(|(expected, found)| expected != found)
}
