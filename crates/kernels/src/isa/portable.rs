//! Plain Rust for any CPU: arrays in place of registers, which compilers turn into whatever the
//! target has.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::InstructionSet;
use crate::activations::Activations;
use crate::lanes::{Kernel, Lanes};
use crate::layout::{COLUMNS, Layout};
use crate::packed::Tile;
use crate::tiles::codes::{broadcast, for_vectors, vector};
use crate::tiles::{Cache, Registers, TileKernel, tile_rows};

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
        // SAFETY: arrays need no instructions of their own.
        unsafe { tile_rows::<Arrays>(tile, inputs, row, out) }
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

/// An array with a number for each column.
struct Arrays;

type Columns<T> = [T; COLUMNS];

/// Implements operations of [`Registers`] lane by lane.
macro_rules! by_lane {
    ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty = $body:expr;)*) => {
        $(
            #[inline(always)]
            unsafe fn $name($($argument: Columns<$type>),*) -> Columns<$result> {
                std::array::from_fn(|lane| {
                    $(let $argument = $argument[lane];)*
                    $body
                })
            }
        )*
    };
}

/// Implements operations of [`Registers`] that fill all lanes with one value.
macro_rules! by_value {
    ($($name:ident($value:ident: $type:ty) -> $result:ty = $body:expr;)*) => {
        $(
            #[inline(always)]
            unsafe fn $name($value: $type) -> Columns<$result> {
                [$body; COLUMNS]
            }
        )*
    };
}

/// Implements operations of [`Registers`] that read `$bytes` bytes a lane.
macro_rules! by_address {
    ($($name:ident($lane:ident: [u8; $bytes:literal]) -> $result:ty = $body:expr;)*) => {
        $(
            #[inline(always)]
            unsafe fn $name(at: *const u8) -> Columns<$result> {
                // SAFETY: the caller vouches for the memory; bytes may lie anywhere.
                let lanes = unsafe { *at.cast::<Columns<[u8; $bytes]>>() };
                lanes.map(|$lane| $body)
            }
        )*
    };
}

// SAFETY: loads are as wide as the contract says, sixteen lanes of 4 bytes or of 2; `store` assigns
// all of `out`, `fetch` does nothing, and `call` runs its kernel once.
unsafe impl Registers for Arrays {
    type Int = Columns<i32>;
    type Float = Columns<f32>;
    /// Their sums take half of NEON's 32 registers.
    const ROWS: usize = 4;

    by_address! {
        load(lane: [u8; 4]) -> i32 = i32::from_le_bytes(lane);
        load_pairs(lane: [u8; 2]) -> i32 = pair(i32::from(lane[0] as i8), i32::from(lane[1] as i8));
        load_single(lane: [u8; 4]) -> f32 = f32::from_le_bytes(lane);
        load_brain(lane: [u8; 2]) -> f32 = bf16::from_le_bytes(lane).to_f32();
    }

    #[inline(always)]
    unsafe fn load_half(at: *const u8) -> Columns<f32> {
        // SAFETY: the caller vouches for the memory; bytes may lie anywhere.
        let lanes = unsafe { *at.cast::<Columns<[u8; 2]>>() };
        // Together, since each conversion asks what the CPU has.
        let mut values = [0.0; COLUMNS];
        lanes.map(f16::from_le_bytes).convert_to_f32_slice(&mut values);
        values
    }

    by_value! {
        splat8(value: i8) -> i32 = i32::from_le_bytes([value as u8; 4]);
        splat32(value: i32) -> i32 = value;
        splat(value: f32) -> f32 = value;
    }

    by_lane! {
        and(a: i32, b: i32) -> i32 = a & b;
        or(a: i32, b: i32) -> i32 = a | b;
        double_low(pairs: i32) -> i32 = pair(low(pairs), low(pairs));
        double_high(pairs: i32) -> i32 = pair(high(pairs), high(pairs));
        add32(a: i32, b: i32) -> i32 = a.wrapping_add(b);
        sub32(a: i32, b: i32) -> i32 = a.wrapping_sub(b);
        mul32(a: i32, b: i32) -> i32 = a.wrapping_mul(b);
        madd16(a: i32, b: i32) -> i32 = (low(a) * low(b)).wrapping_add(high(a) * high(b));
        to_float(a: i32) -> f32 = a as f32;
        add(a: f32, b: f32) -> f32 = a + b;
        mul(a: f32, b: f32) -> f32 = a * b;
        mul_add(a: f32, b: f32, c: f32) -> f32 = a.mul_add(b, c);
    }

