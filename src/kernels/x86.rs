//! The tile kernel on 256-bit registers, shared by the x86 instruction sets, which differ only in how they multiply codes.
//!
//! Everything is `#[inline(always)]` and generic, so that it is compiled inside the entry points of [`super::avx2`] and
//! [`super::avx512`] with their instructions enabled.

use std::arch::x86_64::*;

use super::activations::{Activations, Quantized};
use super::layout::{COLUMNS, Layout, SUB_SCALES, for_layout};
use super::packed::PackedMatrix;
use super::weight_type::WeightType;

/// Rows that share one unpacking of a tile. More rows amortise the unpacking further but spill their sums.
pub(super) const MAX_ROWS: usize = 8;

/// How far ahead of its use a weight is fetched, in bytes: at 10 GB/s a core, 1 KiB is the latency of memory.
const PREFETCH: usize = 1024;

/// Multiplies unsigned codes of up to 8 bits with signed 8-bit activations.
pub(super) trait Multiply {
    /// For each row, the sums over the 32 inputs of a group, a column a lane.
    ///
    /// # Safety
    /// The CPU has the instructions; `planes` has `L::PLANES` readable bytes and each of `codes` 32.
    unsafe fn sums<L: Layout, const R: usize>(planes: *const u8, codes: [*const i8; R]) -> [__m256i; R];

    /// As [`Multiply::sums`], with the sums over the first 16 inputs multiplied by `scales.0` and those over the others by `scales.1`. Scales are
    /// 16-bit and doubled: each 32-bit lane holds its column's scale twice.
    ///
    /// # Safety
    /// As [`Multiply::sums`].
    unsafe fn scaled_sums<L: Layout, const R: usize>(
        planes: *const u8,
        codes: [*const i8; R],
        scales: (__m256i, __m256i),
    ) -> [__m256i; R];
}

/// Vector `V` of a group's codes: byte `4 * column + i` is input `4 * V + i`.
///
/// # Safety
/// The CPU has AVX2; `planes` has `L::PLANES` readable bytes.
#[inline(always)]
pub(super) unsafe fn vector<L: Layout, const V: usize>(planes: *const u8) -> __m256i {
    // SAFETY: all loads stay within the planes of the layout (see `layout`), and the caller vouches for AVX2.
    unsafe {
        if L::BITS == 8 {
            return _mm256_loadu_si256(planes.add(32 * V).cast());
        }
        let nibble_mask = _mm256_set1_epi8(15);
        let pair = _mm256_loadu_si256(planes.add(32 * (V % 4)).cast());
        let low = _mm256_and_si256(if V < 4 { pair } else { _mm256_srli_epi16::<4>(pair) }, nibble_mask);
        match L::BITS {
            5 => {
                let high = _mm256_loadu_si256(planes.add(128).cast());
                let bit = _mm256_set1_epi8(0x10);
                let high = match V {
                    0 => _mm256_slli_epi16::<4>(high),
                    1 => _mm256_slli_epi16::<3>(high),
                    2 => _mm256_slli_epi16::<2>(high),
                    3 => _mm256_slli_epi16::<1>(high),
                    4 => high,
                    5 => _mm256_srli_epi16::<1>(high),
                    6 => _mm256_srli_epi16::<2>(high),
                    _ => _mm256_srli_epi16::<3>(high),
                };
                _mm256_or_si256(low, _mm256_and_si256(high, bit))
            }
            6 => {
                let high = _mm256_loadu_si256(planes.add(128 + 32 * (V / 4)).cast());
                let bits = _mm256_set1_epi8(0x30);
                let high = match V % 4 {
                    0 => _mm256_slli_epi16::<4>(high),
                    1 => _mm256_slli_epi16::<2>(high),
                    2 => high,
                    _ => _mm256_srli_epi16::<2>(high),
                };
                _mm256_or_si256(low, _mm256_and_si256(high, bits))
            }
            _ => low,
        }
    }
}

/// Four activations, at inputs `4 * V` on, in every lane.
///
/// # Safety
/// The CPU has AVX2; `codes` has `4 * V + 4` readable bytes.
#[inline(always)]
pub(super) unsafe fn broadcast<const V: usize>(codes: *const i8) -> __m256i {
    // SAFETY: as the caller vouches.
    unsafe { _mm256_set1_epi32(codes.add(4 * V).cast::<i32>().read_unaligned()) }
}

