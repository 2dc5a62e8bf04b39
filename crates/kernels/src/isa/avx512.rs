//! AVX-512 with VNNI: a tile's columns in one register, and four products a lane into 32-bit sums
//! in one instruction.

use std::arch::x86_64::*;

use super::InstructionSet;
use super::avx2::{Avx2, fetch};
use crate::activations::Activations;
use crate::lanes::Kernel;
use crate::layout::{COLUMNS, Layout};
use crate::packed::Tile;
use crate::tiles::codes::{broadcast, for_vectors, vector};
use crate::tiles::{Cache, Registers, TileKernel, tile_rows};

/// Proof that this CPU has AVX-512 F, BW, VL and VNNI beside AVX2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Avx512Vnni(Avx2);

// === impl Avx512Vnni ===

impl InstructionSet for Avx512Vnni {
    const NAME: &'static str = "avx512-vnni";

    fn new() -> Option<Self> {
        let supported = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni");
        Avx2::new().filter(|_| supported).map(Self)
    }

    // On 256-bit registers, of which there are twice as many as on AVX2.
    fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512vl")]
        fn inner<K: Kernel>(token: Avx2, kernel: K) -> K::Output {
            kernel.run(token)
        }
        // SAFETY: `self` proves that the CPU has the features.
        unsafe { inner(self.0, kernel) }
    }

    fn tile_rows(
        self,
        tile: Tile<'_>,
        inputs: &Activations,
        row: usize,
        out: &mut [[f32; COLUMNS]],
    ) {
        #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vnni")]
        fn inner(tile: Tile<'_>, inputs: &Activations, row: usize, out: &mut [[f32; COLUMNS]]) {
            // SAFETY: this function is compiled with, and called only where the CPU has, the
            // features.
            unsafe { tile_rows::<Zmm>(tile, inputs, row, out) }
        }
        // A single row waits for memory, and measured a few percent faster with narrower loads.
        if out.len() == 1 {
            return self.0.tile_rows(tile, inputs, row, out);
        }
        // SAFETY: `self` proves that the CPU has the features.
        unsafe { inner(tile, inputs, row, out) }
    }
}

/// One 512-bit register. `dpbusd` can't overflow here: 32 x 255 x 127 is far below 2^31.
struct Zmm;

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

// SAFETY: loads and stores are as wide as the contract says, `fetch` is no more than a prefetch,
// and `call` runs its kernel once.
unsafe impl Registers for Zmm {
    type Int = __m512i;
    type Float = __m512;
    const ROWS: usize = 8;

    #[inline(always)]
    unsafe fn call<K: TileKernel<Self>>(kernel: K) {
        #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vnni")]
        #[inline(never)]
        unsafe fn outlined<K: TileKernel<Zmm>>(kernel: K) {
            // SAFETY: as the caller vouches.
            unsafe { kernel.run() }
        }
        // SAFETY: as the caller vouches.
        unsafe { outlined(kernel) }
    }

    #[inline(always)]
    unsafe fn fetch(at: *const u8, cache: Cache) {
        fetch(at, cache);
    }

