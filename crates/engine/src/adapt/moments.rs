//! Streamed second moments of what a run of sublayers does to the hidden state: all that a bridge
//! is fitted from.

use faer::linalg::matmul::{matmul, triangular};
use faer::{Accum, MatMut, MatRef, Par};

/// Positions at the front of a sequence to leave out of moments: their states are unlike all
/// others.
pub const LEFT_OUT: usize = 2;

/// Rows that are multiplied at once: enough for the products to run at full speed, few enough for
/// the copies to stay in the cache.
const BLOCK_ROWS: usize = 256;

/// Weighted means and centred second moments of pairs (i, y - x): what a bridge reads, which is the
/// hidden state x before a run of sublayers and the feature of the position before, and the run's
/// change to x.
///
/// A pair weighs 1 / rms(y - x), so that a few positions with huge changes don't rule the fit.
/// Blocks are centred on their own mean and merged by the parallel formula of Chan, Golub and
/// LeVeque (1979), so single precision holds however large the means are.
#[derive(Clone, PartialEq, Debug)]
pub struct Moments {
    hidden: usize,
    tokens: f64,
    weight: f64,
    mean_input: Vec<f64>,
    mean_change: Vec<f64>,
    gram: Vec<f32>,
    cross: Vec<f32>,
}

/// Moments that don't fit each other or their own size.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("moments of {found} elements where {expected} are needed; they belong to another model")]
pub struct MomentsShapeError {
    /// Elements needed.
    pub expected: usize,
    /// Elements found.
    pub found: usize,
}

// === impl Moments ===

impl Moments {
    /// No pairs yet, of hidden states with `hidden` elements.
    pub fn new(hidden: usize) -> Self {
        Self {
            hidden,
            tokens: 0.0,
            weight: 0.0,
            mean_input: vec![0.0; 2 * hidden],
            mean_change: vec![0.0; hidden],
            gram: vec![0.0; 4 * hidden * hidden],
            cross: vec![0.0; 2 * hidden * hidden],
        }
    }

    /// Bytes that the moments of states with `hidden` elements take, nearly.
    pub fn bytes_of(hidden: usize) -> usize {
        6 * size_of::<f32>() * hidden * hidden
    }

    /// Takes in what a bridge reads, \[rows, 2 hidden\], the state before the run and then the
    /// feature; and the states after the run, \[rows, hidden\]. The caller leaves out the first
    /// [`LEFT_OUT`] positions of a sequence. Pairs that don't change or are not finite are passed
    /// over.
    pub fn observe(&mut self, inputs: &[f32], after: &[f32]) {
        let block = BLOCK_ROWS * self.hidden.max(1);
        for (inputs, after) in inputs.chunks(2 * block).zip(after.chunks(block)) {
            self.observe_block(inputs, after);
        }
    }

    fn observe_block(&mut self, inputs: &[f32], after: &[f32]) {
        let hidden = self.hidden.max(1);
        let rows = inputs.chunks_exact(2 * hidden).zip(after.chunks_exact(hidden));
        let rows: Vec<(f64, &[f32], &[f32])> = rows
            .filter_map(|(inputs, after)| Some((weight_of(inputs, after)?, inputs, after)))
            .collect();
        let weight: f64 = rows.iter().map(|(weight, ..)| weight).sum();
        if rows.is_empty() {
            return;
        }
        let mut mean_input = vec![0.0; 2 * hidden];
        let mut mean_change = vec![0.0; hidden];
        for &(row_weight, inputs, after) in &rows {
            let share = row_weight / weight;
            mean_input
                .iter_mut()
                .zip(inputs)
                .for_each(|(mean, &input)| *mean += share * f64::from(input));
            mean_change
                .iter_mut()
                .zip(changes(inputs, after))
                .for_each(|(mean, change)| *mean += share * change);
        }
        let mut centred_inputs = Vec::with_capacity((rows.len() + 1) * 2 * hidden);
        let mut centred_changes = Vec::with_capacity((rows.len() + 1) * hidden);
        for &(row_weight, inputs, after) in &rows {
            let root = row_weight.sqrt();
            let centred = |(value, mean): (f64, &f64)| (root * (value - mean)) as f32;
            centred_inputs
                .extend(inputs.iter().map(|&input| f64::from(input)).zip(&mean_input).map(centred));
            centred_changes.extend(changes(inputs, after).zip(&mean_change).map(centred));
        }
        self.push_mean_row(
            weight,
            &mean_input,
            &mean_change,
            &mut centred_inputs,
            &mut centred_changes,
        );
        self.add_products(&centred_inputs, &centred_changes);
        self.move_means(weight, &mean_input, &mean_change);
        self.tokens += rows.len() as f64;
    }

