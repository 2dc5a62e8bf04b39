//! A Gaussian process over the unit cube: what a costly function is likely to be where it was not
//! tried yet.

use faer::linalg::solvers::{Llt, Solve};
use faer::linalg::triangular_solve::solve_lower_triangular_in_place;
use faer::{Mat, Par, Side};

/// Noise of an observation, as a variance relative to that of all observations: what SWIFT sets.
const NOISE: f64 = 1e-2;
/// Length scales that are tried, as powers of two: from a tenth of the cube's edge to far beyond
/// its diagonal.
const LENGTH_SCALE_EXPONENTS: std::ops::RangeInclusive<i32> = -3..=7;

/// A fitted process: Matern 5/2 kernel of unit variance, observations brought to zero mean and unit
/// variance, length scale by the greatest marginal likelihood (Rasmussen and Williams, "Gaussian
/// Processes for Machine Learning", sections 2.2 and 5.4).
pub(super) struct GaussianProcess<'a> {
    points: &'a [Vec<f64>],
    length_scale: f64,
    factor: Llt<f64>,
    /// Inverse covariance x observations.
    weights: Vec<f64>,
    mean: f64,
    deviation: f64,
}

// === impl GaussianProcess ===

impl<'a> GaussianProcess<'a> {
    /// Fits `values` at `points`, one each. `None` for no points or values that are not numbers.
    pub(super) fn fit(points: &'a [Vec<f64>], values: &[f64]) -> Option<Self> {
        if points.is_empty()
            || points.len() != values.len()
            || !values.iter().all(|value| value.is_finite())
        {
            return None;
        }
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
        let deviation = if variance > 0.0 { variance.sqrt() } else { 1.0 };
        let normed: Vec<f64> = values.iter().map(|value| (value - mean) / deviation).collect();
        let distances = Mat::from_fn(points.len(), points.len(), |row, column| {
            distance(&points[row], &points[column])
        });
        let fits = LENGTH_SCALE_EXPONENTS.filter_map(|exponent| {
            let length_scale = f64::from(exponent).exp2();
            let covariance = Mat::from_fn(points.len(), points.len(), |row, column| {
                let noise = if row == column { NOISE } else { 0.0 };
                matern(distances[(row, column)] / length_scale) + noise
            });
            let factor = Llt::new(covariance.as_ref(), Side::Lower).ok()?;
            let solved = factor.solve(column(&normed));
            let weights: Vec<f64> = solved.col(0).iter().copied().collect();
            // Half of that of the covariance, which is the factor's square.
            let log_determinant =
                (0..points.len()).map(|index| factor.L()[(index, index)].ln()).sum::<f64>();
            let log_likelihood = -0.5 * dot(&normed, &weights) - log_determinant;
            Some((log_likelihood, Self { points, length_scale, factor, weights, mean, deviation }))
        });
        fits.max_by(|(left, _), (right, _)| left.total_cmp(right)).map(|(_, fit)| fit)
    }

    /// Mean and standard deviation of the function at `point`, in the units of the values.
    pub(super) fn predict(&self, point: &[f64]) -> (f64, f64) {
        let covariance = |other: &Vec<f64>| matern(distance(point, other) / self.length_scale);
        let covariances: Vec<f64> = self.points.iter().map(covariance).collect();
        let mean = dot(&covariances, &self.weights);
        let mut solved = column(&covariances);
        solve_lower_triangular_in_place(self.factor.L(), solved.as_mut(), Par::Seq);
        let variance = (1.0 - solved.squared_norm_l2()).max(0.0);
        (self.mean + self.deviation * mean, self.deviation * variance.sqrt())
    }
}

fn column(values: &[f64]) -> Mat<f64> {
    Mat::from_fn(values.len(), 1, |row, _| values[row])
}

fn dot(left: &[f64], right: &[f64]) -> f64 {
    left.iter().zip(right).map(|(left, right)| left * right).sum()
}

fn distance(left: &[f64], right: &[f64]) -> f64 {
    left.iter().zip(right).map(|(left, right)| (left - right).powi(2)).sum::<f64>().sqrt()
}

/// The Matern kernel of smoothness 5/2 at a distance in length scales.
fn matern(distance: f64) -> f64 {
    let scaled = 5.0_f64.sqrt() * distance;
    (1.0 + scaled + scaled * scaled / 3.0) * (-scaled).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_has_its_closed_form_s_values() {
        // (1 + sqrt(5) + 5/3) exp(-sqrt(5)) at one length scale.
        for (distance, expected) in [(0.0, 1.0), (1.0, 0.523_994), (2.0, 0.138_660), (20.0, 0.0)] {
            assert!((matern(distance) - expected).abs() < 1e-4, "{distance}: {}", matern(distance));
        }
    }

    #[test]
    fn it_follows_what_it_saw_and_doubts_what_it_did_not() {
        let points: Vec<Vec<f64>> = (0..=10).map(|step| vec![f64::from(step) / 10.0]).collect();
        let value = |x: f64| 3.0 + (3.0 * x).sin();
        let values: Vec<f64> = points.iter().map(|point| value(point[0])).collect();
        let process = GaussianProcess::fit(&points, &values).unwrap();
        for x in [0.0, 0.25, 0.55, 1.0] {
            let (mean, deviation) = process.predict(&[x]);
            assert!((mean - value(x)).abs() < 0.1, "{x}: {mean}, not {}", value(x));
            assert!(deviation < 0.1, "{x}: {deviation}");
        }
        let (near, far) = (process.predict(&[0.5]).1, process.predict(&[8.0]).1);
        assert!(far > 3.0 * near, "{near} {far}");
    }

    #[test]
    fn senseless_observations_are_refused_and_equal_ones_are_not() {
        let points = vec![vec![0.0], vec![1.0]];
        assert!(GaussianProcess::fit(&[], &[]).is_none());
        assert!(GaussianProcess::fit(&points, &[1.0]).is_none());
        assert!(GaussianProcess::fit(&points, &[1.0, f64::NAN]).is_none());
        let (mean, _) = GaussianProcess::fit(&points, &[0.5, 0.5]).unwrap().predict(&[0.3]);
        assert!((mean - 0.5).abs() < 1e-9, "{mean}");
    }
}
