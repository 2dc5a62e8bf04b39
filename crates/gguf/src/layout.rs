//! Tensors as the file describes them, and the checks that place their data inside it.

use super::error::quoted;
use super::{GgufError, TensorType};

/// A tensor of the file. Made by [`super::Manifest::parse`] only, so it is checked: its data lies
/// inside the file, aligned, and shares no byte with another tensor.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct TensorInfo {
    /// The name, such as `blk.0.attn_q.weight`; unique in the file.
    pub name: String,
    /// The shape, 1 to 4 dimensions, none of them 0. The first is the fastest: a weight is
    /// `[inputs, outputs]`, so row `o` is the contiguous weights of output `o`. `dims[0]` is a
    /// multiple of the type's block length.
    pub dims: Vec<u64>,
    /// Type that the weights are stored in.
    pub kind: TensorType,
    /// Start of the data, in bytes from the start of the file.
    pub offset: u64,
    /// Bytes of data.
    pub byte_len: u64,
}

/// A tensor as it stands in the header, with an unknown type and an offset from the start of the
/// data.
pub(super) struct TensorClaim {
    pub(super) name: String,
    pub(super) dims: Vec<u64>,
    pub(super) type_id: u32,
    pub(super) data_offset: u64,
}

/// Place of the tensor data in the file, in bytes.
#[derive(Clone, Copy)]
pub(super) struct DataSection {
    pub(super) start: u64,
    pub(super) len: u64,
    pub(super) alignment: u64,
}

// === impl TensorInfo ===

impl TensorInfo {
    /// Weights of the tensor.
    pub fn element_count(&self) -> u64 {
        self.dims.iter().product() // checked in `TensorClaim::place`
    }

    /// Bytes of one row, that is, of `dims[0]` weights.
    pub fn row_bytes(&self) -> u64 {
        let rows: u64 = self.dims.iter().skip(1).product(); // no dimension is 0
        self.byte_len / rows
    }
}

// === impl TensorClaim ===

impl TensorClaim {
    /// Checks the claim against the file and says where the data lies.
    pub(super) fn place(self, section: DataSection) -> Result<TensorInfo, GgufError> {
        let Self { name, dims, type_id, data_offset } = self;
        let tensor = || quoted(&name);
        let kind = TensorType::from_id(type_id)
            .ok_or_else(|| GgufError::UnknownTensorType { tensor: tensor(), id: type_id })?;
        if dims.contains(&0) {
            return Err(GgufError::ZeroDimension { tensor: tensor(), dims });
        }
        let row = dims.first().copied().unwrap_or(0);
        if !row.is_multiple_of(kind.block_len() as u64) {
            return Err(GgufError::PartialBlock { tensor: tensor(), kind, row });
        }
        let elements = dims.iter().try_fold(1_u64, |product, &dim| product.checked_mul(dim));
        let Some(byte_len) = elements.and_then(|elements| kind.bytes_for(elements)) else {
            return Err(GgufError::TensorTooLarge { tensor: tensor(), dims });
        };
        if !data_offset.is_multiple_of(section.alignment) {
            let alignment = section.alignment;
            return Err(GgufError::Misaligned { tensor: tensor(), offset: data_offset, alignment });
        }
        if data_offset.checked_add(byte_len).is_none_or(|end| end > section.len) {
            return Err(GgufError::OutsideFile {
                tensor: tensor(),
                offset: data_offset,
                byte_len,
                data_len: section.len,
            });
        }
        // Can't wrap: the end of the data lies inside the file.
        Ok(TensorInfo { offset: section.start + data_offset, name, dims, kind, byte_len })
    }
}

/// Refuses tensors that share bytes.
pub(super) fn refuse_overlaps(tensors: &[TensorInfo]) -> Result<(), GgufError> {
    let mut by_offset: Vec<&TensorInfo> = tensors.iter().collect();
    by_offset.sort_by_key(|tensor| tensor.offset);
    for pair in by_offset.windows(2) {
        if let [first, second] = pair
            && first.offset + first.byte_len > second.offset
        {
            return Err(GgufError::Overlap {
                first: quoted(&first.name),
                second: quoted(&second.name),
                at: second.offset,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECTION: DataSection = DataSection { start: 64, len: 320, alignment: 32 };

    fn claim(dims: &[u64], kind: TensorType, data_offset: u64) -> TensorClaim {
        TensorClaim { name: "t".to_owned(), dims: dims.to_vec(), type_id: kind.id(), data_offset }
    }

    #[test]
    fn a_sound_claim_is_placed() {
        let info = claim(&[64, 5], TensorType::Q4_1, 96).place(SECTION).unwrap();
        assert_eq!((info.offset, info.byte_len), (160, 200));
        assert_eq!((info.element_count(), info.row_bytes()), (320, 40));
    }

    #[test]
    fn the_last_byte_of_the_file_may_be_used_and_no_more() {
        assert!(claim(&[80], TensorType::F32, 0).place(SECTION).is_ok());
        assert!(claim(&[81], TensorType::F32, 0).place(SECTION).is_err());
        assert!(claim(&[1], TensorType::F32, u64::MAX - 31).place(SECTION).is_err());
    }

    #[test]
    fn neighbours_may_touch_but_not_overlap() {
        let place =
            |dims: &[u64], offset| claim(dims, TensorType::I8, offset).place(SECTION).unwrap();
        assert!(refuse_overlaps(&[place(&[32], 32), place(&[32], 0)]).is_ok());
        assert!(refuse_overlaps(&[place(&[32], 32), place(&[33], 0)]).is_err());
        assert!(refuse_overlaps(&[place(&[1], 32), place(&[1], 32)]).is_err());
        assert!(refuse_overlaps(&[]).is_ok());
    }
}
