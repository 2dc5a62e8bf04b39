//! Products with integer weights, in blocks of 32 and of 256.

use super::super::activations::Quantized;
use super::super::layout::{COLUMNS, Layout, SUB_SCALES, VECTOR};
use super::super::packed::Tile;
use super::{Ahead, Registers};

/// Vector `V` of a group's codes: byte `4 * column + i` is input `4 * V + i`.
///
/// # Safety
/// The CPU has what `G` needs; `planes` has `L::PLANES` readable bytes.
#[inline(always)]
pub(super) unsafe fn vector<G: Registers, L: Layout, const V: usize>(planes: *const u8) -> G::Int {
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

/// Four activations, at inputs `4 * V` on, in every lane.
///
/// # Safety
/// The CPU has what `G` needs; `codes` has `4 * V + 4` readable bytes.
#[inline(always)]
pub(super) unsafe fn broadcast<G: Registers, const V: usize>(codes: *const i8) -> G::Int {
    // SAFETY: as the caller vouches.
    unsafe { G::splat32(codes.add(4 * V).cast::<i32>().read_unaligned()) }
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
pub(super) use for_vectors;

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
            Ahead::of(tile, offset).fetch::<R>(0, L::HEAD + L::PLANES);
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
            ahead.fetch::<R>(0, L::HEAD + SUB_SCALES);
            let block = tile.weights().as_ptr().add(offset);
            let sub = block.add(L::HEAD);
            let mut totals = [V::splat32(0); R];
            let mut corrections = [V::splat32(0); R];
            for group in 0..8 {
                let planes = sub.add(SUB_SCALES + group * L::PLANES);
                ahead.fetch::<R>(L::HEAD + SUB_SCALES + group * L::PLANES, L::PLANES);
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
                        let input_sums =
                            inputs.sums16.as_ptr().add(at).cast::<i32>().read_unaligned();
                        *correction =
                            V::add32(*correction, V::madd16(pair, V::splat32(input_sums)));
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
                        let input_sums =
                            inputs.sums32.as_ptr().add(at).cast::<i32>().read_unaligned();
                        *correction =
                            V::add32(*correction, V::madd16(minima, V::splat32(input_sums)));
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
