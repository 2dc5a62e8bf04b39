//! The weights of a model: blocks of matrices packed for the kernels and vectors of floats, the
//! embedding left in the file.

use std::sync::Arc;

use super::block::{Block, Norm};
use super::blueprint::{Blueprint, LayerBlueprint};
use super::error::ModelError;
use super::floats::floats;
use super::ids::TokenId;
use super::loader::{Loader, weight_type};
use super::rope::Rope;
use super::sublayer::{SublayerKind, kind_of, layer_of, sublayers};
use skipstone_gguf::{GgufFile, TensorInfo};
use skipstone_kernels::{PackError, PackedMatrix, WeightType, dequantize_row};

/// Everything that a pass reads.
pub struct Weights {
    file: Arc<GgufFile>,
    embedding: TensorInfo,
    embedding_kind: WeightType,
    /// Factor of the embeddings.
    embedding_scale: Option<f32>,
    /// One for each sublayer, numbered as in [`super::sublayer`].
    pub(super) blocks: Vec<Block>,
    /// The rotary embeddings that blocks refer to.
    pub(super) ropes: Vec<Rope>,
    /// The norm before the head. A factor of the logits is in its weights: the head is linear.
    pub(super) output_norm: Norm,
    /// \[vocabulary, hidden\].
    pub(super) head: PackedMatrix,
    /// Place of the head in the file.
    head_tensor: TensorInfo,
}

// === impl Weights ===

impl Weights {
    /// Packs the tensors of `file` that `blueprint` asks for on `threads` threads. `progress` is
    /// told the bytes of the file packed so far, and all of them.
    pub(super) fn load(
        file: Arc<GgufFile>,
        blueprint: &Blueprint,
        threads: usize,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self, ModelError> {
        let (hidden, vocabulary) = (blueprint.config.hidden, blueprint.config.vocabulary);
        let mut loader = Loader::new(&file, &blueprint.config, threads, progress);
        // Small models tie the head to the embedding.
        let tied = file.manifest().tensor("output.weight").is_none();
        let head_name = if tied { "token_embd.weight" } else { "output.weight" };
        // The largest matrix first: while it is packed both its forms are in memory, and nothing
        // else should be.
        let head = loader.matrix(head_name, hidden, vocabulary)?;
        let head_tensor = loader.tensor(head_name, &[hidden, vocabulary])?.clone();
        let mut blocks = Vec::with_capacity(sublayers(blueprint.layers.len()));
        for sublayer in 0..sublayers(blueprint.layers.len()) {
            let layer = layer_of(sublayer);
            let LayerBlueprint { attention, mlp } = &blueprint.layers[layer];
            blocks.push(match kind_of(sublayer) {
                SublayerKind::Attention => loader.attention(layer, attention)?,
                SublayerKind::Mlp => loader.mlp(layer, mlp)?,
            });
        }
        let mut output_norm = loader.norm("output_norm", hidden)?;
        if let Some(scale) = blueprint.logit_scale {
            output_norm.weight.iter_mut().for_each(|weight| *weight *= scale);
        }
        let ropes =
            blueprint.ropes.iter().map(|rope| loader.rope(rope)).collect::<Result<_, _>>()?;
        let embedding = loader.tensor("token_embd.weight", &[hidden, vocabulary])?.clone();
        let embedding_kind = weight_type(&embedding)?;
        Ok(Self {
            embedding,
            embedding_kind,
            embedding_scale: blueprint.embedding_scale,
            blocks,
            ropes,
            output_norm,
            head,
            head_tensor,
            file,
        })
    }

    /// Writes the embedding of a token, \[hidden\]. The token is below the vocabulary size.
    pub(super) fn embed(&self, token: TokenId, out: &mut [f32]) {
        let row_bytes = self.embedding_kind.row_bytes(out.len());
        let row = &self.file.bytes_of(&self.embedding)[token.index() * row_bytes..][..row_bytes];
        dequantize_row(self.embedding_kind, row, out);
        if let Some(scale) = self.embedding_scale {
            out.iter_mut().for_each(|value| *value *= scale);
        }
    }

    /// Packs the rows of `tokens` of the head, which are below the vocabulary size, from the file.
    pub(super) fn pack_head_rows(
        &self,
        tokens: &[TokenId],
        threads: usize,
    ) -> Result<PackedMatrix, PackError> {
        let (kind, width) = (self.head.kind(), self.head.width());
        PackedMatrix::pack(kind, tokens.len(), width, &self.chosen_head_rows(tokens), threads)
    }

    /// The same rows as floats, \[tokens, `width`\].
    pub(super) fn head_rows(&self, tokens: &[TokenId], width: usize) -> Vec<f32> {
        floats(self.head.kind(), &self.chosen_head_rows(tokens), width)
    }

    /// The same rows as they lie in the file.
    fn chosen_head_rows(&self, tokens: &[TokenId]) -> Vec<u8> {
        let row_bytes = self.head.kind().row_bytes(self.head.width());
        let rows = self.file.bytes_of(&self.head_tensor);
        let chosen =
            tokens.iter().flat_map(|token| &rows[token.index() * row_bytes..][..row_bytes]);
        chosen.copied().collect()
    }

    /// The matrix `name` of the file as floats.
    pub(super) fn floats(&self, name: &str) -> Option<Vec<f32>> {
        let tensor = self.file.manifest().tensor(name)?;
        let width = usize::try_from(*tensor.dims.first()?).ok()?;
        Some(floats(weight_type(tensor).ok()?, self.file.bytes_of(tensor), width))
    }

    /// Bytes that a pass over all layers and the whole head reads.
    pub fn bytes(&self) -> usize {
        self.blocks.iter().map(Block::bytes).sum::<usize>() + self.head_bytes()
    }

    /// Bytes of one sublayer, numbered as in [`super::sublayer`].
    pub fn sublayer_bytes(&self, index: usize) -> usize {
        self.blocks[index].bytes()
    }

    /// Bytes of the head.
    pub fn head_bytes(&self) -> usize {
        self.head.bytes()
    }
}
