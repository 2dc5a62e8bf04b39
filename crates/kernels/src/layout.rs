//! The packed form of a weight matrix: tiles of sixteen output columns that a kernel reads front to
//! back.
//!
//! A *group* is 32 inputs of the columns of a tile; its codes form eight *vectors* of 64 bytes.
//! Byte `4 * column + i` of vector `v` belongs to input `4 * v + i`, so that one multiply-add
//! instruction pairs four inputs, broadcast to all lanes, with sixteen columns (eight on narrower
//! registers), and the sums come out as one column a lane. Codes are split into bit planes:
//!
//! | bits | planes of a group |
//! |---|---|
//! | 4 | 4 x 64 bytes: low nibbles are vectors 0 to 3, high nibbles 4 to 7 |
//! | 5 | the 4-bit plane, then 64 bytes whose bit `v` is bit 4 of vector `v` |
//! | 6 | the 4-bit plane, then 2 x 64 bytes whose bit pairs are bits 4 and 5 of four vectors each |
//! | 8 | 8 x 64 bytes |
//!
//! Types with blocks of 32: for each group sixteen half-precision scales, sixteen minima (if the
//! type has them), the planes. Types with blocks of 256: for each block the scales, the minima
//! (Q4_K, Q5_K) or zeros, the sub-scales, the sub-minima, the planes of eight groups. Sub-scales
//! lie in pairs, `[column][2]`, so that one 16-bit multiply-add applies them. Float types: for each
//! input sixteen columns.

use super::weight_type::WeightType;

/// Output columns of a tile: the 32-bit lanes of a 512-bit register, or of two of 256 bits.
pub const COLUMNS: usize = 16;

/// Bytes of a vector: four inputs of every column.
pub(super) const VECTOR: usize = 4 * COLUMNS;

/// The layout of one integer type, as constants for the kernels to specialise on.
pub(super) trait Layout {
    /// The type.
    const KIND: WeightType;
    /// Bits of a code.
    const BITS: usize;
    /// Whether there are minima.
    const MINIMA: bool;
    /// Subtracted from each code.
    const OFFSET: i32;

    /// Bytes of the planes of a group.
    const PLANES: usize = Self::BITS * VECTOR;
    /// Bytes of the scales and minima at the head of a block; in blocks of 256 a whole vector, so
    /// that no load crosses a cache line.
    const HEAD: usize =
        if Self::MINIMA || Self::KIND.block_len() == 256 { 4 * COLUMNS } else { 2 * COLUMNS };
}

macro_rules! layouts {
    ($($name:ident, $kind:ident, $bits:literal, $minima:literal, $offset:literal;)*) => {
        $(
            pub(super) struct $name;
            impl Layout for $name {
                const KIND: WeightType = WeightType::$kind;
                const BITS: usize = $bits;
                const MINIMA: bool = $minima;
                const OFFSET: i32 = $offset;
            }
        )*
    };
}

layouts! {
    Q40, Q4_0, 4, false, 8;
    Q41, Q4_1, 4, true, 0;
    Q50, Q5_0, 5, false, 16;
    Q51, Q5_1, 5, true, 0;
    Q80, Q8_0, 8, false, 128;
    Q4K, Q4_K, 4, true, 0;
    Q5K, Q5_K, 5, true, 0;
    Q6K, Q6_K, 6, false, 32;
}

/// Bytes of the sub-scales (and sub-minima) of a block of 256: 8 + 8 bytes a column, or 16.
pub(super) const SUB_SCALES: usize = 16 * COLUMNS;

/// Calls `$call` with the [`Layout`] of an integer weight type as its first type argument.
macro_rules! for_layout {
    ($kind:expr, $float:expr, |$layout:ident| $call:expr) => {
        match $kind {
            WeightType::F32 | WeightType::F16 | WeightType::BF16 => $float,
            WeightType::Q4_0 => {
                type $layout = $crate::layout::Q40;
                $call
            }
            WeightType::Q4_1 => {
                type $layout = $crate::layout::Q41;
                $call
            }
            WeightType::Q5_0 => {
                type $layout = $crate::layout::Q50;
                $call
            }
            WeightType::Q5_1 => {
                type $layout = $crate::layout::Q51;
                $call
            }
            WeightType::Q8_0 => {
                type $layout = $crate::layout::Q80;
                $call
            }
            WeightType::Q4_K => {
                type $layout = $crate::layout::Q4K;
                $call
            }
            WeightType::Q5_K => {
                type $layout = $crate::layout::Q5K;
                $call
            }
            WeightType::Q6_K => {
                type $layout = $crate::layout::Q6K;
                $call
            }
        }
    };
}
pub(super) use for_layout;

/// Bytes of a tile: its columns of `width` inputs.
pub(super) fn tile_bytes(kind: WeightType, width: usize) -> usize {
    fn block<L: Layout>() -> usize {
        match L::KIND.block_len() {
            32 => L::HEAD + L::PLANES,
            _ => L::HEAD + SUB_SCALES + 8 * L::PLANES,
        }
    }
    let float_bytes = width * COLUMNS * kind.block_bytes();
    for_layout!(kind, float_bytes, |L| width / kind.block_len() * block::<L>())
}
