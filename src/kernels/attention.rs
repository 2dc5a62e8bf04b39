//! Attention over keys and values in pages, and the storage of the pages.
//!
//! A page holds [`PAGE_POSITIONS`] positions of every layer in half precision. Keys are interleaved by eight positions
//! (`[kv head][position / 8][dimension][position % 8]`), so that scores come out eight positions a register without a horizontal sum;
//! values lie position by position (`[kv head][position][dimension]`). A row attends to positions in ascending order with
//! fixed groupings, so its bits depend on its own position and the pages' contents, never on the batch.

use std::cell::RefCell;

use super::elementwise::exp;
use super::isa::Isa;
use super::lanes::{Kernel, Lanes, eights, eights_mut, sum_lanes};
use super::pool::ThreadPool;

/// Positions of a page. Small enough that short streams waste little, large enough that the page table stays short.
pub const PAGE_POSITIONS: usize = 32;

/// Query heads that share one read of a key or value: four sums of two registers each fit the sixteen registers of AVX2.
const HEAD_BLOCK: usize = 4;

/// The sizes that fix the layout of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KvShape {
    /// Layers of the model.
    pub layers: usize,
    /// Query heads; a multiple of `kv_heads`.
    pub query_heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Elements of a head; a multiple of 8.
    pub head_dim: usize,
}

/// The keys and values of all streams.
pub struct KvStore {
    shape: KvShape,
    /// Untouched pages cost no memory: the allocation is zeroed lazily by the system.
    data: Vec<u16>,
}

/// One row that attends.
#[derive(Clone, Copy, Debug)]
pub struct AttentionRow<'a> {
    /// The pages of the row's stream, in order of position.
    pub pages: &'a [u32],
    /// Positions it sees: its own and all before.
    pub length: usize,
}

// === impl KvShape ===

impl KvShape {
    fn head_elements(self) -> usize {
        PAGE_POSITIONS * self.head_dim
    }

    fn layer_elements(self) -> usize {
        2 * self.kv_heads * self.head_elements()
    }

    fn page_elements(self) -> usize {
        self.layers * self.layer_elements()
    }

    /// Bytes of a page.
    pub fn page_bytes(self) -> usize {
        self.page_elements() * size_of::<u16>()
    }
}

// === impl KvStore ===

impl KvStore {
    /// Room for `pages` pages.
    pub fn new(shape: KvShape, pages: usize) -> Self {
        Self { shape, data: vec![0; pages * shape.page_elements()] }
    }

    /// The sizes.
    pub fn shape(&self) -> KvShape {
        self.shape
    }

    /// Pages there is room for.
    pub fn pages(&self) -> usize {
        self.data.len() / self.shape.page_elements().max(1)
    }

    /// Writes the key and the value of one position of one layer; each is \[kv heads, head dim\].
    pub fn write(&mut self, isa: Isa, layer: usize, page: u32, slot: usize, key: &[f32], value: &[f32]) {
        let shape = self.shape;
        let start = page as usize * shape.page_elements() + layer * shape.layer_elements();
        let (keys, values) =
            self.data[start..][..shape.layer_elements()].split_at_mut(shape.kv_heads * shape.head_elements());
        isa.run(WriteHeads { shape, slot, key, value, keys, values });
    }

    /// Scaled dot-product attention of each row's query heads over its stream: `queries` and `out` are \[rows, query heads, head dim\].
    ///
    /// # Panics
    /// If a row sees more positions than its pages hold: a bug of the caller.
    pub fn attend(
        &self,
        pool: &mut ThreadPool,
        isa: Isa,
        layer: usize,
        rows: &[AttentionRow<'_>],
        queries: &[f32],
        out: &mut [f32],
    ) {
        thread_local! {
            static SCORES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
        }
        let shape = self.shape;
        let group = shape.query_heads / shape.kv_heads;
        let task_elements = group * shape.head_dim;
        assert_eq!(queries.len(), rows.len() * shape.kv_heads * task_elements, "queries");
        assert_eq!(out.len(), queries.len(), "output");
        let out = Output(out.as_mut_ptr());
        pool.run_ranges(rows.len() * shape.kv_heads, 1, &|tasks| {
            let out = &out;
            for task in tasks {
                let (row, kv_head) = (&rows[task / shape.kv_heads], task % shape.kv_heads);
                assert!(row.length > 0 && row.length <= row.pages.len() * PAGE_POSITIONS);
                // SAFETY: `out` has as many elements as `queries` (asserted), so this task's range lies inside it, and tasks
                // don't overlap; the pool joins before `out` is read.
                let out =
                    unsafe { std::slice::from_raw_parts_mut(out.0.add(task * task_elements), task_elements) };
                SCORES.with_borrow_mut(|scores| {
                    let padded = row.length.next_multiple_of(8);
                    scores.resize(group * padded, 0.0);
                    isa.run(AttendHeads {
                        store: self,
                        layer,
                        kv_head,
                        row: *row,
                        queries: &queries[task * task_elements..][..task_elements],
                        scores,
                        padded,
                        out,
                    });
                });
            }
        });
    }

    /// The interleaved keys of one head in one page.
    #[inline(always)]
    fn keys(&self, layer: usize, kv_head: usize, page: u32) -> &[u16] {
        let shape = self.shape;
        let start = page as usize * shape.page_elements()
            + layer * shape.layer_elements()
            + kv_head * shape.head_elements();
        &self.data[start..][..shape.head_elements()]
    }

    /// The values of one head in one page.
    #[inline(always)]
    fn values(&self, layer: usize, kv_head: usize, page: u32) -> &[u16] {
        self.keys(layer, self.shape.kv_heads + kv_head, page)
    }
}

struct Output(*mut f32);

// SAFETY: tasks write disjoint ranges (see `attend`).
unsafe impl Sync for Output {}

// === kernels ===

struct WriteHeads<'a> {
    shape: KvShape,
    slot: usize,
    key: &'a [f32],
    value: &'a [f32],
    keys: &'a mut [u16],
    values: &'a mut [u16],
}

