//! What a file says about its model: architecture, sizes, rotary embedding.

use super::sublayer::{attention_of, sublayers};
use skipstone_gguf::{Manifest, Metadata, MetadataError};
use skipstone_kernels::{KvShape, RopePairs};

/// Architectures that the native engine runs.
pub const SUPPORTED_ARCHITECTURES: [&str; 2] = ["llama", "qwen2"];

/// Layers beyond this are a damaged or hostile file.
const MAX_LAYERS: usize = 1024;

/// The sizes and constants of a model.
#[derive(Clone, PartialEq, Debug)]
pub struct ModelConfig {
    /// `general.architecture`.
    pub architecture: String,
    /// Transformer layers; twice as many sublayers.
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
    /// Rotary embedding.
    pub rope: RopeConfig,
}

/// The rotary embedding.
#[derive(Clone, PartialEq, Debug)]
pub struct RopeConfig {
    /// Which elements turn together.
    pub pairs: RopePairs,
    /// Elements of a head that turn; even.
    pub dimensions: usize,
    /// Base of the frequencies.
    pub base: f32,
    /// Positions are divided by this (linear scaling); 1 without scaling.
    pub linear_factor: f32,
}

/// Why a file's model can't be run.
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
        /// What it should be.
        reason: String,
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
        /// Why.
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

// === impl ModelConfig ===

impl ModelConfig {
    /// Reads and checks the sizes. The vocabulary is that of the embedding tensor.
    pub fn from_manifest(manifest: &Manifest) -> Result<Self, ModelError> {
        let metadata = manifest.metadata();
        let architecture = metadata.require_string("general.architecture")?.to_owned();
        if !SUPPORTED_ARCHITECTURES.contains(&architecture.as_str()) {
            return Err(ModelError::Architecture { name: architecture });
        }
        let sizes = Sizes { metadata, architecture: &architecture };
        let layers = sizes.required("block_count", 2..=MAX_LAYERS)?;
        let hidden = sizes.multiple_of_8("embedding_length")?;
        let feed_forward = sizes.multiple_of_8("feed_forward_length")?;
        let query_heads = sizes.required("attention.head_count", 1..=4096)?;
        let kv_heads =
            sizes.optional("attention.head_count_kv", 1..=query_heads)?.unwrap_or(query_heads);
        if !query_heads.is_multiple_of(kv_heads) {
            return Err(sizes.error(
                "attention.head_count_kv",
                kv_heads,
                format!("must divide the {query_heads} query heads"),
            ));
        }
        let head_dim =
            sizes.optional("attention.key_length", 8..=1024)?.unwrap_or(hidden / query_heads);
        if head_dim == 0 || !head_dim.is_multiple_of(8) {
            return Err(sizes.error(
                "attention.key_length",
                head_dim,
                "must be a multiple of 8".to_owned(),
            ));
        }
        if sizes
            .optional("attention.value_length", 8..=1024)?
            .is_some_and(|length| length != head_dim)
        {
            let reason = format!("must equal the key length {head_dim}");
            return Err(sizes.error("attention.value_length", 0, reason));
        }
        let embedding = manifest
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
        let context_length = sizes.required("context_length", 1..=1 << 24)?;
        let norm_epsilon = metadata.require_f32(&sizes.key("attention.layer_norm_rms_epsilon"))?;
        let rope = RopeConfig::from_metadata(&sizes, head_dim)?;
        Ok(Self {
            layers,
            hidden,
            feed_forward,
            query_heads,
            kv_heads,
            head_dim,
            vocabulary,
            context_length,
            norm_epsilon,
            rope,
            architecture,
        })
    }

    /// Sublayers, numbered as in [`super::sublayer`].
    pub fn sublayers(&self) -> usize {
        sublayers(self.layers)
    }

    /// Where the feature of a position is its hidden state: before this sublayer. What the last
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

// === impl RopeConfig ===

impl RopeConfig {
    fn from_metadata(sizes: &Sizes<'_>, head_dim: usize) -> Result<Self, ModelError> {
        let metadata = sizes.metadata;
        let dimensions = sizes.optional("rope.dimension_count", 2..=head_dim)?.unwrap_or(head_dim);
        if !dimensions.is_multiple_of(2) {
            return Err(sizes.error("rope.dimension_count", dimensions, "must be even".to_owned()));
        }
        let scaling = metadata.string(&sizes.key("rope.scaling.type"))?.unwrap_or("none");
        let linear_factor = match scaling {
            "none" => 1.0,
            "linear" => metadata.require_f32(&sizes.key("rope.scaling.factor"))?,
            other => return Err(ModelError::RopeScaling(other.to_owned())),
        };
        if !(linear_factor.is_finite() && linear_factor > 0.0) {
            return Err(ModelError::RopeScaling(format!("linear by {linear_factor}")));
        }
        let base = metadata.f32(&sizes.key("rope.freq_base"))?.unwrap_or(10_000.0);
        let pairs =
            if sizes.architecture == "llama" { RopePairs::Adjacent } else { RopePairs::Halves };
        Ok(Self { pairs, dimensions, base, linear_factor })
    }

    /// Radians per position of each pair; `factors` are divisors stored in the file (llama3), if
    /// any.
    pub fn frequencies(&self, factors: Option<&[f32]>) -> Vec<f64> {
        (0..self.dimensions / 2)
            .map(|pair| {
                let exponent = 2.0 * pair as f64 / self.dimensions as f64;
                let factor = factors.map_or(1.0, |factors| f64::from(factors[pair]));
                f64::from(self.base).powf(-exponent) / factor / f64::from(self.linear_factor)
            })
            .collect()
    }
}

// === sizes ===

struct Sizes<'a> {
    metadata: &'a Metadata,
    architecture: &'a str,
}

impl Sizes<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    fn error(&self, name: &str, value: usize, reason: String) -> ModelError {
        ModelError::Size { key: self.key(name), value: value as u64, reason }
    }

    fn optional(
        &self,
        name: &str,
        range: std::ops::RangeInclusive<usize>,
    ) -> Result<Option<usize>, ModelError> {
        let Some(value) = self.metadata.u64(&self.key(name))? else { return Ok(None) };
        match usize::try_from(value) {
            Ok(size) if range.contains(&size) => Ok(Some(size)),
            _ => Err(ModelError::Size {
                key: self.key(name),
                value,
                reason: format!("must be between {} and {}", range.start(), range.end()),
            }),
        }
    }

    fn required(
        &self,
        name: &str,
        range: std::ops::RangeInclusive<usize>,
    ) -> Result<usize, ModelError> {
        match self.optional(name, range)? {
            Some(size) => Ok(size),
            // Asks again for the error that names the key.
            None => Ok(self.metadata.require_u64(&self.key(name))? as usize),
        }
    }

    fn multiple_of_8(&self, name: &str) -> Result<usize, ModelError> {
        let size = self.required(name, 8..=1 << 20)?;
        if size.is_multiple_of(8) {
            Ok(size)
        } else {
            Err(self.error(name, size, "must be a multiple of 8".to_owned()))
        }
    }
}
