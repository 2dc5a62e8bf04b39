//! Bridges in closed form: reduced-rank ridge regression on [`Moments`].

use faer::linalg::solvers::Solve;
use faer::{Mat, MatRef, Side};

use super::moments::Moments;

/// The numbers of a bridge: x becomes x + bias + up · (down · [x, f]), f being the feature of the
/// position before. Rank 0, with `down` and `up` empty, is the bias bridge.
#[derive(Clone, PartialEq, Debug)]
pub struct BridgeWeights {
    /// \[hidden\].
    pub bias: Vec<f32>,
    /// \[rank, 2 hidden\], row-major.
    pub down: Vec<f32>,
    /// \[hidden, rank\], row-major.
    pub up: Vec<f32>,
}

/// Moments solved for one ridge, to be cut to any rank.
///
/// The full map W solves (G + Λ) W = C, with the centred Gram matrix G, cross moments C, and in the
/// diagonal Λ one number for states and one for features. Of all maps of rank r the best for the
/// same ridge objective is W V Vᵀ, where V holds the r leading eigenvectors of Cᵀ W, the second
/// moments of the predictions (Mukherjee and Zhu, "Reduced rank ridge regression and its kernel
/// extensions", 2011). Centred, so that a larger Λ leads to the bias bridge.
pub struct BridgeFit {
    mean_input: Vec<f64>,
    mean_change: Vec<f64>,
    /// W, \[inputs, changes\].
    map: Mat<f64>,
    /// Eigenvectors in columns, by ascending eigenvalue.
    directions: Mat<f64>,
}

/// A reason why moments can't be solved.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum BridgeFitError {
    /// There are no pairs, or all of them decayed.
    #[error("there is nothing to fit a bridge to: no pairs of hidden states were observed")]
    NoPairs,
    /// Without a ridge few pairs have no unique solution.
    #[error("ridge {0} is not a number above 0; 0.1 is a good start")]
    Ridge(f64),
    /// The moments hold numbers that no finite states can give.
    #[error("the moments can't be solved ({0}); observe them anew")]
    Singular(&'static str),
}

// === impl BridgeWeights ===

impl BridgeWeights {
    /// The bridge that adds the mean change.
    ///
    /// # Errors
    /// [`BridgeFitError::NoPairs`].
    pub fn bias_of(moments: &Moments) -> Result<Self, BridgeFitError> {
        if moments.weight() <= 0.0 {
            return Err(BridgeFitError::NoPairs);
        }
        let bias = moments.mean_change().iter().map(|&value| value as f32).collect();
        Ok(Self { bias, down: Vec::new(), up: Vec::new() })
    }

    /// Rows of `down`.
    pub fn rank(&self) -> usize {
        self.up.len() / self.bias.len().max(1)
    }

    /// The bridged state of a row of `inputs`, \[2 hidden\]: a state and a feature.
    #[cfg(test)]
    fn apply(&self, inputs: &[f32]) -> Vec<f32> {
        let rank = self.rank();
        let row_of =
            |row: &[f32]| row.iter().zip(inputs).map(|(weight, value)| weight * value).sum();
        let inner: Vec<f32> = self.down.chunks_exact(inputs.len()).map(row_of).collect();
        let states = inputs.iter().zip(&self.bias).enumerate();
        let bridged = states.map(|(index, (value, bias))| {
            let row = &self.up[index * rank..(index + 1) * rank];
            value + bias + row.iter().zip(&inner).map(|(weight, inner)| weight * inner).sum::<f32>()
        });
        bridged.collect()
    }
}

// === impl BridgeFit ===