/// Runs `$step!(V)` for the eight vectors of a group. Written out, since a loop index can't be a constant.
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

/// Outputs of tile `tile` for the activation rows `row..row + count`, `count` at most [`MAX_ROWS`].
///
/// # Safety
/// The CPU has AVX2, FMA, F16C and what `M` needs.
#[inline(always)]
pub(super) unsafe fn tile_rows<M: Multiply>(
    matrix: &PackedMatrix,
    tile: usize,
    inputs: &Activations,
    row: usize,
    out: &mut [[f32; COLUMNS]],
) {
    let bytes = matrix.tile(tile);
    assert!(out.len() <= MAX_ROWS && row + out.len() <= inputs.rows() && inputs.width() == matrix.width());
    macro_rules! by_rows {
        ($function:ident, [$($type:ty),*], $($argument:expr),*) => {
            // SAFETY: each callee reads a tile that `PackedMatrix` built with this layout and width, and activation rows that
            // lie inside `inputs` (asserted above), whose buffers `Activations::quantize` sized for that width.
            unsafe {
                match out.len() {
                    0 => {}
                    1 => $function::<$($type,)* 1>($($argument),*, out),
                    2 => $function::<$($type,)* 2>($($argument),*, out),
                    3 => $function::<$($type,)* 3>($($argument),*, out),
                    4 => $function::<$($type,)* 4>($($argument),*, out),
                    5 => $function::<$($type,)* 5>($($argument),*, out),
                    6 => $function::<$($type,)* 6>($($argument),*, out),
                    7 => $function::<$($type,)* 7>($($argument),*, out),
                    _ => $function::<$($type,)* 8>($($argument),*, out),
                }
            }
        };
    }
    let width = inputs.width();
    for_layout!(
        matrix.kind(),
        match matrix.kind() {
            WeightType::F16 => by_rows!(floats, [HalfFloat], bytes, &inputs.values()[row * width..], width),
            WeightType::BF16 => by_rows!(floats, [BrainFloat], bytes, &inputs.values()[row * width..], width),
            _ => by_rows!(floats, [SingleFloat], bytes, &inputs.values()[row * width..], width),
        },
        |L| match matrix.kind().block_len() {
            32 => by_rows!(blocks32, [M, L], bytes, inputs.block32(), row, width),
            _ => by_rows!(blocks256, [M, L], bytes, inputs.block256(), row, width),
        }
    );
}

/// # Safety
/// The CPU has AVX2, FMA, F16C and what `M` needs; `tile` has layout `L` and `width` inputs; `inputs` holds `row + R` rows of
/// `width`; `out` holds `R` rows.
#[inline(always)]
unsafe fn blocks32<M: Multiply, L: Layout, const R: usize>(
    tile: &[u8],
    inputs: &Quantized,
    row: usize,
    width: usize,
    out: &mut [[f32; COLUMNS]],
) {
    let groups = width / 32;
    debug_assert_eq!(tile.len(), groups * (L::HEAD + L::PLANES));
    debug_assert!(inputs.codes.len() >= (row + R) * width);
    // SAFETY: group `group < groups` of the tile and of rows `row..row + R` lies inside the slices, by the caller's promise.
    // Prefetches may point past the end: they never fault.
    unsafe {
        let mut sums = [_mm256_setzero_ps(); R];
        let codes: [*const i8; R] = std::array::from_fn(|r| inputs.codes.as_ptr().add((row + r) * width));
        let first = row * groups;
        let mut block = tile.as_ptr();
        for group in 0..groups {
            for line in 0..(L::HEAD + L::PLANES).div_ceil(64) {
                _mm_prefetch::<_MM_HINT_T0>(block.wrapping_add(PREFETCH + 64 * line).cast());
            }
            let scales = _mm256_cvtph_ps(_mm_loadu_si128(block.cast()));
            let at: [*const i8; R] = std::array::from_fn(|r| codes[r].add(group * 32));
            let totals = M::sums::<L, R>(block.add(L::HEAD), at);
            for r in 0..R {
                let index = first + r * groups + group;
                let mut total = totals[r];
                if L::OFFSET != 0 {
                    let shift = _mm256_set1_epi32(L::OFFSET * *inputs.sums.get_unchecked(index));
                    total = _mm256_sub_epi32(total, shift);
                }
                let scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(total), scales);
                let input_scale = _mm256_set1_ps(*inputs.scales.get_unchecked(index));
                sums[r] = _mm256_fmadd_ps(scaled, input_scale, sums[r]);
                if L::MINIMA {
                    let minima = _mm256_cvtph_ps(_mm_loadu_si128(block.add(16).cast()));
                    let input_sum = _mm256_set1_ps(*inputs.scaled_sums.get_unchecked(index));
                    sums[r] = _mm256_fmadd_ps(minima, input_sum, sums[r]);
                }
            }
            block = block.add(L::HEAD + L::PLANES);
        }
        for r in 0..R {
            _mm256_storeu_ps(out[r].as_mut_ptr(), sums[r]);
        }
    }
}

