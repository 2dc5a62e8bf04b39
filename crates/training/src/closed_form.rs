//! The warm start: the linear map from token and state before to the state that follows, by ridge
//! regression.

use candle_core::{Device, Tensor};
use faer::linalg::solvers::Solve;
use faer::{Mat, Side};

use super::TrainingError;

/// Ridge, as a share of the inputs' mean variance.
const RIDGE: f64 = 1e-3;

/// Sums over rows of inputs u and wanted outputs y, each row weighted.
pub(super) struct Sums {
    /// \[inputs, inputs\] and \[inputs, outputs\].
    products: (Vec<f64>, Vec<f64>),
    means: (Vec<f64>, Vec<f64>),
    weight: f64,
}

// === impl Sums ===

impl Sums {
    pub(super) fn new(inputs: usize, outputs: usize) -> Self {
        Self {
            products: (vec![0.0; inputs * inputs], vec![0.0; inputs * outputs]),
            means: (vec![0.0; inputs], vec![0.0; outputs]),
            weight: 0.0,
        }
    }

    /// Adds rows; states of any size weigh the same.
    pub(super) fn add(&mut self, inputs: &Tensor, outputs: &Tensor) -> Result<(), TrainingError> {
        let weights = outputs.sqr()?.mean_keepdim(1)?.recip()?;
        let weighted = inputs.broadcast_mul(&weights)?;
        let turned = weighted.t()?;
        let add = |sums: &mut Vec<f64>, found: Tensor| -> Result<(), TrainingError> {
            let found: Vec<f32> = found.flatten_all()?.to_vec1()?;
            sums.iter_mut().zip(found).for_each(|(sum, more)| *sum += f64::from(more));
            Ok(())
        };
        add(&mut self.products.0, turned.matmul(inputs)?)?;
        add(&mut self.products.1, turned.matmul(outputs)?)?;
        add(&mut self.means.0, weighted.sum(0)?)?;
        add(&mut self.means.1, outputs.broadcast_mul(&weights)?.sum(0)?)?;
        let all: f32 = weights.sum_all()?.to_scalar()?;
        self.weight += f64::from(all);
        Ok(())
    }

    /// The map, \[outputs, inputs\], and what is added to it, \[outputs\].
    pub(super) fn solve(self) -> Result<(Vec<f32>, Vec<f32>), TrainingError> {
        let Self { products: (squares, crossed), means: (inputs, outputs), weight } = self;
        let (width, height) = (inputs.len(), outputs.len());
        let mean = |sums: Vec<f64>| -> Vec<f64> { sums.iter().map(|sum| sum / weight).collect() };
        let (inputs, outputs) = (mean(inputs), mean(outputs));
        let covariance = |row: usize, column: usize| {
            squares[row * width + column] - weight * inputs[row] * inputs[column]
        };
        let trace: f64 = (0..width).map(|index| covariance(index, index)).sum();
        let ridge = RIDGE * trace / width as f64;
        let left = Mat::from_fn(width, width, |row, column| {
            covariance(row, column) + if row == column { ridge } else { 0.0 }
        });
        let right = Mat::from_fn(width, height, |row, column| {
            crossed[row * height + column] - weight * inputs[row] * outputs[column]
        });
        let factor = left.llt(Side::Lower).map_err(|_| TrainingError::Singular)?;
        let map = factor.solve(&right);
        let bias = (0..height).map(|output| {
            let mapped: f64 = (0..width).map(|input| inputs[input] * map[(input, output)]).sum();
            (outputs[output] - mapped) as f32
        });
        let bias: Vec<f32> = bias.collect();
        let turned = (0..height).flat_map(|output| (0..width).map(move |input| (input, output)));
        let map: Vec<f32> = turned.map(|place| map[place] as f32).collect();
        match map.iter().chain(&bias).all(|number| number.is_finite()) {
            true => Ok((map, bias)),
            false => Err(TrainingError::Singular),
        }
    }
}

/// Rows shifted by one: each gets what the one before has, the first zeros.
pub(super) fn shifted(rows: &Tensor) -> Result<Tensor, TrainingError> {
    let (count, width) = rows.dims2()?;
    let first = Tensor::zeros((1, width), rows.dtype(), &Device::Cpu)?;
    Ok(Tensor::cat(&[first, rows.narrow(0, 0, count - 1)?], 0)?)
}
