//! Attention over keys and values in pages.
//!
//! A row attends to positions in ascending order with fixed groupings, so its bits depend on its own position and the pages'
//! contents, never on the batch.

use std::ops::Range;

use super::disjoint::Disjoint;
use super::elementwise::{RopeAngles, exp, rope};
use super::isa::Isa;
use super::kv::{KvData, KvElement, KvShape, KvStore, PAGE_POSITIONS};
use super::lanes::{Kernel, Lanes, eights, eights_mut, sum_lanes};
use super::pool::ThreadPool;

/// Query heads that share one read of a key or value, at most: with four registers each they fit the sixteen of AVX2.
const HEAD_BLOCK: usize = 3;

/// Rows of one stream that share one read of a page from memory, at most.
const ROW_BLOCK: usize = 8;

/// One row that attends.
#[derive(Clone, Copy, Debug)]
pub struct AttentionRow<'a> {
    /// The pages of the row's stream, in order of position.
    pub pages: &'a [u32],
    /// Positions it sees: its own and all before.
    pub length: usize,
    /// Rotary angles of its position.
    pub angles: RopeAngles<'a>,
}

/// Memory that attention reuses.
#[derive(Default)]
pub(super) struct AttentionScratch {
    /// Rows that are attended together: of one stream, one after the other.
    blocks: Vec<Range<usize>>,
    /// A part for each thread.
    scores: Vec<f32>,
}

// === impl KvStore ===

impl KvStore {
    /// Scaled dot-product attention of each row's query heads over its stream. `queries` and `out` are \[rows, query heads, head dim\]; the queries
    /// are turned by their positions in place. `row` describes row `i`.
    ///
    /// # Panics
    /// If a row sees more positions than its pages hold: a bug of the caller.
    pub fn attend<'a>(
        &mut self,
        pool: &mut ThreadPool,
        isa: Isa,
        layer: usize,
        row: impl Fn(usize) -> AttentionRow<'a> + Sync,
        queries: &mut [f32],
        out: &mut [f32],
    ) {
        let Self { shape, data, scratch } = self;
        match data {
            KvData::Half(data) => attend(*shape, data, pool, isa, layer, row, queries, scratch, out),
            KvData::Single(data) => attend(*shape, data, pool, isa, layer, row, queries, scratch, out),
        }
    }
}

// === impl AttentionScratch ===

impl AttentionScratch {
    /// Cuts rows into blocks. Rows of a block have one stream and ascend by one position.
    fn cut<'a>(&mut self, rows: usize, most: usize, row: impl Fn(usize) -> AttentionRow<'a>) {
        self.blocks.clear();
        for index in 0..rows {
            let follows = |block: &&mut Range<usize>| {
                let (before, this) = (row(block.end - 1), row(index));
                block.len() < most
                    && std::ptr::eq(before.pages, this.pages)
                    && before.length + 1 == this.length
            };
            match self.blocks.last_mut().filter(follows) {
                Some(block) => block.end += 1,
                None => self.blocks.push(index..index + 1),
            }
        }
    }
}

/// Rows of a block that finish soonest: larger blocks read less memory, smaller ones spread over more threads. Reading a page counts as
/// much as computing two rows with it, which is about right where the cache does not hold the stream.
fn block_rows(rows: usize, kv_heads: usize, threads: usize) -> usize {
    let time = |block: usize| (rows.div_ceil(block) * kv_heads).div_ceil(threads) * (1 + block.min(rows));
    (1..=ROW_BLOCK).min_by_key(|&block| time(block)).unwrap_or(1)
}

