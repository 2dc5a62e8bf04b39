//! The blueprint of a model: the options of its blocks, drawn by an architecture before any weight
//! is read. An option that is absent costs the pass nothing, not even a multiplication by one.

use super::config::ModelConfig;
use super::rope::RopeConfig;

/// The parts that a model is made of.
#[derive(Clone)]
pub(super) struct Blueprint {
    pub(super) config: ModelConfig,
    /// The rotary embeddings that attention may refer to by index.
    pub(super) ropes: Vec<RopeConfig>,
    /// One for each layer of `config`.
    pub(super) layers: Vec<LayerBlueprint>,
    /// Factor of the embeddings.
    pub(super) embedding_scale: Option<f32>,
    /// Factor of the logits.
    pub(super) logit_scale: Option<f32>,
}

/// The two blocks of a layer.
#[derive(Clone)]
pub(super) struct LayerBlueprint {
    pub(super) attention: AttentionBlueprint,
    pub(super) mlp: MlpBlueprint,
}

/// An attention block. Its linear maps have the biases that the file has.
#[derive(Clone)]
pub(super) struct AttentionBlueprint {
    /// Index of its rotary embedding; `None` leaves queries and keys unturned.
    pub(super) rope: Option<usize>,
    /// Whether each head of queries and keys goes through a norm before it is turned.
    pub(super) has_head_norms: bool,
    /// Positions that a row sees, its own among them; `None` is all before.
    pub(super) window: Option<usize>,
    /// Factor of the scores; `None` is 1 / sqrt(head dim).
    pub(super) scale: Option<f32>,
    pub(super) exit: ExitBlueprint,
}

/// An MLP block. Its linear maps have the biases that the file has.
#[derive(Clone)]
pub(super) struct MlpBlueprint {
    pub(super) activation: Activation,
    pub(super) exit: ExitBlueprint,
}

/// The way of a block's result into the residual.
#[derive(Clone, Default)]
pub(super) struct ExitBlueprint {
    /// Whether the result goes through a norm of its own.
    pub(super) has_post_norm: bool,
    /// Factor of the result, after that norm.
    pub(super) residual_scale: Option<f32>,
}

/// The function that an MLP's gate goes through.
#[derive(Clone, Copy)]
pub(super) enum Activation {
    /// `x / (1 + exp(-x))`.
    Silu,
}

// === impl Blueprint ===

impl Blueprint {
    /// A model like Llama: all layers alike, one rotary embedding, no options.
    pub(super) fn plain(config: ModelConfig, rope: RopeConfig) -> Self {
        let layer = LayerBlueprint {
            attention: AttentionBlueprint {
                rope: Some(0),
                has_head_norms: false,
                window: None,
                scale: None,
                exit: ExitBlueprint::default(),
            },
            mlp: MlpBlueprint { activation: Activation::Silu, exit: ExitBlueprint::default() },
        };
        Self {
            layers: vec![layer; config.layers],
            config,
            ropes: vec![rope],
            embedding_scale: None,
            logit_scale: None,
        }
    }
}