    #[inline(always)]
    unsafe fn store(value: Columns<f32>, out: &mut [f32; COLUMNS]) {
        *out = value;
    }

    #[inline(always)]
    unsafe fn fetch(_: *const u8, _: Cache) {}

    #[inline(always)]
    unsafe fn shift_left<const N: u32>(a: Columns<i32>) -> Columns<i32> {
        // Without the bits that come over from the low half.
        let mask = pair(0xffff << N, 0xffff << N);
        a.map(|lane| lane << N & mask)
    }

    #[inline(always)]
    unsafe fn shift_right<const N: u32>(a: Columns<i32>) -> Columns<i32> {
        // Without the bits that come over from the high half, or from the sign.
        let mask = pair(0xffff >> N, 0xffff >> N);
        a.map(|lane| lane >> N & mask)
    }

    #[inline(always)]
    unsafe fn sums<L: Layout, const R: usize>(
        planes: *const u8,
        codes: [*const i8; R],
    ) -> [Columns<i32>; R] {
        let mut sums = [[0; COLUMNS]; R];
        macro_rules! step {
            ($v:literal) => {
                // SAFETY: the caller vouches for the memory.
                let weights = unsafe { vector::<Self, L, $v>(planes) };
                for r in 0..R {
                    // SAFETY: as above.
                    let inputs = unsafe { broadcast::<Self, $v>(codes[r]) };
                    sums[r] = dot(sums[r], weights, inputs);
                }
            };
        }
        for_vectors!(step);
        sums
    }

    #[inline(always)]
    unsafe fn scaled_sums<L: Layout, const R: usize>(
        planes: *const u8,
        codes: [*const i8; R],
        scales: (Columns<i32>, Columns<i32>),
    ) -> [Columns<i32>; R] {
        if L::MINIMA {
            // Both halves of the group have the same scale.
            // SAFETY: the caller's promises are those of the function called.
            let mut sums = unsafe { Self::sums::<L, R>(planes, codes) };
            for sum in &mut sums {
                *sum = std::array::from_fn(|lane| sum[lane] * low(scales.0[lane]));
            }
            return sums;
        }
        let mut halves = [[[0; COLUMNS]; R]; 2];
        macro_rules! step {
            ($v:literal) => {
                // SAFETY: the caller vouches for the memory.
                let weights = unsafe { vector::<Self, L, $v>(planes) };
                for r in 0..R {
                    // SAFETY: as above.
                    let inputs = unsafe { broadcast::<Self, $v>(codes[r]) };
                    halves[$v / 4][r] = dot(halves[$v / 4][r], weights, inputs);
                }
            };
        }
        for_vectors!(step);
        std::array::from_fn(|r| {
            std::array::from_fn(|lane| {
                halves[0][r][lane] * low(scales.0[lane]) + halves[1][r][lane] * low(scales.1[lane])
            })
        })
    }

    #[inline(always)]
    unsafe fn call<K: TileKernel<Self>>(kernel: K) {
        #[inline(never)]
        unsafe fn outlined<K: TileKernel<Arrays>>(kernel: K) {
            // SAFETY: as the caller vouches.
            unsafe { kernel.run() }
        }
        // SAFETY: as the caller vouches.
        unsafe { outlined(kernel) }
    }
}

/// Two 16-bit numbers in a lane.
#[inline(always)]
fn pair(low: i32, high: i32) -> i32 {
    low & 0xffff | high << 16
}

/// The signed number in the low half of a lane.
#[inline(always)]
fn low(lane: i32) -> i32 {
    i32::from(lane as i16)
}

/// The signed number in the high half of a lane.
#[inline(always)]
fn high(lane: i32) -> i32 {
    lane >> 16
}

/// Adds to each lane the products of its four unsigned bytes of `weights` and four signed ones of
/// `inputs`.
#[inline(always)]
fn dot(sums: Columns<i32>, weights: Columns<i32>, inputs: Columns<i32>) -> Columns<i32> {
    std::array::from_fn(|lane| {
        let (weights, inputs) = (weights[lane].to_le_bytes(), inputs[lane].to_le_bytes());
        let products = |i: usize| i32::from(weights[i]) * i32::from(inputs[i] as i8);
        sums[lane] + ((products(0) + products(1)) + (products(2) + products(3)))
    })
}
