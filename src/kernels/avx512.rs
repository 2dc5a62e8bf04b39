//! AVX-512 VNNI on 256-bit registers: four products a lane into 32-bit sums, in one instruction.

use std::arch::x86_64::*;

use super::activations::Activations;
use super::avx2::Avx2;
use super::layout::{COLUMNS, Layout};
use super::packed::PackedMatrix;
use super::x86::{self, Multiply, broadcast, for_vectors, vector};

/// Proof that this CPU has AVX-512 VL and VNNI beside AVX2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Avx512Vnni(Avx2);

// === impl Avx512Vnni ===

impl Avx512Vnni {
    /// The proof, if this CPU can give it.
    pub(super) fn new() -> Option<Self> {
        let supported = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni");
        Avx2::new().filter(|_| supported).map(Self)
    }

    /// What everything but the matrix product uses.
    pub(super) fn avx2(self) -> Avx2 {
        self.0
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
        #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512vl,avx512vnni")]
        fn inner(
            matrix: &PackedMatrix,
            tile: usize,
            inputs: &Activations,
            row: usize,
            out: &mut [[f32; COLUMNS]],
        ) {
            // SAFETY: this function is compiled with, and called only where the CPU has, the features.
            unsafe { x86::tile_rows::<DotProduct>(matrix, tile, inputs, row, out) }
        }
        // SAFETY: `self` proves that the CPU has the features.
        unsafe { inner(matrix, tile, inputs, row, out) }
    }
}

/// `dpbusd` can't overflow here: 32 x 255 x 127 is far below 2^31.
struct DotProduct;

impl Multiply for DotProduct {
    #[inline(always)]
    unsafe fn sums<L: Layout, const R: usize>(planes: *const u8, codes: [*const i8; R]) -> [__m256i; R] {
        // SAFETY: the caller's promises are those of the functions called.
        unsafe {
            let mut sums = [_mm256_setzero_si256(); R];
            macro_rules! step {
                ($v:literal) => {
                    let weights = vector::<L, $v>(planes);
                    for r in 0..R {
                        sums[r] = _mm256_dpbusd_epi32(sums[r], weights, broadcast::<$v>(codes[r]));
                    }
                };
            }
            for_vectors!(step);
            sums
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
            let first_scale = _mm256_srai_epi32::<16>(scales.0);
            if L::MINIMA {
                // Both halves of the group have the same scale.
                let sums = Self::sums::<L, R>(planes, codes);
                return std::array::from_fn(|r| _mm256_mullo_epi32(sums[r], first_scale));
            }
            let second_scale = _mm256_srai_epi32::<16>(scales.1);
            let mut first = [_mm256_setzero_si256(); R];
            let mut second = [_mm256_setzero_si256(); R];
            macro_rules! step {
                ($v:literal) => {
                    let weights = vector::<L, $v>(planes);
                    for r in 0..R {
                        let sums = if $v < 4 { &mut first } else { &mut second };
                        sums[r] = _mm256_dpbusd_epi32(sums[r], weights, broadcast::<$v>(codes[r]));
                    }
                };
            }
            for_vectors!(step);
            std::array::from_fn(|r| {
                _mm256_add_epi32(
                    _mm256_mullo_epi32(first[r], first_scale),
                    _mm256_mullo_epi32(second[r], second_scale),
                )
            })
        }
    }
}