/// # Safety
/// As [`blocks32`].
#[inline(always)]
unsafe fn blocks256<M: Multiply, L: Layout, const R: usize>(
    tile: &[u8],
    inputs: &Quantized,
    row: usize,
    width: usize,
    out: &mut [[f32; COLUMNS]],
) {
    let blocks = width / 256;
    debug_assert_eq!(tile.len(), blocks * (L::HEAD + SUB_SCALES + 8 * L::PLANES));
    debug_assert!(inputs.codes.len() >= (row + R) * width);
    // SAFETY: as in `blocks32`.
    unsafe {
        let mut sums = [_mm256_setzero_ps(); R];
        let mut block = tile.as_ptr();
        for index in 0..blocks {
            let sub = block.add(L::HEAD);
            let mut planes = sub.add(SUB_SCALES);
            let mut totals = [_mm256_setzero_si256(); R];
            let mut corrections = [_mm256_setzero_si256(); R];
            for group in 0..8 {
                for line in 0..L::PLANES.div_ceil(64) {
                    _mm_prefetch::<_MM_HINT_T0>(planes.wrapping_add(PREFETCH + 64 * line).cast());
                }
                let scales = if L::MINIMA {
                    // One scale for the group: the low or the high half of a pair.
                    let pair = _mm256_cvtepi8_epi16(_mm_loadu_si128(sub.add(group / 2 * 16).cast()));
                    let scale = if group % 2 == 0 { double_low(pair) } else { double_high(pair) };
                    (scale, scale)
                } else {
                    let pair = _mm256_cvtepi8_epi16(_mm_loadu_si128(sub.add(group * 16).cast()));
                    for (r, correction) in corrections.iter_mut().enumerate() {
                        let at = ((row + r) * blocks + index) * 16 + 2 * group;
                        let input_sums = inputs.sums16.as_ptr().add(at).cast::<i32>().read_unaligned();
                        let product = _mm256_madd_epi16(pair, _mm256_set1_epi32(input_sums));
                        *correction = _mm256_add_epi32(*correction, product);
                    }
                    (double_low(pair), double_high(pair))
                };
                let at: [*const i8; R] = std::array::from_fn(|r| {
                    inputs.codes.as_ptr().add((row + r) * width + index * 256 + group * 32)
                });
                let parts = M::scaled_sums::<L, R>(planes, at, scales);
                for r in 0..R {
                    totals[r] = _mm256_add_epi32(totals[r], parts[r]);
                }
                planes = planes.add(L::PLANES);
            }
            if L::MINIMA {
                for pair in 0..4 {
                    let minima = _mm256_cvtepi8_epi16(_mm_loadu_si128(sub.add(64 + pair * 16).cast()));
                    for (r, correction) in corrections.iter_mut().enumerate() {
                        let at = ((row + r) * blocks + index) * 8 + 2 * pair;
                        let input_sums = inputs.sums32.as_ptr().add(at).cast::<i32>().read_unaligned();
                        let product = _mm256_madd_epi16(minima, _mm256_set1_epi32(input_sums));
                        *correction = _mm256_add_epi32(*correction, product);
                    }
                }
            }
            let weight_scales = _mm256_cvtph_ps(_mm_loadu_si128(block.cast()));
            for r in 0..R {
                let input_scale = *inputs.scales.get_unchecked((row + r) * blocks + index);
                let mut total = totals[r];
                if !L::MINIMA {
                    // Offsets are powers of two, and a shift is quicker than a multiplication.
                    let shift = _mm256_mullo_epi32(corrections[r], _mm256_set1_epi32(L::OFFSET));
                    total = _mm256_sub_epi32(total, shift);
                }
                let scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(total), weight_scales);
                sums[r] = _mm256_fmadd_ps(scaled, _mm256_set1_ps(input_scale), sums[r]);
                if L::MINIMA {
                    let minima = _mm256_cvtph_ps(_mm_loadu_si128(block.add(16).cast()));
                    let scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(corrections[r]), minima);
                    sums[r] = _mm256_fmadd_ps(scaled, _mm256_set1_ps(-input_scale), sums[r]);
                }
            }
            block = planes;
        }
        for r in 0..R {
            _mm256_storeu_ps(out[r].as_mut_ptr(), sums[r]);
        }
    }
}

