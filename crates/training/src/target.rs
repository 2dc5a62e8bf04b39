//! The model that a stand-in is trained for, as tensors.

use candle_core::{Device, Tensor};

use super::TrainingError;
use skipstone_kernels::RopePairs;
use skipstone_model::{Model, Rotation, StandInLayer, TokenId};

/// Shape of a stand-in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Its layers, one or two.
    pub layers: usize,
    /// Width of its MLPs; a multiple of 32.
    pub mlp_width: usize,
}

/// What training needs of a model.
pub struct Target<'a> {
    pub(super) model: &'a Model,
    pub(super) hidden: usize,
    pub(super) query_heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    pub(super) epsilon: f64,
    /// \[hidden\].
    pub(super) output_norm: Tensor,
    /// Rows of the head for the draft vocabulary, \[tokens, hidden\].
    pub(super) head: Tensor,
    /// Its tokens.
    pub(super) vocabulary: Vec<TokenId>,
    /// What the layers start from.
    pub(super) like: Option<StandInLayer>,
    rotation: Option<Rotation>,
}

// === impl Target ===

impl<'a> Target<'a> {
    /// A model and the draft vocabulary that its stand-in is trained to predict.
    ///
    /// # Errors
    /// If there is too little memory.
    pub fn new(model: &'a Model, vocabulary: Vec<TokenId>) -> Result<Self, TrainingError> {
        let config = model.config();
        let (hidden, tokens) = (config.hidden, vocabulary.len());
        Ok(Self {
            model,
            hidden,
            query_heads: config.query_heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            epsilon: f64::from(config.norm_epsilon),
            output_norm: Tensor::new(model.output_norm(), &Device::Cpu)?,
            head: Tensor::from_vec(model.head_rows(&vocabulary), (tokens, hidden), &Device::Cpu)?,
            vocabulary,
            like: model.last_layer(),
            rotation: model.rotation(),
        })
    }

    /// Embeddings of tokens, \[tokens, hidden\].
    pub(super) fn embeddings(&self, tokens: &[TokenId]) -> Result<Tensor, TrainingError> {
        let mut numbers = vec![0.0; tokens.len() * self.hidden];
        for (&token, out) in tokens.iter().zip(numbers.chunks_exact_mut(self.hidden)) {
            self.model.embedding(token, out);
        }
        Ok(Tensor::from_vec(numbers, (tokens.len(), self.hidden), &Device::Cpu)?)
    }

    /// x / rms(x), row by row.
    pub(super) fn unscaled(&self, rows: &Tensor) -> Result<Tensor, TrainingError> {
        let mean = rows.sqr()?.mean_keepdim(1)?;
        Ok(rows.broadcast_mul(&(mean + self.epsilon)?.powf(-0.5)?)?)
    }

    /// What goes into the head.
    pub(super) fn normed(&self, states: &Tensor) -> Result<Tensor, TrainingError> {
        Ok(self.unscaled(states)?.broadcast_mul(&self.output_norm)?)
    }

    /// Turns heads, \[rows, heads, head dim\], of rows that follow each other from `position` on.
    pub(super) fn turned(&self, heads: &Tensor, position: usize) -> Result<Tensor, TrainingError> {
        let Some(Rotation { pairs, frequencies }) = &self.rotation else {
            return Ok(heads.clone());
        };
        let (rows, count, dim) = heads.dims3()?;
        let turning = frequencies.len();
        let angles: Vec<f32> = (position..position + rows)
            .flat_map(|at| frequencies.iter().map(move |frequency| (at as f64 * frequency) as f32))
            .collect();
        let shape = match pairs {
            RopePairs::Adjacent => (rows, 1, turning, 1),
            RopePairs::Halves => (rows, 1, 1, turning),
        };
        let angles = Tensor::from_vec(angles, shape, &Device::Cpu)?;
        let (cosines, sines) = (angles.cos()?, angles.sin()?);
        let turned = heads.narrow(2, 0, 2 * turning)?;
        let (turned, along) = match pairs {
            RopePairs::Adjacent => (turned.reshape((rows, count, turning, 2))?, 3),
            RopePairs::Halves => (turned.reshape((rows, count, 2, turning))?, 2),
        };
        let (a, b) = (turned.narrow(along, 0, 1)?, turned.narrow(along, 1, 1)?);
        let first = (a.broadcast_mul(&cosines)? - b.broadcast_mul(&sines)?)?;
        let second = (a.broadcast_mul(&sines)? + b.broadcast_mul(&cosines)?)?;
        let turned = Tensor::cat(&[first, second], along)?.reshape((rows, count, 2 * turning))?;
        match dim - 2 * turning {
            0 => Ok(turned),
            rest => Ok(Tensor::cat(&[turned, heads.narrow(2, 2 * turning, rest)?], 2)?),
        }
    }
}
