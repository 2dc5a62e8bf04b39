//! The operations that the tile loops are made of: what an instruction set implements.

use crate::layout::{COLUMNS, Layout};

/// Vector registers that hold the sixteen columns of a tile, one in each 32-bit lane: one register
/// of 512 bits, two of 256, or whatever else the instruction set has.
///
/// A lane of [`Int`](Registers::Int) is one integer of 32 bits, two of 16 or four of 8; the first
/// in memory is the lowest. Integer sums and products keep their low bits. Floats round to nearest,
/// ties to even, and denormals count. So every operation has one right result, and implementations
/// differ in speed only.
///
/// All functions are `#[inline(always)]`, and where instructions have to be enabled they use no
/// closures: a function that stays out of line is compiled without the instructions of its caller,
/// and each operation in it becomes a call. Only [`call`](Registers::call) makes a function of its
/// own, which enables them again.
///
/// # Safety
/// An implementation promises that
/// - an operation reads the bytes that its description names, at any alignment, and no others;
/// - [`store`](Registers::store) writes all of `out`;
/// - [`fetch`](Registers::fetch) reads and writes nothing, wherever the address points;
/// - [`call`](Registers::call) runs the kernel once, before it returns, and on the same thread;
/// - results are those described, bit for bit, and don't depend on anything but the arguments.
///
/// The caller of a function promises that
/// - the CPU has the instructions of the implementation, which a value of the
///   [`InstructionSet`](crate::isa::InstructionSet) proves;
/// - the bytes that it reads are there.
pub(crate) unsafe trait Registers: Sized {
    /// Integers of 8, 16 or 32 bits.
    type Int: Copy;
    /// Single-precision floats.
    type Float: Copy;
    /// Rows that share one unpacking of a tile, 1 to 8. More rows amortise the unpacking further
    /// but spill their sums.
    const ROWS: usize;

    // === memory ===

    /// The 64 bytes at an address.
    unsafe fn load(at: *const u8) -> Self::Int;
    /// The 32 signed bytes at an address, widened to 16 bits.
    unsafe fn load_pairs(at: *const u8) -> Self::Int;
    /// The sixteen single-precision numbers at an address.
    unsafe fn load_single(at: *const u8) -> Self::Float;
    /// The sixteen half-precision numbers at an address.
    unsafe fn load_half(at: *const u8) -> Self::Float;
    /// The sixteen brain floats at an address.
    unsafe fn load_brain(at: *const u8) -> Self::Float;
    /// Writes the columns.
    unsafe fn store(value: Self::Float, out: &mut [f32; COLUMNS]);
    /// Asks for the cache line at an address, valid or not; nothing, where the CPU can't be asked.
    unsafe fn fetch(at: *const u8, cache: Cache);

    // === integers ===

    /// A byte in all places.
    unsafe fn splat8(value: i8) -> Self::Int;
    /// A number in all lanes.
    unsafe fn splat32(value: i32) -> Self::Int;
    /// The bits that both have.
    unsafe fn and(a: Self::Int, b: Self::Int) -> Self::Int;
    /// The bits that either has.
    unsafe fn or(a: Self::Int, b: Self::Int) -> Self::Int;
    /// 16-bit numbers, 1 to 4 bits to the left.
    unsafe fn shift_left<const N: u32>(a: Self::Int) -> Self::Int;
    /// 16-bit numbers, 1 to 4 bits to the right, filled with zeros.
    unsafe fn shift_right<const N: u32>(a: Self::Int) -> Self::Int;
    /// The low 16 bits of each lane, twice.
    unsafe fn double_low(pairs: Self::Int) -> Self::Int;
    /// The high 16 bits of each lane, twice.
    unsafe fn double_high(pairs: Self::Int) -> Self::Int;
    /// `a + b`, 32 bits.
    unsafe fn add32(a: Self::Int, b: Self::Int) -> Self::Int;
    /// `a - b`, 32 bits.
    unsafe fn sub32(a: Self::Int, b: Self::Int) -> Self::Int;
    /// `a * b`, 32 bits.
    unsafe fn mul32(a: Self::Int, b: Self::Int) -> Self::Int;
    /// Products of signed 16-bit numbers, the two of each lane added in 32 bits.
    unsafe fn madd16(a: Self::Int, b: Self::Int) -> Self::Int;

    // === floats ===

    /// Signed 32-bit integers as floats.
    unsafe fn to_float(a: Self::Int) -> Self::Float;
    /// A number in all lanes.
    unsafe fn splat(value: f32) -> Self::Float;
    /// `a + b`.
    unsafe fn add(a: Self::Float, b: Self::Float) -> Self::Float;
    /// `a * b`.
    unsafe fn mul(a: Self::Float, b: Self::Float) -> Self::Float;
    /// `a * b + c`, rounded once.
    unsafe fn mul_add(a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float;

    // === groups ===

    /// For each row, the sums over the 32 inputs of a group of unsigned codes of up to 8 bits times
    /// signed 8-bit activations within -127..=127. Reads `L::PLANES` bytes of `planes` and 32 of
    /// each of `codes`.
    unsafe fn sums<L: Layout, const R: usize>(
        planes: *const u8,
        codes: [*const i8; R],
    ) -> [Self::Int; R];

    /// As [`Registers::sums`], with the sums over the first 16 inputs multiplied by `scales.0` and
    /// those over the others by `scales.1`. Scales are 16-bit and doubled: each lane holds its
    /// column's scale twice. Where the layout has minima, both are the same.
    unsafe fn scaled_sums<L: Layout, const R: usize>(
        planes: *const u8,
        codes: [*const i8; R],
        scales: (Self::Int, Self::Int),
    ) -> [Self::Int; R];

    /// Runs a kernel as a function of its own, with the instructions enabled: all layouts and row
    /// counts in one function would take compilers minutes.
    ///
    /// # Safety
    /// As [`TileKernel::run`].
    unsafe fn call<K: TileKernel<Self>>(kernel: K);
}

/// A cache that a line is asked into.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cache {
    /// The nearest.
    First,
    /// The one behind it.
    Second,
}

/// The kernel of one layout and row count, with its arguments.
pub(crate) trait TileKernel<V: Registers> {
    /// Fills the rows that it was given.
    ///
    /// # Safety
    /// The CPU has what `V` needs, and the arguments are as the kernel's function wants them.
    unsafe fn run(self);
}
