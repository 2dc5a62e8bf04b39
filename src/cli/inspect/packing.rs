//! Packing of the matrices of a model file when it is loaded.

use std::collections::BTreeMap;

use serde::Serialize;

use skipstone_gguf::TensorInfo;
use skipstone_kernels::{Isa, PackedMatrix, WeightType};

/// The matrices of one type that the kernels multiply with. The embedding is read where it lies in
/// the file; a head that is tied to it is packed.
#[derive(Clone, PartialEq, Serialize, Debug)]
pub(super) struct PackingSurvey {
    /// The type in the file.
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) tensors: usize,
    /// Bytes in the file.
    pub(super) bytes: u64,
    /// The form in memory; `None` for a type without kernels, which can't be loaded.
    pub(super) packed: Option<PackedForm>,
}

/// Form in which the kernels keep and multiply the matrices of a type.
#[derive(Clone, PartialEq, Serialize, Debug)]
pub(super) struct PackedForm {
    /// Output columns that are interleaved.
    pub(super) columns_per_tile: usize,
    /// Activations that the matrices are multiplied with.
    pub(super) activations: String,
    /// Bytes in memory; columns that fill up a last tile count.
    pub(super) bytes: u64,
    /// Instruction set of the kernels, on this machine.
    pub(super) instruction_set: String,
}

// === impl PackingSurvey ===

impl PackingSurvey {
    /// The types among `tensors`, by name.
    pub(super) fn all(tensors: &[TensorInfo]) -> Vec<Self> {
        let tied = !tensors.iter().any(|tensor| tensor.name == "output.weight");
        let mut types: BTreeMap<&str, Self> = BTreeMap::new();
        for tensor in tensors.iter().filter(|tensor| tied || tensor.name != "token_embd.weight") {
            let [width, outputs] = tensor.dims[..] else { continue };
            let kind = tensor.kind.name();
            let known = WeightType::from_name(kind);
            let survey = types.entry(kind).or_insert_with(|| Self {
                kind: kind.to_owned(),
                tensors: 0,
                bytes: 0,
                packed: known.map(|known| PackedForm {
                    columns_per_tile: PackedMatrix::COLUMNS_PER_TILE,
                    activations: known.activation_format().to_string(),
                    bytes: 0,
                    instruction_set: Isa::detect().name().to_owned(),
                }),
            });
            survey.tensors += 1;
            survey.bytes += tensor.byte_len;
            if let (Some(known), Some(packed)) = (known, &mut survey.packed) {
                packed.bytes +=
                    PackedMatrix::packed_bytes(known, outputs as usize, width as usize) as u64;
            }
        }
        types.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skipstone_gguf::{GgufBuilder, Manifest, TensorType};

    /// Tensors of each kind of matrix, with or without a head of its own.
    fn tensors(own_head: bool) -> Manifest {
        let matrix = |builder: GgufBuilder, name: &str, outputs: u64, kind: TensorType| {
            let bytes = 256 * outputs as usize / kind.block_len() * kind.block_bytes();
            builder.tensor(name, &[256, outputs], kind, vec![0; bytes])
        };
        let builder = GgufBuilder::new().metadata("general.architecture", "llama").tensor(
            "output_norm.weight",
            &[256],
            TensorType::F32,
            vec![0; 1024],
        );
        let builder = matrix(builder, "token_embd.weight", 40, TensorType::Q8_0);
        let builder = matrix(builder, "blk.0.attn_q.weight", 17, TensorType::Q4_1);
        let builder = matrix(builder, "blk.0.ffn_up.weight", 16, TensorType::Q4_1);
        let builder = matrix(builder, "blk.0.ffn_down.weight", 16, TensorType::Q2_K);
        let builder =
            if own_head { matrix(builder, "output.weight", 32, TensorType::Q6_K) } else { builder };
        Manifest::parse(&builder.build()).unwrap()
    }

    #[test]
    fn matrices_are_counted_as_they_are_packed() {
        for (own_head, head) in [
            // Forty columns take three tiles. Q8_0 packs into as many bytes a weight as in the
            // file: 8.5 bits.
            (false, ("Q8_0", 1, 10_880, Some((13_056, "8 bits, a scale for each 32")))),
            // Two full tiles. Sixteen columns of a block of 210 bytes, and 32 bytes more, so that
            // loads keep to cache lines.
            (true, ("Q6_K", 1, 6_720, Some((6_784, "8 bits, a scale for each 256")))),
        ] {
            let found = PackingSurvey::all(tensors(own_head).tensors());
            let found: Vec<_> = found
                .iter()
                .map(|survey| {
                    let packed = survey.packed.as_ref();
                    let packed = packed.map(|packed| (packed.bytes, packed.activations.as_str()));
                    (survey.kind.as_str(), survey.tensors, survey.bytes, packed)
                })
                .collect();
            // Seventeen columns of 5 bits a weight take two tiles, sixteen one.
            let expected = [
                ("Q2_K", 1, 1344, None),
                ("Q4_1", 2, 5_280, Some((7_680, "8 bits, a scale for each 32"))),
                head,
            ];
            assert_eq!(found, expected, "own head: {own_head}");
        }
    }

    #[test]
    fn forms_name_tiles_and_instruction_set() {
        for survey in PackingSurvey::all(tensors(true).tensors()) {
            let Some(packed) = survey.packed else { continue };
            assert_eq!(packed.columns_per_tile, 16, "{}", survey.kind);
            assert_eq!(packed.instruction_set, Isa::detect().name(), "{}", survey.kind);
        }
    }
}
