//! Plain Rust for any CPU.

use half::f16;

use super::InstructionSet;
use crate::activations::Activations;
use crate::lanes::{Kernel, Lanes};
use crate::layout::COLUMNS;
use crate::packed::Tile;
use crate::tiles::reference;

/// Proof of nothing: every CPU runs it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Portable;

// === impl Portable ===

impl InstructionSet for Portable {
    const NAME: &'static str = "portable";

    fn new() -> Option<Self> {
        Some(Self)
    }

    fn run<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }

    fn tile_rows(
        self,
        tile: Tile<'_>,
        inputs: &Activations,
        row: usize,
        out: &mut [[f32; COLUMNS]],
    ) {
        for (index, values) in out.iter_mut().enumerate() {
            *values = reference::tile_row(tile, inputs, row + index);
        }
    }
}

impl Lanes for Portable {
    type Vector = [f32; 8];

    #[inline(always)]
    fn splat(self, value: f32) -> [f32; 8] {
        [value; 8]
    }

    #[inline(always)]
    fn load(self, values: &[f32; 8]) -> [f32; 8] {
        *values
    }

    #[inline(always)]
    fn load_half(self, values: &[u16; 8]) -> [f32; 8] {
        values.map(|bits| f16::from_bits(bits).to_f32())
    }

    #[inline(always)]
    fn store(self, vector: [f32; 8], values: &mut [f32; 8]) {
        *values = vector;
    }

    #[inline(always)]
    fn mul_add(self, a: [f32; 8], b: [f32; 8], c: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|lane| a[lane].mul_add(b[lane], c[lane]))
    }

    #[inline(always)]
    fn mul(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|lane| a[lane] * b[lane])
    }

    #[inline(always)]
    fn div(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|lane| a[lane] / b[lane])
    }

    #[inline(always)]
    fn clamp(self, a: [f32; 8], low: f32, high: f32) -> [f32; 8] {
        a.map(|value| value.clamp(low, high))
    }

    #[inline(always)]
    fn power_of_two(self, n: [f32; 8]) -> [f32; 8] {
        n.map(|n| f32::from_bits(n.to_bits().wrapping_add(127) << 23))
    }

    #[inline(always)]
    fn store_half(self, vector: [f32; 8], values: &mut [u16; 8]) {
        *values = vector.map(|value| f16::from_f32(value).to_bits());
    }

    #[inline(always)]
    fn prefetch<T>(self, _: &[T]) {}
}
