//! The stand-in while it is trained: variables, and what they compute on a sequence.

use candle_core::{Device, Tensor, Var};
use candle_nn::ops::{silu, softmax};

use super::TrainingError;
use super::target::{Shape, Target};
use skipstone_model::{StandInLayer, StandInWeights};

/// Share of the model's last layer that a fresh stand-in's last layer adds to the state: the map
/// before it already predicts what comes after.
const FRESH: f32 = 0.3;

/// The variables.
pub(super) struct Block {
    mix: Var,
    bias: Var,
    layers: Vec<Layer>,
}

struct Layer {
    attention_norm: Var,
    query: Var,
    key: Var,
    value: Var,
    query_bias: Option<Var>,
    key_bias: Option<Var>,
    value_bias: Option<Var>,
    output: Var,
    mlp_norm: Var,
    gate: Var,
    up: Var,
    down: Var,
}

/// A sequence as the block sees it.
pub(super) struct Input {
    /// Embeddings, \[tokens, hidden\].
    pub(super) entering: Tensor,
    /// The last state of the position before without its scale, \[tokens, hidden\]; zeros for the
    /// first.
    pub(super) features: Tensor,
    /// The first row whose successor is to be predicted.
    pub(super) first: usize,
}

/// Keys and values that a chain's steps made of one layer: the first step's for all positions, the
/// others' for those that it predicts from; each \[rows, kv heads, head dim\].
#[derive(Default)]
struct Cache {
    keys: Vec<Tensor>,
    values: Vec<Tensor>,
}

// === impl Block ===

impl Block {
    /// A fresh block: the given map into the state, and layers like the model's last one. Of two
    /// layers the first begins as the identity.
    pub(super) fn new(
        target: &Target<'_>,
        shape: Shape,
        mix: Vec<f32>,
        bias: Vec<f32>,
    ) -> Result<Self, TrainingError> {
        let like = target.like.clone().unwrap_or_default();
        let layer = |index: usize| {
            let keep = if index + 1 < shape.layers { 0.0 } else { FRESH };
            Layer::new(target, shape.mlp_width, &like, keep)
        };
        Ok(Self {
            mix: var(mix, (target.hidden, 2 * target.hidden))?,
            bias: var(bias, target.hidden)?,
            layers: (0..shape.layers).map(layer).collect::<Result<_, _>>()?,
        })
    }

    /// All variables, always in the same order.
    pub(super) fn variables(&self) -> Vec<Var> {
        let mut all = vec![self.mix.clone(), self.bias.clone()];
        for layer in &self.layers {
            let Layer { attention_norm, query, key, value, output, mlp_norm, .. } = layer;
            let Layer { gate, up, down, query_bias, key_bias, value_bias, .. } = layer;
            let always = [attention_norm, query, key, value, output, mlp_norm, gate, up, down];
            all.extend(always.map(Var::clone));
            all.extend([query_bias, key_bias, value_bias].into_iter().flatten().cloned());
        }
        all
    }

    /// The numbers, for a model whose `first_layer` layers run before.
    pub(super) fn weights(&self, first_layer: usize) -> Result<StandInWeights, TrainingError> {
        let layers = self.layers.iter().map(Layer::weights).collect::<Result<_, _>>()?;
        let (mix, bias) = (numbers(&self.mix)?, numbers(&self.bias)?);
        Ok(StandInWeights { first_layer, mix, bias, layers })
    }

    /// Predictions of the last state by a chain of `steps` steps. Those of step j are for the rows
    /// from `input.first` + j on, \[rows, hidden\]: of chains that began j positions before.
    pub(super) fn chain(
        &self,
        target: &Target<'_>,
        input: &Input,
        steps: usize,
    ) -> Result<Vec<Tensor>, TrainingError> {
        let (tokens, first) = (input.entering.dim(0)?, input.first);
        let mut caches: Vec<Cache> = self.layers.iter().map(|_| Cache::default()).collect();
        let mut predicted: Vec<Tensor> = Vec::with_capacity(steps);
        for step in 0..steps.min(tokens.saturating_sub(first)) {
            // The first step needs the keys of all positions, the others have them.
            let (start, features) = match predicted.last() {
                None => (0, input.features.clone()),
                Some(before) => {
                    let rows = tokens - first - step;
                    (first + step, target.unscaled(&before.narrow(0, 0, rows)?)?)
                }
            };
            let entering = input.entering.narrow(0, start, tokens - start)?;
            let both = Tensor::cat(&[entering, features], 1)?;
            let mut state = both.matmul(&self.mix.t()?)?.broadcast_add(&self.bias)?;
            for (index, (layer, cache)) in self.layers.iter().zip(&mut caches).enumerate() {
                let is_last = index + 1 == self.layers.len();
                let from = if is_last && step == 0 { first } else { start };
                state = layer.run(target, &state, (start, from), cache)?;
            }
            predicted.push(state);
        }
        Ok(predicted)
    }
}

