//! From the tensors of a file to blocks, by GGUF's naming of tensors.

use super::block::{Attention, Block, BlockKind, Linear, Mlp, Norm};
use super::blueprint::{AttentionBlueprint, ExitBlueprint, MlpBlueprint};
use super::config::ModelConfig;
use super::error::ModelError;
use super::rope::{Rope, RopeConfig};
use skipstone_gguf::{GgufFile, TensorInfo};
use skipstone_kernels::{PackedMatrix, WeightType, dequantize_row};

/// Reads tensors, checks their shapes, and gives the file's memory back.
pub(super) struct Loader<'a> {
    file: &'a GgufFile,
    config: &'a ModelConfig,
    threads: usize,
    done: u64,
    total: u64,
    progress: &'a mut dyn FnMut(u64, u64),
}

// === impl Loader ===

impl<'a> Loader<'a> {
    /// A loader that packs on `threads` threads; `progress` is told the bytes of the file packed so
    /// far, and all of them.
    pub(super) fn new(
        file: &'a GgufFile,
        config: &'a ModelConfig,
        threads: usize,
        progress: &'a mut dyn FnMut(u64, u64),
    ) -> Self {
        let total = file.manifest().tensors().iter().map(|tensor| tensor.byte_len).sum();
        Self { file, config, threads, done: 0, total, progress }
    }

    /// The attention block of a layer.
    pub(super) fn attention(
        &mut self,
        layer: usize,
        blueprint: &AttentionBlueprint,
    ) -> Result<Block, ModelError> {
        let &ModelConfig { hidden, query_heads, kv_heads, head_dim, .. } = self.config;
        let (query, kv) = (query_heads * head_dim, kv_heads * head_dim);
        let AttentionBlueprint { rope, has_head_norms, window, scale, ref exit } = *blueprint;
        let name = |part: &str| format!("blk.{layer}.{part}");
        Ok(Block {
            norm: self.norm(&name("attn_norm"), hidden)?,
            kind: BlockKind::Attention(Attention {
                query: self.linear(&name("attn_q"), hidden, query)?,
                key: self.linear(&name("attn_k"), hidden, kv)?,
                value: self.linear(&name("attn_v"), hidden, kv)?,
                output: self.linear(&name("attn_output"), query, hidden)?,
                query_norm: self.norm_if(has_head_norms, &name("attn_q_norm"), head_dim)?,
                key_norm: self.norm_if(has_head_norms, &name("attn_k_norm"), head_dim)?,
                rope,
                window,
                // The kernels scale scores by 1 / sqrt(head dim).
                query_scale: scale.map(|scale| scale * (head_dim as f32).sqrt()),
                kv_layer: layer,
            }),
            post_norm: self.post_norm(&name("post_attention_norm"), exit)?,
            residual_scale: exit.residual_scale,
        })
    }

    /// The MLP block of a layer.
    pub(super) fn mlp(
        &mut self,
        layer: usize,
        blueprint: &MlpBlueprint,
    ) -> Result<Block, ModelError> {
        let &ModelConfig { hidden, feed_forward, .. } = self.config;
        let MlpBlueprint { activation, ref exit } = *blueprint;
        let name = |part: &str| format!("blk.{layer}.{part}");
        Ok(Block {
            norm: self.norm(&name("ffn_norm"), hidden)?,
            kind: BlockKind::Mlp(Mlp {
                gate: self.linear(&name("ffn_gate"), hidden, feed_forward)?,
                up: self.linear(&name("ffn_up"), hidden, feed_forward)?,
                down: self.linear(&name("ffn_down"), feed_forward, hidden)?,
                activation,
            }),
            post_norm: self.post_norm(&name("post_ffw_norm"), exit)?,
            residual_scale: exit.residual_scale,
        })
    }

    /// A rotary embedding, with the divisors of its frequencies that the file may have.
    pub(super) fn rope(&mut self, config: &RopeConfig) -> Result<Rope, ModelError> {
        let factors = self.vector_if_there("rope_freqs.weight", config.pair_count())?;
        Ok(Rope::new(config, factors.as_deref()))
    }

    /// The norm `name`.weight.
    pub(super) fn norm(&mut self, name: &str, width: usize) -> Result<Norm, ModelError> {
        let weight = self.vector(&format!("{name}.weight"), width)?;
        Ok(Norm { weight, epsilon: self.config.norm_epsilon })
    }

    /// The matrix `name`, packed.
    pub(super) fn matrix(
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

    /// The tensor `name`, of this shape, fastest dimension first.
    pub(super) fn tensor(&self, name: &str, dims: &[usize]) -> Result<&'a TensorInfo, ModelError> {
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

    /// The matrix `name`.weight with the bias `name`.bias, if there is one.
    fn linear(&mut self, name: &str, inputs: usize, outputs: usize) -> Result<Linear, ModelError> {
        let matrix = self.matrix(&format!("{name}.weight"), inputs, outputs)?;
        let bias = self.vector_if_there(&format!("{name}.bias"), outputs)?;
        Ok(Linear { matrix, bias })
    }

    fn post_norm(&mut self, name: &str, exit: &ExitBlueprint) -> Result<Option<Norm>, ModelError> {
        self.norm_if(exit.has_post_norm, name, self.config.hidden)
    }

    fn norm_if(
        &mut self,
        is_wanted: bool,
        name: &str,
        width: usize,
    ) -> Result<Option<Norm>, ModelError> {
        is_wanted.then(|| self.norm(name, width)).transpose()
    }

    fn vector_if_there(
        &mut self,
        name: &str,
        length: usize,
    ) -> Result<Option<Vec<f32>>, ModelError> {
        let is_there = self.file.manifest().tensor(name).is_some();
        is_there.then(|| self.vector(name, length)).transpose()
    }

    fn vector(&mut self, name: &str, length: usize) -> Result<Vec<f32>, ModelError> {
        let tensor = self.tensor(name, &[length])?;
        let mut values = vec![0.0; length];
        dequantize_row(weight_type(tensor)?, self.file.bytes_of(tensor), &mut values);
        self.finish(tensor);
        Ok(values)
    }

    fn finish(&mut self, tensor: &TensorInfo) {
        self.file.release(tensor);
        self.done += tensor.byte_len;
        (self.progress)(self.done, self.total);
    }
}

/// The kernels' name of a tensor's type.
pub(super) fn weight_type(tensor: &TensorInfo) -> Result<WeightType, ModelError> {
    WeightType::from_name(tensor.kind.name()).ok_or_else(|| ModelError::WeightType {
        name: tensor.name.clone(),
        kind: tensor.kind.name().to_owned(),
        supported: WeightType::ALL.map(WeightType::name).join(", "),
    })
}
