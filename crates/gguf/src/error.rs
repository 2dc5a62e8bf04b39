//! The reasons why a GGUF file is refused.

use std::io;
use std::path::PathBuf;

use super::TensorType;
use super::limits;

/// A fault of a GGUF file. Names in it come from the file, shortened and escaped so that they can
/// be logged.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// The file could not be opened or mapped.
    #[error("can't open the model {}: {reason}", path.display())]
    Open {
        /// The file that was asked for.
        path: PathBuf,
        /// The system's error.
        reason: io::Error,
    },
    /// The path is a directory, a pipe or a device.
    #[error("the model {} is not a regular file; name the .gguf file itself", path.display())]
    NotAFile {
        /// The file that was asked for.
        path: PathBuf,
    },
    /// The file does not start with the letters GGUF.
    #[error("not a GGUF file: it starts with \"{}\" instead of \"GGUF\"; convert the model to GGUF", found.escape_ascii())]
    BadMagic {
        /// The first four bytes.
        found: [u8; 4],
    },
    /// The file is of the big-endian variant of the format.
    #[error(
        "this is a big-endian GGUF file of version {version}; only little-endian files are read: convert it"
    )]
    BigEndian {
        /// The version, read as big-endian.
        version: u32,
    },
    /// The version is neither 2 nor 3.
    #[error(
        "GGUF version {version} is not supported, only 2 and 3 are; convert the model with a current converter"
    )]
    Version {
        /// The version that the file names.
        version: u32,
    },
    /// The file ends in the middle of its header.
    #[error(
        "the file ends inside the {field}: {needed} bytes are needed at byte {at}, {left} are left; it is truncated, download it again"
    )]
    Truncated {
        /// Name of the field that was being read.
        field: String,
        /// Its start, in bytes from the start of the file.
        at: u64,
        /// Bytes that it needs.
        needed: u64,
        /// Bytes up to the end of the file.
        left: u64,
    },
    /// The header is larger than any honest one.
    #[error(
        "the {field} at byte {at} passes the header limit of {} bytes; the file is damaged or hostile",
        limits::HEADER_BYTES
    )]
    HeaderTooLarge {
        /// Name of the field that was being read.
        field: String,
        /// Its start, in bytes from the start of the file.
        at: u64,
    },
    /// A count is above a fixed limit.
    #[error(
        "the {field} at byte {at} is {count}, above the limit of {limit}; the file is damaged or hostile"
    )]
    CountAboveLimit {
        /// Name of the count.
        field: String,
        /// Its place, in bytes from the start of the file.
        at: u64,
        /// Its value.
        count: u64,
        /// The largest value that is accepted.
        limit: u64,
    },
    /// A count promises more than the rest of the file can hold.
    #[error(
        "the {field} at byte {at} is {count}, but the {left} bytes that follow can't hold so many; the file is damaged or truncated"
    )]
    CountBeyondFile {
        /// Name of the count.
        field: String,
        /// Its place, in bytes from the start of the file.
        at: u64,
        /// Its value.
        count: u64,
        /// Bytes after it.
        left: u64,
    },
    /// A metadata key or a tensor name has no letters.
    #[error("the {field} at byte {at} is empty; the file is damaged")]
    EmptyName {
        /// Name of the field.
        field: String,
        /// Its start, in bytes from the start of the file.
        at: u64,
    },
    /// A string is not UTF-8.
    #[error("the {field} is not UTF-8: byte {at} of the file is wrong; the file is damaged")]
    BadUtf8 {
        /// Name of the field.
        field: String,
        /// Place of the first wrong byte, from the start of the file.
        at: u64,
    },
    /// A boolean is neither 0 nor 1.
    #[error(
        "the {field} holds the boolean {byte} at byte {at}; only 0 and 1 are booleans, the file is damaged"
    )]
    BadBool {
        /// Name of the value.
        field: String,
        /// The byte that stands there.
        byte: u8,
        /// Its place, in bytes from the start of the file.
        at: u64,
    },
    /// The type number of a metadata value is unknown.
    #[error(
        "the {field} at byte {at} is {id}, which is no GGUF value type (0 to 12 are); the file is damaged or newer than this program"
    )]
    UnknownValueType {
        /// Name of the value.
        field: String,
        /// The number that stands there.
        id: u32,
        /// Its place, in bytes from the start of the file.
        at: u64,
    },
    /// Arrays are nested too deep.
    #[error(
        "the {field} nests arrays deeper than {} at byte {at}; the file is damaged or hostile",
        limits::ARRAY_DEPTH
    )]
    ArrayTooDeep {
        /// Name of the value.
        field: String,
        /// Start of the innermost array, in bytes from the start of the file.
        at: u64,
    },
    /// Two metadata entries have the same key.
    #[error(
        "the metadata key \"{key}\" at byte {at} stands in the file twice; the file is damaged, convert the model again"
    )]
    DuplicateKey {
        /// The key.
        key: String,
        /// Start of the second one, in bytes from the start of the file.
        at: u64,
    },
    /// A metadata value that the reader itself needs has the wrong type.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// The alignment is unusable.
    #[error(
        "general.alignment is {alignment}; it must be a power of two from 1 to {}, convert the model again",
        limits::ALIGNMENT_BYTES
    )]
    BadAlignment {
        /// The value in the file, in bytes.
        alignment: u64,
    },
    /// A tensor has no dimensions, or too many.
    #[error(
        "tensor \"{tensor}\" has {count} dimensions; 1 to {} are supported, the file is damaged",
        limits::DIMENSIONS
    )]
    DimensionCount {
        /// The tensor.
        tensor: String,
        /// Number of dimensions that the file names.
        count: u32,
    },
    /// A dimension is zero.
    #[error(
        "tensor \"{tensor}\" has the shape {dims:?}; no dimension may be 0, the file is damaged"
    )]
    ZeroDimension {
        /// The tensor.
        tensor: String,
        /// Its dimensions, the fastest first.
        dims: Vec<u64>,
    },
    /// The size of a tensor passes 64 bits.
    #[error(
        "tensor \"{tensor}\" has the shape {dims:?}, which is more than any file can hold; the file is damaged or hostile"
    )]
    TensorTooLarge {
        /// The tensor.
        tensor: String,
        /// Its dimensions, the fastest first.
        dims: Vec<u64>,
    },
    /// The type number of a tensor is unknown.
    #[error(
        "tensor \"{tensor}\" has the type number {id}, which this program does not know; quantise the model to a known type such as Q4_1 or Q8_0"
    )]
    UnknownTensorType {
        /// The tensor.
        tensor: String,
        /// The number in the file.
        id: u32,
    },
    /// A row of a tensor is not a whole number of quantisation blocks.
    #[error("tensor \"{tensor}\" has rows of {row} weights, which is no multiple of the {} in a block of {}; quantise the model again", kind.block_len(), kind.name())]
    PartialBlock {
        /// The tensor.
        tensor: String,
        /// Its type.
        kind: TensorType,
        /// Its first dimension.
        row: u64,
    },
    /// The data of a tensor starts off the alignment.
    #[error(
        "tensor \"{tensor}\" starts {offset} bytes into the data, which is no multiple of the alignment {alignment}; convert the model again"
    )]
    Misaligned {
        /// The tensor.
        tensor: String,
        /// Its offset from the start of the data, in bytes.
        offset: u64,
        /// The alignment of the file, in bytes.
        alignment: u64,
    },
    /// The data of a tensor lies beyond the end of the file.
    #[error(
        "tensor \"{tensor}\" needs {byte_len} bytes at {offset} bytes into the data, but the file has {data_len} bytes of data; it is truncated, download it again"
    )]
    OutsideFile {
        /// The tensor.
        tensor: String,
        /// Its offset from the start of the data, in bytes.
        offset: u64,
        /// Its size, in bytes.
        byte_len: u64,
        /// Bytes of tensor data in the file.
        data_len: u64,
    },
    /// Two tensors share bytes.
    #[error(
        "tensors \"{first}\" and \"{second}\" overlap at byte {at}; the file is damaged or hostile, download it again"
    )]
    Overlap {
        /// The tensor that starts first.
        first: String,
        /// The tensor that starts inside it.
        second: String,
        /// Start of the second one, in bytes from the start of the file.
        at: u64,
    },
    /// Two tensors have the same name.
    #[error(
        "the tensor \"{tensor}\" stands in the file twice; the file is damaged, convert the model again"
    )]
    DuplicateTensor {
        /// The name.
        tensor: String,
    },
}