// === impl Layer ===

impl Layer {
    fn new(
        target: &Target<'_>,
        width: usize,
        like: &StandInLayer,
        keep: f32,
    ) -> Result<Self, TrainingError> {
        let Target { hidden, query_heads, kv_heads, head_dim, .. } = *target;
        let (queries, keys) = (query_heads * head_dim, kv_heads * head_dim);
        let matrix = |numbers: &[f32], outputs: usize, inputs: usize, keep: f32| {
            var(fitted(numbers, outputs, inputs, keep), (outputs, inputs))
        };
        let norm = |weight: &[f32]| match weight.len() == hidden {
            true => var(weight.to_vec(), hidden),
            false => var(vec![1.0; hidden], hidden),
        };
        let bias = |numbers: &[f32]| match numbers.is_empty() {
            true => Ok(None),
            false => var(numbers.to_vec(), numbers.len()).map(Some),
        };
        Ok(Self {
            attention_norm: norm(&like.attention_norm)?,
            query: matrix(&like.query, queries, hidden, 1.0)?,
            key: matrix(&like.key, keys, hidden, 1.0)?,
            value: matrix(&like.value, keys, hidden, 1.0)?,
            query_bias: bias(&like.query_bias)?,
            key_bias: bias(&like.key_bias)?,
            value_bias: bias(&like.value_bias)?,
            output: matrix(&like.output, hidden, queries, keep)?,
            mlp_norm: norm(&like.mlp_norm)?,
            gate: matrix(&like.gate, width, hidden, 1.0)?,
            up: matrix(&like.up, width, hidden, 1.0)?,
            down: match like.down.len() {
                0 => matrix(&[], hidden, width, keep)?,
                _ => var(columns(&like.down, hidden, width, keep), (hidden, width))?,
            },
        })
    }

    fn weights(&self) -> Result<StandInLayer, TrainingError> {
        let optional = |bias: &Option<Var>| bias.as_ref().map_or(Ok(Vec::new()), numbers);
        Ok(StandInLayer {
            attention_norm: numbers(&self.attention_norm)?,
            query: numbers(&self.query)?,
            key: numbers(&self.key)?,
            value: numbers(&self.value)?,
            query_bias: optional(&self.query_bias)?,
            key_bias: optional(&self.key_bias)?,
            value_bias: optional(&self.value_bias)?,
            output: numbers(&self.output)?,
            mlp_norm: numbers(&self.mlp_norm)?,
            gate: numbers(&self.gate)?,
            up: numbers(&self.up)?,
            down: numbers(&self.down)?,
        })
    }

    /// Runs over states of the positions from `start` on; the result is for those from `from` on.
    /// Appends this step's keys and values to `cache`.
    fn run(
        &self,
        target: &Target<'_>,
        states: &Tensor,
        (start, from): (usize, usize),
        cache: &mut Cache,
    ) -> Result<Tensor, TrainingError> {
        let normed = target.unscaled(states)?.broadcast_mul(&self.attention_norm)?;
        let heads = |rows: &Tensor, matrix: &Var, bias: &Option<Var>, heads: usize| {
            let flat = rows.matmul(&matrix.t()?)?;
            let flat = bias.as_ref().map_or(Ok(flat.clone()), |bias| flat.broadcast_add(bias))?;
            flat.reshape((rows.dim(0)?, heads, target.head_dim))
        };
        let keys = heads(&normed, &self.key, &self.key_bias, target.kv_heads)?;
        cache.keys.push(target.turned(&keys, start)?);
        cache.values.push(heads(&normed, &self.value, &self.value_bias, target.kv_heads)?);
        let rows = states.dim(0)? + start - from;
        let later = |tensor: &Tensor| tensor.narrow(0, from - start, rows);
        let queries = heads(&later(&normed)?, &self.query, &self.query_bias, target.query_heads)?;
        let attended = attend(target, &target.turned(&queries, from)?, from, cache)?;
        let states = (later(states)? + attended.matmul(&self.output.t()?)?)?;
        let normed = target.unscaled(&states)?.broadcast_mul(&self.mlp_norm)?;
        let (gate, up) = (normed.matmul(&self.gate.t()?)?, normed.matmul(&self.up.t()?)?);
        Ok((states + (silu(&gate)? * up)?.matmul(&self.down.t()?)?)?)
    }
}

