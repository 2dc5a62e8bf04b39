//! Attention over keys and values in pages.
//!
//! A row attends to positions in ascending order with fixed groupings, so its bits depend on its own position and the pages'
//! contents, never on the batch.

use super::disjoint::Disjoint;
use super::elementwise::{RopeAngles, exp, rope};
use super::isa::Isa;
use super::kv::{KvData, KvElement, KvShape, KvStore, PAGE_POSITIONS};
use super::lanes::{Kernel, Lanes, eights, eights_mut, sum_lanes};
use super::pool::ThreadPool;

/// Query heads that share one read of a key or value, at most: with four registers each they fit the sixteen of AVX2.
const HEAD_BLOCK: usize = 3;

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
        let Self { shape, data, scores } = self;
        match data {
            KvData::Half(data) => attend(*shape, data, pool, isa, layer, row, queries, scores, out),
            KvData::Single(data) => attend(*shape, data, pool, isa, layer, row, queries, scores, out),
        }
    }
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
    scores: &mut Vec<f32>,
    out: &mut [f32],
) {
    let group = shape.query_heads / shape.kv_heads;
    let task_elements = group * shape.head_dim;
    let tasks = queries.len() / task_elements;
    assert!(queries.len().is_multiple_of(shape.kv_heads * task_elements), "queries");
    assert_eq!(out.len(), queries.len(), "output");
    let longest = (0..tasks / shape.kv_heads).map(|index| row(index).length).max().unwrap_or(0);
    // Whole cache lines, so that threads don't share one.
    let thread_scores = (group * longest.next_multiple_of(8)).next_multiple_of(16);
    if scores.len() < pool.threads() * thread_scores {
        scores.resize(pool.threads() * thread_scores, 0.0);
    }
    let scores = Disjoint::new(scores);
    let (queries, out) = (Disjoint::new(queries), Disjoint::new(out));
    pool.run_ranges_numbered(tasks, 1, &|thread, range| {
        // SAFETY: each thread has a part of its own, and runs one range at a time.
        let scores = unsafe { scores.part(thread * thread_scores..(thread + 1) * thread_scores) };
        for task in range {
            let (row, kv_head) = (row(task / shape.kv_heads), task % shape.kv_heads);
            assert!(row.length > 0 && row.length <= row.pages.len() * PAGE_POSITIONS);
            let part = task * task_elements..(task + 1) * task_elements;
            // SAFETY: tasks have parts of their own, and each is claimed by one thread.
            let (queries, out) = unsafe { (queries.part(part.clone()), out.part(part)) };
            rope(row.angles, queries, shape.head_dim);
            let padded = row.length.next_multiple_of(8);
            let scores = &mut scores[..group * padded];
            let pages = Pages { shape, data, layer, kv_head, pages: row.pages };
            isa.run(AttendHeads { pages, length: row.length, queries, scores, padded, out });
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

struct AttendHeads<'a, E> {
    pages: Pages<'a, E>,
    /// Positions seen.
    length: usize,
    /// \[group, head dim\].
    queries: &'a [f32],
    /// \[group, padded length\].
    scores: &'a mut [f32],
    padded: usize,
    /// \[group, head dim\].
    out: &'a mut [f32],
}

impl<E: KvElement> Kernel for AttendHeads<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(mut self, lanes: L) {
        let group = self.queries.len() / self.pages.shape.head_dim;
        // Blocks of nearly equal size: four heads are two and two.
        let size = group.div_ceil(group.div_ceil(HEAD_BLOCK));
        for first in (0..group).step_by(size) {
            match size.min(group - first) {
                1 => self.heads::<L, 1>(lanes, first),
                2 => self.heads::<L, 2>(lanes, first),
                _ => self.heads::<L, HEAD_BLOCK>(lanes, first),
            }
        }
    }
}

impl<E: KvElement> AttendHeads<'_, E> {
    /// Query heads `first..first + H` of the group.
    #[inline(always)]
    fn heads<L: Lanes, const H: usize>(&mut self, lanes: L, first: usize) {
        let blocks = self.padded / 8;
        let paired = blocks / 2 * 2;
        for block in (0..paired).step_by(2) {
            self.scores::<L, H, 2>(lanes, first, block);
        }
        if paired < blocks {
            self.scores::<L, H, 1>(lanes, first, paired);
        }
        let mut inverse_sums = [0.0; H];
        for (head, inverse) in inverse_sums.iter_mut().enumerate() {
            let scores = &mut self.scores[(first + head) * self.padded..][..self.padded];
            *inverse = 1.0 / softmax_numerators(scores, self.length);
        }
        match self.pages.shape.head_dim % 32 {
            0 => self.mix::<L, H, 4>(lanes, first, inverse_sums),
            16 => self.mix::<L, H, 2>(lanes, first, inverse_sums),
            _ => self.mix::<L, H, 1>(lanes, first, inverse_sums),
        }
    }

    /// The scores of `B` blocks of eight positions. Blocks `block..block + B` lie in one page, since a page has an even number of them.
    #[inline(always)]
    fn scores<L: Lanes, const H: usize, const B: usize>(&mut self, lanes: L, first: usize, block: usize) {
        let (head_dim, padded) = (self.pages.shape.head_dim, self.padded);
        let queries: [&[f32]; H] =
            std::array::from_fn(|head| &self.queries[(first + head) * head_dim..][..head_dim]);
        let scale = 1.0 / (head_dim as f32).sqrt();
        let page = eights(self.pages.keys(block * 8 / PAGE_POSITIONS));
        let keys: [&[[E; 8]]; B] = std::array::from_fn(|offset| {
            &page[(block + offset) % (PAGE_POSITIONS / 8) * head_dim..][..head_dim]
        });
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
            let scores = &mut self.scores[(first + head) * padded + block * 8..][..8 * B];
            for (offset, scores) in eights_mut(scores).iter_mut().enumerate() {
                let odd = lanes.mul(odd[head][offset], scale);
                lanes.store(lanes.mul_add(even[head][offset], scale, odd), scores);
            }
        }
    }

    /// The weighted sum of values for `H` heads, `C` registers of dimensions at a time.
    #[inline(always)]
    fn mix<L: Lanes, const H: usize, const C: usize>(
        &mut self,
        lanes: L,
        first: usize,
        inverse_sums: [f32; H],
    ) {
        let (head_dim, padded, length) = (self.pages.shape.head_dim, self.padded, self.length);
        for chunk in 0..head_dim / (8 * C) {
            let mut sums = [[lanes.splat(0.0); C]; H];
            for index in 0..length.div_ceil(PAGE_POSITIONS) {
                let values = eights(self.pages.values(index));
                let start = index * PAGE_POSITIONS;
                let count = PAGE_POSITIONS.min(length - start);
                let weights: [&[f32]; H] =
                    std::array::from_fn(|head| &self.scores[(first + head) * padded + start..][..count]);
                for slot in 0..count {
                    let values = &values[slot * (head_dim / 8) + chunk * C..][..C];
                    for (register, value) in values.iter().enumerate() {
                        let value = E::load(lanes, value);
                        for head in 0..H {
                            let weight = lanes.splat(weights[head][slot]);
                            sums[head][register] = lanes.mul_add(value, weight, sums[head][register]);
                        }
                    }
                }
            }
            for head in 0..H {
                let out = &mut self.out[(first + head) * head_dim + chunk * 8 * C..][..8 * C];
                for (register, out) in eights_mut(out).iter_mut().enumerate() {
                    lanes.store(lanes.mul(sums[head][register], lanes.splat(inverse_sums[head])), out);
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
        let shifted: [f32; 8] = std::array::from_fn(|lane| values[lane] - largest);
        *values = shifted.map(exp);
        for lane in 0..8 {
            // `exp` clamps at e^-87, which is not zero; the padding must not count.
            values[lane] = if shifted[lane] == f32::NEG_INFINITY { 0.0 } else { values[lane] };
            sums[lane] += values[lane];
        }
    }
    sum_lanes(sums)
}
