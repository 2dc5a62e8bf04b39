//! Stand-ins of random numbers.

use skipstone::model::{Model, StandInLayer, StandInWeights};

use super::weights::Random;

/// Shape of a stand-in.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub first_layer: usize,
    pub layers: usize,
    /// Of the MLPs.
    pub width: usize,
}

/// Numbers that keep states at about the model's scale.
pub fn weights(model: &Model, shape: Shape, random: &mut Random) -> StandInWeights {
    let Shape { first_layer, layers, width } = shape;
    let config = model.config();
    let hidden = config.hidden;
    let (queries, keys) = (config.query_heads * config.head_dim, config.kv_heads * config.head_dim);
    let mut matrix = |outputs: usize, inputs: usize, gain: f32| {
        random.floats(outputs * inputs, gain * (3.0 / inputs as f32).sqrt())
    };
    let mut layer = || {
        let norm = |numbers: Vec<f32>| numbers.iter().map(|number| 1.0 + number).collect();
        StandInLayer {
            attention_norm: norm(matrix(1, hidden, 1.0)),
            query: matrix(queries, hidden, 2.0),
            key: matrix(keys, hidden, 2.0),
            value: matrix(keys, hidden, 1.0),
            query_bias: matrix(1, queries, 1.0),
            key_bias: Vec::new(),
            value_bias: matrix(1, keys, 1.0),
            output: matrix(hidden, queries, 1.0),
            mlp_norm: norm(matrix(1, hidden, 1.0)),
            gate: matrix(width, hidden, 1.5),
            up: matrix(width, hidden, 1.5),
            down: matrix(hidden, width, 1.0),
        }
    };
    StandInWeights {
        first_layer,
        layers: (0..layers).map(|_| layer()).collect(),
        mix: matrix(hidden, 2 * hidden, 1.5),
        bias: matrix(1, hidden, 1.0),
    }
}