/// The low 16 bits of each 32-bit lane, twice.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn double_low(pairs: __m256i) -> __m256i {
    // SAFETY: as the caller vouches.
    unsafe {
        let low = _mm256_and_si256(pairs, _mm256_set1_epi32(0xffff));
        _mm256_or_si256(low, _mm256_slli_epi32::<16>(pairs))
    }
}

/// The high 16 bits of each 32-bit lane, twice.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn double_high(pairs: __m256i) -> __m256i {
    // SAFETY: as the caller vouches.
    unsafe {
        let high = _mm256_andnot_si256(_mm256_set1_epi32(0xffff), pairs);
        _mm256_or_si256(high, _mm256_srli_epi32::<16>(pairs))
    }
}

// === float types ===

trait Float {
    const BYTES: usize;
    /// # Safety
    /// The CPU has AVX2 and F16C; eight weights are readable.
    unsafe fn load(weights: *const u8) -> __m256;
}

struct SingleFloat;
struct HalfFloat;
struct BrainFloat;

impl Float for SingleFloat {
    const BYTES: usize = 4;
    #[inline(always)]
    unsafe fn load(weights: *const u8) -> __m256 {
        // SAFETY: as the caller vouches.
        unsafe { _mm256_loadu_ps(weights.cast()) }
    }
}

impl Float for HalfFloat {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load(weights: *const u8) -> __m256 {
        // SAFETY: as the caller vouches.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(weights.cast())) }
    }
}

impl Float for BrainFloat {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load(weights: *const u8) -> __m256 {
        // SAFETY: as the caller vouches. A brain float is the upper half of a single.
        unsafe {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(weights.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        }
    }
}

/// # Safety
/// The CPU has AVX2, FMA and F16C; `tile` holds `width` x 8 weights of type `F`; `inputs` holds `R` rows of `width`; `out` holds `R` rows.
#[inline(always)]
unsafe fn floats<F: Float, const R: usize>(
    tile: &[u8],
    inputs: &[f32],
    width: usize,
    out: &mut [[f32; COLUMNS]],
) {
    debug_assert!(tile.len() == width * COLUMNS * F::BYTES && inputs.len() >= R * width);
    // SAFETY: input `index < width` of the tile and of each row lies inside the slices, by the caller's promise.
    unsafe {
        let mut even = [_mm256_setzero_ps(); R];
        let mut odd = [_mm256_setzero_ps(); R];
        for index in 0..width {
            let weights = F::load(tile.as_ptr().add(index * COLUMNS * F::BYTES));
            let sums = if index % 2 == 0 { &mut even } else { &mut odd };
            for (r, sum) in sums.iter_mut().enumerate() {
                let input = _mm256_set1_ps(*inputs.get_unchecked(r * width + index));
                *sum = _mm256_fmadd_ps(weights, input, *sum);
            }
        }
        for r in 0..R {
            _mm256_storeu_ps(out[r].as_mut_ptr(), _mm256_add_ps(even[r], odd[r]));
        }
    }
}
