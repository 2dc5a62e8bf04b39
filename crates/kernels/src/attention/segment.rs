//! Attention of a block of rows to one segment of the positions that they see.

use std::ops::Range;

use super::{PAGE_POSITIONS, Parts, ROW_BLOCK, SEGMENT};
use crate::elementwise::exp;
use crate::kv::{KvElement, KvShape};
use crate::lanes::{Kernel, Lanes, add, eights, eights_mut, sum_lanes};

/// Queries, of all rows and heads of a block, that share one read of a key or value at most: with
/// two registers of sums each, and what is read, they fit the sixteen of AVX2. Fewer have more
/// registers each, which hide the latency of the multiply-add.
const QUERY_BLOCK: usize = 6;

/// Pages of a segment.
const PAGES: usize = SEGMENT / PAGE_POSITIONS;

/// One head of one layer in the pages of a stream.
pub(super) struct Pages<'a, E> {
    pub(super) shape: KvShape,
    pub(super) data: &'a [E],
    pub(super) layer: usize,
    pub(super) kv_head: usize,
    pub(super) pages: &'a [u32],
}

/// Rows of one stream, each seeing one position more than the one before. All rows of the block
/// look at a page while it is in the nearest cache, and the next page is asked for meanwhile.
pub(super) struct AttendSegment<'a, E> {
    pub(super) pages: Pages<'a, E>,
    pub(super) rows: usize,
    /// Positions that the first row sees.
    pub(super) length: usize,
    /// First position that each row sees; ascending.
    pub(super) firsts: [usize; ROW_BLOCK],
    pub(super) segment: usize,
    /// Query heads of the key/value head.
    pub(super) group: usize,
    /// Queries of each row, \[group, head dim\].
    pub(super) queries: [&'a [f32]; ROW_BLOCK],
    /// \[rows, group, SEGMENT\].
    pub(super) scores: &'a mut [f32],
    /// Results. A row that sees nothing of the segment gets a sum of zero.
    pub(super) parts: Parts<'a>,
}

// === impl Pages ===

impl<'a, E> Pages<'a, E> {
    /// The interleaved keys of the `index`-th page.
    #[inline(always)]
    fn keys(&self, index: usize) -> &'a [E] {
        self.head(index, self.kv_head)
    }

    /// The values of the `index`-th page.
    #[inline(always)]
    fn values(&self, index: usize) -> &'a [E] {
        self.head(index, self.shape.kv_heads + self.kv_head)
    }

    #[inline(always)]
    fn head(&self, index: usize, head: usize) -> &'a [E] {
        let start = self.pages[index] as usize * self.shape.page_elements()
            + self.layer * self.shape.layer_elements()
            + head * self.shape.head_elements();
        &self.data[start..][..self.shape.head_elements()]
    }

    /// Data that is read after the keys of the `index`-th page: the keys of the next, or the
    /// segment's values.
    #[inline(always)]
    fn after_keys(&self, index: usize) -> &'a [E] {
        let next = index + 1;
        let is_last = next.is_multiple_of(PAGES) || next == self.pages.len();
        if is_last { self.values(index / PAGES * PAGES) } else { self.keys(next) }
    }

    /// Data that is read after the values of the `index`-th page: the values of the next, or the
    /// next segment's keys.
    #[inline(always)]
    fn after_values(&self, index: usize) -> Option<&'a [E]> {
        let next = index + 1;
        (next < self.pages.len())
            .then(|| if next.is_multiple_of(PAGES) { self.keys(next) } else { self.values(next) })
    }
}

// === impl AttendSegment ===

impl<E: KvElement> Kernel for AttendSegment<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(mut self, lanes: L) {
        let queries = self.rows * self.group;
        // Blocks of nearly equal size: eight queries are four and four.
        let size = queries.div_ceil(queries.div_ceil(QUERY_BLOCK));
        let first_page = self.segment * PAGES;
        let end_page =
            (first_page + PAGES).min((self.length + self.rows - 1).div_ceil(PAGE_POSITIONS));
        for page in first_page..end_page {
            for first in (0..queries).step_by(size) {
                match size.min(queries - first) {
                    1 => self.page_scores::<L, 1, 4>(lanes, page, first),
                    2 => self.page_scores::<L, 2, 4>(lanes, page, first),
                    3 => self.page_scores::<L, 3, 4>(lanes, page, first),
                    4 => self.page_scores::<L, 4, 2>(lanes, page, first),
                    5 => self.page_scores::<L, 5, 2>(lanes, page, first),
                    _ => self.page_scores::<L, QUERY_BLOCK, 2>(lanes, page, first),
                }
            }
        }
        for row in 0..self.rows {
            let (hidden, seen) = (self.hidden(row), self.seen(row));
            for query in row * self.group..(row + 1) * self.group {
                let scores = &mut self.scores[query * SEGMENT..][..seen.next_multiple_of(8)];
                (self.parts.largest[query], self.parts.sums[query]) =
                    softmax_numerators(lanes, scores, hidden..seen);
            }
        }
        for page in first_page..end_page {
            for first in (0..queries).step_by(size) {
                match size.min(queries - first) {
                    1 => self.page_mix::<L, 1, 4>(lanes, page, first),
                    2 => self.page_mix::<L, 2, 4>(lanes, page, first),
                    3 => self.page_mix::<L, 3, 3>(lanes, page, first),
                    4 => self.page_mix::<L, 4, 2>(lanes, page, first),
                    5 => self.page_mix::<L, 5, 2>(lanes, page, first),
                    _ => self.page_mix::<L, QUERY_BLOCK, 2>(lanes, page, first),
                }
            }
        }
    }
}

