//! Attention of a block of rows to one segment of the positions that they see.

use super::{PAGE_POSITIONS, Parts, ROW_BLOCK, SEGMENT};
use crate::kernels::elementwise::exp;
use crate::kernels::kv::{KvElement, KvShape};
use crate::kernels::lanes::{Kernel, Lanes, add, eights, eights_mut, sum_lanes};

/// Query heads that share one read of a key or value, at most: with four registers each they fit the sixteen of AVX2.
const HEAD_BLOCK: usize = 3;

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

/// Rows of one stream, each seeing one position more than the one before. All rows of the block look at a page while it is in the
/// nearest cache, and the next page is asked for meanwhile.
pub(super) struct AttendSegment<'a, E> {
    pub(super) pages: Pages<'a, E>,
    pub(super) rows: usize,
    /// Positions that the first row sees.
    pub(super) length: usize,
    pub(super) segment: usize,
    /// Query heads of the key/value head.
    pub(super) group: usize,
    /// Of each row, \[group, head dim\].
    pub(super) queries: [&'a [f32]; ROW_BLOCK],
    /// \[rows, group, SEGMENT\].
    pub(super) scores: &'a mut [f32],
    /// What comes out. A row that ends before the segment gets a sum of zero and nothing else.
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

    /// What is read after the keys of the `index`-th page: those of the next, or the segment's values.
    #[inline(always)]
    fn after_keys(&self, index: usize) -> &'a [E] {
        let next = index + 1;
        let is_last = next.is_multiple_of(PAGES) || next == self.pages.len();
        if is_last { self.values(index / PAGES * PAGES) } else { self.keys(next) }
    }

    /// What is read after the values of the `index`-th page: those of the next, or the next segment's keys.
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
        let group = self.group;
        // Blocks of nearly equal size: four heads are two and two.
        let size = group.div_ceil(group.div_ceil(HEAD_BLOCK));
        let first_page = self.segment * PAGES;
        let end_page = (first_page + PAGES).min((self.length + self.rows - 1).div_ceil(PAGE_POSITIONS));
        for page in first_page..end_page {
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
            let seen = self.seen(row);
            for head in row * group..(row + 1) * group {
                let scores = &mut self.scores[head * SEGMENT..][..seen.next_multiple_of(8)];
                (self.parts.largest[head], self.parts.sums[head]) = softmax_numerators(lanes, scores, seen);
            }
        }
        for page in first_page..end_page {
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

impl<E: KvElement> AttendSegment<'_, E> {
    /// Positions of the segment that a row sees.
    #[inline(always)]
    fn seen(&self, row: usize) -> usize {
        (self.length + row).saturating_sub(self.segment * SEGMENT).min(SEGMENT)
    }

    /// Positions of a page that a row sees.
    #[inline(always)]
    fn seen_of(&self, page: usize, row: usize) -> usize {
        (self.length + row).saturating_sub(page * PAGE_POSITIONS).min(PAGE_POSITIONS)
    }

    /// Scores of query heads `first..first + H` of a row at the positions of a page.
    #[inline(always)]
    fn page_scores<L: Lanes, const H: usize>(&mut self, lanes: L, page: usize, row: usize, first: usize) {
        let seen = self.seen_of(page, row).div_ceil(8);
        let paired = seen / 2 * 2;
        for block in (0..paired).step_by(2) {
            if row == 0 && first == 0 {
                let elements = 16 * self.pages.shape.head_dim;
                lanes.prefetch(&self.pages.after_keys(page)[block / 2 * elements..][..elements]);
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
            let start =
                (row * self.group + first + head) * SEGMENT + page % PAGES * PAGE_POSITIONS + block * 8;
            let scores = &mut self.scores[start..][..8 * B];
            for (offset, scores) in eights_mut(scores).iter_mut().enumerate() {
                let odd = lanes.mul(odd[head][offset], scale);
                lanes.store(lanes.mul_add(even[head][offset], scale, odd), scores);
            }
        }
    }

    /// Adds the weighted values of a page to the sums of query heads `first..first + H` of a row.
    #[inline(always)]
    fn page_mix<L: Lanes, const H: usize>(&mut self, lanes: L, page: usize, row: usize, first: usize) {
        let count = self.seen_of(page, row);
        if count == 0 {
            return;
        }
        let registers = self.pages.shape.head_dim / 8;
        let mut start = 0;
        while start < registers {
            start += match registers - start {
                1 => self.mix::<L, H, 1>(lanes, page, row, first, count, start),
                2 | 4 => self.mix::<L, H, 2>(lanes, page, row, first, count, start),
                _ => self.mix::<L, H, 3>(lanes, page, row, first, count, start),
            };
        }
    }

    /// `C` registers of dimensions, from the `start`-th on, of the first `count` positions of a page; returns `C`. With three heads three registers
    /// fit the sixteen of AVX2; of four, compilers keep some sums in memory.
    #[inline(always)]
    fn mix<L: Lanes, const H: usize, const C: usize>(
        &mut self,
        lanes: L,
        page: usize,
        row: usize,
        first: usize,
        count: usize,
        start: usize,
    ) -> usize {
        let head_dim = self.pages.shape.head_dim;
        let place = page % PAGES * PAGE_POSITIONS;
        let values = eights(self.pages.values(page)).chunks_exact(head_dim / 8);
        let after = self.pages.after_values(page).filter(|_| row == 0 && first == 0).map(eights);
        let weights: [&[f32]; H] = std::array::from_fn(|head| {
            &self.scores[(row * self.group + first + head) * SEGMENT + place..][..count]
        });
        let at = |head: usize| {
            let start = (row * self.group + first + head) * head_dim + 8 * start;
            start..start + 8 * C
        };
        let mut sums = [[lanes.splat(0.0); C]; H];
        if place > 0 {
            for (head, sums) in sums.iter_mut().enumerate() {
                for (sum, mixed) in sums.iter_mut().zip(eights(&self.parts.mixed[at(head)])) {
                    *sum = lanes.load(mixed);
                }
            }
        }
        for (slot, values) in (0..count).zip(values) {
            if let Some(after) = after {
                lanes.prefetch(&after[slot * (head_dim / 8) + start..][..C]);
            }
            let weights: [L::Vector; H] = std::array::from_fn(|head| lanes.splat(weights[head][slot]));
            for (register, value) in values[start..][..C].iter().enumerate() {
                let value = E::load(lanes, value);
                for head in 0..H {
                    sums[head][register] = lanes.mul_add(value, weights[head], sums[head][register]);
                }
            }
        }
        for (head, sums) in sums.iter().enumerate() {
            for (sum, mixed) in sums.iter().zip(eights_mut(&mut self.parts.mixed[at(head)])) {
                lanes.store(*sum, mixed);
            }
        }
        C
    }
}

/// Replaces the first `length` scores by `exp(score - largest)`, the padding by zeros, and returns the largest and the sum.
#[inline(always)]
fn softmax_numerators<L: Lanes>(lanes: L, scores: &mut [f32], length: usize) -> (f32, f32) {
    // Keys beyond the length are leftovers of other streams.
    scores[length..].fill(f32::NEG_INFINITY);
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
    scores[length..].fill(0.0);
    let mut sums = lanes.splat(0.0);
    for values in eights(scores) {
        sums = add(lanes, sums, lanes.load(values));
    }
    let mut each = [0.0; 8];
    lanes.store(sums, &mut each);
    (largest, sum_lanes(each))
}