impl BridgeFit {
    /// Solves for the full map. `ridge` is relative to the mean diagonal element of the Gram
    /// matrix, of states and of features each.
    ///
    /// # Errors
    /// If there are no pairs, the ridge is not above 0, or the moments are damaged.
    pub fn new(moments: &Moments, ridge: f64) -> Result<Self, BridgeFitError> {
        if !(ridge > 0.0 && ridge.is_finite()) {
            return Err(BridgeFitError::Ridge(ridge));
        }
        if moments.weight() <= 0.0 {
            return Err(BridgeFitError::NoPairs);
        }
        let hidden = moments.hidden();
        let gram = MatRef::from_column_major_slice(moments.gram(), 2 * hidden, 2 * hidden);
        let ridges = [0..hidden, hidden..2 * hidden].map(|block| {
            let mean =
                block.map(|index| f64::from(gram[(index, index)])).sum::<f64>() / hidden as f64;
            // One pair alone has no spread: any positive number makes its map zero and leaves the
            // bias.
            ridge * if mean > 0.0 { mean } else { 1.0 }
        });
        let cholesky = {
            let ridged = Mat::from_fn(2 * hidden, 2 * hidden, |row, column| {
                let (low, high) = (row.max(column), row.min(column));
                f64::from(gram[(low, high)])
                    + if row == column { ridges[row / hidden] } else { 0.0 }
            });
            ridged.llt(Side::Lower).map_err(|_| BridgeFitError::Singular("no Cholesky factor"))?
        };
        let cross = MatRef::from_column_major_slice(moments.cross(), 2 * hidden, hidden);
        let cross = Mat::from_fn(2 * hidden, hidden, |row, column| f64::from(cross[(row, column)]));
        let mut map = cross.clone();
        cholesky.solve_in_place(&mut map);
        drop(cholesky);
        let predictions = cross.transpose() * &map;
        let directions = predictions
            .self_adjoint_eigen(Side::Lower)
            .map_err(|_| BridgeFitError::Singular("no eigenvectors"))?
            .U()
            .to_owned();
        let finite = |matrix: &Mat<f64>| {
            matrix.col_iter().all(|column| column.iter().all(|value| value.is_finite()))
        };
        if !(finite(&map) && finite(&directions)) {
            return Err(BridgeFitError::Singular("values that are not finite"));
        }
        let (mean_input, mean_change) =
            (moments.mean_input().to_vec(), moments.mean_change().to_vec());
        Ok(Self { mean_input, mean_change, map, directions })
    }