impl<'a, E: KvElement> AttendSegment<'a, E> {
    /// Positions of the segment up to the last that a row sees.
    #[inline(always)]
    fn seen(&self, row: usize) -> usize {
        (self.length + row).saturating_sub(self.segment * SEGMENT).min(SEGMENT)
    }

    /// Positions of the segment that lie before the first that a row sees.
    #[inline(always)]
    fn hidden(&self, row: usize) -> usize {
        self.firsts[row].saturating_sub(self.segment * SEGMENT).min(self.seen(row))
    }

    /// Positions of a page up to the last that the row of a query sees.
    #[inline(always)]
    fn seen_of(&self, page: usize, query: usize) -> usize {
        (self.length + query / self.group).saturating_sub(page * PAGE_POSITIONS).min(PAGE_POSITIONS)
    }

    #[inline(always)]
    fn query(&self, query: usize) -> &'a [f32] {
        let head_dim = self.pages.shape.head_dim;
        &self.queries[query / self.group][query % self.group * head_dim..][..head_dim]
    }

    /// Scores of queries `first..first + Q` at the positions of a page that the last of them sees,
    /// `B` blocks of eight at a time.
    #[inline(always)]
    fn page_scores<L: Lanes, const Q: usize, const B: usize>(
        &mut self,
        lanes: L,
        page: usize,
        first: usize,
    ) {
        let seen = self.seen_of(page, first + Q - 1).div_ceil(8);
        let mut block = 0;
        while block < seen {
            block += match seen - block {
                left if left >= B => self.scores::<L, Q, B>(lanes, page, first, block),
                2.. => self.scores::<L, Q, 2>(lanes, page, first, block),
                _ => self.scores::<L, Q, 1>(lanes, page, first, block),
            };
        }
    }

    /// The scores of `B` blocks of eight positions, from `block` of the page on; returns `B`.
    #[inline(always)]
    fn scores<L: Lanes, const Q: usize, const B: usize>(
        &mut self,
        lanes: L,
        page: usize,
        first: usize,
        block: usize,
    ) -> usize {
        let head_dim = self.pages.shape.head_dim;
        if first == 0 {
            let elements = 8 * head_dim;
            lanes.prefetch(&self.pages.after_keys(page)[block * elements..][..B * elements]);
        }
        let queries: [&[f32]; Q] = std::array::from_fn(|offset| self.query(first + offset));
        let keys = eights(self.pages.keys(page));
        let keys: [&[[E; 8]]; B] =
            std::array::from_fn(|offset| &keys[(block + offset) * head_dim..][..head_dim]);
        let mut sums = [[lanes.splat(0.0); B]; Q];
        // The fewer of both stay in registers.
        for dimension in 0..head_dim {
            let key = |offset: usize| E::load(lanes, &keys[offset][dimension]);
            let query = |offset: usize| lanes.splat(queries[offset][dimension]);
            if B < Q {
                let keys: [L::Vector; B] = std::array::from_fn(key);
                for (offset, sums) in sums.iter_mut().enumerate() {
                    let query = query(offset);
                    for (sum, key) in sums.iter_mut().zip(keys) {
                        *sum = lanes.mul_add(key, query, *sum);
                    }
                }
            } else {
                let queries: [L::Vector; Q] = std::array::from_fn(query);
                for offset in 0..B {
                    let key = key(offset);
                    for (sums, query) in sums.iter_mut().zip(queries) {
                        sums[offset] = lanes.mul_add(key, query, sums[offset]);
                    }
                }
            }
        }
        let scale = lanes.splat(1.0 / (head_dim as f32).sqrt());
        for (query, sums) in sums.iter().enumerate() {
            let start = (first + query) * SEGMENT + page % PAGES * PAGE_POSITIONS + 8 * block;
            let scores = eights_mut(&mut self.scores[start..][..8 * B]);
            for (sum, scores) in sums.iter().zip(scores) {
                lanes.store(lanes.mul(*sum, scale), scores);
            }
        }
        B
    }

    /// Adds the weighted values of a page to the sums of queries `first..first + Q`, `C` registers
    /// of dimensions at a time.
    #[inline(always)]
    fn page_mix<L: Lanes, const Q: usize, const C: usize>(
        &mut self,
        lanes: L,
        page: usize,
        first: usize,
    ) {
        // What all of them see at once, then what only later rows see.
        let common = self.seen_of(page, first);
        self.mix_registers::<L, Q, C>(lanes, page, first, 0..common);
        for query in first + 1..first + Q {
            self.mix_registers::<L, 1, 4>(lanes, page, query, common..self.seen_of(page, query));
        }
    }

    #[inline(always)]
    fn mix_registers<L: Lanes, const Q: usize, const C: usize>(
        &mut self,
        lanes: L,
        page: usize,
        first: usize,
        positions: Range<usize>,
    ) {
        if positions.is_empty() {
            return;
        }
        let registers = self.pages.shape.head_dim / 8;
        let mut start = 0;
        while start < registers {
            let positions = positions.clone();
            start += match registers - start {
                // Four are two and two, not three and one.
                left if left >= C && (C, left) != (3, 4) => {
                    self.mix::<L, Q, C>(lanes, page, first, positions, start)
                }
                2.. => self.mix::<L, Q, 2>(lanes, page, first, positions, start),
                _ => self.mix::<L, Q, 1>(lanes, page, first, positions, start),
            };
        }
    }

    /// `C` registers of dimensions, from the `start`-th on, of some positions of a page; returns
    /// `C`.
    #[inline(always)]
    fn mix<L: Lanes, const Q: usize, const C: usize>(
        &mut self,
        lanes: L,
        page: usize,
        first: usize,
        positions: Range<usize>,
        start: usize,
    ) -> usize {
        let head_dim = self.pages.shape.head_dim;
        let place = page % PAGES * PAGE_POSITIONS;
        let registers = head_dim / 8;
        let values = eights(self.pages.values(page));
        let after = self.pages.after_values(page).filter(|_| first == 0).map(eights);
        let weights: [&[f32]; Q] = std::array::from_fn(|query| {
            &self.scores[(first + query) * SEGMENT + place..][..positions.end]
        });
        let at = |query: usize| {
            let start = (first + query) * head_dim + 8 * start;
            start..start + 8 * C
        };
        let mut sums = [[lanes.splat(0.0); C]; Q];
        if place + positions.start > 0 {
            for (query, sums) in sums.iter_mut().enumerate() {
                for (sum, mixed) in sums.iter_mut().zip(eights(&self.parts.mixed[at(query)])) {
                    *sum = lanes.load(mixed);
                }
            }
        }
        for slot in positions {
            if let Some(after) = after {
                lanes.prefetch(&after[slot * registers + start..][..C]);
            }
            let value: [L::Vector; C] = std::array::from_fn(|register| {
                E::load(lanes, &values[slot * registers + start..][..C][register])
            });
            for (sums, weights) in sums.iter_mut().zip(weights) {
                let weight = lanes.splat(weights[slot]);
                for (sum, value) in sums.iter_mut().zip(value) {
                    *sum = lanes.mul_add(value, weight, *sum);
                }
            }
        }
        for (query, sums) in sums.iter().enumerate() {
            for (sum, mixed) in sums.iter().zip(eights_mut(&mut self.parts.mixed[at(query)])) {
                lanes.store(*sum, mixed);
            }
        }
        C
    }
}

