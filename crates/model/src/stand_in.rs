//! A stand-in: a small trained block that takes the place of a run of layers in a draft.
//!
//! It reads what is exact where the run begins and what the model knew one position before, and
//! predicts the model's last hidden state (after EAGLE, Li et al. 2024). Unlike a bridge it attends
//! to the text by keys and values of its own.

use std::ops::Range;

use half::f16;
use sha2::{Digest, Sha256};

use super::Model;
use super::block::{Attention, Block, BlockKind, Linear, Mlp, Norm};
use super::blueprint::Activation;
use super::config::ModelConfig;
use super::sublayer::{attention_of, sublayers};
use skipstone_kernels::{PackedMatrix, WeightType};

/// Layers of a stand-in at most: the pages have room for keys and values of so many.
pub const MAX_STAND_IN_LAYERS: usize = 2;

/// Type that the matrices are kept in.
const KIND: WeightType = WeightType::Q8_0;

/// `x, f -> layers(mix [x, f / rms(f)] + bias)`, in place of all sublayers from `span.start` on. x
/// is the state there and f the model's last hidden state at the position before: the true one, or
/// within a chain of drafts what the stand-in itself predicted. The result is its prediction of the
/// last hidden state at this position.
pub struct StandIn {
    span: Range<usize>,
    /// \[hidden, 2 hidden\] and \[hidden\].
    mix: Linear,
    /// Takes the scale out of f.
    feature_norm: Norm,
    /// Attention and MLP by turns.
    blocks: Vec<Block>,
    digest: [u8; 32],
}

/// The numbers of a stand-in. All matrices are \[outputs, inputs\].
#[derive(Clone, PartialEq, Debug)]
pub struct StandInWeights {
    /// Model layers that run before it.
    pub first_layer: usize,
    /// \[hidden, 2 hidden\].
    pub mix: Vec<f32>,
    /// \[hidden\].
    pub bias: Vec<f32>,
    /// Its layers, one or two.
    pub layers: Vec<StandInLayer>,
}

/// The numbers of one layer: heads and MLP as the model's own.
#[derive(Clone, PartialEq, Default, Debug)]
pub struct StandInLayer {
    /// \[hidden\].
    pub attention_norm: Vec<f32>,
    /// \[query heads x head dim, hidden\].
    pub query: Vec<f32>,
    /// \[kv heads x head dim, hidden\].
    pub key: Vec<f32>,
    /// \[kv heads x head dim, hidden\].
    pub value: Vec<f32>,
    /// \[query heads x head dim\]; empty for none.
    pub query_bias: Vec<f32>,
    /// \[kv heads x head dim\]; empty for none.
    pub key_bias: Vec<f32>,
    /// \[kv heads x head dim\]; empty for none.
    pub value_bias: Vec<f32>,
    /// \[hidden, query heads x head dim\].
    pub output: Vec<f32>,
    /// \[hidden\].
    pub mlp_norm: Vec<f32>,
    /// \[width of the MLP, hidden\].
    pub gate: Vec<f32>,
    /// \[width of the MLP, hidden\].
    pub up: Vec<f32>,
    /// \[hidden, width of the MLP\].
    pub down: Vec<f32>,
}

/// A reason why a stand-in is refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StandInError {
    /// It begins where the model has no layer that it could replace.
    #[error("a stand-in after layer {first_layer} of {layers} replaces nothing")]
    FirstLayer {
        /// Model layers before it.
        first_layer: usize,
        /// Layers of the model.
        layers: usize,
    },
    /// It has too few or too many layers.
    #[error("a stand-in has 1 to {MAX_STAND_IN_LAYERS} layers, not {0}")]
    Layers(usize),
    /// A part has another size than the model asks for.
    #[error("{part} of the stand-in has {found} numbers, not {expected}")]
    Shape {
        /// The part.
        part: &'static str,
        /// Numbers found.
        found: usize,
        /// Numbers expected.
        expected: usize,
    },
    /// Rows of this model can't be kept in blocks.
    #[error("a stand-in needs rows of a multiple of 32 numbers, and this model has {0}")]
    Width(usize),
    /// A number is infinite, not a number, or too large for half precision.
    #[error("the stand-in holds a number that half precision can't hold")]
    NotFinite,
}

// === impl StandIn ===

