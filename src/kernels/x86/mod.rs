//! The tile kernel on vector registers. The x86 instruction sets share its loops and differ in the registers they run on.
//!
//! Everything is `#[inline(always)]` and generic, so that it is compiled inside the entry points of [`avx2`] and [`avx512`] with
//! their instructions enabled.

pub(super) mod avx2;
pub(super) mod avx512;
mod blocks;
mod floats;

use super::activations::Activations;
use super::layout::{COLUMNS, Layout, for_layout};
use super::packed::PackedMatrix;
use super::weight_type::WeightType;
use blocks::{blocks32, blocks256};
use floats::{Brain, Half, Single, floats};

/// How far ahead of its use a weight is fetched, in bytes: at 15 GB/s a core, 2 KiB are more than the latency of memory.
const PREFETCH: usize = 2048;

/// Vector registers that hold the sixteen columns of a tile, one in each 32-bit lane.
///
/// # Safety
/// All functions need the instructions of the implementation. Those that take a pointer read 64 bytes there, or 32 (half-precision numbers,
/// bytes widened to 16 bits).
trait Registers {
    /// Integers of 8, 16 or 32 bits.
    type Int: Copy;
    /// Single-precision floats.
    type Float: Copy;
    /// Rows that share one unpacking of a tile. More rows amortise the unpacking further but spill their sums.
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

    /// For each row, the sums over the 32 inputs of a group of unsigned codes of up to 8 bits times signed 8-bit activations. `planes` has
    /// `L::PLANES` readable bytes and each of `codes` 32.
    unsafe fn sums<L: Layout, const R: usize>(planes: *const u8, codes: [*const i8; R]) -> [Self::Int; R];

    /// As [`Registers::sums`], with the sums over the first 16 inputs multiplied by `scales.0` and those over the others by `scales.1`. Scales are
    /// 16-bit and doubled: each 32-bit lane holds its column's scale twice.
    unsafe fn scaled_sums<L: Layout, const R: usize>(
        planes: *const u8,
        codes: [*const i8; R],
        scales: (Self::Int, Self::Int),
    ) -> [Self::Int; R];
}

/// Outputs of tile `tile` for the activation rows `row..row + out.len()`.
///
/// # Safety
/// The CPU has what `V` needs.
#[inline(always)]
unsafe fn tile_rows<V: Registers>(
    matrix: &PackedMatrix,
    tile: usize,
    inputs: &Activations,
    row: usize,
    out: &mut [[f32; COLUMNS]],
) {
    assert!(row + out.len() <= inputs.rows() && inputs.width() == matrix.width());
    let tile = matrix.tile(tile);
    for (index, out) in out.chunks_mut(V::ROWS).enumerate() {
        // SAFETY: as the caller vouches; the rows lie inside `inputs`.
        unsafe { row_block::<V>(matrix.kind(), tile, inputs, row + index * V::ROWS, out) };
    }
}

/// # Safety
/// The CPU has what `V` needs; `tile` was packed from `kind` with the width of `inputs`, which holds the rows `row..row + out.len()`.
#[inline(always)]
unsafe fn row_block<V: Registers>(
    kind: WeightType,
    tile: &[u8],
    inputs: &Activations,
    row: usize,
    out: &mut [[f32; COLUMNS]],
) {
    macro_rules! by_rows {
        ($function:ident, [$($type:ty),*], $($argument:expr),*) => {
            // SAFETY: the promises of the callees are the caller's; `Activations` sized its buffers for the width.
            unsafe {
                match out.len() {
                    0 => {}
                    1 => $function::<$($type,)* 1>($($argument),*, out),
                    2 => $function::<$($type,)* 2>($($argument),*, out),
                    3 => $function::<$($type,)* 3>($($argument),*, out),
                    4 => $function::<$($type,)* 4>($($argument),*, out),
                    // Never reached, nor compiled, where four rows fill the registers.
                    rows if V::ROWS > 4 => match rows {
                        5 => $function::<$($type,)* 5>($($argument),*, out),
                        6 => $function::<$($type,)* 6>($($argument),*, out),
                        7 => $function::<$($type,)* 7>($($argument),*, out),
                        _ => $function::<$($type,)* 8>($($argument),*, out),
                    },
                    _ => {}
                }
            }
        };
    }
    let width = inputs.width();
    let values = &inputs.values()[row * width..];
    for_layout!(
        kind,
        match kind {
            WeightType::F16 => by_rows!(floats, [V, Half], tile, values, width),
            WeightType::BF16 => by_rows!(floats, [V, Brain], tile, values, width),
            _ => by_rows!(floats, [V, Single], tile, values, width),
        },
        |L| match kind.block_len() {
            32 => by_rows!(blocks32, [V, L], tile, inputs.block32(), row, width),
            _ => by_rows!(blocks256, [V, L], tile, inputs.block256(), row, width),
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

/// Asks for the `bytes` that lie [`PREFETCH`] bytes after `at`, in this tile or the next.
#[inline(always)]
fn prefetch(at: *const u8, bytes: usize) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    for line in 0..bytes.div_ceil(64) {
        // SAFETY: every x86-64 CPU can prefetch, and a prefetch never faults, wherever it points.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(PREFETCH + 64 * line).cast()) };
    }
}