#[expect(clippy::too_many_arguments, reason = "`KvStore::attend` for one element type")]
fn attend<'a, E: KvElement>(
    shape: KvShape,
    data: &[E],
    pool: &mut ThreadPool,
    isa: Isa,
    layer: usize,
    row: impl Fn(usize) -> AttentionRow<'a> + Sync,
    queries: &mut [f32],
    scratch: &mut AttentionScratch,
    out: &mut [f32],
) {
    let group = shape.query_heads / shape.kv_heads;
    let task_elements = group * shape.head_dim;
    let rows = queries.len() / (shape.kv_heads * task_elements);
    assert!(queries.len().is_multiple_of(shape.kv_heads * task_elements), "queries");
    assert_eq!(out.len(), queries.len(), "output");
    scratch.cut(rows, block_rows(rows, shape.kv_heads, pool.threads()), &row);
    let AttentionScratch { blocks, scores } = scratch;
    let longest = (0..rows).map(|index| row(index).length).max().unwrap_or(0).next_multiple_of(8);
    let most_rows = blocks.iter().map(Range::len).max().unwrap_or(0);
    // Scores and their sums, in whole cache lines, so that threads don't share one.
    let thread_scores = (most_rows * group * (longest + 1)).next_multiple_of(16);
    if scores.len() < pool.threads() * thread_scores {
        scores.resize(pool.threads() * thread_scores, 0.0);
    }
    let scores = Disjoint::new(scores);
    let (queries, out) = (Disjoint::new(queries), Disjoint::new(out));
    pool.run_ranges_numbered(blocks.len() * shape.kv_heads, 1, &|thread, range| {
        // SAFETY: each thread has a part of its own, and runs one range at a time.
        let scores = unsafe { scores.part(thread * thread_scores..(thread + 1) * thread_scores) };
        for task in range {
            let (block, kv_head) = (blocks[task / shape.kv_heads].clone(), task % shape.kv_heads);
            let part = |offset: usize| {
                let index = (block.start + offset) * shape.kv_heads + kv_head;
                if offset < block.len() { index * task_elements..(index + 1) * task_elements } else { 0..0 }
            };
            let (first, last) = (row(block.start), row(block.end - 1));
            assert!(first.length > 0 && last.length <= last.pages.len() * PAGE_POSITIONS);
            // SAFETY: the rows of blocks have parts of their own, and each task is claimed by one thread.
            let mut queries: [&mut [f32]; ROW_BLOCK] =
                std::array::from_fn(|offset| unsafe { queries.part(part(offset)) });
            // SAFETY: as above.
            let out = std::array::from_fn(|offset| unsafe { out.part(part(offset)) });
            for (index, queries) in block.clone().zip(&mut queries) {
                rope(row(index).angles, queries, shape.head_dim);
            }
            let queries = queries.map(|queries| &*queries);
            let pages = Pages { shape, data, layer, kv_head, pages: first.pages };
            let padded = last.length.next_multiple_of(8);
            let (scores, inverse_sums) = scores.split_at_mut(block.len() * group * padded);
            let (rows, length) = (block.len(), first.length);
            isa.run(AttendRows { pages, rows, length, group, queries, scores, padded, inverse_sums, out });
        }
    });
}

/// One head of one layer in the pages of a stream.
struct Pages<'a, E> {
    shape: KvShape,
    data: &'a [E],
    layer: usize,
    kv_head: usize,
    pages: &'a [u32],
}

// === impl Pages ===

impl<E> Pages<'_, E> {
    /// The interleaved keys of the `index`-th page.
    #[inline(always)]
    fn keys(&self, index: usize) -> &[E] {
        self.head(index, self.kv_head)
    }

    /// The values of the `index`-th page.
    #[inline(always)]
    fn values(&self, index: usize) -> &[E] {
        self.head(index, self.shape.kv_heads + self.kv_head)
    }

    #[inline(always)]
    fn head(&self, index: usize, head: usize) -> &[E] {
        let start = self.pages[index] as usize * self.shape.page_elements()
            + self.layer * self.shape.layer_elements()
            + head * self.shape.head_elements();
        &self.data[start..][..self.shape.head_elements()]
    }
}

// === kernels ===

