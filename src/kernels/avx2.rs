//! AVX2: codes are multiplied in pairs into 16-bit sums.

use std::arch::x86_64::*;

use super::activations::Activations;
use super::lanes::{Kernel, Lanes};
use super::layout::{COLUMNS, Layout};
use super::packed::PackedMatrix;
use super::x86::{self, Multiply, broadcast, for_vectors, vector};

/// Proof that this CPU has AVX2, FMA and F16C.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Avx2(());

// === impl Avx2 ===

impl Avx2 {
    /// The proof, if this CPU can give it.
    pub(super) fn new() -> Option<Self> {
        let supported = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        supported.then_some(Self(()))
    }

    /// Runs a kernel compiled with AVX2.
    pub(super) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn inner<K: Kernel>(token: Avx2, kernel: K) -> K::Output {
            kernel.run(token)
        }
        // SAFETY: `self` proves that the CPU has the features.
        unsafe { inner(self, kernel) }
    }

    /// Outputs of one tile for `out.len()` rows from `row` on.
    pub(super) fn tile_rows(
        self,
        matrix: &PackedMatrix,
        tile: usize,
        inputs: &Activations,
        row: usize,
        out: &mut [[f32; COLUMNS]],
    ) {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn inner(
            matrix: &PackedMatrix,
            tile: usize,
            inputs: &Activations,
            row: usize,
            out: &mut [[f32; COLUMNS]],
        ) {
            // SAFETY: this function is compiled with, and called only where the CPU has, the features.
            unsafe { x86::tile_rows::<MultiplyAdd>(matrix, tile, inputs, row, out) }
        }
        // SAFETY: `self` proves that the CPU has the features.
        unsafe { inner(matrix, tile, inputs, row, out) }
    }
}

impl Lanes for Avx2 {
    type Vector = __m256;

    #[inline(always)]
    fn splat(self, value: f32) -> __m256 {
        // SAFETY: `self` proves AVX2; so in all functions below.
        unsafe { _mm256_set1_ps(value) }
    }

    #[inline(always)]
    fn load(self, values: &[f32; 8]) -> __m256 {
        // SAFETY: eight floats are readable behind the reference.
        unsafe { _mm256_loadu_ps(values.as_ptr()) }
    }

    #[inline(always)]
    fn load_half(self, values: &[u16; 8]) -> __m256 {
        // SAFETY: sixteen bytes are readable behind the reference; `self` proves F16C.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(values.as_ptr().cast())) }
    }

    #[inline(always)]
    fn store(self, vector: __m256, values: &mut [f32; 8]) {
        // SAFETY: eight floats are writable behind the reference.
        unsafe { _mm256_storeu_ps(values.as_mut_ptr(), vector) }
    }

    #[inline(always)]
    fn mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: `self` proves FMA.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` proves AVX2.
        unsafe { _mm256_mul_ps(a, b) }
    }

    #[inline(always)]
    fn store_half(self, vector: __m256, values: &mut [u16; 8]) {
        // SAFETY: sixteen bytes are writable behind the reference; `self` proves F16C.
        unsafe {
            let half = _mm256_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT }>(vector);
            _mm_storeu_si128(values.as_mut_ptr().cast(), half);
        }
    }
}

/// `maddubs` adds pairs of products into 16 bits. A lane then holds two of a column's four inputs a vector, so a group puts 16 products
/// into it: with 4-bit codes at most 16 x 15 x 127 = 30,480, which fits; with 5 bits only 8 do (31,496), with 6 bits 4 (32,004);
/// 8-bit codes are split into nibbles.
struct MultiplyAdd;

impl Multiply for MultiplyAdd {
    #[inline(always)]
    unsafe fn sums<L: Layout, const R: usize>(planes: *const u8, codes: [*const i8; R]) -> [__m256i; R] {
        // SAFETY: the caller's promises are those of the functions called.
        unsafe {
            let ones = _mm256_set1_epi16(1);
            if L::BITS != 8 {
                return Self::scaled_sums::<L, R>(planes, codes, (ones, ones));
            }
            let nibble_mask = _mm256_set1_epi8(15);
            let mut low = [_mm256_setzero_si256(); R];
            let mut high = [_mm256_setzero_si256(); R];
            macro_rules! step {
                ($v:literal) => {
                    let weights = vector::<L, $v>(planes);
                    let low_weights = _mm256_and_si256(weights, nibble_mask);
                    let high_weights = _mm256_and_si256(_mm256_srli_epi16::<4>(weights), nibble_mask);
                    for r in 0..R {
                        let input = broadcast::<$v>(codes[r]);
                        low[r] = _mm256_add_epi16(low[r], _mm256_maddubs_epi16(low_weights, input));
                        high[r] = _mm256_add_epi16(high[r], _mm256_maddubs_epi16(high_weights, input));
                    }
                };
            }
            for_vectors!(step);
            let sixteen = _mm256_set1_epi16(16);
            std::array::from_fn(|r| {
                _mm256_add_epi32(_mm256_madd_epi16(low[r], ones), _mm256_madd_epi16(high[r], sixteen))
            })
        }
    }

    #[inline(always)]
    unsafe fn scaled_sums<L: Layout, const R: usize>(
        planes: *const u8,
        codes: [*const i8; R],
        scales: (__m256i, __m256i),
    ) -> [__m256i; R] {
        // SAFETY: the caller's promises are those of the functions called.
        unsafe {
            let mut totals = [_mm256_setzero_si256(); R];
            let mut sums = [_mm256_setzero_si256(); R];
            macro_rules! step {
                ($v:literal) => {
                    let weights = vector::<L, $v>(planes);
                    for r in 0..R {
                        let product = _mm256_maddubs_epi16(weights, broadcast::<$v>(codes[r]));
                        // How many vectors fit into 16 bits before they must be widened.
                        let full = match L::BITS {
                            4 => $v == 7,
                            5 => $v % 4 == 3,
                            _ => $v % 2 == 1,
                        };
                        let starts = match L::BITS {
                            4 => $v == 0,
                            5 => $v % 4 == 0,
                            _ => $v % 2 == 0,
                        };
                        sums[r] = if starts { product } else { _mm256_add_epi16(sums[r], product) };
                        if full {
                            let scale = if $v < 4 { scales.0 } else { scales.1 };
                            totals[r] = _mm256_add_epi32(totals[r], _mm256_madd_epi16(sums[r], scale));
                        }
                    }
                };
            }
            for_vectors!(step);
            totals
        }
    }
}