/// A metadata value that is missing, of the wrong type, or out of range.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "metadata key \"{key}\" must hold {wanted}, but {found}; convert the model again with a current converter"
)]
pub struct MetadataError {
    /// The key that was asked for.
    pub key: String,
    /// The value that it must hold, such as `a u32`.
    pub wanted: &'static str,
    /// The finding, such as `holds string "llama"` or `is missing`.
    pub found: String,
}

/// A name from the file as it may stand in a message: at most 64 characters, control characters
/// escaped.
pub(super) fn quoted(name: &str) -> String {
    const SHOWN: usize = 64;
    let mut text = String::new();
    for letter in name.chars().take(SHOWN) {
        match letter {
            '\'' => text.push(letter), // stands between double quotes in every message
            _ => text.extend(letter.escape_debug()),
        }
    }
    if name.chars().nth(SHOWN).is_some() {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_can_be_logged() {
        assert_eq!(quoted("blk.0.attn_q.weight"), "blk.0.attn_q.weight");
        assert_eq!(quoted("it's \"x\""), "it's \\\"x\\\"");
        assert_eq!(quoted("a\nb\u{1b}[31m"), "a\\nb\\u{1b}[31m");
        assert_eq!(quoted(&"ü".repeat(65)), format!("{}…", "ü".repeat(64)));
    }

    #[test]
    fn errors_stay_small() {
        assert!(size_of::<GgufError>() <= 96, "{}", size_of::<GgufError>());
    }
}
