//! A model's numbers as floats, for those who train something beside it.

use super::Model;
use super::block::{Attention, BlockKind, Linear, Mlp};
use super::ids::TokenId;
use super::stand_in::StandInLayer;
use super::sublayer::attention_of;
use skipstone_kernels::{RopePairs, dequantize_row};

/// The rotary embedding of a model's heads.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// The elements that turn together.
    pub pairs: RopePairs,
    /// Radians per position of each pair; elements beyond are not turned.
    pub frequencies: Vec<f64>,
}

// === impl Model ===

impl Model {
    /// Writes the embedding of a token, \[hidden\]: the state that enters the first layer.
    ///
    /// # Panics
    /// If the model has no such token.
    pub fn embedding(&self, token: TokenId, out: &mut [f32]) {
        self.weights.embed(token, out);
    }

    /// The norm before the head, \[hidden\].
    pub fn output_norm(&self) -> &[f32] {
        &self.weights.output_norm.weight
    }

    /// Rows of the head, \[tokens, hidden\].
    ///
    /// # Panics
    /// If the model has no such token.
    pub fn head_rows(&self, tokens: &[TokenId]) -> Vec<f32> {
        self.weights.head_rows(tokens, self.config.hidden)
    }

    /// The rotary embedding that a stand-in's heads are turned by.
    pub fn rotation(&self) -> Option<Rotation> {
        self.weights.ropes.first().map(|rope| rope.rotation())
    }

    /// The last layer, as far as a stand-in's layer can be like it; `None` if its matrices don't
    /// have names of their own in the file.
    pub fn last_layer(&self) -> Option<StandInLayer> {
        let layer = self.config.layers - 1;
        let first = attention_of(layer);
        let matrix = |part: &str| self.weights.floats(&format!("blk.{layer}.{part}.weight"));
        let bias = |linear: &Linear| linear.bias.clone().unwrap_or_default();
        let (attention_block, mlp_block) =
            (&self.weights.blocks[first], &self.weights.blocks[first + 1]);
        let (BlockKind::Attention(attention), BlockKind::Mlp(mlp)) =
            (&attention_block.kind, &mlp_block.kind)
        else {
            return None;
        };
        let Attention { query, key, value, output, .. } = attention;
        let Mlp { gate, up, down, .. } = mlp;
        let found = StandInLayer {
            attention_norm: attention_block.norm.weight.clone(),
            query: matrix("attn_q")?,
            key: matrix("attn_k")?,
            value: matrix("attn_v")?,
            query_bias: bias(query),
            key_bias: bias(key),
            value_bias: bias(value),
            output: matrix("attn_output")?,
            mlp_norm: mlp_block.norm.weight.clone(),
            gate: matrix("ffn_gate")?,
            up: matrix("ffn_up")?,
            down: matrix("ffn_down")?,
        };
        let fits = |numbers: &[f32], linear: &Linear| {
            numbers.len() == linear.matrix.outputs() * linear.matrix.width()
        };
        let all = [
            (&found.query, query),
            (&found.key, key),
            (&found.value, value),
            (&found.output, output),
            (&found.gate, gate),
            (&found.up, up),
            (&found.down, down),
        ];
        all.iter().all(|(numbers, linear)| fits(numbers, linear)).then_some(found)
    }
}

/// Rows of `width` weights of one type as floats.
pub(super) fn floats(kind: skipstone_kernels::WeightType, bytes: &[u8], width: usize) -> Vec<f32> {
    let rows = bytes.chunks_exact(kind.row_bytes(width));
    let mut numbers = vec![0.0; rows.len() * width];
    for (row, out) in rows.zip(numbers.chunks_exact_mut(width)) {
        dequantize_row(kind, row, out);
    }
    numbers
}
