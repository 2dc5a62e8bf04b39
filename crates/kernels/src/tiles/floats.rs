//! Products with float weights.

use super::registers::Registers;
use crate::layout::COLUMNS;

/// A float type in memory.
pub(super) trait Float {
    /// Bytes of a weight.
    const BYTES: usize;
    /// The columns of one input.
    ///
    /// # Safety
    /// The CPU has what `V` needs; sixteen weights are readable.
    unsafe fn load<V: Registers>(weights: *const u8) -> V::Float;
}

pub(super) struct Single;
pub(super) struct Half;
pub(super) struct Brain;

impl Float for Single {
    const BYTES: usize = 4;
    #[inline(always)]
    unsafe fn load<V: Registers>(weights: *const u8) -> V::Float {
        // SAFETY: as the caller vouches.
        unsafe { V::load_single(weights) }
    }
}

impl Float for Half {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load<V: Registers>(weights: *const u8) -> V::Float {
        // SAFETY: as the caller vouches.
        unsafe { V::load_half(weights) }
    }
}

impl Float for Brain {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load<V: Registers>(weights: *const u8) -> V::Float {
        // SAFETY: as the caller vouches.
        unsafe { V::load_brain(weights) }
    }
}

/// # Safety
/// The CPU has what `V` needs; `tile` holds `width` x 16 weights of type `F`; `inputs` holds `R`
/// rows of `width`; `out` holds `R` rows.
#[inline(always)]
pub(super) unsafe fn floats<V: Registers, F: Float, const R: usize>(
    tile: &[u8],
    inputs: &[f32],
    width: usize,
    out: &mut [[f32; COLUMNS]],
) {
    debug_assert!(tile.len() == width * COLUMNS * F::BYTES && inputs.len() >= R * width);
    // SAFETY: input `index < width` of the tile and of each row lies inside them, by the caller's
    // promise.
    unsafe {
        let mut even = [V::splat(0.0); R];
        let mut odd = [V::splat(0.0); R];
        for index in 0..width {
            let weights = F::load::<V>(tile.as_ptr().add(index * COLUMNS * F::BYTES));
            let sums = if index % 2 == 0 { &mut even } else { &mut odd };
            for (r, sum) in sums.iter_mut().enumerate() {
                *sum =
                    V::mul_add(weights, V::splat(*inputs.get_unchecked(r * width + index)), *sum);
            }
        }
        for r in 0..R {
            V::store(V::add(even[r], odd[r]), &mut out[r]);
        }
    }
}
