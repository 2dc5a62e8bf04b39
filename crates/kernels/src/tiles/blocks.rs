//! Products with integer weights, in blocks of 32 and of 256.

use super::ahead::Ahead;
use super::codes::broadcast_pair;
use super::registers::Registers;
use crate::activations::Quantized;
use crate::layout::{COLUMNS, Layout, SUB_SCALES};
use crate::packed::Tile;

/// # Safety
/// The CPU has what `V` needs; `tile` has layout `L` and `width` inputs; `inputs` holds `row + R`
/// rows of `width`; `out` holds `R` rows.
#[inline(always)]
pub(super) unsafe fn blocks32<V: Registers, L: Layout, const R: usize>(
    tile: Tile<'_>,
    inputs: &Quantized,
    row: usize,
    width: usize,
    out: &mut [[f32; COLUMNS]],
) {
    let groups = width / 32;
    debug_assert_eq!(tile.weights().len(), groups * (L::HEAD + L::PLANES));
    debug_assert!(inputs.codes.len() >= (row + R) * width);
    // SAFETY: group `group < groups` of the tile and of rows `row..row + R` lies inside them, by
    // the caller's promise.
    unsafe {
        let mut sums = [V::splat(0.0); R];
        let mut codes = [inputs.codes.as_ptr().add(row * width); R];
        for (r, codes) in codes.iter_mut().enumerate() {
            *codes = codes.add(r * width);
        }
        let first = row * groups;
        for group in 0..groups {
            let offset = group * (L::HEAD + L::PLANES);
            Ahead::of(tile, offset).fetch::<V, R>(0, L::HEAD + L::PLANES);
            let block = tile.weights().as_ptr().add(offset);
            let scales = V::load_half(block);
            let totals = V::sums::<L, R>(block.add(L::HEAD), codes);
            for r in 0..R {
                let index = first + r * groups + group;
                let mut total = totals[r];
                if L::OFFSET != 0 {
                    total =
                        V::sub32(total, V::splat32(L::OFFSET * *inputs.sums.get_unchecked(index)));
                }
                let scaled = V::mul(V::to_float(total), scales);
                sums[r] =
                    V::mul_add(scaled, V::splat(*inputs.scales.get_unchecked(index)), sums[r]);
                if L::MINIMA {
                    let input_sum = V::splat(*inputs.scaled_sums.get_unchecked(index));
                    sums[r] = V::mul_add(V::load_half(block.add(2 * COLUMNS)), input_sum, sums[r]);
                }
                codes[r] = codes[r].add(32);
            }
        }
        for r in 0..R {
            V::store(sums[r], &mut out[r]);
        }
    }
}

/// # Safety
/// As [`blocks32`].
#[inline(always)]
pub(super) unsafe fn blocks256<V: Registers, L: Layout, const R: usize>(
    tile: Tile<'_>,
    inputs: &Quantized,
    row: usize,
    width: usize,
    out: &mut [[f32; COLUMNS]],
) {
    let blocks = width / 256;
    let block_bytes = L::HEAD + SUB_SCALES + 8 * L::PLANES;
    debug_assert_eq!(tile.weights().len(), blocks * block_bytes);
    debug_assert!(inputs.codes.len() >= (row + R) * width);
    // SAFETY: as in `blocks32`.
    unsafe {
        let mut sums = [V::splat(0.0); R];
        for index in 0..blocks {
            let offset = index * block_bytes;
            let ahead = Ahead::of(tile, offset);
            ahead.fetch::<V, R>(0, L::HEAD + SUB_SCALES);
            let block = tile.weights().as_ptr().add(offset);
            let sub = block.add(L::HEAD);
            let mut totals = [V::splat32(0); R];
            let mut corrections = [V::splat32(0); R];
            for group in 0..8 {
                let planes = sub.add(SUB_SCALES + group * L::PLANES);
                ahead.fetch::<V, R>(L::HEAD + SUB_SCALES + group * L::PLANES, L::PLANES);
                let scales = if L::MINIMA {
                    // One scale for the group: the low or the high half of a pair.
                    let pair = V::load_pairs(sub.add(group / 2 * 2 * COLUMNS));
                    let scale =
                        if group % 2 == 0 { V::double_low(pair) } else { V::double_high(pair) };
                    (scale, scale)
                } else {
                    let pair = V::load_pairs(sub.add(group * 2 * COLUMNS));
                    for (r, correction) in corrections.iter_mut().enumerate() {
                        let at = ((row + r) * blocks + index) * 16 + 2 * group;
                        let input_sums = broadcast_pair::<V>(inputs.sums16.as_ptr().add(at));
                        *correction = V::add32(*correction, V::madd16(pair, input_sums));
                    }
                    (V::double_low(pair), V::double_high(pair))
                };
                let mut at = [inputs.codes.as_ptr().add(row * width + index * 256 + group * 32); R];
                for (r, at) in at.iter_mut().enumerate() {
                    *at = at.add(r * width);
                }
                let parts = V::scaled_sums::<L, R>(planes, at, scales);
                for r in 0..R {
                    totals[r] = V::add32(totals[r], parts[r]);
                }
            }
            if L::MINIMA {
                for pair in 0..4 {
                    let minima = V::load_pairs(sub.add((4 + pair) * 2 * COLUMNS));
                    for (r, correction) in corrections.iter_mut().enumerate() {
                        let at = ((row + r) * blocks + index) * 8 + 2 * pair;
                        let input_sums = broadcast_pair::<V>(inputs.sums32.as_ptr().add(at));
                        *correction = V::add32(*correction, V::madd16(minima, input_sums));
                    }
                }
            }
            let weight_scales = V::load_half(block);
            for r in 0..R {
                let input_scale = *inputs.scales.get_unchecked((row + r) * blocks + index);
                let mut total = totals[r];
                if !L::MINIMA {
                    total = V::sub32(total, V::mul32(corrections[r], V::splat32(L::OFFSET)));
                }
                let scaled = V::mul(V::to_float(total), weight_scales);
                sums[r] = V::mul_add(scaled, V::splat(input_scale), sums[r]);
                if L::MINIMA {
                    let scaled =
                        V::mul(V::to_float(corrections[r]), V::load_half(block.add(2 * COLUMNS)));
                    sums[r] = V::mul_add(scaled, V::splat(-input_scale), sums[r]);
                }
            }
        }
        for r in 0..R {
            V::store(sums[r], &mut out[r]);
        }
    }
}