/// Replaces the `seen` scores by `exp(score - largest)`, the others by zeros, and returns the
/// largest and the sum.
#[inline(always)]
fn softmax_numerators<L: Lanes>(lanes: L, scores: &mut [f32], seen: Range<usize>) -> (f32, f32) {
    if seen.is_empty() {
        scores.fill(0.0);
        return (f32::NEG_INFINITY, 0.0);
    }
    // Keys beyond the length are leftovers of other streams.
    scores[seen.end..].fill(f32::NEG_INFINITY);
    scores[..seen.start].fill(f32::NEG_INFINITY);
    let mut largest = [f32::NEG_INFINITY; 8];
    for values in eights(scores) {
        for lane in 0..8 {
            largest[lane] = if values[lane] > largest[lane] { values[lane] } else { largest[lane] };
        }
    }
    let largest = largest.iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a });
    let shift = lanes.splat(-largest);
    for values in eights_mut(scores) {
        lanes.store(exp(lanes, add(lanes, lanes.load(values), shift)), values);
    }
    // `exp` clamps at e^-87, which is not zero; the padding must not count.
    scores[seen.end..].fill(0.0);
    scores[..seen.start].fill(0.0);
    let mut sums = lanes.splat(0.0);
    for values in eights(scores) {
        sums = add(lanes, sums, lanes.load(values));
    }
    let mut each = [0.0; 8];
    lanes.store(sums, &mut each);
    (largest, sum_lanes(each))
}
