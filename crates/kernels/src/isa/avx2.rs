//! AVX2: codes are multiplied in pairs into 16-bit sums.

use std::arch::x86_64::*;

use super::InstructionSet;
use crate::activations::Activations;
use crate::lanes::{Kernel, Lanes};
use crate::layout::{COLUMNS, Layout, VECTOR};
use crate::packed::Tile;
use crate::tiles::codes::{broadcast, for_vectors, vector};
use crate::tiles::{Cache, Registers, TileKernel, tile_rows};

/// Proof that this CPU has AVX2, FMA and F16C.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Avx2(());

// === impl Avx2 ===

impl InstructionSet for Avx2 {
    const NAME: &'static str = "avx2";

    fn new() -> Option<Self> {
        let supported = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        supported.then_some(Self(()))
    }

    fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn inner<K: Kernel>(token: Avx2, kernel: K) -> K::Output {
            kernel.run(token)
        }
        // SAFETY: `self` proves that the CPU has the features.
        unsafe { inner(self, kernel) }
    }

    fn tile_rows(
        self,
        tile: Tile<'_>,
        inputs: &Activations,
        row: usize,
        out: &mut [[f32; COLUMNS]],
    ) {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn inner(tile: Tile<'_>, inputs: &Activations, row: usize, out: &mut [[f32; COLUMNS]]) {
            // SAFETY: this function is compiled with, and called only where the CPU has, the
            // features.
            unsafe { tile_rows::<Ymm>(tile, inputs, row, out) }
        }
        // SAFETY: `self` proves that the CPU has the features.
        unsafe { inner(tile, inputs, row, out) }
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
    fn div(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` proves AVX2.
        unsafe { _mm256_div_ps(a, b) }
    }

    #[inline(always)]
    fn clamp(self, a: __m256, low: f32, high: f32) -> __m256 {
        // Of a NaN and a number both instructions return their second operand.
        // SAFETY: `self` proves AVX2.
        unsafe { _mm256_max_ps(_mm256_set1_ps(low), _mm256_min_ps(_mm256_set1_ps(high), a)) }
    }

    #[inline(always)]
    fn power_of_two(self, n: __m256) -> __m256 {
        // SAFETY: `self` proves AVX2.
        unsafe {
            let biased = _mm256_add_epi32(_mm256_castps_si256(n), _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
        }
    }

    #[inline(always)]
    fn store_half(self, vector: __m256, values: &mut [u16; 8]) {
        // SAFETY: sixteen bytes are writable behind the reference; `self` proves F16C.
        unsafe {
            let half = _mm256_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT }>(vector);
            _mm_storeu_si128(values.as_mut_ptr().cast(), half);
        }
    }

    #[inline(always)]
    fn prefetch<T>(self, values: &[T]) {
        for line in (0..size_of_val(values)).step_by(64) {
            fetch(values.as_ptr().cast::<u8>().wrapping_add(line), Cache::Second);
        }
    }
}

/// Asks for a cache line, wherever it lies.
#[inline(always)]
pub(super) fn fetch(at: *const u8, cache: Cache) {
    // SAFETY: every x86-64 CPU can prefetch, and a prefetch never faults.
    unsafe {
        match cache {
            Cache::First => _mm_prefetch::<_MM_HINT_T0>(at.cast()),
            Cache::Second => _mm_prefetch::<_MM_HINT_T1>(at.cast()),
        }
    }
}

/// Two 256-bit registers.
///
/// `maddubs` adds pairs of products into 16 bits. A lane then holds two of a column's four inputs a
/// vector, so a group puts 16 products into it: with 4-bit codes at most 16 x 15 x 127 = 30,480,
/// which fits; with 5 bits only 8 do (31,496), with 6 bits 4 (32,004); 8-bit codes are split into
/// nibbles.
struct Ymm;

type Pair<T> = [T; 2];

/// Implements operations of [`Registers`] register by register. (Written out: a closure might not
/// be inlined, and would then be compiled without the instructions.)
macro_rules! by_register {
    ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty = $body:expr;)*) => {
        $(
            #[inline(always)]
            unsafe fn $name($($argument: Pair<$type>),*) -> Pair<$result> {
                // SAFETY: the caller vouches for the CPU.
                unsafe {
                    let first = {
                        $(let $argument = $argument[0];)*
                        $body
                    };
                    let second = {
                        $(let $argument = $argument[1];)*
                        $body
                    };
                    [first, second]
                }
            }
        )*
    };
}

/// As `by_register`, for operations that read `$bytes` bytes a register.
macro_rules! by_address {
    ($($name:ident($argument:ident, $bytes:literal) -> $result:ty = $body:expr;)*) => {
        $(
            #[inline(always)]
            unsafe fn $name(at: *const u8) -> Pair<$result> {
                // SAFETY: the caller vouches for the CPU and the memory.
                unsafe {
                    let first = {
                        let $argument = at.cast();
                        $body
                    };
                    let second = {
                        let $argument = at.add($bytes).cast();
                        $body
                    };
                    [first, second]
                }
            }
        )*
    };
}

/// As `by_register`, for operations that fill both registers with one value.
macro_rules! by_value {
    ($($name:ident($type:ty) -> $result:ty = $instruction:ident;)*) => {
        $(
            #[inline(always)]
            unsafe fn $name(value: $type) -> Pair<$result> {
                // SAFETY: the caller vouches for the CPU.
                unsafe { [$instruction(value); 2] }
            }
        )*
    };
}

// SAFETY: both halves of a load or store together are as wide as the contract says, `fetch` is no
// more than a prefetch, and `call` runs its kernel once.
unsafe impl Registers for Ymm {
    type Int = Pair<__m256i>;
    type Float = Pair<__m256>;
    const ROWS: usize = 4;

    by_address! {
        load(at, 32) -> __m256i = _mm256_loadu_si256(at);
        load_pairs(at, 16) -> __m256i = _mm256_cvtepi8_epi16(_mm_loadu_si128(at));
        load_single(at, 32) -> __m256 = _mm256_loadu_ps(at);
        load_half(at, 16) -> __m256 = _mm256_cvtph_ps(_mm_loadu_si128(at));
        // A brain float is the upper half of a single.
        load_brain(at, 16) -> __m256 =
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(at))));
    }

    #[inline(always)]
    unsafe fn call<K: TileKernel<Self>>(kernel: K) {
        #[target_feature(enable = "avx2,fma,f16c")]
        #[inline(never)]
        unsafe fn outlined<K: TileKernel<Ymm>>(kernel: K) {
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

    by_value! {
        splat8(i8) -> __m256i = _mm256_set1_epi8;
        splat32(i32) -> __m256i = _mm256_set1_epi32;
        splat(f32) -> __m256 = _mm256_set1_ps;
    }

    by_register! {
        and(a: __m256i, b: __m256i) -> __m256i = _mm256_and_si256(a, b);
        or(a: __m256i, b: __m256i) -> __m256i = _mm256_or_si256(a, b);
        double_low(pairs: __m256i) -> __m256i = _mm256_or_si256(
            _mm256_and_si256(pairs, _mm256_set1_epi32(0xffff)),
            _mm256_slli_epi32::<16>(pairs)
        );
        double_high(pairs: __m256i) -> __m256i = _mm256_or_si256(
            _mm256_andnot_si256(_mm256_set1_epi32(0xffff), pairs),
            _mm256_srli_epi32::<16>(pairs)
        );
        add32(a: __m256i, b: __m256i) -> __m256i = _mm256_add_epi32(a, b);
        sub32(a: __m256i, b: __m256i) -> __m256i = _mm256_sub_epi32(a, b);
        mul32(a: __m256i, b: __m256i) -> __m256i = _mm256_mullo_epi32(a, b);
        madd16(a: __m256i, b: __m256i) -> __m256i = _mm256_madd_epi16(a, b);
        to_float(a: __m256i) -> __m256 = _mm256_cvtepi32_ps(a);
        add(a: __m256, b: __m256) -> __m256 = _mm256_add_ps(a, b);
        mul(a: __m256, b: __m256) -> __m256 = _mm256_mul_ps(a, b);
        mul_add(a: __m256, b: __m256, c: __m256) -> __m256 = _mm256_fmadd_ps(a, b, c);
    }

    #[inline(always)]
    unsafe fn store(value: Self::Float, out: &mut [f32; COLUMNS]) {
        // SAFETY: the caller vouches for the CPU; each half of `out` holds a register.
        unsafe {
            _mm256_storeu_ps(out.as_mut_ptr(), value[0]);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), value[1]);
        }
    }

    #[inline(always)]
    unsafe fn shift_left<const N: u32>(a: Self::Int) -> Self::Int {
        // SAFETY: the caller vouches for the CPU.
        unsafe {
            let count = _mm_cvtsi32_si128(N as i32);
            [_mm256_sll_epi16(a[0], count), _mm256_sll_epi16(a[1], count)]
        }
    }

    #[inline(always)]
    unsafe fn shift_right<const N: u32>(a: Self::Int) -> Self::Int {
        // SAFETY: the caller vouches for the CPU.
        unsafe {
            let count = _mm_cvtsi32_si128(N as i32);
            [_mm256_srl_epi16(a[0], count), _mm256_srl_epi16(a[1], count)]
        }
    }

    #[inline(always)]
    unsafe fn sums<L: Layout, const R: usize>(
        planes: *const u8,
        codes: [*const i8; R],
    ) -> [Self::Int; R] {
        // SAFETY: the caller's promises are those of the functions called.
        unsafe {
            let ones = [_mm256_set1_epi16(1); 2];
            if L::BITS != 8 {
                return Self::scaled_sums::<L, R>(planes, codes, (ones, ones));
            }
            let (mut low, mut high) = ([Self::splat32(0); R], [Self::splat32(0); R]);
            // Of more than two rows the registers don't hold both sums.
            let is_split = R > 2;
            for v in 0..rolled::<R>(8) {
                let weights = Self::load(planes.add(VECTOR * v));
                let low_weights = Self::and(weights, Self::splat8(15));
                let high_weights = Self::and(Self::shift_right::<4>(weights), Self::splat8(15));
                for r in 0..R {
                    let input = broadcast::<Ymm, 0>(codes[r].add(4 * v));
                    low[r] = add16(low[r], maddubs(low_weights, input));
                    if !is_split {
                        high[r] = add16(high[r], maddubs(high_weights, input));
                    }
                }
            }
            for v in 0..if is_split { rolled::<R>(8) } else { 0 } {
                let weights = Self::shift_right::<4>(Self::load(planes.add(VECTOR * v)));
                let weights = Self::and(weights, Self::splat8(15));
                for r in 0..R {
                    high[r] =
                        add16(high[r], maddubs(weights, broadcast::<Ymm, 0>(codes[r].add(4 * v))));
                }
            }
            let sixteen = [_mm256_set1_epi16(16); 2];
            for r in 0..R {
                low[r] = Self::add32(Self::madd16(low[r], ones), Self::madd16(high[r], sixteen));
            }
            low
        }
    }

    #[inline(always)]
    unsafe fn scaled_sums<L: Layout, const R: usize>(
        planes: *const u8,
        codes: [*const i8; R],
        scales: (Self::Int, Self::Int),
    ) -> [Self::Int; R] {
        // SAFETY: the caller's promises are those of the functions called.
        unsafe {
            if L::BITS == 4 {
                // One scale for all inputs: of 4-bit types, those with two have minima instead.
                let mut sums = nibble_sums(planes, codes);
                for sums in &mut sums {
                    *sums = Self::madd16(*sums, scales.0);
                }
                return sums;
            }
            let mut totals = [Self::splat32(0); R];
            let mut sums = [Self::splat32(0); R];
            macro_rules! step {
                ($v:literal) => {
                    let weights = vector::<Self, L, $v>(planes);
                    for r in 0..R {
                        let product = maddubs(weights, broadcast::<Self, $v>(codes[r]));
                        // How many vectors fit into 16 bits before they must be widened.
                        let fit = if L::BITS == 5 { 4 } else { 2 };
                        sums[r] = if $v % fit == 0 { product } else { add16(sums[r], product) };
                        if $v % fit == fit - 1 {
                            let scale = if $v < 4 { scales.0 } else { scales.1 };
                            totals[r] = Self::add32(totals[r], Self::madd16(sums[r], scale));
                        }
                    }
                };
            }
            for_vectors!(step);
            totals
        }
    }
}

/// For each row, sums over the 32 inputs of a group of 4-bit codes: each 32-bit lane has two halves
/// to be added.
///
/// # Safety
/// As [`Registers::sums`].
#[inline(always)]
unsafe fn nibble_sums<const R: usize>(
    planes: *const u8,
    codes: [*const i8; R],
) -> [Pair<__m256i>; R] {
    // SAFETY: vectors `v` and `v + 4` are in the plane's `v`-th vector, and their inputs 16 apart.
    unsafe {
        let mut sums = [Ymm::splat32(0); R];
        for v in 0..rolled::<R>(4) {
            let weights = Ymm::load(planes.add(VECTOR * v));
            let low = Ymm::and(weights, Ymm::splat8(15));
            let high = Ymm::and(Ymm::shift_right::<4>(weights), Ymm::splat8(15));
            for r in 0..R {
                sums[r] = add16(sums[r], maddubs(low, broadcast::<Ymm, 0>(codes[r].add(4 * v))));
                sums[r] =
                    add16(sums[r], maddubs(high, broadcast::<Ymm, 0>(codes[r].add(4 * v + 16))));
            }
        }
        sums
    }
}

/// The count, hidden from compilers unless there is one row: they would unroll the loop and then
/// compute row after row, and the unpacked weights of all vectors don't fit the registers.
#[inline(always)]
fn rolled<const R: usize>(mut count: usize) -> usize {
    if R > 1 {
        // SAFETY: no instruction at all.
        unsafe {
            std::arch::asm!("/* {0} */", inout(reg) count, options(pure, nomem, nostack, preserves_flags));
        }
    }
    count
}

/// Unsigned bytes of `a` times signed bytes of `b`, neighbours added in 16 bits.
#[inline(always)]
unsafe fn maddubs(a: Pair<__m256i>, b: Pair<__m256i>) -> Pair<__m256i> {
    // SAFETY: the caller vouches for the CPU.
    unsafe { [_mm256_maddubs_epi16(a[0], b[0]), _mm256_maddubs_epi16(a[1], b[1])] }
}

#[inline(always)]
unsafe fn add16(a: Pair<__m256i>, b: Pair<__m256i>) -> Pair<__m256i> {
    // SAFETY: the caller vouches for the CPU.
    unsafe { [_mm256_add_epi16(a[0], b[0]), _mm256_add_epi16(a[1], b[1])] }
}