/// Rows of one stream, each seeing one position more than the one before. All rows of the block look at a page while it is in the
/// nearest cache.
struct AttendRows<'a, E> {
    pages: Pages<'a, E>,
    rows: usize,
    /// Positions that the first row sees.
    length: usize,
    /// Query heads of the key/value head.
    group: usize,
    /// Of each row, \[group, head dim\].
    queries: [&'a [f32]; ROW_BLOCK],
    /// \[rows, group, padded\].
    scores: &'a mut [f32],
    padded: usize,
    /// \[rows, group\].
    inverse_sums: &'a mut [f32],
    /// Of each row, \[group, head dim\].
    out: [&'a mut [f32]; ROW_BLOCK],
}

impl<E: KvElement> Kernel for AttendRows<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(mut self, lanes: L) {
        let group = self.group;
        // Blocks of nearly equal size: four heads are two and two.
        let size = group.div_ceil(group.div_ceil(HEAD_BLOCK));
        let page_count = (self.length + self.rows - 1).div_ceil(PAGE_POSITIONS);
        for page in 0..page_count {
            for row in 0..self.rows {
                for first in (0..group).step_by(size) {
                    match size.min(group - first) {
                        1 => self.page_scores::<L, 1>(lanes, page, row, first),
                        2 => self.page_scores::<L, 2>(lanes, page, row, first),
                        _ => self.page_scores::<L, HEAD_BLOCK>(lanes, page, row, first),
                    }
                }
            }
        }
        for row in 0..self.rows {
            for head in 0..group {
                let scores = &mut self.scores[(row * group + head) * self.padded..][..self.padded];
                self.inverse_sums[row * group + head] = 1.0 / softmax_numerators(scores, self.length + row);
            }
        }
        for page in 0..page_count {
            for row in 0..self.rows {
                for first in (0..group).step_by(size) {
                    match size.min(group - first) {
                        1 => self.page_mix::<L, 1>(lanes, page, row, first),
                        2 => self.page_mix::<L, 2>(lanes, page, row, first),
                        _ => self.page_mix::<L, HEAD_BLOCK>(lanes, page, row, first),
                    }
                }
            }
        }
    }
}

