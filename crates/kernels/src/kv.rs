//! Keys and values of all streams, in pages.
//!
//! A page holds [`PAGE_POSITIONS`] positions of every layer. Keys are interleaved by eight
//! positions (`[kv head][position / 8][dimension][position % 8]`), so that scores come out eight
//! positions a register without a horizontal sum; values lie position by position (`[kv
//! head][position][dimension]`).

use super::attention::AttentionScratch;
use super::disjoint::Disjoint;
use super::elementwise::{RopeAngles, rope};
use super::isa::Isa;
use super::lanes::{Kernel, Lanes, eights, eights_mut};
use super::pool::ThreadPool;

/// Positions of a page. Small enough that short streams waste little, large enough that the page
/// table stays short.
pub const PAGE_POSITIONS: usize = 32;

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

/// Precision that keys and values are stored in.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum KvPrecision {
    /// Half precision: two bytes an element.
    #[default]
    F16,
    /// Single precision: four bytes an element, for comparisons with engines that keep it.
    F32,
}

/// The keys and values of all streams.
pub struct KvStore {
    pub(super) shape: KvShape,
    pub(super) data: KvData,
    pub(super) scratch: AttentionScratch,
}

/// Untouched pages cost no memory: the system zeroes an allocation lazily.
pub(super) enum KvData {
    Half(Vec<u16>),
    Single(Vec<f32>),
}

/// A type that keys and values are stored in.
pub(super) trait KvElement: Copy + Default + Send + Sync {
    fn load<L: Lanes>(lanes: L, values: &[Self; 8]) -> L::Vector;
    fn store<L: Lanes>(lanes: L, vector: L::Vector, values: &mut [Self; 8]);
}

/// Destination of one row's key and value, and the angles that its key is turned by.
#[derive(Clone, Copy, Debug)]
pub struct KvSlot<'a> {
    /// The page.
    pub page: u32,
    /// The position within it.
    pub slot: usize,
    /// Rotary angles of the row's position.
    pub angles: RopeAngles<'a>,
}

// === impl KvShape ===

impl KvShape {
    pub(super) fn head_elements(self) -> usize {
        PAGE_POSITIONS * self.head_dim
    }

    pub(super) fn layer_elements(self) -> usize {
        2 * self.kv_heads * self.head_elements()
    }

    pub(super) fn page_elements(self) -> usize {
        self.layers * self.layer_elements()
    }
}

// === impl KvStore ===

impl KvStore {
    /// Room for `pages` pages.
    pub fn new(shape: KvShape, precision: KvPrecision, pages: usize) -> Self {
        let elements = pages * shape.page_elements();
        let data = match precision {
            KvPrecision::F16 => KvData::Half(vec![0; elements]),
            KvPrecision::F32 => KvData::Single(vec![0.0; elements]),
        };
        Self { shape, data, scratch: AttentionScratch::default() }
    }

    /// Copies the keys and values of page `from` to page `to`.
    ///
    /// # Panics
    /// If there is no such page.
    pub fn copy_page(&mut self, from: u32, to: u32) {
        let elements = self.shape.page_elements();
        let source = from as usize * elements..(from as usize + 1) * elements;
        match &mut self.data {
            KvData::Half(data) => data.copy_within(source, to as usize * elements),
            KvData::Single(data) => data.copy_within(source, to as usize * elements),
        }
    }

    /// The sizes.
    pub fn shape(&self) -> KvShape {
        self.shape
    }

    /// Turns the keys of all rows by their positions, in place, and writes keys and values, each
    /// \[rows, kv heads, head dim\], of one layer. `slot` says where row `i` goes.
    pub fn write<'a>(
        &mut self,
        pool: &mut ThreadPool,
        isa: Isa,
        layer: usize,
        slot: impl Fn(usize) -> KvSlot<'a> + Sync,
        keys: &mut [f32],
        values: &[f32],
    ) {
        let shape = self.shape;
        match &mut self.data {
            KvData::Half(data) => write(shape, data, pool, isa, layer, slot, keys, values),
            KvData::Single(data) => write(shape, data, pool, isa, layer, slot, keys, values),
        }
    }
}