impl StandIn {
    /// Builds a stand-in for `model` from its numbers, which are kept in 8 bits.
    ///
    /// # Errors
    /// If sizes don't fit, or a number is not finite.
    pub fn new(
        model: &Model,
        weights: &StandInWeights,
        threads: usize,
    ) -> Result<Self, StandInError> {
        let config = model.config();
        weights.check(config)?;
        let mut hash = Sha256::new();
        hash.update((weights.first_layer as u64).to_le_bytes());
        for (_, numbers, _) in weights.parts(config) {
            numbers.iter().for_each(|number| hash.update(number.to_le_bytes()));
        }
        let hidden = config.hidden;
        let matrix = |numbers: &[f32], width: usize| pack(numbers, width, threads);
        let linear = |numbers: &[f32], width: usize| -> Result<Linear, StandInError> {
            Ok(Linear { matrix: matrix(numbers, width)?, bias: None })
        };
        let biased = |numbers: &[f32], bias: &[f32]| -> Result<Linear, StandInError> {
            let bias = (!bias.is_empty()).then(|| bias.to_vec());
            Ok(Linear { matrix: matrix(numbers, hidden)?, bias })
        };
        let norm = |weight: &[f32]| Norm { weight: weight.to_vec(), epsilon: config.norm_epsilon };
        let mut blocks = Vec::with_capacity(sublayers(weights.layers.len()));
        for (index, layer) in weights.layers.iter().enumerate() {
            let block = |norm, kind| Block { norm, kind, post_norm: None, residual_scale: None };
            blocks.push(block(
                norm(&layer.attention_norm),
                BlockKind::Attention(Attention {
                    query: biased(&layer.query, &layer.query_bias)?,
                    key: biased(&layer.key, &layer.key_bias)?,
                    value: biased(&layer.value, &layer.value_bias)?,
                    output: linear(&layer.output, config.query_heads * config.head_dim)?,
                    query_norm: None,
                    key_norm: None,
                    rope: Some(0),
                    window: None,
                    query_scale: None,
                    kv_layer: config.layers + index,
                }),
            ));
            blocks.push(block(
                norm(&layer.mlp_norm),
                BlockKind::Mlp(Mlp {
                    gate: linear(&layer.gate, hidden)?,
                    up: linear(&layer.up, hidden)?,
                    down: linear(&layer.down, layer.down.len() / hidden)?,
                    activation: Activation::Silu,
                }),
            ));
        }
        Ok(Self {
            span: attention_of(weights.first_layer)..config.sublayers(),
            mix: Linear {
                matrix: matrix(&weights.mix, 2 * hidden)?,
                bias: Some(weights.bias.clone()),
            },
            feature_norm: norm(&vec![1.0; hidden]),
            blocks,
            digest: hash.finalize().into(),
        })
    }

    /// The sublayers that it takes the place of.
    pub fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// Its layers.
    pub fn layers(&self) -> usize {
        self.blocks.len() / 2
    }

    /// SHA-256 of its numbers.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// Bytes that a pass reads.
    pub fn bytes(&self) -> usize {
        self.mix.matrix.bytes() + self.blocks.iter().map(Block::bytes).sum::<usize>()
    }

    /// Bytes of those that also rows take whose keys and values are wanted only.
    pub fn key_bytes(&self) -> usize {
        let last = self.blocks.len().saturating_sub(2);
        let before: usize = self.blocks[..last].iter().map(Block::bytes).sum();
        let keys = match self.blocks.get(last).map(|block| &block.kind) {
            Some(BlockKind::Attention(Attention { key, value, .. })) => {
                key.matrix.bytes() + value.matrix.bytes()
            }
            _ => 0,
        };
        self.mix.matrix.bytes() + before + keys
    }

    pub(super) fn mix(&self) -> &Linear {
        &self.mix
    }

    pub(super) fn feature_norm(&self) -> &Norm {
        &self.feature_norm
    }

    /// Its blocks before the last layer, the last layer's attention, and its MLP.
    pub(super) fn blocks(&self) -> (&[Block], &Block, &Block) {
        let (before, last) = self.blocks.split_at(self.blocks.len() - 2);
        (before, &last[0], &last[1])
    }
}

impl std::fmt::Debug for StandIn {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "StandIn({:?}, {} layers)", self.span, self.layers())
    }
}

// === impl StandInWeights ===

