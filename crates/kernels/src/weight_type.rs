//! The weight types that have kernels, and their block geometry in a GGUF file.

use std::fmt;

/// Storage type of a matrix. Names and layouts are those of the GGUF format.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[expect(missing_docs, reason = "the names are the format's own")]
#[expect(non_camel_case_types, reason = "the names are the format's own")]
pub enum WeightType {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4_K,
    Q5_K,
    Q6_K,
}

/// The activation format that a weight type is multiplied with.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ActivationFormat {
    /// 32-bit floats.
    Float,
    /// 8-bit integers with one scale for each 32 values.
    Block32,
    /// 8-bit integers with one scale for each 256 values.
    Block256,
}

// === impl WeightType ===

impl WeightType {
    /// Every type, for tests and lists.
    pub const ALL: [Self; 11] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
    ];

    /// Weights in a block: a row's length is a multiple of it.
    pub const fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q4_K | Self::Q5_K | Self::Q6_K => 256,
        }
    }

    /// Bytes of a block in the file.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q4_K => 144,
            Self::Q5_K => 176,
            Self::Q6_K => 210,
        }
    }

    /// Bytes of a row of `width` weights in the file; `width` is a multiple of
    /// [`WeightType::block_len`].
    pub fn row_bytes(self, width: usize) -> usize {
        width / self.block_len() * self.block_bytes()
    }

    /// The activations this type is multiplied with, as the engines that defined the types do it.
    pub fn activation_format(self) -> ActivationFormat {
        match self.block_len() {
            1 => ActivationFormat::Float,
            32 => ActivationFormat::Block32,
            _ => ActivationFormat::Block256,
        }
    }

    /// The format's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q4_K => "Q4_K",
            Self::Q5_K => "Q5_K",
            Self::Q6_K => "Q6_K",
        }
    }

    /// The type with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for ActivationFormat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Float => "32-bit floats",
            Self::Block32 => "8 bits, a scale for each 32",
            Self::Block256 => "8 bits, a scale for each 256",
        })
    }
}

impl fmt::Display for WeightType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}
