//! The header of a GGUF file, read and checked as a whole.

use std::collections::BTreeMap;

use super::cursor::{Cursor, Field};
use super::error::quoted;
use super::layout::{self, DataSection, TensorClaim};
use super::metadata::wrong;
use super::{
    ALIGNMENT_KEY, DEFAULT_ALIGNMENT, GgufError, Metadata, TensorInfo, Value, decode, limits,
};

/// Bytes of the smallest metadata entry: key length, one letter, value type, one byte of value.
const LEAST_ENTRY_BYTES: u64 = 8 + 1 + 4 + 1;

/// Bytes of the smallest tensor description: name length, one letter, dimension count, one
/// dimension, type, offset.
const LEAST_TENSOR_BYTES: u64 = 8 + 1 + 4 + 8 + 4 + 8;

/// Contents of a GGUF file: its metadata and where its tensors lie. A value of this type has passed
/// all checks.
#[derive(Clone, PartialEq, Debug)]
pub struct Manifest {
    version: u32,
    alignment: u64,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    /// Indices into `tensors`, by ascending name.
    by_name: Vec<u32>,
}

// === impl Manifest ===

impl Manifest {
    /// Reads the manifest of a whole file, mapped or in memory; touches only the header.
    ///
    /// Never panics, whatever the bytes; memory stays within a small multiple of the header, and
    /// the header within [`limits::HEADER_BYTES`].
    ///
    /// # Errors
    ///
    /// Any deviation from the format and its limits, see [`GgufError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, GgufError> {
        let mut cursor = Cursor::new(bytes);
        let version = version(&mut cursor)?;
        let tensor_count = count(&mut cursor, LEAST_TENSOR_BYTES, limits::TENSORS, "tensor count")?;
        let entry_count =
            count(&mut cursor, LEAST_ENTRY_BYTES, limits::METADATA_KEYS, "metadata count")?;

        let metadata = metadata(&mut cursor, entry_count)?;
        let alignment = alignment(&metadata)?;
        let mut claims = Vec::new();
        for _ in 0..tensor_count {
            claims.push(tensor_claim(&mut cursor)?);
        }

        // Can't wrap: the position is below the header limit and the alignment has a cap.
        let start = cursor.position().next_multiple_of(alignment);
        let len = (bytes.len() as u64).saturating_sub(start);
        let section = DataSection { start, len, alignment };
        let tensors: Vec<TensorInfo> =
            claims.into_iter().map(|claim| claim.place(section)).collect::<Result<_, _>>()?;
        let by_name = by_name(&tensors)?;
        layout::refuse_overlaps(&tensors)?;
        Ok(Self { version, alignment, metadata, tensors, by_name })
    }

    /// Version of the format, 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Alignment of tensor data, in bytes; a power of two.
    pub fn alignment(&self) -> u64 {
        self.alignment
    }

    /// The key-value section.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// All tensors, in the order of the header.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The types of the matrices, the most bytes first.
    pub fn weight_types(&self) -> Vec<String> {
        let mut bytes: BTreeMap<String, u64> = BTreeMap::new();
        for tensor in self.tensors.iter().filter(|tensor| tensor.dims.len() > 1) {
            *bytes.entry(tensor.kind.to_string()).or_default() += tensor.byte_len;
        }
        let mut types: Vec<(String, u64)> = bytes.into_iter().collect();
        types.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        types.into_iter().map(|(name, _)| name).collect()
    }

    /// The tensor with this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        let at = |&index: &u32| self.tensors.get(index as usize);
        let found = self.by_name.binary_search_by(|index| {
            at(index).map_or("", |tensor| tensor.name.as_str()).cmp(name)
        });
        self.by_name.get(found.ok()?).and_then(at)
    }
}

fn version(cursor: &mut Cursor<'_>) -> Result<u32, GgufError> {
    let found: [u8; 4] = cursor.fixed(Field::new("magic number"))?;
    if found != *b"GGUF" {
        return Err(GgufError::BadMagic { found });
    }
    match cursor.u32(Field::new("version"))? {
        version @ (2 | 3) => Ok(version),
        // Real versions are small, so one whose low half is empty was written with the high byte
        // first.
        version if version != 0 && version & 0xffff == 0 => {
            Err(GgufError::BigEndian { version: version.swap_bytes() })
        }
        version => Err(GgufError::Version { version }),
    }
}