impl StandInWeights {
    /// Checks sizes and numbers against a model of these sizes.
    ///
    /// # Errors
    /// The first fault.
    pub fn check(&self, config: &ModelConfig) -> Result<(), StandInError> {
        let (first_layer, layers) = (self.first_layer, config.layers);
        if first_layer >= layers {
            return Err(StandInError::FirstLayer { first_layer, layers });
        }
        if !(1..=MAX_STAND_IN_LAYERS).contains(&self.layers.len()) {
            return Err(StandInError::Layers(self.layers.len()));
        }
        let widths = self.layers.iter().map(|layer| layer.down.len() / config.hidden.max(1));
        let heads = config.query_heads * config.head_dim;
        for width in [config.hidden, heads].into_iter().chain(widths) {
            if width == 0 || !width.is_multiple_of(KIND.block_len()) {
                return Err(StandInError::Width(width));
            }
        }
        for (part, numbers, expected) in self.parts(config) {
            if numbers.len() != expected {
                return Err(StandInError::Shape { part, found: numbers.len(), expected });
            }
            if !numbers.iter().all(|&number| f16::from_f32(number).is_finite()) {
                return Err(StandInError::NotFinite);
            }
        }
        Ok(())
    }

    /// Each part with its name, its numbers, and how many they should be.
    pub fn parts(&self, config: &ModelConfig) -> Vec<(&'static str, &[f32], usize)> {
        let ModelConfig { hidden, query_heads, kv_heads, head_dim, .. } = *config;
        let (queries, keys) = (query_heads * head_dim, kv_heads * head_dim);
        let mut parts: Vec<(&'static str, &[f32], usize)> =
            vec![("the mix", &self.mix, 2 * hidden * hidden), ("the bias", &self.bias, hidden)];
        for layer in &self.layers {
            let width = layer.down.len() / hidden.max(1);
            let bias = |numbers: &[f32], outputs| if numbers.is_empty() { 0 } else { outputs };
            parts.extend([
                ("the norm before attention", &layer.attention_norm[..], hidden),
                ("the query map", &layer.query[..], queries * hidden),
                ("the key map", &layer.key[..], keys * hidden),
                ("the value map", &layer.value[..], keys * hidden),
                ("the query bias", &layer.query_bias[..], bias(&layer.query_bias, queries)),
                ("the key bias", &layer.key_bias[..], bias(&layer.key_bias, keys)),
                ("the value bias", &layer.value_bias[..], bias(&layer.value_bias, keys)),
                ("the output map", &layer.output[..], queries * hidden),
                ("the norm before the MLP", &layer.mlp_norm[..], hidden),
                ("the gate", &layer.gate[..], width * hidden),
                ("the up map", &layer.up[..], width * hidden),
                ("the down map", &layer.down[..], width * hidden),
            ]);
        }
        parts
    }
}

// === impl StandInLayer ===

impl StandInLayer {
    /// All its numbers.
    pub fn numbers(&self) -> impl Iterator<Item = &f32> {
        let Self { attention_norm, query, key, value, query_bias, key_bias, .. } = self;
        let Self { value_bias, output, mlp_norm, gate, up, down, .. } = self;
        let attention = [attention_norm, query, key, value, query_bias, key_bias, value_bias];
        attention.into_iter().chain([output, mlp_norm, gate, up, down]).flatten()
    }
}

/// Blocks of 32 numbers as a scale and 8-bit integers, as a stand-in keeps them; numbers that were
/// kept so stay what they are. What is left over of the last block is dropped.
pub fn eight_bits(numbers: &[f32]) -> impl Iterator<Item = (f16, [i8; 32])> {
    numbers.as_chunks::<32>().0.iter().map(|block| {
        let most = block.iter().fold(0.0_f32, |most, number| most.max(number.abs()));
        let scale = f16::from_f32(most / 127.0);
        let inverse = if scale == f16::ZERO { 0.0 } else { scale.to_f32().recip() };
        (scale, block.map(|number| (number * inverse).round().clamp(-127.0, 127.0) as i8))
    })
}

/// Rows of `width` numbers in blocks of 8-bit integers with a half-precision scale each.
fn pack(numbers: &[f32], width: usize, threads: usize) -> Result<PackedMatrix, StandInError> {
    let mut bytes = Vec::with_capacity(KIND.row_bytes(width) * (numbers.len() / width));
    for (scale, codes) in eight_bits(numbers) {
        bytes.extend_from_slice(&scale.to_le_bytes());
        bytes.extend(codes.map(|code| code as u8));
    }
    PackedMatrix::pack(KIND, numbers.len() / width, width, &bytes, threads)
        .map_err(|_| StandInError::Width(width))
}