impl Kernel for WriteHeads<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let (head_dim, head_elements) = (self.shape.head_dim, self.shape.head_elements());
        let heads = self.key.chunks_exact(head_dim).zip(self.value.chunks_exact(head_dim));
        for (head, (key, value)) in heads.enumerate() {
            let values = &mut self.values[head * head_elements + self.slot * head_dim..][..head_dim];
            for (out, value) in eights_mut(values).iter_mut().zip(eights(value)) {
                lanes.store_half(lanes.load(value), out);
            }
            let block = head * head_elements + self.slot / 8 * 8 * head_dim;
            let keys = &mut self.keys[block..][..8 * head_dim];
            for (part, key) in keys.chunks_exact_mut(64).zip(eights(key)) {
                let mut half = [0; 8];
                lanes.store_half(lanes.load(key), &mut half);
                for (dimension, half) in half.into_iter().enumerate() {
                    part[dimension * 8 + self.slot % 8] = half;
                }
            }
        }
    }
}

struct AttendHeads<'a> {
    store: &'a KvStore,
    layer: usize,
    kv_head: usize,
    row: AttentionRow<'a>,
    /// \[group, head dim\].
    queries: &'a [f32],
    /// \[group, padded length\].
    scores: &'a mut [f32],
    padded: usize,
    /// \[group, head dim\].
    out: &'a mut [f32],
}

impl Kernel for AttendHeads<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(mut self, lanes: L) {
        let head_dim = self.store.shape.head_dim;
        let group = self.queries.len() / head_dim;
        for first in (0..group).step_by(HEAD_BLOCK) {
            match group - first {
                1 => self.heads::<L, 1>(lanes, first),
                2 => self.heads::<L, 2>(lanes, first),
                3 => self.heads::<L, 3>(lanes, first),
                _ => self.heads::<L, HEAD_BLOCK>(lanes, first),
            }
        }
    }
}

impl AttendHeads<'_> {
    /// Query heads `first..first + H` of the group.
    #[inline(always)]
    fn heads<L: Lanes, const H: usize>(&mut self, lanes: L, first: usize) {
        let (head_dim, padded) = (self.store.shape.head_dim, self.padded);
        let queries: [&[f32]; H] =
            std::array::from_fn(|head| &self.queries[(first + head) * head_dim..][..head_dim]);
        let scale = 1.0 / (head_dim as f32).sqrt();
        for block in 0..padded / 8 {
            let page = self.row.pages[block * 8 / PAGE_POSITIONS];
            let keys = self.store.keys(self.layer, self.kv_head, page);
            let keys = &eights(keys)[block % (PAGE_POSITIONS / 8) * head_dim..][..head_dim];
            // Even and odd dimensions in sums of their own, to hide the latency of the multiply-add.
            let mut even = [lanes.splat(0.0); H];
            let mut odd = [lanes.splat(0.0); H];
            for dimension in (0..head_dim).step_by(2) {
                let (key, next) = (lanes.load_half(&keys[dimension]), lanes.load_half(&keys[dimension + 1]));
                for head in 0..H {
                    even[head] = lanes.mul_add(key, lanes.splat(queries[head][dimension]), even[head]);
                    odd[head] = lanes.mul_add(next, lanes.splat(queries[head][dimension + 1]), odd[head]);
                }
            }
            for head in 0..H {
                let scores = &mut self.scores[(first + head) * padded + block * 8..][..8];
                let sum =
                    lanes.mul_add(even[head], lanes.splat(scale), lanes.mul(odd[head], lanes.splat(scale)));
                lanes.store(sum, &mut eights_mut(scores)[0]);
            }
        }
        let mut inverse_sums = [0.0; H];
        for (head, inverse) in inverse_sums.iter_mut().enumerate() {
            let scores = &mut self.scores[(first + head) * padded..][..padded];
            *inverse = 1.0 / softmax_numerators(scores, self.row.length);
        }
        match head_dim % 16 {
            0 => self.mix::<L, H, 2>(lanes, first, inverse_sums),
            _ => self.mix::<L, H, 1>(lanes, first, inverse_sums),
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
        let (head_dim, padded, length) = (self.store.shape.head_dim, self.padded, self.row.length);
        for chunk in 0..head_dim / (8 * C) {
            let mut sums = [[lanes.splat(0.0); C]; H];
            for (index, &page) in self.row.pages.iter().enumerate().take(length.div_ceil(PAGE_POSITIONS)) {
                let values = eights(self.store.values(self.layer, self.kv_head, page));
                let start = index * PAGE_POSITIONS;
                let count = PAGE_POSITIONS.min(length - start);
                let weights: [&[f32]; H] =
                    std::array::from_fn(|head| &self.scores[(first + head) * padded + start..][..count]);
                for slot in 0..count {
                    let values = &values[slot * (head_dim / 8) + chunk * C..][..C];
                    for (register, value) in values.iter().enumerate() {
                        let value = lanes.load_half(value);
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
