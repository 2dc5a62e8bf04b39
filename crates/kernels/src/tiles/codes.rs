//! The codes of a group and the activations they meet, as vectors: what implementations of
//! [`Registers`] build their sums from.

use super::registers::Registers;
use crate::layout::{Layout, VECTOR};

/// Vector `V` of a group's codes: byte `4 * column + i` is input `4 * V + i`.
///
/// # Safety
/// The CPU has what `G` needs; `planes` has `L::PLANES` readable bytes.
#[inline(always)]
pub(crate) unsafe fn vector<G: Registers, L: Layout, const V: usize>(planes: *const u8) -> G::Int {
    // SAFETY: all loads stay within the planes of the layout (see `layout`), and the caller vouches
    // for the CPU.
    unsafe {
        if L::BITS == 8 {
            return G::load(planes.add(VECTOR * V));
        }
        let pair = G::load(planes.add(VECTOR * (V % 4)));
        let low = G::and(if V < 4 { pair } else { G::shift_right::<4>(pair) }, G::splat8(15));
        match L::BITS {
            5 => {
                let high = G::load(planes.add(4 * VECTOR));
                let high = match V {
                    0 => G::shift_left::<4>(high),
                    1 => G::shift_left::<3>(high),
                    2 => G::shift_left::<2>(high),
                    3 => G::shift_left::<1>(high),
                    4 => high,
                    5 => G::shift_right::<1>(high),
                    6 => G::shift_right::<2>(high),
                    _ => G::shift_right::<3>(high),
                };
                G::or(low, G::and(high, G::splat8(0x10)))
            }
            6 => {
                let high = G::load(planes.add((4 + V / 4) * VECTOR));
                let high = match V % 4 {
                    0 => G::shift_left::<4>(high),
                    1 => G::shift_left::<2>(high),
                    2 => high,
                    _ => G::shift_right::<2>(high),
                };
                G::or(low, G::and(high, G::splat8(0x30)))
            }
            _ => low,
        }
    }
}

/// Four activations, at inputs `4 * V` on, in every lane; the first is the lowest byte.
///
/// # Safety
/// The CPU has what `G` needs; `codes` has `4 * V + 4` readable bytes.
#[inline(always)]
pub(crate) unsafe fn broadcast<G: Registers, const V: usize>(codes: *const i8) -> G::Int {
    // SAFETY: as the caller vouches.
    unsafe { G::splat32(i32::from_le(codes.add(4 * V).cast::<i32>().read_unaligned())) }
}

/// Two sums of activations in every lane; the first is the low half.
///
/// # Safety
/// The CPU has what `G` needs; both sums are readable.
#[inline(always)]
pub(super) unsafe fn broadcast_pair<G: Registers>(sums: *const i16) -> G::Int {
    // SAFETY: as the caller vouches.
    let pair = unsafe { sums.cast::<i32>().read_unaligned() };
    let pair = if cfg!(target_endian = "big") { pair.rotate_left(16) } else { pair };
    // SAFETY: as the caller vouches.
    unsafe { G::splat32(pair) }
}

/// Runs `$step!(V)` for the eight vectors of a group. Written out, since a loop index can't be a
/// constant.
macro_rules! for_vectors {
    ($step:ident) => {
        $step!(0);
        $step!(1);
        $step!(2);
        $step!(3);
        $step!(4);
        $step!(5);
        $step!(6);
        $step!(7);
    };
}
pub(crate) use for_vectors;
