//! AdamW (Loshchilov & Hutter, 2019), whose state can be kept in a file.

use std::collections::HashMap;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};

use super::TrainingError;

const DECAYS: (f64, f64) = (0.9, 0.95);
const EPSILON: f64 = 1e-8;

/// Share of a weight that a step of rate 1 takes away.
const WEIGHT_DECAY: f64 = 0.01;

/// Length that gradients are cut to.
const MAX_NORM: f64 = 1.0;

/// The variables with their moments.
pub(super) struct Optimizer {
    variables: Vec<Var>,
    first: Vec<Tensor>,
    second: Vec<Tensor>,
    steps: usize,
}

// === impl Optimizer ===

impl Optimizer {
    pub(super) fn new(variables: Vec<Var>) -> Result<Self, TrainingError> {
        let zeros = || variables.iter().map(|var| var.zeros_like()).collect::<Result<_, _>>();
        Ok(Self { first: zeros()?, second: zeros()?, variables, steps: 0 })
    }

    /// Steps made.
    pub(super) fn steps(&self) -> usize {
        self.steps
    }

    /// One step against the mean of `gradients`, each of which is a sum over examples that weigh
    /// `weight` in total.
    pub(super) fn step(
        &mut self,
        gradients: &[GradStore],
        weight: f64,
        rate: f64,
    ) -> Result<(), TrainingError> {
        let mut means = Vec::with_capacity(self.variables.len());
        let mut squares = 0.0;
        for variable in &self.variables {
            let mut sum = variable.zeros_like()?;
            for gradient in gradients.iter().filter_map(|store| store.get(variable)) {
                sum = (sum + gradient)?;
            }
            let mean = (sum / weight)?;
            squares += f64::from(mean.sqr()?.sum_all()?.to_scalar::<f32>()?);
            means.push(mean);
        }
        // A step that went astray teaches nothing.
        if !squares.is_finite() {
            return Ok(());
        }
        let cut = (MAX_NORM / squares.sqrt().max(f64::MIN_POSITIVE)).min(1.0);
        self.steps += 1;
        let debias = |decay: f64| 1.0 - decay.powi(self.steps as i32);
        let (debias_first, debias_second) = (debias(DECAYS.0), debias(DECAYS.1));
        let moments = self.first.iter_mut().zip(&mut self.second);
        for ((variable, mean), (first, second)) in self.variables.iter().zip(means).zip(moments) {
            let mean = (mean * cut)?;
            *first = ((&*first * DECAYS.0)? + (&mean * (1.0 - DECAYS.0))?)?;
            *second = ((&*second * DECAYS.1)? + (mean.sqr()? * (1.0 - DECAYS.1))?)?;
            let scale = ((&*second / debias_second)?.sqrt()? + EPSILON)?;
            let change = ((&*first * (rate / debias_first))? / scale)?;
            let kept = (variable.as_tensor() * (1.0 - rate * WEIGHT_DECAY))?;
            variable.set(&(kept - change)?)?;
        }
        Ok(())
    }

    /// All that goes on from here needs, by name.
    pub(super) fn state(&self) -> Result<HashMap<String, Tensor>, TrainingError> {
        let mut state = HashMap::new();
        for (index, variable) in self.variables.iter().enumerate() {
            state.insert(format!("weight.{index}"), variable.as_tensor().clone());
            state.insert(format!("first.{index}"), self.first[index].clone());
            state.insert(format!("second.{index}"), self.second[index].clone());
        }
        state.insert("steps".to_owned(), Tensor::new(self.steps as u32, &Device::Cpu)?);
        Ok(state)
    }

    /// Goes on from a kept state. Returns whether it fits; one that doesn't changes nothing.
    pub(super) fn resume(
        &mut self,
        state: &HashMap<String, Tensor>,
    ) -> Result<bool, TrainingError> {
        let part = |name: &str, index: usize| state.get(&format!("{name}.{index}"));
        let fits = |(index, variable): (usize, &Var)| {
            ["weight", "first", "second"].into_iter().all(|name| {
                part(name, index).is_some_and(|tensor| {
                    tensor.shape() == variable.shape() && tensor.dtype() == DType::F32
                })
            })
        };
        let steps = state.get("steps").and_then(|steps| steps.to_scalar::<u32>().ok());
        let (Some(steps), true) = (steps, self.variables.iter().enumerate().all(fits)) else {
            return Ok(false);
        };
        for (index, variable) in self.variables.iter().enumerate() {
            if let (Some(weight), Some(first), Some(second)) =
                (part("weight", index), part("first", index), part("second", index))
            {
                variable.set(weight)?;
                self.first[index] = first.clone();
                self.second[index] = second.clone();
            }
        }
        self.steps = steps as usize;
        Ok(true)
    }
}