    /// Makes everything so far count `factor` times, from 0 (forget) to 1 (keep): means stay, sums
    /// shrink.
    pub fn decay(&mut self, factor: f64) {
        let factor = factor.clamp(0.0, 1.0);
        self.tokens *= factor;
        self.weight *= factor;
        self.gram.iter_mut().chain(&mut self.cross).for_each(|sum| *sum *= factor as f32);
    }

    /// Elements of a hidden state.
    pub fn hidden(&self) -> usize {
        self.hidden
    }

    /// Pairs taken in, less what decayed.
    pub fn tokens(&self) -> f64 {
        self.tokens
    }

    /// Sum of the pairs' weights.
    pub fn weight(&self) -> f64 {
        self.weight
    }

    /// Weighted mean of what a bridge reads, \[2 hidden\].
    pub fn mean_input(&self) -> &[f64] {
        &self.mean_input
    }

    /// Weighted mean of the changes, \[hidden\].
    pub fn mean_change(&self) -> &[f64] {
        &self.mean_change
    }

    /// Weighted sum of centred i iᵀ, \[2 hidden, 2 hidden\] column-major; only the lower triangle
    /// is kept.
    pub fn gram(&self) -> &[f32] {
        &self.gram
    }

    /// Weighted sum of centred i (y - x)ᵀ, \[2 hidden, hidden\] column-major: a column for each
    /// element of the change.
    pub fn cross(&self) -> &[f32] {
        &self.cross
    }

    /// Puts moments together that were taken apart with the accessors.
    ///
    /// # Errors
    /// If a part is not of the size that `hidden` asks for.
    pub fn from_parts(
        (tokens, weight): (f64, f64),
        (mean_input, mean_change): (Vec<f64>, Vec<f64>),
        (gram, cross): (Vec<f32>, Vec<f32>),
    ) -> Result<Self, MomentsShapeError> {
        let hidden = mean_change.len();
        let square = hidden * hidden;
        for (expected, found) in
            [(2 * hidden, mean_input.len()), (4 * square, gram.len()), (2 * square, cross.len())]
        {
            if expected != found {
                return Err(MomentsShapeError { expected, found });
            }
        }
        Ok(Self { hidden, tokens, weight, mean_input, mean_change, gram, cross })
    }

    /// Adds the row that each factor lacks when the means of two centred sums differ.
    fn push_mean_row(
        &self,
        weight: f64,
        mean_input: &[f64],
        mean_change: &[f64],
        inputs: &mut Vec<f32>,
        changes: &mut Vec<f32>,
    ) {
        let root = (self.weight * weight / (self.weight + weight)).sqrt();
        let apart = |(new, old): (&f64, &f64)| (root * (new - old)) as f32;
        inputs.extend(mean_input.iter().zip(&self.mean_input).map(apart));
        changes.extend(mean_change.iter().zip(&self.mean_change).map(apart));
    }

    fn move_means(&mut self, weight: f64, mean_input: &[f64], mean_change: &[f64]) {
        self.weight += weight;
        let share = weight / self.weight;
        let moved = |(old, new): (&mut f64, &f64)| *old += share * (new - *old);
        self.mean_input.iter_mut().zip(mean_input).for_each(moved);
        self.mean_change.iter_mut().zip(mean_change).for_each(moved);
    }

