//! The storage types of tensors.

use std::fmt;

macro_rules! tensor_types {
    ($($(#[$doc:meta])+ $name:ident = $id:literal, $block_len:literal weights in $block_bytes:literal bytes;)+) => {
        /// Storage type of a tensor's weights, by the numbers of ggml.
        ///
        /// A type is listed when the format has a number for it; which of them can be computed with
        /// is for the kernels to say.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[allow(non_camel_case_types)] // the field's own names
        pub enum TensorType {
            $($(#[$doc])+ $name,)+
        }

        // === impl TensorType ===

        impl TensorType {
            /// Every type, by ascending number.
            pub const ALL: &[TensorType] = &[$(TensorType::$name),+];

            /// The type with this number in files, or nothing when the number is unknown or was
            /// retired.
            pub const fn from_id(id: u32) -> Option<Self> {
                match id {
                    $($id => Some(Self::$name),)+
                    _ => None,
                }
            }

            /// The number in files.
            pub const fn id(self) -> u32 {
                match self {
                    $(Self::$name => $id,)+
                }
            }

            /// The name that people use, such as `Q4_1`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                }
            }

            /// Weights in a block; 1 for types that are not quantised.
            pub const fn block_len(self) -> usize {
                match self {
                    $(Self::$name => $block_len,)+
                }
            }

            /// Bytes of a block.
            pub const fn block_bytes(self) -> usize {
                match self {
                    $(Self::$name => $block_bytes,)+
                }
            }
        }
    };
}

tensor_types! {
    /// IEEE single precision.
    F32 = 0, 1 weights in 4 bytes;
    /// IEEE half precision.
    F16 = 1, 1 weights in 2 bytes;
    /// 4 bits and an f16 scale.
    Q4_0 = 2, 32 weights in 18 bytes;
    /// 4 bits, an f16 scale and an f16 minimum.
    Q4_1 = 3, 32 weights in 20 bytes;
    /// 5 bits and an f16 scale.
    Q5_0 = 6, 32 weights in 22 bytes;
    /// 5 bits, an f16 scale and an f16 minimum.
    Q5_1 = 7, 32 weights in 24 bytes;
    /// 8 bits and an f16 scale.
    Q8_0 = 8, 32 weights in 34 bytes;
    /// 8 bits, an f16 scale and an f16 sum; an activation type.
    Q8_1 = 9, 32 weights in 36 bytes;
    /// 2 bits in super-blocks with 4-bit scales and minimums.
    Q2_K = 10, 256 weights in 84 bytes;
    /// 3 bits in super-blocks with 6-bit scales.
    Q3_K = 11, 256 weights in 110 bytes;
    /// 4 bits in super-blocks with 6-bit scales and minimums.
    Q4_K = 12, 256 weights in 144 bytes;
    /// 5 bits in super-blocks with 6-bit scales and minimums.
    Q5_K = 13, 256 weights in 176 bytes;
    /// 6 bits in super-blocks with 8-bit scales.
    Q6_K = 14, 256 weights in 210 bytes;
    /// 8 bits, an f32 scale and 16-bit sums; an activation type.
    Q8_K = 15, 256 weights in 292 bytes;
    /// Codebook, 2.06 bits.
    IQ2_XXS = 16, 256 weights in 66 bytes;
    /// Codebook, 2.31 bits.
    IQ2_XS = 17, 256 weights in 74 bytes;
    /// Codebook, 3.06 bits.
    IQ3_XXS = 18, 256 weights in 98 bytes;
    /// Codebook, 1.56 bits.
    IQ1_S = 19, 256 weights in 50 bytes;
    /// Non-linear 4 bits and an f16 scale.
    IQ4_NL = 20, 32 weights in 18 bytes;
    /// Codebook, 3.44 bits.
    IQ3_S = 21, 256 weights in 110 bytes;
    /// Codebook, 2.56 bits.
    IQ2_S = 22, 256 weights in 82 bytes;
    /// Non-linear 4 bits in super-blocks.
    IQ4_XS = 23, 256 weights in 136 bytes;
    /// 8-bit integers.
    I8 = 24, 1 weights in 1 bytes;
    /// 16-bit integers.
    I16 = 25, 1 weights in 2 bytes;
    /// 32-bit integers.
    I32 = 26, 1 weights in 4 bytes;
    /// 64-bit integers.
    I64 = 27, 1 weights in 8 bytes;
    /// IEEE double precision.
    F64 = 28, 1 weights in 8 bytes;
    /// Codebook, 1.75 bits.
    IQ1_M = 29, 256 weights in 56 bytes;
    /// The upper half of an f32.
    BF16 = 30, 1 weights in 2 bytes;
    /// Ternary, 1.69 bits.
    TQ1_0 = 34, 256 weights in 54 bytes;
    /// Ternary, 2.06 bits.
    TQ2_0 = 35, 256 weights in 66 bytes;
    /// 4-bit floats with a shared exponent.
    MXFP4 = 39, 32 weights in 17 bytes;
    /// 4-bit floats with four 8-bit float scales.
    NVFP4 = 40, 64 weights in 36 bytes;
    /// Signs and an f16 scale.
    Q1_0 = 41, 128 weights in 18 bytes;
    /// 2 bits and an f16 scale.
    Q2_0 = 42, 64 weights in 18 bytes;
}

impl TensorType {
    /// Bytes of `weights` weights, or nothing when they are no whole number of blocks or the size
    /// passes 64 bits.
    pub const fn bytes_for(self, weights: u64) -> Option<u64> {
        if !weights.is_multiple_of(self.block_len() as u64) {
            return None;
        }
        (weights / self.block_len() as u64).checked_mul(self.block_bytes() as u64)
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_there_and_back() {
        let known: Vec<u32> = (0..1000).filter(|&id| TensorType::from_id(id).is_some()).collect();
        let listed: Vec<u32> = TensorType::ALL.iter().map(|kind| kind.id()).collect();
        assert_eq!(known, listed);
        for retired in [4, 5, 31, 32, 33, 36, 37, 38, 43, u32::MAX] {
            assert_eq!(TensorType::from_id(retired), None, "{retired}");
        }
    }

    /// Bits per weight as published with each type, an account that is independent of the block
    /// sizes above.
    #[test]
    fn sizes_give_the_published_bits_per_weight() {
        let published = [
            ("F32", 32.0),
            ("Q4_0", 4.5),
            ("Q4_1", 5.0),
            ("Q5_0", 5.5),
            ("Q5_1", 6.0),
            ("Q8_0", 8.5),
            ("Q8_1", 9.0),
            ("Q2_K", 2.625),
            ("Q3_K", 3.4375),
            ("Q4_K", 4.5),
            ("Q5_K", 5.5),
            ("Q6_K", 6.5625),
            ("Q8_K", 9.125),
            ("IQ2_XXS", 2.0625),
            ("IQ2_XS", 2.3125),
            ("IQ3_XXS", 3.0625),
            ("IQ1_S", 1.5625),
            ("IQ4_NL", 4.5),
            ("IQ3_S", 3.4375),
            ("IQ2_S", 2.5625),
            ("IQ4_XS", 4.25),
            ("IQ1_M", 1.75),
            ("BF16", 16.0),
            ("TQ1_0", 1.6875),
            ("TQ2_0", 2.0625),
            ("MXFP4", 4.25),
            ("NVFP4", 4.5),
            ("Q1_0", 1.125),
            ("Q2_0", 2.25),
        ];
        for (name, bits) in published {
            let kind = TensorType::ALL.iter().find(|kind| kind.name() == name);
            let found = kind.map(|kind| kind.block_bytes() as f64 * 8.0 / kind.block_len() as f64);
            assert_eq!(found, Some(bits), "{name}");
        }
    }

    #[test]
    fn sizes_are_of_whole_blocks() {
        assert_eq!(TensorType::Q4_1.bytes_for(64), Some(40));
        assert_eq!(TensorType::Q4_1.bytes_for(63), None);
        assert_eq!(TensorType::F32.bytes_for(u64::MAX), None);
        assert_eq!(TensorType::Q6_K.bytes_for(0), Some(0));
    }
}
