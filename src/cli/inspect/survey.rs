//! The facts about a model file, gathered from its header alone.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::packing::PackingSurvey;
use skipstone_gguf::{Manifest, Metadata, TensorInfo};
use skipstone_model::sublayer::{SublayerKind, sublayer_of, sublayers};

/// Output of `inspect --json`.
#[derive(Clone, PartialEq, Serialize, Debug)]
pub(super) struct Survey {
    pub(super) path: String,
    pub(super) gguf_version: u32,
    /// Facts that the file does not state are `None`.
    pub(super) name: Option<String>,
    pub(super) architecture: Option<String>,
    pub(super) layers: Option<u64>,
    pub(super) sublayers: Option<u64>,
    pub(super) context_length: Option<u64>,
    pub(super) embedding_length: Option<u64>,
    pub(super) feed_forward_length: Option<u64>,
    pub(super) attention_heads: Option<u64>,
    pub(super) key_value_heads: Option<u64>,
    pub(super) vocabulary: Option<u64>,
    pub(super) tokenizer: Option<String>,
    pub(super) has_chat_template: bool,
    pub(super) parameters: u64,
    pub(super) bytes: u64,
    pub(super) parts: Vec<PartSurvey>,
    pub(super) blocks: Vec<SublayerSurvey>,
    pub(super) packing: Vec<PackingSurvey>,
}

/// One kind of weights.
#[derive(Clone, PartialEq, Serialize, Debug)]
pub(super) struct PartSurvey {
    pub(super) part: Part,
    pub(super) tensors: usize,
    pub(super) parameters: u64,
    pub(super) bytes: u64,
    /// Share of all bytes, 0 to 1: about the share of a plain step's time, which is spent reading
    /// weights.
    pub(super) share: f64,
    /// Types of the weights, and how many bytes are of each.
    pub(super) types: BTreeMap<String, u64>,
}

/// One sublayer, numbered as in [`skipstone_model::sublayer`].
#[derive(Clone, PartialEq, Serialize, Debug)]
pub(super) struct SublayerSurvey {
    pub(super) sublayer: u64,
    pub(super) layer: u64,
    pub(super) part: Part,
    pub(super) bytes: u64,
}

/// Purpose of a tensor.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Debug)]
#[serde(rename_all = "snake_case")]
pub(super) enum Part {
    /// Token embeddings; the head as well, where the model ties the two.
    Embedding,
    /// Attention blocks with their norms.
    Attention,
    /// MLP blocks with their norms.
    Mlp,
    /// The vocabulary head and the norm before it.
    Head,
    /// Anything else, such as tables of rotation frequencies.
    Other,
}

// === impl Survey ===

impl Survey {
    pub(super) fn of(path: &Path, manifest: &Manifest) -> Self {
        let metadata = manifest.metadata();
        let string = |key: &str| metadata.string(key).ok().flatten().map(str::to_owned);
        let architecture = string("general.architecture");
        let count = |suffix: &str| number(metadata, architecture.as_deref(), suffix);
        let layers = count("block_count");
        let tensors = manifest.tensors();
        let bytes = tensors.iter().map(|tensor| tensor.byte_len).sum();
        let tokens = metadata.strings("tokenizer.ggml.tokens").ok().flatten();
        Self {
            path: path.display().to_string(),
            gguf_version: manifest.version(),
            name: string("general.name"),
            layers,
            sublayers: layers
                .map(|layers| sublayers(usize::try_from(layers).unwrap_or(usize::MAX)) as u64),
            context_length: count("context_length"),
            embedding_length: count("embedding_length"),
            feed_forward_length: count("feed_forward_length"),
            attention_heads: count("attention.head_count"),
            key_value_heads: count("attention.head_count_kv"),
            vocabulary: tokens.map(|tokens| tokens.len() as u64).or_else(|| count("vocab_size")),
            tokenizer: string("tokenizer.ggml.model"),
            has_chat_template: string("tokenizer.chat_template").is_some(),
            parameters: tensors.iter().map(TensorInfo::element_count).sum(),
            bytes,
            parts: parts(tensors, bytes),
            blocks: blocks(tensors),
            packing: PackingSurvey::all(tensors),
            architecture,
        }
    }
}

fn number(metadata: &Metadata, architecture: Option<&str>, suffix: &str) -> Option<u64> {
    metadata.u64(&format!("{}.{suffix}", architecture?)).ok().flatten()
}

fn parts(tensors: &[TensorInfo], all_bytes: u64) -> Vec<PartSurvey> {
    let mut parts: BTreeMap<Part, PartSurvey> = BTreeMap::new();
    for tensor in tensors {
        let (part, _) = place(&tensor.name);
        let survey = parts.entry(part).or_insert_with(|| PartSurvey {
            part,
            tensors: 0,
            parameters: 0,
            bytes: 0,
            share: 0.0,
            types: BTreeMap::new(),
        });
        survey.tensors += 1;
        survey.parameters += tensor.element_count();
        survey.bytes += tensor.byte_len;
        *survey.types.entry(tensor.kind.to_string()).or_default() += tensor.byte_len;
    }
    for survey in parts.values_mut() {
        survey.share = survey.bytes as f64 / all_bytes.max(1) as f64;
    }
    parts.into_values().collect()
}

