//! A test of whether counts come from given distributions.

/// The observed tokens of many draws, each from a distribution of its own, against their sum.
///
/// Draws after different contexts have different distributions, so Pearson's statistic would not be
/// chi-square here. The exact form is: with r the sum of (one-hot draw - distribution) and C the
/// sum of the draws' covariances, r' C^-1 r is chi-square, also for draws that depend on the ones
/// before (r is a martingale).
#[derive(Clone, Debug)]
pub struct Draws {
    residual: Vec<f64>,
    covariance: Vec<Vec<f64>>,
    /// Draws of a token that has no probability.
    pub impossible: usize,
}

/// A chi-square statistic.
#[derive(Clone, Copy, Default, Debug)]
pub struct ChiSquare {
    pub statistic: f64,
    pub freedom: usize,
}

/// Tokens whose draws vary less than this (in expected counts) are judged together: the statistic
/// needs a normal sum.
const LEAST_VARIANCE: f64 = 10.0;

// === impl Draws ===

impl Draws {
    pub fn new(vocabulary: usize) -> Self {
        Self {
            residual: vec![0.0; vocabulary],
            covariance: vec![vec![0.0; vocabulary]; vocabulary],
            impossible: 0,
        }
    }

    pub fn add(&mut self, token: usize, distribution: &[f64]) {
        self.impossible += usize::from(distribution[token] == 0.0);
        self.residual[token] += 1.0;
        for (row, &probability) in distribution.iter().enumerate() {
            self.residual[row] -= probability;
            self.covariance[row][row] += probability;
            for (column, &other) in distribution.iter().enumerate() {
                self.covariance[row][column] -= probability * other;
            }
        }
    }

    pub fn judge(&self) -> ChiSquare {
        let (rare, common): (Vec<usize>, Vec<usize>) = (0..self.residual.len())
            .partition(|&token| self.covariance[token][token] < LEAST_VARIANCE);
        let mut classes: Vec<Vec<usize>> = common.into_iter().map(|token| vec![token]).collect();
        classes.sort_by(|a, b| self.covariance[a[0]][a[0]].total_cmp(&self.covariance[b[0]][b[0]]));
        if !rare.is_empty() && self.variance(&rare, &rare) >= LEAST_VARIANCE {
            classes.insert(0, rare);
        }
        // All classes together always add up: the largest follows from the others, if nothing was
        // left out.
        classes.pop();
        let mut matrix: Vec<Vec<f64>> = classes
            .iter()
            .map(|row| classes.iter().map(|column| self.variance(row, column)).collect())
            .collect();
        let residual: Vec<f64> = classes
            .iter()
            .map(|class| class.iter().map(|&token| self.residual[token]).sum())
            .collect();
        let solution = solve(&mut matrix, residual.clone());
        let statistic =
            residual.iter().zip(solution).map(|(residual, solved)| residual * solved).sum();
        ChiSquare { statistic, freedom: classes.len() }
    }

    fn variance(&self, rows: &[usize], columns: &[usize]) -> f64 {
        rows.iter()
            .flat_map(|&row| columns.iter().map(move |&column| self.covariance[row][column]))
            .sum()
    }
}

/// Solves `matrix` x = `right` by elimination; positive definite, so without pivoting.
fn solve(matrix: &mut [Vec<f64>], mut right: Vec<f64>) -> Vec<f64> {
    let size = right.len();
    for pivot in 0..size {
        for row in pivot + 1..size {
            let factor = matrix[row][pivot] / matrix[pivot][pivot];
            let (above, below) = matrix.split_at_mut(row);
            for (value, known) in below[0][pivot..].iter_mut().zip(&above[pivot][pivot..]) {
                *value -= factor * known;
            }
            right[row] -= factor * right[pivot];
        }
    }
    for row in (0..size).rev() {
        let known: f64 = (row + 1..size).map(|column| matrix[row][column] * right[column]).sum();
        right[row] = (right[row] - known) / matrix[row][row];
    }
    right
}

// === impl ChiSquare ===

impl ChiSquare {
    pub fn plus(self, other: Self) -> Self {
        Self { statistic: self.statistic + other.statistic, freedom: self.freedom + other.freedom }
    }

    /// Standard deviations above what is expected, by Wilson and Hilferty's normal approximation.
    pub fn deviation(self) -> f64 {
        if self.freedom == 0 {
            return 0.0;
        }
        let spread = 2.0 / (9.0 * self.freedom as f64);
        ((self.statistic / self.freedom as f64).cbrt() - (1.0 - spread)) / spread.sqrt()
    }
}

/// Distance of draws from their distributions, in standard deviations.
#[derive(Debug)]
pub struct Verdict {
    /// Deviation by place and token before: sees what depends on the context.
    pub by_context: f64,
    pub freedom: usize,
    /// All draws together: sees a slight bias everywhere.
    pub overall: f64,
    /// Draws that the distribution rules out.
    pub impossible: usize,
}

impl Verdict {
    /// Whether all deviations are below `limit`.
    pub fn fits(&self, limit: f64) -> bool {
        self.by_context < limit && self.overall < limit && self.impossible == 0
    }
}