    instructions! {
        load(at: *const u8) -> __m512i = _mm512_loadu_si512(at.cast());
        load_pairs(at: *const u8) -> __m512i = _mm512_cvtepi8_epi16(_mm256_loadu_si256(at.cast()));
        load_single(at: *const u8) -> __m512 = _mm512_loadu_ps(at.cast());
        load_half(at: *const u8) -> __m512 = _mm512_cvtph_ps(_mm256_loadu_si256(at.cast()));
        // A brain float is the upper half of a single.
        load_brain(at: *const u8) -> __m512 = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(
            _mm512_cvtepu16_epi32(_mm256_loadu_si256(at.cast()))
        ));
        store(value: __m512, out: &mut [f32; COLUMNS]) -> () = _mm512_storeu_ps(out.as_mut_ptr(), value);
        splat8(value: i8) -> __m512i = _mm512_set1_epi8(value);
        splat32(value: i32) -> __m512i = _mm512_set1_epi32(value);
        splat(value: f32) -> __m512 = _mm512_set1_ps(value);
        and(a: __m512i, b: __m512i) -> __m512i = _mm512_and_si512(a, b);
        or(a: __m512i, b: __m512i) -> __m512i = _mm512_or_si512(a, b);
        double_low(pairs: __m512i) -> __m512i = _mm512_or_si512(
            _mm512_and_si512(pairs, _mm512_set1_epi32(0xffff)),
            _mm512_slli_epi32::<16>(pairs)
        );
        double_high(pairs: __m512i) -> __m512i = _mm512_or_si512(
            _mm512_andnot_si512(_mm512_set1_epi32(0xffff), pairs),
            _mm512_srli_epi32::<16>(pairs)
        );
        add32(a: __m512i, b: __m512i) -> __m512i = _mm512_add_epi32(a, b);
        sub32(a: __m512i, b: __m512i) -> __m512i = _mm512_sub_epi32(a, b);
        mul32(a: __m512i, b: __m512i) -> __m512i = _mm512_mullo_epi32(a, b);
        madd16(a: __m512i, b: __m512i) -> __m512i = _mm512_madd_epi16(a, b);
        to_float(a: __m512i) -> __m512 = _mm512_cvtepi32_ps(a);
        add(a: __m512, b: __m512) -> __m512 = _mm512_add_ps(a, b);
        mul(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps(a, b);
        mul_add(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmadd_ps(a, b, c);
    }

    #[inline(always)]
    unsafe fn shift_left<const N: u32>(a: __m512i) -> __m512i {
        // SAFETY: the caller vouches for the CPU.
        unsafe { _mm512_slli_epi16::<N>(a) }
    }

    #[inline(always)]
    unsafe fn shift_right<const N: u32>(a: __m512i) -> __m512i {
        // SAFETY: the caller vouches for the CPU.
        unsafe { _mm512_srli_epi16::<N>(a) }
    }

    #[inline(always)]
    unsafe fn sums<L: Layout, const R: usize>(
        planes: *const u8,
        codes: [*const i8; R],
    ) -> [__m512i; R] {
        // SAFETY: the caller's promises are those of the functions called.
        unsafe {
            let mut sums = [_mm512_setzero_si512(); R];
            macro_rules! step {
                ($v:literal) => {
                    let weights = vector::<Self, L, $v>(planes);
                    for r in 0..R {
                        sums[r] =
                            _mm512_dpbusd_epi32(sums[r], weights, broadcast::<Self, $v>(codes[r]));
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
        scales: (__m512i, __m512i),
    ) -> [__m512i; R] {
        // SAFETY: the caller's promises are those of the functions called.
        unsafe {
            let first_scale = _mm512_srai_epi32::<16>(scales.0);
            if L::MINIMA {
                // Both halves of the group have the same scale.
                let mut sums = Self::sums::<L, R>(planes, codes);
                for sum in &mut sums {
                    *sum = _mm512_mullo_epi32(*sum, first_scale);
                }
                return sums;
            }
            let second_scale = _mm512_srai_epi32::<16>(scales.1);
            let mut first = [_mm512_setzero_si512(); R];
            let mut second = [_mm512_setzero_si512(); R];
            macro_rules! step {
                ($v:literal) => {
                    let weights = vector::<Self, L, $v>(planes);
                    for r in 0..R {
                        let sums = if $v < 4 { &mut first } else { &mut second };
                        sums[r] =
                            _mm512_dpbusd_epi32(sums[r], weights, broadcast::<Self, $v>(codes[r]));
                    }
                };
            }
            for_vectors!(step);
            for r in 0..R {
                first[r] = _mm512_mullo_epi32(first[r], first_scale);
                first[r] = _mm512_add_epi32(first[r], _mm512_mullo_epi32(second[r], second_scale));
            }
            first
        }
    }
}