fn blocks(tensors: &[TensorInfo]) -> Vec<SublayerSurvey> {
    let mut blocks: BTreeMap<u64, SublayerSurvey> = BTreeMap::new();
    for tensor in tensors {
        let (part, Some(layer)) = place(&tensor.name) else { continue };
        let kind = match part {
            Part::Attention => SublayerKind::Attention,
            Part::Mlp => SublayerKind::Mlp,
            _ => continue,
        };
        let (sublayer, layer) = (sublayer_of(layer as usize, kind) as u64, u64::from(layer));
        let survey =
            blocks.entry(sublayer).or_insert(SublayerSurvey { sublayer, layer, part, bytes: 0 });
        survey.bytes += tensor.byte_len;
    }
    blocks.into_values().collect()
}

/// The part that a tensor belongs to, and its layer if it has one, by GGUF's naming.
fn place(name: &str) -> (Part, Option<u32>) {
    if let Some((layer, name)) = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) {
        let part = match name {
            _ if name.starts_with("attn_") || name.starts_with("post_attention_norm") => {
                Part::Attention
            }
            _ if name.starts_with("ffn_") || name.starts_with("post_ffw_norm") => Part::Mlp,
            _ => Part::Other,
        };
        return (part, layer.parse().ok());
    }
    let part = match name {
        _ if name.starts_with("token_embd") => Part::Embedding,
        _ if name.starts_with("output") => Part::Head,
        _ => Part::Other,
    };
    (part, None)
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;
    use skipstone_gguf::{GgufBuilder, TensorType};

    /// Two layers, an embedding, a final norm; weights of 4 bytes.
    pub(crate) fn survey() -> Survey {
        let mut builder = GgufBuilder::new()
            .metadata("general.architecture", "llama")
            .metadata("general.name", "tiny")
            .metadata("llama.block_count", 2_u32)
            .metadata("llama.context_length", 64_u32)
            .tensor("token_embd.weight", &[2, 5], TensorType::F32, vec![0; 40])
            .tensor("output_norm.weight", &[2], TensorType::F32, vec![0; 8])
            .tensor("rope_freqs.weight", &[1], TensorType::F32, vec![0; 4]);
        for layer in 0..2 {
            builder = builder
                .tensor(&format!("blk.{layer}.attn_norm.weight"), &[2], TensorType::F32, vec![0; 8])
                .tensor(
                    &format!("blk.{layer}.attn_q.weight"),
                    &[2, 2],
                    TensorType::F32,
                    vec![0; 16],
                )
                .tensor(
                    &format!("blk.{layer}.ffn_up.weight"),
                    &[2, 3],
                    TensorType::F32,
                    vec![0; 24],
                );
        }
        Survey::of(Path::new("/m/tiny.gguf"), &Manifest::parse(&builder.build()).unwrap())
    }
}

#[cfg(test)]
mod tests {
    use super::testing::survey;
    use super::*;

    #[test]
    fn tensors_are_counted_once_in_their_part() {
        let survey = survey();
        let parts: Vec<_> =
            survey.parts.iter().map(|part| (part.part, part.tensors, part.bytes)).collect();
        assert_eq!(
            parts,
            [
                (Part::Embedding, 1, 40),
                (Part::Attention, 4, 48),
                (Part::Mlp, 2, 48),
                (Part::Head, 1, 8),
                (Part::Other, 1, 4),
            ]
        );
        assert_eq!((survey.bytes, survey.parameters), (148, 37));
        let shares: f64 = survey.parts.iter().map(|part| part.share).sum();
        assert!((shares - 1.0).abs() < 1e-9, "{shares}");
    }

    #[test]
    fn sublayers_alternate_between_attention_and_mlp() {
        let survey = survey();
        assert_eq!(survey.sublayers, Some(4));
        let blocks: Vec<_> = survey
            .blocks
            .iter()
            .map(|block| (block.sublayer, block.layer, block.part, block.bytes))
            .collect();
        assert_eq!(
            blocks,
            [
                (0, 0, Part::Attention, 24),
                (1, 0, Part::Mlp, 24),
                (2, 1, Part::Attention, 24),
                (3, 1, Part::Mlp, 24),
            ]
        );
    }

    #[test]
    fn what_the_file_does_not_say_is_not_invented() {
        let survey = survey();
        assert_eq!((survey.layers, survey.context_length), (Some(2), Some(64)));
        assert_eq!(
            (survey.attention_heads, survey.vocabulary, survey.tokenizer),
            (None, None, None)
        );
        assert!(!survey.has_chat_template);
    }
}