    /// Adds inputsᵀ inputs and inputsᵀ changes, of \[rows, 2 hidden\] and \[rows, hidden\]
    /// row-major.
    fn add_products(&mut self, inputs: &[f32], changes: &[f32]) {
        let hidden = self.hidden.max(1);
        let rows = changes.len() / hidden;
        let inputs = MatRef::from_row_major_slice(inputs, rows, 2 * hidden);
        let changes = MatRef::from_row_major_slice(changes, rows, hidden);
        let gram = MatMut::from_column_major_slice_mut(&mut self.gram, 2 * hidden, 2 * hidden);
        let (lower, whole) =
            (triangular::BlockStructure::TriangularLower, triangular::BlockStructure::Rectangular);
        let transposed = inputs.transpose();
        triangular::matmul(
            gram,
            lower,
            Accum::Add,
            transposed,
            whole,
            inputs,
            whole,
            1.0,
            Par::Seq,
        );
        let cross = MatMut::from_column_major_slice_mut(&mut self.cross, 2 * hidden, hidden);
        matmul(cross, Accum::Add, transposed, changes, 1.0, Par::Seq);
    }
}

/// Changes that the run made to the state at the front of a row of inputs.
fn changes(inputs: &[f32], after: &[f32]) -> impl Iterator<Item = f64> {
    inputs.iter().zip(after).map(|(&before, &after)| f64::from(after) - f64::from(before))
}

