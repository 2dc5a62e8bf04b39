//! The reasons why a file's model can't be run.

use super::arch::SUPPORTED_ARCHITECTURES;
use skipstone_gguf::MetadataError;

/// A reason why a file's model can't be run.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The architecture has no implementation.
    #[error("architecture {name:?} is not supported; the native engine runs {}", SUPPORTED_ARCHITECTURES.join(", "))]
    Architecture {
        /// The file's architecture.
        name: String,
    },
    /// A metadata value is missing or of the wrong type.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// A size is impossible.
    #[error("{key} = {value}: {reason}")]
    Size {
        /// The metadata key.
        key: String,
        /// Its value.
        value: u64,
        /// The rule that it breaks.
        reason: String,
    },
    /// A number is impossible.
    #[error("{key} = {value}: must be between {least} and {most}; convert the model again")]
    Number {
        /// The metadata key.
        key: String,
        /// Its value.
        value: f32,
        /// The least that is possible.
        least: f32,
        /// The most.
        most: f32,
    },
    /// The file asks for a position scaling that is not implemented.
    #[error(
        "rope scaling {0:?} is not supported; supported are none, linear, and factors in the file (llama3)"
    )]
    RopeScaling(String),
    /// A tensor is missing.
    #[error("tensor {0} is missing; the file is incomplete or of another architecture")]
    MissingTensor(String),
    /// A tensor has an unexpected shape.
    #[error("tensor {name} has shape {found:?}, expected {expected:?}")]
    Shape {
        /// The tensor.
        name: String,
        /// Its shape, fastest dimension first.
        found: Vec<u64>,
        /// The shape that the sizes of the model ask for.
        expected: Vec<u64>,
    },
    /// A tensor's type has no kernel.
    #[error(
        "tensor {name} is stored as {kind}, which has no kernel; convert the file to one of {supported}"
    )]
    WeightType {
        /// The tensor.
        name: String,
        /// Its type.
        kind: String,
        /// The types that have kernels.
        supported: String,
    },
    /// A tensor's bytes don't form a matrix.
    #[error("tensor {name}: {source}")]
    Pack {
        /// The tensor.
        name: String,
        /// The reason.
        source: skipstone_kernels::PackError,
    },
}

// === impl ModelError ===

impl ModelError {
    /// Whether the file may be sound, and only of a kind that the native engine does not run, but
    /// another may.
    pub fn is_unsupported(&self) -> bool {
        matches!(self, Self::Architecture { .. } | Self::WeightType { .. })
    }
}
