//! A made-up machine.

use super::measure::deviations;
use super::{CURVE, CostModel, ModelSize, PARAMETERS, Vector};

/// Of a model of four layers.
pub(crate) const SIZE: ModelSize = ModelSize { sublayers: 8, head_bytes: 250, bytes: 1000 };

/// A plain step of 10 ms: attention .3, MLPs .4, head .25, rest .05.
pub(super) fn parameters() -> Vector {
    let mut parameters = [0.0; PARAMETERS];
    parameters[..CURVE].copy_from_slice(&[0.010_f64.ln(), 0.3, 0.4, 0.25, 0.05, 1e-3, 5e-4, 1.0]);
    let increments = [0.02, 0.08, 0.10, 0.10, 0.2, 0.1, 0.1, 0.4, 0.4, 1.6, 3.2, 6.4];
    parameters[CURVE..].copy_from_slice(&increments);
    parameters
}

pub(crate) fn model() -> CostModel {
    let parameters = parameters();
    CostModel::new(parameters, deviations(&parameters, usize::MAX, 0.05), SIZE)
}
