//! The tile kernel on vector registers. The x86 instruction sets share its loops and differ in the
//! registers they run on.
//!
//! Everything is `#[inline(always)]` and generic, so that it is compiled inside [`Registers::call`]
//! of [`avx2`] and [`avx512`], with their instructions enabled.

use std::marker::PhantomData;

pub(super) mod avx2;
pub(super) mod avx512;
mod blocks;
mod floats;

use super::activations::{Activations, Quantized};
use super::layout::{COLUMNS, Layout, for_layout};
use super::packed::Tile;
use super::weight_type::WeightType;
use blocks::{blocks32, blocks256};
use floats::{Brain, Float, Half, Single, floats};

/// How far ahead of its use a weight is fetched from memory into the second cache, in bytes. The
/// first cache has too few places for lines under way to keep memory busy.
const FAR: usize = 8192;

/// How far ahead it is fetched from there into the first, for a single row. Several rows have
/// enough to do meanwhile.
const NEAR: usize = 768;

/// Vector registers that hold the sixteen columns of a tile, one in each 32-bit lane.
///
/// # Safety
/// All functions need the instructions of the implementation. Those that take a pointer read 64
/// bytes there, or 32 (half-precision numbers, bytes widened to 16 bits).
trait Registers {
    /// Integers of 8, 16 or 32 bits.
    type Int: Copy;
    /// Single-precision floats.
    type Float: Copy;
    /// Rows that share one unpacking of a tile. More rows amortise the unpacking further but spill
    /// their sums.
    const ROWS: usize;

    unsafe fn load(at: *const u8) -> Self::Int;
    /// Signed bytes to 16 bits.
    unsafe fn load_pairs(at: *const u8) -> Self::Int;
    unsafe fn load_single(at: *const u8) -> Self::Float;
    unsafe fn load_half(at: *const u8) -> Self::Float;
    unsafe fn load_brain(at: *const u8) -> Self::Float;
    unsafe fn store(value: Self::Float, out: &mut [f32; COLUMNS]);

    unsafe fn splat8(value: i8) -> Self::Int;
    unsafe fn splat32(value: i32) -> Self::Int;
    unsafe fn splat(value: f32) -> Self::Float;
    unsafe fn and(a: Self::Int, b: Self::Int) -> Self::Int;
    unsafe fn or(a: Self::Int, b: Self::Int) -> Self::Int;
    /// 16-bit lanes, 1 to 4 bits to the left.
    unsafe fn shift_left<const N: u32>(a: Self::Int) -> Self::Int;
    /// 16-bit lanes, 1 to 4 bits to the right.
    unsafe fn shift_right<const N: u32>(a: Self::Int) -> Self::Int;
    /// The low 16 bits of each 32-bit lane, twice.
    unsafe fn double_low(pairs: Self::Int) -> Self::Int;
    /// The high 16 bits of each 32-bit lane, twice.
    unsafe fn double_high(pairs: Self::Int) -> Self::Int;
    unsafe fn add32(a: Self::Int, b: Self::Int) -> Self::Int;
    unsafe fn sub32(a: Self::Int, b: Self::Int) -> Self::Int;
    unsafe fn mul32(a: Self::Int, b: Self::Int) -> Self::Int;
    /// Products of 16-bit lanes, neighbours added.
    unsafe fn madd16(a: Self::Int, b: Self::Int) -> Self::Int;
    unsafe fn to_float(a: Self::Int) -> Self::Float;
    unsafe fn add(a: Self::Float, b: Self::Float) -> Self::Float;
    unsafe fn mul(a: Self::Float, b: Self::Float) -> Self::Float;
    unsafe fn mul_add(a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float;

    /// Runs a kernel as a function of its own: all layouts and row counts in one function would
    /// take compilers minutes.
    unsafe fn call<K: TileKernel<Self>>(kernel: K)
    where
        Self: Sized;

    /// For each row, the sums over the 32 inputs of a group of unsigned codes of up to 8 bits times
    /// signed 8-bit activations. `planes` has `L::PLANES` readable bytes and each of `codes` 32.
    unsafe fn sums<L: Layout, const R: usize>(
        planes: *const u8,
        codes: [*const i8; R],
    ) -> [Self::Int; R];

    /// As [`Registers::sums`], with the sums over the first 16 inputs multiplied by `scales.0` and
    /// those over the others by `scales.1`. Scales are 16-bit and doubled: each 32-bit lane holds
    /// its column's scale twice.
    unsafe fn scaled_sums<L: Layout, const R: usize>(
        planes: *const u8,
        codes: [*const i8; R],
        scales: (Self::Int, Self::Int),
    ) -> [Self::Int; R];
}

/// The kernel of one layout and row count, with its arguments.
trait TileKernel<V: Registers> {
    /// # Safety
    /// The CPU has what `V` needs, and the arguments are as the kernel's function wants them.
    unsafe fn run(self);
}

/// [`blocks32`] or [`blocks256`], by the block length, with its arguments.
struct Blocks<'a, L, const LENGTH: usize, const R: usize>(
    Tile<'a>,
    &'a Quantized,
    usize,
    usize,
    &'a mut [[f32; COLUMNS]],
    PhantomData<L>,
);

/// [`floats`] with its arguments.
struct Floats<'a, F, const R: usize>(
    Tile<'a>,
    &'a [f32],
    usize,
    &'a mut [[f32; COLUMNS]],
    PhantomData<F>,
);