    /// The best bridge of `rank`, or of the full rank if that is less.
    pub fn bridge(&self, rank: usize) -> BridgeWeights {
        let (inputs, hidden) = (self.mean_input.len(), self.mean_change.len());
        let rank = rank.min(hidden);
        let leading = self.directions.get(.., hidden - rank..);
        // [inputs, rank]
        let down = &self.map * leading;
        let mean_inner: Vec<f64> = (0..rank)
            .map(|column| {
                self.mean_input
                    .iter()
                    .enumerate()
                    .map(|(row, mean)| mean * down[(row, column)])
                    .sum()
            })
            .collect();
        let bias = self.mean_change.iter().enumerate().map(|(row, mean)| {
            let mapped: f64 = mean_inner
                .iter()
                .enumerate()
                .map(|(column, inner)| leading[(row, column)] * inner)
                .sum();
            (mean - mapped) as f32
        });
        BridgeWeights {
            bias: bias.collect(),
            down: (0..rank * inputs).map(|at| down[(at % inputs, at / inputs)] as f32).collect(),
            up: (0..rank * hidden).map(|at| leading[(at / rank, at % rank)] as f32).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HIDDEN: usize = 12;
    const INPUTS: usize = 2 * HIDDEN;

    /// Uniform numbers in -1..1.
    struct Noise(u64);

    impl Noise {
        fn next(&mut self) -> f32 {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
        }

        fn vector(&mut self, length: usize) -> Vec<f32> {
            (0..length).map(|_| self.next()).collect()
        }
    }

    fn random_bridge(noise: &mut Noise, rank: usize) -> BridgeWeights {
        BridgeWeights {
            bias: noise.vector(HIDDEN),
            down: noise.vector(rank * INPUTS),
            up: noise.vector(HIDDEN * rank),
        }
    }

    /// Inputs of `bridge` and the states after it, with noise on the latter.
    fn data(
        noise: &mut Noise,
        bridge: &BridgeWeights,
        rows: usize,
        disorder: f32,
    ) -> (Vec<f32>, Vec<f32>) {
        let inputs: Vec<f32> =
            (0..rows * INPUTS).map(|at| 3.0 * noise.next() + (at % HIDDEN) as f32).collect();
        let mut after: Vec<f32> =
            inputs.chunks(INPUTS).flat_map(|inputs| bridge.apply(inputs)).collect();
        after.iter_mut().for_each(|value| *value += disorder * noise.next());
        (inputs, after)
    }

    fn moments(before: &[f32], after: &[f32]) -> Moments {
        let mut moments = Moments::new(HIDDEN);
        moments.observe(before, after);
        moments
    }

    /// Weighted mean square of what the bridge gets wrong.
    fn loss(bridge: &BridgeWeights, before: &[f32], after: &[f32]) -> f64 {
        let (mut sum, mut total) = (0.0, 0.0);
        for (before, after) in before.chunks(INPUTS).zip(after.chunks(HIDDEN)) {
            let state = bridge.apply(before);
            let square = |(a, b): (&f32, &f32)| f64::from(a - b).powi(2);
            let change: f64 = before.iter().zip(after).map(square).sum();
            let weight = (HIDDEN as f64 / change).sqrt();
            sum += weight * state.iter().zip(after).map(square).sum::<f64>();
            total += weight;
        }
        sum / total
    }

    #[test]
    fn a_low_rank_map_is_recovered() {
        for rank in [1, 2, 4] {
            let mut noise = Noise(rank as u64);
            let truth = random_bridge(&mut noise, rank);
            let (before, after) = data(&mut noise, &truth, 600, 0.0);
            let fit = BridgeFit::new(&moments(&before, &after), 1e-7).unwrap();
            let (fresh_before, fresh_after) = data(&mut noise, &truth, 50, 0.0);
            let bias = BridgeWeights::bias_of(&moments(&before, &after)).unwrap();
            let floor = loss(&bias, &fresh_before, &fresh_after);
            for fitted in [rank, rank + 3, HIDDEN, 99] {
                let bridge = fit.bridge(fitted);
                assert_eq!(bridge.rank(), fitted.min(HIDDEN));
                let found = loss(&bridge, &fresh_before, &fresh_after);
                assert!(found < 1e-6 * floor, "rank {rank} by {fitted}: {found} of {floor}");
            }
            let short = loss(&fit.bridge(rank - 1), &fresh_before, &fresh_after);
            assert!(short > 1e-3 * floor, "rank {rank}: one less can't do, yet {short} of {floor}");
        }
    }

    #[test]
    fn no_competitor_of_the_same_rank_is_better() {
        let mut noise = Noise(11);
        let truth = random_bridge(&mut noise, 6);
        let (before, after) = data(&mut noise, &truth, 500, 1.0);
        let fit = BridgeFit::new(&moments(&before, &after), 1e-9).unwrap();
        let mut last = f64::INFINITY;
        for rank in 0..=HIDDEN {
            let best = fit.bridge(rank);
            let best_loss = loss(&best, &before, &after);
            assert!(best_loss <= last + 1e-9, "rank {rank} is worse than {}", rank.wrapping_sub(1));
            last = best_loss;
            for size in [1e-3, 1e-2, 0.1, 1.0] {
                for attempt in 0..50 {
                    let mut rival = best.clone();
                    let parts = [&mut rival.bias, &mut rival.down, &mut rival.up];
                    parts.into_iter().flatten().for_each(|weight| *weight += size * noise.next());
                    let rival_loss = loss(&rival, &before, &after);
                    assert!(
                        rival_loss >= best_loss * (1.0 - 1e-6),
                        "rank {rank}, rival {attempt} at {size}: {rival_loss} beats {best_loss}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_large_ridge_leads_to_the_bias_bridge() {
        let mut noise = Noise(5);
        let truth = random_bridge(&mut noise, 3);
        let (before, after) = data(&mut noise, &truth, 300, 0.1);
        let moments = moments(&before, &after);
        let bias = BridgeWeights::bias_of(&moments).unwrap();
        let shrunk = BridgeFit::new(&moments, 1e9).unwrap();
        assert_eq!(shrunk.bridge(0), bias, "rank 0 is the bias bridge");
        let probe: Vec<f32> = noise.vector(INPUTS);
        for (a, b) in bias.apply(&probe).iter().zip(shrunk.bridge(HIDDEN).apply(&probe)) {
            assert!((a - b).abs() < 1e-4, "{a} and {b}");
        }
    }

    #[test]
    fn few_pairs_do_no_harm() {
        let mut noise = Noise(8);
        let truth = random_bridge(&mut noise, 3);
        let (fresh_before, fresh_after) = data(&mut noise, &truth, 200, 0.5);
        let identity = BridgeWeights { bias: vec![0.0; HIDDEN], down: Vec::new(), up: Vec::new() };
        let floor = loss(&identity, &fresh_before, &fresh_after);
        for rows in [1, 2, 3, 6] {
            let (before, after) = data(&mut noise, &truth, rows, 0.5);
            let found = loss(
                &BridgeFit::new(&moments(&before, &after), 1.0).unwrap().bridge(HIDDEN),
                &fresh_before,
                &fresh_after,
            );
            assert!(found < 2.5 * floor, "{rows} pairs: {found}, identity {floor}");
        }
    }

    #[test]
    fn what_can_t_be_solved_is_said() {
        let empty = Moments::new(HIDDEN);
        assert_eq!(BridgeFit::new(&empty, 0.1).err(), Some(BridgeFitError::NoPairs));
        assert_eq!(BridgeWeights::bias_of(&empty), Err(BridgeFitError::NoPairs));
        for ridge in [0.0, -1.0, f64::INFINITY] {
            assert_eq!(BridgeFit::new(&empty, ridge).err(), Some(BridgeFitError::Ridge(ridge)));
        }
        let damaged = Moments::from_parts(
            (1.0, 1.0),
            (vec![0.0; 4], vec![0.0; 2]),
            (vec![f32::NAN; 16], vec![1.0; 8]),
        )
        .unwrap();
        assert!(matches!(BridgeFit::new(&damaged, 0.1).err(), Some(BridgeFitError::Singular(_))));
    }
}
