//! Blocks: what a pass runs. A model is a list of them, one for each sublayer.

use super::blueprint::Activation;
use skipstone_kernels::{self as kernels, FormatSet, Isa, Out, PackedMatrix, Product};

/// A sublayer: `x -> x + residual_scale * post_norm(kind(norm(x)))`.
pub(super) struct Block {
    pub(super) norm: Norm,
    pub(super) kind: BlockKind,
    pub(super) post_norm: Option<Norm>,
    pub(super) residual_scale: Option<f32>,
}

/// The function of a block.
pub(super) enum BlockKind {
    Attention(Attention),
    Mlp(Mlp),
}

/// Attention to the keys and values of a stream.
pub(super) struct Attention {
    pub(super) query: Linear,
    pub(super) key: Linear,
    pub(super) value: Linear,
    pub(super) output: Linear,
    /// Norms of each head, \[head dim\], applied before queries and keys are turned.
    pub(super) query_norm: Option<Norm>,
    pub(super) key_norm: Option<Norm>,
    /// Index of the rotary embedding, if queries and keys are turned.
    pub(super) rope: Option<usize>,
    /// Positions that a row sees, its own among them, if not all before.
    pub(super) window: Option<usize>,
    /// Factor of the queries, which makes up for scores that are scaled otherwise than by
    /// 1 / sqrt(head dim).
    pub(super) query_scale: Option<f32>,
    /// The layer of the key/value pages that is this block's.
    pub(super) kv_layer: usize,
}

/// `down(activation(gate(x)) * up(x))`.
pub(super) struct Mlp {
    pub(super) gate: Linear,
    pub(super) up: Linear,
    pub(super) down: Linear,
    pub(super) activation: Activation,
}

/// A matrix and its bias.
pub(super) struct Linear {
    pub(super) matrix: PackedMatrix,
    pub(super) bias: Option<Vec<f32>>,
}

/// RMSNorm.
pub(super) struct Norm {
    pub(super) weight: Vec<f32>,
    pub(super) epsilon: f32,
}

// === impl Block ===

impl Block {
    /// The integer activations that its first products need.
    pub(super) fn input_formats(&self) -> FormatSet {
        match &self.kind {
            BlockKind::Attention(Attention { query, key, value, .. }) => {
                query.formats().union(key.formats()).union(value.formats())
            }
            BlockKind::Mlp(Mlp { gate, up, .. }) => gate.formats().union(up.formats()),
        }
    }

    /// The map whose result goes to the residual.
    pub(super) fn last(&self) -> &Linear {
        match &self.kind {
            BlockKind::Attention(attention) => &attention.output,
            BlockKind::Mlp(mlp) => &mlp.down,
        }
    }

    /// Bytes of its matrices.
    pub(super) fn bytes(&self) -> usize {
        let bytes = |linears: &[&Linear]| linears.iter().map(|linear| linear.matrix.bytes()).sum();
        match &self.kind {
            BlockKind::Attention(Attention { query, key, value, output, .. }) => {
                bytes(&[query, key, value, output])
            }
            BlockKind::Mlp(Mlp { gate, up, down, .. }) => bytes(&[gate, up, down]),
        }
    }
}

// === impl Linear ===

impl Linear {
    /// Elements of a row that comes out.
    pub(super) fn outputs(&self) -> usize {
        self.matrix.outputs()
    }

    /// The integer activations that this product needs.
    pub(super) fn formats(&self) -> FormatSet {
        FormatSet::default().with(self.matrix.kind().activation_format())
    }

    /// The product for `rows` rows, written to `out`.
    pub(super) fn product<'a>(&'a self, rows: usize, out: &'a mut [f32]) -> Product<'a> {
        Product { bias: self.bias.as_deref(), ..Product::all(&self.matrix, rows, out) }
    }

    /// The product, added to rows `rows` of `target`.
    pub(super) fn product_added<'a>(
        &'a self,
        target: &'a mut [f32],
        rows: &'a [usize],
    ) -> Product<'a> {
        let out = Out::Add { target, rows };
        Product {
            matrix: &self.matrix,
            tiles: None,
            rows: 0..rows.len(),
            bias: self.bias.as_deref(),
            out,
        }
    }
}

// === impl Norm ===

impl Norm {
    /// Elements of a row.
    pub(super) fn width(&self) -> usize {
        self.weight.len()
    }

    /// Writes the norm of one row to `out`.
    pub(super) fn apply(&self, isa: Isa, row: &[f32], out: &mut [f32]) {
        kernels::rms_norm(isa, row, &self.weight, self.epsilon, out);
    }
}