impl<V: Registers, L: Layout, const LENGTH: usize, const R: usize> TileKernel<V>
    for Blocks<'_, L, LENGTH, R>
{
    #[inline(always)]
    unsafe fn run(self) {
        let Self(tile, inputs, row, width, out, _) = self;
        // SAFETY: as the caller vouches.
        unsafe {
            match LENGTH {
                32 => blocks32::<V, L, R>(tile, inputs, row, width, out),
                _ => blocks256::<V, L, R>(tile, inputs, row, width, out),
            }
        }
    }
}

impl<V: Registers, F: Float, const R: usize> TileKernel<V> for Floats<'_, F, R> {
    #[inline(always)]
    unsafe fn run(self) {
        // SAFETY: as the caller vouches.
        unsafe { floats::<V, F, R>(self.0.weights(), self.1, self.2, self.3) }
    }
}

/// Outputs of a tile for the activation rows `row..row + out.len()`.
///
/// # Safety
/// The CPU has what `V` needs.
#[inline(always)]
unsafe fn tile_rows<V: Registers>(
    tile: Tile<'_>,
    inputs: &Activations,
    row: usize,
    out: &mut [[f32; COLUMNS]],
) {
    assert!(row + out.len() <= inputs.rows() && inputs.width() == tile.matrix().width());
    for (index, out) in out.chunks_mut(V::ROWS).enumerate() {
        // SAFETY: as the caller vouches; the rows lie inside `inputs`.
        unsafe { row_block::<V>(tile, inputs, row + index * V::ROWS, out) };
    }
}

/// # Safety
/// The CPU has what `V` needs; `inputs` is as wide as the tile's matrix and holds the rows
/// `row..row + out.len()`.
#[inline(always)]
unsafe fn row_block<V: Registers>(
    tile: Tile<'_>,
    inputs: &Activations,
    row: usize,
    out: &mut [[f32; COLUMNS]],
) {
    macro_rules! by_rows {
        ($kernel:ident, [$($generic:tt),*], $($argument:expr),*) => {
            // SAFETY: the promises of the callees are the caller's; `Activations` sized its buffers
            // for the width.
            unsafe {
                match out.len() {
                    0 => {}
                    1 => V::call($kernel::<$($generic,)* 1>($($argument),*, out, PhantomData)),
                    2 => V::call($kernel::<$($generic,)* 2>($($argument),*, out, PhantomData)),
                    3 => V::call($kernel::<$($generic,)* 3>($($argument),*, out, PhantomData)),
                    4 => V::call($kernel::<$($generic,)* 4>($($argument),*, out, PhantomData)),
                    // Never reached, nor compiled, where four rows fill the registers.
                    rows if V::ROWS > 4 => match rows {
                        5 => V::call($kernel::<$($generic,)* 5>($($argument),*, out, PhantomData)),
                        6 => V::call($kernel::<$($generic,)* 6>($($argument),*, out, PhantomData)),
                        7 => V::call($kernel::<$($generic,)* 7>($($argument),*, out, PhantomData)),
                        _ => V::call($kernel::<$($generic,)* 8>($($argument),*, out, PhantomData)),
                    },
                    _ => {}
                }
            }
        };
    }
    let (kind, width) = (tile.matrix().kind(), inputs.width());
    let values = &inputs.values()[row * width..];
    for_layout!(
        kind,
        match kind {
            WeightType::F16 => by_rows!(Floats, [Half], tile, values, width),
            WeightType::BF16 => by_rows!(Floats, [Brain], tile, values, width),
            _ => by_rows!(Floats, [Single], tile, values, width),
        },
        |L| match kind.block_len() {
            32 => by_rows!(Blocks, [L, 32], tile, inputs.block32(), row, width),
            _ => by_rows!(Blocks, [L, 256], tile, inputs.block256(), row, width),
        }
    );
}

/// Implements operations of [`Registers`] that are one instruction each.
macro_rules! instructions {
    ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty = $body:expr;)*) => {
        $(
            #[inline(always)]
            unsafe fn $name($($argument: $type),*) -> $result {
                // SAFETY: the caller vouches for the CPU, and for the memory behind an address.
                unsafe { $body }
            }
        )*
    };
}
use instructions;

/// Where the weights lie that are asked for while a block is read: worked out once a block, since
/// several rows leave no time for it.
#[derive(Clone, Copy)]
struct Ahead {
    far: *const u8,
    near: *const u8,
}

impl Ahead {
    /// Of the block at `offset` of a tile.
    #[inline(always)]
    fn of(tile: Tile<'_>, offset: usize) -> Self {
        Self { far: tile.ahead(offset, FAR), near: tile.ahead(offset, NEAR) }
    }

    /// Asks for what lies [`FAR`] bytes after the `bytes` from `start` of the block on, in this
    /// tile or the next, on behalf of `R` rows.
    #[inline(always)]
    fn fetch<const R: usize>(self, start: usize, bytes: usize) {
        use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
        for line in 0..bytes.div_ceil(64) {
            // SAFETY: every x86-64 CPU can prefetch, and a prefetch never faults, wherever it
            // points.
            unsafe {
                _mm_prefetch::<_MM_HINT_T1>(self.far.wrapping_add(start + 64 * line).cast());
                if R == 1 {
                    _mm_prefetch::<_MM_HINT_T0>(self.near.wrapping_add(start + 64 * line).cast());
                }
            }
        }
    }
}
