//! The weights of a model: matrices packed for the kernels, vectors as floats, the embedding left
//! in the file.

use std::sync::Arc;

use super::config::{ModelConfig, ModelError};
use super::ids::TokenId;
use skipstone_gguf::{GgufFile, TensorInfo};
use skipstone_kernels::{FormatSet, PackError, PackedMatrix, WeightType, dequantize_row};

/// Everything that a pass reads.
pub struct Weights {
    file: Arc<GgufFile>,
    embedding: TensorInfo,
    embedding_kind: WeightType,
    /// One for each layer.
    pub(super) layers: Vec<Layer>,
    /// The norm before the head.
    pub(super) output_norm: Vec<f32>,
    /// \[vocabulary, hidden\].
    pub(super) head: PackedMatrix,
    /// Where the head lies in the file.
    head_tensor: TensorInfo,
    /// Divisors of the rotary frequencies, one for each pair, if the file has them.
    pub(super) rope_factors: Option<Vec<f32>>,
}

/// The two sublayers of a layer.
pub(super) struct Layer {
    pub(super) attention: Attention,
    pub(super) mlp: Mlp,
}

pub(super) struct Attention {
    pub(super) norm: Vec<f32>,
    pub(super) query: Linear,
    pub(super) key: Linear,
    pub(super) value: Linear,
    pub(super) output: Linear,
}

pub(super) struct Mlp {
    pub(super) norm: Vec<f32>,
    pub(super) gate: Linear,
    pub(super) up: Linear,
    pub(super) down: Linear,
}

/// A matrix and its bias.
pub(super) struct Linear {
    pub(super) matrix: PackedMatrix,
    pub(super) bias: Option<Vec<f32>>,
}

// === impl Weights ===

impl Weights {
    /// Packs the tensors of `file` on `threads` threads. `progress` is told the bytes of the file
    /// packed so far, and all of them.
    pub fn load(
        file: Arc<GgufFile>,
        config: &ModelConfig,
        threads: usize,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self, ModelError> {
        let total = file.manifest().tensors().iter().map(|tensor| tensor.byte_len).sum();
        let mut loader = Loader { file: &file, threads, done: 0, total, progress };
        let (hidden, vocabulary) = (config.hidden, config.vocabulary);
        let query = config.query_heads * config.head_dim;
        let kv = config.kv_heads * config.head_dim;
        // Small models tie the head to the embedding.
        let tied = file.manifest().tensor("output.weight").is_none();
        let head_name = if tied { "token_embd.weight" } else { "output.weight" };
        // The largest matrix first: while it is packed both its forms are in memory, and nothing
        // else should be.
        let head = loader.matrix(head_name, hidden, vocabulary)?;
        let head_tensor = loader.tensor(head_name, &[hidden, vocabulary])?.clone();
        let mut layers = Vec::with_capacity(config.layers);
        for index in 0..config.layers {
            let name = |part: &str| format!("blk.{index}.{part}");
            layers.push(Layer {
                attention: Attention {
                    norm: loader.vector(&name("attn_norm.weight"), hidden)?,
                    query: loader.linear(&name("attn_q"), hidden, query)?,
                    key: loader.linear(&name("attn_k"), hidden, kv)?,
                    value: loader.linear(&name("attn_v"), hidden, kv)?,
                    output: loader.linear(&name("attn_output"), query, hidden)?,
                },
                mlp: Mlp {
                    norm: loader.vector(&name("ffn_norm.weight"), hidden)?,
                    gate: loader.linear(&name("ffn_gate"), hidden, config.feed_forward)?,
                    up: loader.linear(&name("ffn_up"), hidden, config.feed_forward)?,
                    down: loader.linear(&name("ffn_down"), config.feed_forward, hidden)?,
                },
            });
        }
        let output_norm = loader.vector("output_norm.weight", hidden)?;
        let pairs = config.rope.dimensions / 2;
        let rope_factors = match file.manifest().tensor("rope_freqs.weight") {
            Some(_) => Some(loader.vector("rope_freqs.weight", pairs)?),
            None => None,
        };
        let embedding = loader.tensor("token_embd.weight", &[hidden, vocabulary])?.clone();
        let embedding_kind = weight_type(&embedding)?;
        Ok(Self {
            embedding,
            embedding_kind,
            layers,
            output_norm,
            head,
            head_tensor,
            rope_factors,
            file,
        })
    }

    /// Writes the embedding of a token, \[hidden\]. The token is below the vocabulary size.
    pub(super) fn embed(&self, token: TokenId, out: &mut [f32]) {
        let row_bytes = self.embedding_kind.row_bytes(out.len());
        let row = &self.file.bytes_of(&self.embedding)[token.index() * row_bytes..][..row_bytes];
        dequantize_row(self.embedding_kind, row, out);
    }

    /// Packs the rows of `tokens` of the head, which are below the vocabulary size, from the file.
    pub(super) fn pack_head_rows(
        &self,
        tokens: &[TokenId],
        threads: usize,
    ) -> Result<PackedMatrix, PackError> {
        let (kind, width) = (self.head.kind(), self.head.width());
        let row_bytes = kind.row_bytes(width);
        let rows = self.file.bytes_of(&self.head_tensor);
        let chosen: Vec<u8> = tokens
            .iter()
            .flat_map(|token| &rows[token.index() * row_bytes..][..row_bytes])
            .copied()
            .collect();
        PackedMatrix::pack(kind, tokens.len(), width, &chosen, threads)
    }

    /// Bytes that a pass over all layers and the whole head reads.
    pub fn bytes(&self) -> usize {
        (0..2 * self.layers.len()).map(|index| self.sublayer_bytes(index)).sum::<usize>()
            + self.head_bytes()
    }

    /// Bytes of one sublayer, 0 to 2 x layers - 1.
    pub fn sublayer_bytes(&self, index: usize) -> usize {
        let layer = &self.layers[index / 2];
        let bytes = |linears: &[&Linear]| linears.iter().map(|linear| linear.matrix.bytes()).sum();
        if index.is_multiple_of(2) {
            let attention = &layer.attention;
            bytes(&[&attention.query, &attention.key, &attention.value, &attention.output])
        } else {
            bytes(&[&layer.mlp.gate, &layer.mlp.up, &layer.mlp.down])
        }
    }

    /// Bytes of the head.
    pub fn head_bytes(&self) -> usize {
        self.head.bytes()
    }
}

// === impl Linear ===

impl Linear {
    /// The integer activations this product needs.
    pub(super) fn formats(&self) -> FormatSet {
        FormatSet::default().with(self.matrix.kind().activation_format())
    }
}

// === loading ===

struct Loader<'a> {
    file: &'a GgufFile,
    threads: usize,
    done: u64,
    total: u64,
    progress: &'a mut dyn FnMut(u64, u64),
}