impl<E: KvElement> AttendRows<'_, E> {
    /// Scores of query heads `first..first + H` of a row at the positions of a page.
    #[inline(always)]
    fn page_scores<L: Lanes, const H: usize>(&mut self, lanes: L, page: usize, row: usize, first: usize) {
        const BLOCKS: usize = PAGE_POSITIONS / 8;
        let seen = (self.length + row).div_ceil(8).saturating_sub(page * BLOCKS).min(BLOCKS);
        let paired = seen / 2 * 2;
        let asks = row == 0 && first == 0 && page + 1 < self.pages.pages.len();
        for block in (0..paired).step_by(2) {
            if asks {
                let elements = 16 * self.pages.shape.head_dim;
                lanes.prefetch(&self.pages.keys(page + 1)[block / 2 * elements..][..elements]);
            }
            self.scores::<L, H, 2>(lanes, page, row, first, block);
        }
        if paired < seen {
            self.scores::<L, H, 1>(lanes, page, row, first, paired);
        }
    }

    /// The scores of `B` blocks of eight positions, from `block` of the page on.
    #[inline(always)]
    fn scores<L: Lanes, const H: usize, const B: usize>(
        &mut self,
        lanes: L,
        page: usize,
        row: usize,
        first: usize,
        block: usize,
    ) {
        let head_dim = self.pages.shape.head_dim;
        let queries: [&[f32]; H] =
            std::array::from_fn(|head| &self.queries[row][(first + head) * head_dim..][..head_dim]);
        let scale = 1.0 / (head_dim as f32).sqrt();
        let keys = eights(self.pages.keys(page));
        let keys: [&[[E; 8]]; B] =
            std::array::from_fn(|offset| &keys[(block + offset) * head_dim..][..head_dim]);
        // Even and odd dimensions in sums of their own, to hide the latency of the multiply-add.
        let mut even = [[lanes.splat(0.0); B]; H];
        let mut odd = [[lanes.splat(0.0); B]; H];
        for dimension in (0..head_dim).step_by(2) {
            let key: [L::Vector; B] = std::array::from_fn(|offset| E::load(lanes, &keys[offset][dimension]));
            for head in 0..H {
                let query = lanes.splat(queries[head][dimension]);
                for offset in 0..B {
                    even[head][offset] = lanes.mul_add(key[offset], query, even[head][offset]);
                }
            }
            let key: [L::Vector; B] =
                std::array::from_fn(|offset| E::load(lanes, &keys[offset][dimension + 1]));
            for head in 0..H {
                let query = lanes.splat(queries[head][dimension + 1]);
                for offset in 0..B {
                    odd[head][offset] = lanes.mul_add(key[offset], query, odd[head][offset]);
                }
            }
        }
        let scale = lanes.splat(scale);
        for head in 0..H {
            let start = (row * self.group + first + head) * self.padded + page * PAGE_POSITIONS + block * 8;
            let scores = &mut self.scores[start..][..8 * B];
            for (offset, scores) in eights_mut(scores).iter_mut().enumerate() {
                let odd = lanes.mul(odd[head][offset], scale);
                lanes.store(lanes.mul_add(even[head][offset], scale, odd), scores);
            }
        }
    }

    /// Adds the weighted values of a page to the outputs of query heads `first..first + H` of a row.
    #[inline(always)]
    fn page_mix<L: Lanes, const H: usize>(&mut self, lanes: L, page: usize, row: usize, first: usize) {
        let count = (self.length + row).saturating_sub(page * PAGE_POSITIONS).min(PAGE_POSITIONS);
        if count == 0 {
            return;
        }
        match self.pages.shape.head_dim % 32 {
            0 => self.mix::<L, H, 4>(lanes, page, row, first, count),
            16 => self.mix::<L, H, 2>(lanes, page, row, first, count),
            _ => self.mix::<L, H, 1>(lanes, page, row, first, count),
        }
    }

    /// The first `count` positions of a page, `C` registers of dimensions at a time. The last page also divides by the weights' sum.
    #[inline(always)]
    fn mix<L: Lanes, const H: usize, const C: usize>(
        &mut self,
        lanes: L,
        page: usize,
        row: usize,
        first: usize,
        count: usize,
    ) {
        let (head_dim, start) = (self.pages.shape.head_dim, page * PAGE_POSITIONS);
        let is_last = start + count == self.length + row;
        let values = eights(self.pages.values(page));
        let asked = (row == 0 && first == 0 && page + 1 < self.pages.pages.len())
            .then(|| eights(self.pages.values(page + 1)));
        let weights: [&[f32]; H] = std::array::from_fn(|head| {
            &self.scores[(row * self.group + first + head) * self.padded + start..][..count]
        });
        for chunk in 0..head_dim / (8 * C) {
            let mut sums = [[lanes.splat(0.0); C]; H];
            if page > 0 {
                for (head, sums) in sums.iter_mut().enumerate() {
                    let out = &self.out[row][(first + head) * head_dim + chunk * 8 * C..][..8 * C];
                    for (register, out) in eights(out).iter().enumerate() {
                        sums[register] = lanes.load(out);
                    }
                }
            }
            for slot in 0..count {
                let values = &values[slot * (head_dim / 8) + chunk * C..][..C];
                if let Some(asked) = asked {
                    lanes.prefetch(&asked[slot * (head_dim / 8) + chunk * C..][..C]);
                }
                let weights: [L::Vector; H] = std::array::from_fn(|head| lanes.splat(weights[head][slot]));
                for (register, value) in values.iter().enumerate() {
                    let value = E::load(lanes, value);
                    for head in 0..H {
                        sums[head][register] = lanes.mul_add(value, weights[head], sums[head][register]);
                    }
                }
            }
            for (head, sums) in sums.iter().enumerate() {
                let scale = lanes.splat(self.inverse_sums[row * self.group + first + head]);
                let out = &mut self.out[row][(first + head) * head_dim + chunk * 8 * C..][..8 * C];
                for (register, out) in eights_mut(out).iter_mut().enumerate() {
                    let sum = sums[register];
                    lanes.store(if is_last { lanes.mul(sum, scale) } else { sum }, out);
                }
            }
        }
    }
}

/// Replaces the first `length` scores by `exp(score - largest)`, the padding by zeros, and returns their sum.
#[inline(always)]
fn softmax_numerators(scores: &mut [f32], length: usize) -> f32 {
    // Keys beyond the length are leftovers of other streams.
    scores[length..].fill(f32::NEG_INFINITY);
    let mut largest = [f32::NEG_INFINITY; 8];
    for values in eights(scores) {
        for lane in 0..8 {
            largest[lane] = if values[lane] > largest[lane] { values[lane] } else { largest[lane] };
        }
    }
    let largest = largest.iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a });
    let mut sums = [0.0_f32; 8];
    for values in eights_mut(scores) {
        for lane in 0..8 {
            let shifted = values[lane] - largest;
            // `exp` clamps at e^-87, which is not zero; the padding must not count.
            values[lane] = if shifted == f32::NEG_INFINITY { 0.0 } else { exp(shifted) };
            sums[lane] += values[lane];
        }
    }
    sum_lanes(sums)
}
