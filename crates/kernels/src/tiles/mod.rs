//! The tile kernel: outputs of a tile of packed weights for some rows of activations.
//!
//! The loops are written once, over [`Registers`], and know no instruction set; those are in
//! [`crate::isa`]. Everything is `#[inline(always)]` and generic, so that it is compiled inside
//! [`Registers::call`], with the instructions enabled.

mod ahead;
mod blocks;
pub(crate) mod codes;
mod floats;
#[cfg(test)]
mod reference;
mod registers;

use std::marker::PhantomData;

use self::blocks::{blocks32, blocks256};
use self::floats::{Brain, Float, Half, Single, floats};
pub(crate) use self::registers::{Cache, Registers, TileKernel};
use crate::activations::{Activations, Quantized};
use crate::layout::{COLUMNS, Layout, for_layout};
use crate::packed::Tile;
use crate::weight_type::WeightType;

/// [`blocks32`] or [`blocks256`], by the block length, with its arguments.
struct Blocks<'a, L, const LENGTH: usize, const R: usize>(
    Tile<'a>,
    &'a Quantized,
    usize,
    usize,
    &'a mut [[f32; COLUMNS]],
    PhantomData<L>,
);

/// [`floats()`] with its arguments.
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
pub(crate) unsafe fn tile_rows<V: Registers>(
    tile: Tile<'_>,
    inputs: &Activations,
    row: usize,
    out: &mut [[f32; COLUMNS]],
) {
    const { assert!(V::ROWS >= 1 && V::ROWS <= 8, "row_block has kernels for 1 to 8 rows") };
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
                    rows if const { V::ROWS > 4 } => match rows {
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