/// What queries, \[rows, query heads, head dim\], of rows from position `from` on look up in a
/// chain of as many steps as the cache has: the first step's keys up to where their chains began,
/// then one key of each later step. Returns \[rows, query heads x head dim\].
fn attend(
    target: &Target<'_>,
    queries: &Tensor,
    from: usize,
    cache: &Cache,
) -> Result<Tensor, TrainingError> {
    let Target { query_heads, kv_heads, head_dim, .. } = *target;
    let (rows, group) = (queries.dim(0)?, query_heads / kv_heads);
    let step = cache.keys.len() - 1;
    let by_head = |tensor: &Tensor| tensor.transpose(0, 1)?.contiguous();
    let queries = (by_head(queries)? * (head_dim as f64).powf(-0.5))?;
    let flat = queries.reshape((kv_heads, group * rows, head_dim))?;
    let (keys, values) = (by_head(&cache.keys[0])?, by_head(&cache.values[0])?);
    let positions = keys.dim(1)?;
    let scores = flat.matmul(&keys.transpose(1, 2)?)?;
    let mut scores =
        vec![scores.broadcast_add(&hidden_positions(rows, group, from - step, positions)?)?];
    // The chains' own keys: that of step i lies `step` - i positions before the query's.
    let own = |tensor: &Tensor| -> candle_core::Result<Tensor> {
        by_head(&tensor.narrow(0, 0, rows)?)?.unsqueeze(1)
    };
    let each = queries.reshape((kv_heads, group, rows, head_dim))?;
    for keys in &cache.keys[1..] {
        let score = each.broadcast_mul(&own(keys)?)?.sum_keepdim(3)?;
        scores.push(score.reshape((kv_heads, group * rows, 1))?);
    }
    let shares = softmax(&Tensor::cat(&scores, 2)?, 2)?;
    let mut found = shares.narrow(2, 0, positions)?.contiguous()?.matmul(&values)?;
    for (index, values) in cache.values[1..].iter().enumerate() {
        let share = shares.narrow(2, positions + index, 1)?;
        let share = share.reshape((kv_heads, group, rows, 1))?;
        let more = share.broadcast_mul(&own(values)?)?;
        found = (found + more.reshape((kv_heads, group * rows, head_dim))?)?;
    }
    let found = found.reshape((query_heads, rows, head_dim))?;
    Ok(found.transpose(0, 1)?.contiguous()?.reshape((rows, query_heads * head_dim))?)
}

/// Minus infinity where a row must not look, once for each head of a group, \[1, group x rows,
/// positions\]: row i sees the positions up to `last` + i.
fn hidden_positions(
    rows: usize,
    group: usize,
    last: usize,
    positions: usize,
) -> candle_core::Result<Tensor> {
    let row = |row: usize| {
        (0..positions).map(move |at| if at <= last + row { 0.0_f32 } else { f32::NEG_INFINITY })
    };
    let one: Vec<f32> = (0..rows).flat_map(row).collect();
    Tensor::from_vec(one.repeat(group), (1, group * rows, positions), &Device::Cpu)
}

/// `outputs` rows of `inputs` numbers, like those that are there as far as they go; small
/// irregular ones beyond.
fn fitted(like: &[f32], outputs: usize, inputs: usize, keep: f32) -> Vec<f32> {
    let scale = 0.5 * (inputs as f32).powf(-0.5);
    let noise = |index: usize| scale * (((index * 2_654_435_761) % 65_536) as f32 / 32_768.0 - 1.0);
    let known = like.iter().map(|number| keep * number).take(outputs * inputs);
    let beyond = (like.len()..outputs * inputs).map(|index| keep * noise(index));
    known.chain(beyond).collect()
}

/// The first `width` columns of a matrix of `outputs` rows, zeros beyond.
fn columns(like: &[f32], outputs: usize, width: usize, keep: f32) -> Vec<f32> {
    let rows = like.chunks_exact(like.len() / outputs);
    let row = |row: &[f32]| {
        let known: Vec<f32> = row.iter().take(width).map(|number| keep * number).collect();
        known.into_iter().chain(std::iter::repeat(0.0)).take(width).collect::<Vec<f32>>()
    };
    rows.flat_map(row).collect()
}

fn var(
    numbers: Vec<f32>,
    shape: impl candle_core::shape::ShapeWithOneHole,
) -> Result<Var, TrainingError> {
    Ok(Var::from_tensor(&Tensor::from_vec(numbers, shape, &Device::Cpu)?)?)
}

fn numbers(var: &Var) -> Result<Vec<f32>, TrainingError> {
    Ok(var.flatten_all()?.to_vec1()?)
}
