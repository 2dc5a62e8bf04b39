//! Eight floats at a time: one source for every instruction set, so that all give the same bits.
//!
//! A [`Kernel`] is written once over [`Lanes`] and compiled for each instruction set. The order of
//! its floating-point operations, fused multiply-adds included, is fixed by the source; no
//! implementation may change it.

/// Code to be compiled for each instruction set.
pub(super) trait Kernel {
    /// Type of its result.
    type Output;

    /// The code. Implementations are `#[inline(always)]`, so that they are compiled with the
    /// caller's instructions.
    fn run<L: Lanes>(self, lanes: L) -> Self::Output;
}

/// A vector of eight floats.
pub(super) trait Lanes: Copy {
    /// The vector.
    type Vector: Copy;

    /// All lanes `value`.
    fn splat(self, value: f32) -> Self::Vector;
    /// From memory.
    fn load(self, values: &[f32; 8]) -> Self::Vector;
    /// From half precision in memory.
    fn load_half(self, values: &[u16; 8]) -> Self::Vector;
    /// To memory.
    fn store(self, vector: Self::Vector, values: &mut [f32; 8]);
    /// `a * b + c`, rounded once.
    fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// `a * b`.
    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a / b`.
    fn div(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// Each lane between `low` and `high`; a NaN stays one.
    fn clamp(self, a: Self::Vector, low: f32, high: f32) -> Self::Vector;
    /// 2^n, where the low nine bits of each lane hold n, from -126 to 127.
    fn power_of_two(self, n: Self::Vector) -> Self::Vector;
    /// To half precision, ties to even.
    fn store_half(self, vector: Self::Vector, values: &mut [u16; 8]);
    /// Asks for the values, which will be read soon.
    fn prefetch<T>(self, values: &[T]);
}

/// `a + b`: a fused multiply-add by one rounds as an addition does.
#[inline(always)]
pub(super) fn add<L: Lanes>(lanes: L, a: L::Vector, b: L::Vector) -> L::Vector {
    lanes.mul_add(a, lanes.splat(1.0), b)
}

/// Splits a slice into groups of eight; what is left over is ignored, so callers pad.
#[inline(always)]
pub(super) fn eights<T>(values: &[T]) -> &[[T; 8]] {
    values.as_chunks().0
}

/// As [`eights`], mutable.
#[inline(always)]
pub(super) fn eights_mut<T>(values: &mut [T]) -> &mut [[T; 8]] {
    values.as_chunks_mut().0
}

/// The sum of eight lanes in a fixed order: halves, quarters, pairs.
#[inline(always)]
pub(super) fn sum_lanes(lanes: [f32; 8]) -> f32 {
    let quarter: [f32; 4] = std::array::from_fn(|lane| lanes[lane] + lanes[lane + 4]);
    (quarter[0] + quarter[2]) + (quarter[1] + quarter[3])
}
