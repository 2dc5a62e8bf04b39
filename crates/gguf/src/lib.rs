//! GGUF model files: untrusted bytes in, a checked [`Manifest`] and mapped tensors out.
//!
//! Follows the GGUF format description, versions 2 and 3, little-endian. A file may come from
//! anyone, so nothing in it is believed: every count, length, offset and size is checked before it
//! is used, arithmetic can't wrap, memory stays a small multiple of the header, and every refusal
//! says what was wrong, where, and what to do. What the values *mean* for a model (shapes that fit
//! each other, known architectures) is for `model` to check.
//!
//! The way of the bytes: `cursor` hands out checked fields, `decode` turns them into values,
//! `manifest` walks the header, `layout` places the tensors. `builder` goes the other way, for
//! tests and tools.
#![forbid(unsafe_code)]

mod builder;
mod cursor;
mod decode;
mod error;
mod file;
mod layout;
mod manifest;
mod metadata;
mod tensor_type;
mod value;

pub use builder::GgufBuilder;
pub use error::{GgufError, MetadataError};
pub use file::GgufFile;
pub use layout::TensorInfo;
pub use manifest::Manifest;
pub use metadata::Metadata;
pub use tensor_type::TensorType;
pub use value::{Array, Value, ValueType};

/// Alignment of tensor data in a file that does not name `general.alignment`, in bytes.
pub const DEFAULT_ALIGNMENT: u64 = 32;

/// The metadata key that sets the alignment of tensor data; its value is a u32.
pub const ALIGNMENT_KEY: &str = "general.alignment";

/// Limits that no honest file comes near. They bound the memory and the time that a hostile file
/// can cost.
pub mod limits {
    /// Bytes of everything before the tensor data. The largest vocabularies (262,144 tokens with
    /// their merges) take about 16 MiB.
    pub const HEADER_BYTES: u64 = 64 << 20;
    /// Metadata keys. Converters write fewer than a hundred.
    pub const METADATA_KEYS: u64 = 1 << 16;
    /// Tensors. Mixtures with unmerged experts reach about 20,000.
    pub const TENSORS: u64 = 1 << 16;
    /// Bytes of a metadata key or of a tensor name; the format description's own limit for keys.
    pub const NAME_BYTES: u64 = (1 << 16) - 1;
    /// Arrays inside arrays, the outermost included. The decoder recurses this deep and no deeper.
    pub const ARRAY_DEPTH: usize = 4;
    /// Dimensions of a tensor.
    pub const DIMENSIONS: u32 = 4;
    /// Bytes of alignment. Padding beyond a huge page serves nobody.
    pub const ALIGNMENT_BYTES: u64 = 1 << 20;
}
