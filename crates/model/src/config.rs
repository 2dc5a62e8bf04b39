//! The sizes and constants of a model, as its file states them.

use super::arch;
use super::error::ModelError;
use super::header::Header;
use super::sublayer::{attention_of, sublayers};
use skipstone_gguf::Manifest;
use skipstone_kernels::KvShape;

/// Layers beyond this are a damaged or hostile file.
const MAX_LAYERS: usize = 1024;

/// The sizes and constants of a model.
#[derive(Clone, PartialEq, Debug)]
pub struct ModelConfig {
    /// `general.architecture`.
    pub architecture: String,
    /// Transformer layers.
    pub layers: usize,
    /// Elements of a hidden state; a multiple of 8.
    pub hidden: usize,
    /// Elements between the two halves of an MLP; a multiple of 8.
    pub feed_forward: usize,
    /// Query heads.
    pub query_heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Elements of a head; a multiple of 8.
    pub head_dim: usize,
    /// Tokens.
    pub vocabulary: usize,
    /// Positions the model was trained for.
    pub context_length: usize,
    /// RMSNorm's epsilon.
    pub norm_epsilon: f32,
}

// === impl ModelConfig ===

impl ModelConfig {
    /// Reads and checks the header of a file of a supported architecture. The vocabulary is that of
    /// the embedding tensor.
    pub fn from_manifest(manifest: &Manifest) -> Result<Self, ModelError> {
        Ok(arch::blueprint(manifest)?.config)
    }

    /// The sizes under the keys that all architectures share.
    pub(super) fn from_header(header: &Header<'_>) -> Result<Self, ModelError> {
        let layers = header.required("block_count", 2..=MAX_LAYERS)?;
        let hidden = header.multiple_of_8("embedding_length")?;
        let feed_forward = header.multiple_of_8("feed_forward_length")?;
        let query_heads = header.required("attention.head_count", 1..=4096)?;
        let kv_heads =
            header.optional("attention.head_count_kv", 1..=query_heads)?.unwrap_or(query_heads);
        if !query_heads.is_multiple_of(kv_heads) {
            return Err(header.error(
                "attention.head_count_kv",
                kv_heads,
                format!("must divide the {query_heads} query heads"),
            ));
        }
        let head_dim =
            header.optional("attention.key_length", 8..=1024)?.unwrap_or(hidden / query_heads);
        if head_dim == 0 || !head_dim.is_multiple_of(8) {
            return Err(header.error(
                "attention.key_length",
                head_dim,
                "must be a multiple of 8".to_owned(),
            ));
        }
        if header
            .optional("attention.value_length", 8..=1024)?
            .is_some_and(|length| length != head_dim)
        {
            let reason = format!("must equal the key length {head_dim}");
            return Err(header.error("attention.value_length", 0, reason));
        }
        let embedding = header
            .manifest
            .tensor("token_embd.weight")
            .ok_or_else(|| ModelError::MissingTensor("token_embd.weight".to_owned()))?;
        let vocabulary = embedding.dims.get(1).copied().unwrap_or(0);
        let vocabulary = usize::try_from(vocabulary)
            .ok()
            .filter(|&count| (1..=1 << 24).contains(&count))
            .ok_or_else(|| ModelError::Size {
                key: "token_embd.weight rows".to_owned(),
                value: vocabulary,
                reason: "a vocabulary has between 1 and 16777216 tokens".to_owned(),
            })?;
        let context_length = header.required("context_length", 1..=1 << 24)?;
        Ok(Self {
            architecture: header.architecture.to_owned(),
            layers,
            hidden,
            feed_forward,
            query_heads,
            kv_heads,
            head_dim,
            vocabulary,
            context_length,
            norm_epsilon: header.required_number("attention.layer_norm_rms_epsilon", 0.0..=1.0)?,
        })
    }

    /// Sublayers, numbered as in [`super::sublayer`].
    pub fn sublayers(&self) -> usize {
        sublayers(self.layers)
    }

    /// The sublayer before which the hidden state of a position is its feature. What the last
    /// tenth of the layers adds is particular to the next token. Profiles depend on it: to move it
    /// is a new version of theirs.
    pub fn feature_sublayer(&self) -> usize {
        attention_of(self.layers.saturating_sub((self.layers / 10).max(1)))
    }

    /// The layout of the key/value pages.
    pub fn kv_shape(&self) -> KvShape {
        KvShape {
            layers: self.layers,
            query_heads: self.query_heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
        }
    }
}