/// Floats that a thread should at least write.
const WRITE_GRAIN: usize = 1024;

#[expect(clippy::too_many_arguments, reason = "`KvStore::write` for one element type")]
fn write<'a, E: KvElement>(
    shape: KvShape,
    data: &mut [E],
    pool: &mut ThreadPool,
    isa: Isa,
    layer: usize,
    slot: impl Fn(usize) -> KvSlot<'a> + Sync,
    keys: &mut [f32],
    values: &[f32],
) {
    let width = shape.kv_heads * shape.head_dim;
    let rows = keys.len() / width;
    assert_eq!((keys.len(), values.len()), (rows * width, rows * width), "keys and values");
    let (data, keys) = (Disjoint::new(data), Disjoint::new(keys));
    // By heads, not by rows: two rows may share a page, two heads never share a place.
    let grain = WRITE_GRAIN.div_ceil((rows * shape.head_dim).max(1));
    pool.run_ranges(shape.kv_heads, grain, &|heads| {
        for head in heads {
            for row in 0..rows {
                let KvSlot { page, slot, angles } = slot(row);
                assert!(slot < PAGE_POSITIONS, "slot outside the page");
                let layer_start =
                    page as usize * shape.page_elements() + layer * shape.layer_elements();
                let part = |head: usize| {
                    let start = layer_start + head * shape.head_elements();
                    start..start + shape.head_elements()
                };
                let at = row * width + head * shape.head_dim;
                // SAFETY: these are the places of this head, which this thread alone has claimed,
                // and keys and values lie apart.
                let (key, key_page, value_page) = unsafe {
                    let key = keys.part(at..at + shape.head_dim);
                    (key, data.part(part(head)), data.part(part(shape.kv_heads + head)))
                };
                let value = &values[at..][..shape.head_dim];
                isa.run(WriteHead { slot, angles, key, value, key_page, value_page });
            }
        }
    });
}

// === impl KvElement ===

impl KvElement for u16 {
    #[inline(always)]
    fn load<L: Lanes>(lanes: L, values: &[Self; 8]) -> L::Vector {
        lanes.load_half(values)
    }

    #[inline(always)]
    fn store<L: Lanes>(lanes: L, vector: L::Vector, values: &mut [Self; 8]) {
        lanes.store_half(vector, values);
    }
}

impl KvElement for f32 {
    #[inline(always)]
    fn load<L: Lanes>(lanes: L, values: &[Self; 8]) -> L::Vector {
        lanes.load(values)
    }

    #[inline(always)]
    fn store<L: Lanes>(lanes: L, vector: L::Vector, values: &mut [Self; 8]) {
        lanes.store(vector, values);
    }
}

// === kernels ===

/// Writes one position of one head.
struct WriteHead<'a, E> {
    slot: usize,
    angles: RopeAngles<'a>,
    key: &'a mut [f32],
    value: &'a [f32],
    key_page: &'a mut [E],
    value_page: &'a mut [E],
}

impl<E: KvElement> Kernel for WriteHead<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let head_dim = self.key.len();
        let values = &mut self.value_page[self.slot * head_dim..][..head_dim];
        for (out, value) in eights_mut(values).iter_mut().zip(eights(self.value)) {
            E::store(lanes, lanes.load(value), out);
        }
        rope(self.angles, self.key, head_dim);
        let keys = &mut self.key_page[self.slot / 8 * 8 * head_dim..][..8 * head_dim];
        for (part, key) in keys.chunks_exact_mut(64).zip(eights(self.key)) {
            let mut stored = [E::default(); 8];
            E::store(lanes, lanes.load(key), &mut stored);
            for (dimension, stored) in stored.into_iter().enumerate() {
                part[dimension * 8 + self.slot % 8] = stored;
            }
        }
    }
}