fn count(
    cursor: &mut Cursor<'_>,
    least_bytes: u64,
    limit: u64,
    part: &'static str,
) -> Result<u64, GgufError> {
    let at = cursor.position();
    let count = cursor.count(least_bytes, Field::new(part))?;
    if count > limit {
        return Err(GgufError::CountAboveLimit { field: part.to_owned(), at, count, limit });
    }
    Ok(count)
}

fn metadata(cursor: &mut Cursor<'_>, entry_count: u64) -> Result<Metadata, GgufError> {
    let mut values = BTreeMap::new();
    for _ in 0..entry_count {
        let at = cursor.position();
        let key = cursor.name(Field::new("metadata key"))?;
        if values.contains_key(key) {
            return Err(GgufError::DuplicateKey { key: quoted(key), at });
        }
        let value = decode::value(cursor, key)?;
        values.insert(key.to_owned(), value);
    }
    Ok(Metadata::new(values))
}

fn alignment(metadata: &Metadata) -> Result<u64, GgufError> {
    let alignment = match metadata.get(ALIGNMENT_KEY) {
        None => DEFAULT_ALIGNMENT,
        // Strict about the width, as the format is: readers that disagree about the alignment
        // disagree about every weight.
        Some(Value::U32(alignment)) => u64::from(*alignment),
        Some(other) => return Err(wrong(ALIGNMENT_KEY, "a u32", other).into()),
    };
    if !alignment.is_power_of_two() || alignment > limits::ALIGNMENT_BYTES {
        return Err(GgufError::BadAlignment { alignment });
    }
    Ok(alignment)
}

fn tensor_claim(cursor: &mut Cursor<'_>) -> Result<TensorClaim, GgufError> {
    let name = cursor.name(Field::new("tensor name"))?;
    let count = cursor.u32(Field::of("dimension count", name))?;
    if count == 0 || count > limits::DIMENSIONS {
        return Err(GgufError::DimensionCount { tensor: quoted(name), count });
    }
    let mut dims = Vec::with_capacity(count as usize);
    for _ in 0..count {
        dims.push(cursor.u64(Field::of("shape", name))?);
    }
    let type_id = cursor.u32(Field::of("tensor type", name))?;
    let data_offset = cursor.u64(Field::of("data offset", name))?;
    Ok(TensorClaim { name: name.to_owned(), dims, type_id, data_offset })
}

/// Indices by ascending name; refuses names that occur twice.
fn by_name(tensors: &[TensorInfo]) -> Result<Vec<u32>, GgufError> {
    let mut named: Vec<(&str, u32)> =
        tensors.iter().map(|tensor| tensor.name.as_str()).zip(0..).collect();
    named.sort_unstable();
    for pair in named.windows(2) {
        if let [(first, _), (second, _)] = pair
            && first == second
        {
            return Err(GgufError::DuplicateTensor { tensor: quoted(first) });
        }
    }
    Ok(named.into_iter().map(|(_, index)| index).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{GgufBuilder, TensorType};

    #[test]
    fn tensors_are_found_by_name() {
        let names = ["m", "z", "a", "blk.0", "blk.10", "blk.2"];
        let mut builder = GgufBuilder::new();
        for name in names {
            builder = builder.tensor(name, &[1], TensorType::F32, vec![0; 4]);
        }
        let manifest = Manifest::parse(&builder.build()).unwrap();
        for name in names {
            assert_eq!(manifest.tensor(name).map(|tensor| tensor.name.as_str()), Some(name));
        }
        for stranger in ["", "b", "blk.1", "zz"] {
            assert_eq!(manifest.tensor(stranger), None);
        }
    }

    #[test]
    fn a_file_without_tensors_needs_no_padding() {
        let bytes = GgufBuilder::new().metadata("general.name", "x").build();
        let manifest = Manifest::parse(&bytes).unwrap();
        assert!(manifest.tensors().is_empty());
        assert_eq!(manifest.metadata().string("general.name"), Ok(Some("x")));
    }
}