/// 1 / rms of the change; `None` where that is no usable number.
fn weight_of(inputs: &[f32], after: &[f32]) -> Option<f64> {
    let squares: f64 = changes(inputs, after).map(|change| change * change).sum();
    let weight = (after.len() as f64 / squares).sqrt();
    let finite = weight.is_finite() && weight > 0.0 && inputs.iter().all(|value| value.is_finite());
    finite.then_some(weight)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HIDDEN: usize = 7;
    const INPUTS: usize = 2 * HIDDEN;

    /// Inputs and states after, with means far from zero and uneven weights.
    fn pairs(rows: usize, seed: u64) -> (Vec<f32>, Vec<f32>) {
        let mut state = seed;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 24) as f32 - 0.5
        };
        let inputs: Vec<f32> =
            (0..rows * INPUTS).map(|index| next() + 50.0 * (index % HIDDEN) as f32).collect();
        let states = inputs.chunks(INPUTS).flat_map(|row| &row[..HIDDEN]);
        let after = states.map(|value| value + 3.0 * next() + 0.01 * value).collect();
        (inputs, after)
    }

    /// Weight, input and change of a pair.
    type Row = (f64, Vec<f64>, Vec<f64>);

    /// The definition in double precision: weight, means, Gram matrix and cross moments.
    fn oracle(before: &[f32], after: &[f32]) -> (f64, [Vec<f64>; 4]) {
        let rows: Vec<Row> = before
            .chunks(INPUTS)
            .zip(after.chunks(HIDDEN))
            .map(|(before, after)| {
                let input: Vec<f64> = before.iter().map(|&value| f64::from(value)).collect();
                let change: Vec<f64> =
                    after.iter().zip(&input).map(|(&y, x)| f64::from(y) - x).collect();
                let mean_square =
                    change.iter().map(|value| value * value).sum::<f64>() / HIDDEN as f64;
                (1.0 / mean_square.sqrt(), input, change)
            })
            .collect();
        let total: f64 = rows.iter().map(|row| row.0).sum();
        let mean = |of: fn(&Row) -> &Vec<f64>, index: usize| {
            rows.iter().map(|row| row.0 / total * of(row)[index]).sum::<f64>()
        };
        let input: Vec<f64> = (0..INPUTS).map(|index| mean(|row| &row.1, index)).collect();
        let change: Vec<f64> = (0..HIDDEN).map(|index| mean(|row| &row.2, index)).collect();
        let product = |row: usize, column: usize, crossed: bool| -> f64 {
            let right = |r: &Row| {
                if crossed { r.2[column] - change[column] } else { r.1[column] - input[column] }
            };
            rows.iter().map(|r| r.0 * (r.1[row] - input[row]) * right(r)).sum()
        };
        let all = |columns: usize, crossed| {
            (0..INPUTS * columns)
                .map(|at| product(at % INPUTS, at / INPUTS, crossed))
                .collect::<Vec<f64>>()
        };
        let (gram, cross) = (all(INPUTS, false), all(HIDDEN, true));
        (total, [input, change, gram, cross])
    }

    fn assert_close(moments: &Moments, before: &[f32], after: &[f32], case: &str) {
        let (weight, [input, change, gram, cross]) = oracle(before, after);
        let scale =
            |values: &[f64]| values.iter().fold(0.0_f64, |most, value| most.max(value.abs()));
        assert!((moments.weight() - weight).abs() < 1e-9 * weight, "{case}: weight");
        for (name, found, expected) in [
            ("mean input", moments.mean_input().to_vec(), &input),
            ("mean change", moments.mean_change().to_vec(), &change),
            ("gram", moments.gram().iter().map(|&v| f64::from(v)).collect(), &gram),
            ("cross", moments.cross().iter().map(|&v| f64::from(v)).collect(), &cross),
        ] {
            for (at, (found, expected_value)) in found.iter().zip(expected).enumerate() {
                // Only the lower triangle of the Gram matrix is kept.
                if name == "gram" && at % INPUTS < at / INPUTS {
                    continue;
                }
                let error = (found - expected_value).abs();
                assert!(
                    error <= 2e-5 * scale(expected),
                    "{case}: {name} {at}: {found}, not {expected_value}"
                );
            }
        }
    }

    #[test]
    fn blocks_give_what_the_definition_gives() {
        for rows in [1, 2, 5, 255, 256, 257, 1000] {
            let (before, after) = pairs(rows, rows as u64);
            let mut whole = Moments::new(HIDDEN);
            whole.observe(&before, &after);
            assert_eq!(whole.tokens(), rows as f64);
            assert_close(&whole, &before, &after, &format!("{rows} rows at once"));
        }
    }

    #[test]
    fn what_decays_counts_less() {
        let (before, after) = pairs(400, 1);
        let (newer_before, newer_after) = pairs(400, 2);
        let mut decayed = Moments::new(HIDDEN);
        decayed.observe(&before, &after);
        decayed.decay(0.25);
        assert_eq!(decayed.tokens(), 100.0);
        let mut fourfold = Moments::new(HIDDEN);
        fourfold.observe(&before, &after);
        decayed.observe(&newer_before, &newer_after);
        for _ in 0..4 {
            fourfold.observe(&newer_before, &newer_after);
        }
        for (one, four) in decayed.mean_change().iter().zip(fourfold.mean_change()) {
            assert!((one - four).abs() < 1e-6, "{one} and {four}");
        }
        let largest = fourfold.cross().iter().fold(0.0_f32, |most, value| most.max(value.abs()));
        for (one, four) in decayed.cross().iter().zip(fourfold.cross()) {
            assert!((4.0 * one - four).abs() < 1e-4 * largest, "{one} and {four}");
        }
    }

    #[test]
    fn unusable_pairs_change_nothing() {
        let (before, after) = pairs(4, 3);
        let mut clean = Moments::new(HIDDEN);
        clean.observe(&before, &after);
        let mut mixed = Moments::new(HIDDEN);
        for value in [f32::NAN, f32::INFINITY, 7.0] {
            let row = [value; HIDDEN];
            mixed.observe(&[value; INPUTS], &row);
            mixed.observe(&[0.0; INPUTS], &row.map(|value| if value == 7.0 { 0.0 } else { value }));
        }
        assert_eq!(mixed, Moments::new(HIDDEN));
        mixed.observe(&before, &after);
        assert_eq!(mixed, clean);
    }

    #[test]
    fn parts_of_different_widths_are_refused() {
        let parts = Moments::from_parts(
            (0.0, 0.0),
            (vec![0.0; 4], vec![0.0; 2]),
            (vec![0.0; 16], vec![0.0; 3]),
        );
        assert_eq!(parts, Err(MomentsShapeError { expected: 8, found: 3 }));
    }
}