impl<'a> Loader<'a> {
    fn tensor(&self, name: &str, dims: &[usize]) -> Result<&'a TensorInfo, ModelError> {
        let tensor = self
            .file
            .manifest()
            .tensor(name)
            .ok_or_else(|| ModelError::MissingTensor(name.to_owned()))?;
        let expected: Vec<u64> = dims.iter().map(|&dim| dim as u64).collect();
        if tensor.dims != expected {
            let found = tensor.dims.clone();
            return Err(ModelError::Shape { name: name.to_owned(), found, expected });
        }
        Ok(tensor)
    }

    fn finish(&mut self, tensor: &TensorInfo) {
        self.file.release(tensor);
        self.done += tensor.byte_len;
        (self.progress)(self.done, self.total);
    }

    fn vector(&mut self, name: &str, length: usize) -> Result<Vec<f32>, ModelError> {
        let tensor = self.tensor(name, &[length])?;
        let mut values = vec![0.0; length];
        dequantize_row(weight_type(tensor)?, self.file.bytes_of(tensor), &mut values);
        self.finish(tensor);
        Ok(values)
    }

    fn matrix(
        &mut self,
        name: &str,
        inputs: usize,
        outputs: usize,
    ) -> Result<PackedMatrix, ModelError> {
        let tensor = self.tensor(name, &[inputs, outputs])?;
        let bytes = self.file.bytes_of(tensor);
        let matrix = PackedMatrix::pack(weight_type(tensor)?, outputs, inputs, bytes, self.threads)
            .map_err(|source| ModelError::Pack { name: name.to_owned(), source })?;
        self.finish(tensor);
        Ok(matrix)
    }

    fn linear(&mut self, name: &str, inputs: usize, outputs: usize) -> Result<Linear, ModelError> {
        let matrix = self.matrix(&format!("{name}.weight"), inputs, outputs)?;
        let bias_name = format!("{name}.bias");
        let bias = match self.file.manifest().tensor(&bias_name) {
            Some(_) => Some(self.vector(&bias_name, outputs)?),
            None => None,
        };
        Ok(Linear { matrix, bias })
    }
}

fn weight_type(tensor: &TensorInfo) -> Result<WeightType, ModelError> {
    WeightType::from_name(tensor.kind.name()).ok_or_else(|| ModelError::WeightType {
        name: tensor.name.clone(),
        kind: tensor.kind.name().to_owned(),
        supported: WeightType::ALL.map(WeightType::name).join(", "),
    })
}
