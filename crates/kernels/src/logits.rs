//! Passes over a row of logits: its maximum, its softmax and the sum behind it.

use super::elementwise::{exp, exp_of};
use super::isa::Isa;
use super::lanes::{Kernel, Lanes, add, eights, eights_mut};

/// Result of one look at a row.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct LogitScan {
    /// The highest entry that is a number; -inf if there is none.
    pub maximum: f32,
    /// Whether any entry is not a number.
    pub has_nan: bool,
}

/// Looks at a row once.
pub fn scan_logits(isa: Isa, logits: &[f32]) -> LogitScan {
    isa.run(Scan(logits))
}

/// The sum of `exp(logit - peak)` over a row, added in a fixed order; relative error below 1e-6.
/// `peak` is the row's maximum. Entries more than 87 below the peak count as e^-87.
pub fn exp_total(isa: Isa, logits: &[f32], peak: f32) -> f64 {
    isa.run(ExpTotal { logits, peak })
}

/// Replaces each logit of a row by the exponential of the quotient `(logit - peak) / temperature`,
/// relative error below 3e-7, or by 0 where that is below e^-87; returns the sum, added in a fixed
/// order. `peak` is the row's maximum, finite, so that it becomes 1; `temperature` is above 0, and
/// no logit is NaN.
pub fn softmax_weights(isa: Isa, row: &mut [f32], peak: f32, temperature: f32) -> f64 {
    isa.run(Weights { row, peak, temperature })
}

struct Scan<'a>(&'a [f32]);

impl Kernel for Scan<'_> {
    type Output = LogitScan;

    #[inline(always)]
    fn run<L: Lanes>(self, _: L) -> LogitScan {
        let mut maxima = [f32::NEG_INFINITY; 32];
        // All bits set where a NaN was seen: a mask the width of a logit keeps the loop in vector
        // registers.
        let mut not_numbers = [0_u32; 32];
        let (blocks, rest) = self.0.as_chunks::<32>();
        for block in blocks {
            for lane in 0..32 {
                let logit = block[lane];
                maxima[lane] = if logit > maxima[lane] { logit } else { maxima[lane] };
                not_numbers[lane] |= if logit.is_nan() { u32::MAX } else { 0 };
            }
        }
        let maximum =
            maxima.iter().chain(rest).fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a });
        let has_nan =
            not_numbers.iter().any(|&mask| mask != 0) || rest.iter().any(|logit| logit.is_nan());
        LogitScan { maximum, has_nan }
    }
}

struct ExpTotal<'a> {
    logits: &'a [f32],
    peak: f32,
}

impl Kernel for ExpTotal<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) -> f64 {
        let shift = lanes.splat(-self.peak);
        // Sums of 4,096 terms in single precision, then in double: each partial sum rounds at most
        // 512 times a lane.
        let mut total = 0.0;
        for part in self.logits.chunks(4096) {
            let mut sums = lanes.splat(0.0);
            for values in eights(part) {
                sums = add(lanes, sums, exp(lanes, add(lanes, lanes.load(values), shift)));
            }
            let mut each = [0.0; 8];
            lanes.store(sums, &mut each);
            total += each.iter().map(|&sum| f64::from(sum)).sum::<f64>();
            let rest = &part[part.len() / 8 * 8..];
            total += rest.iter().map(|&logit| f64::from(exp_of(logit - self.peak))).sum::<f64>();
        }
        total
    }
}

struct Weights<'a> {
    row: &'a mut [f32],
    peak: f32,
    temperature: f32,
}

impl Weights<'_> {
    #[inline(always)]
    fn weigh<L: Lanes>(&self, lanes: L, logits: &mut [f32; 8], sums: &mut [f64; 8]) {
        // So that no weight is subnormal.
        const LOWEST: f32 = -87.0;
        let shifted = add(lanes, lanes.load(logits), lanes.splat(-self.peak));
        let exponents = lanes.div(shifted, lanes.splat(self.temperature));
        let (mut below, mut weights) = ([0.0; 8], [0.0; 8]);
        lanes.store(exponents, &mut below);
        lanes.store(exp(lanes, exponents), &mut weights);
        for lane in 0..8 {
            logits[lane] = if below[lane] < LOWEST { 0.0 } else { weights[lane] };
            sums[lane] += f64::from(logits[lane]);
        }
    }
}

impl Kernel for Weights<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<L: Lanes>(mut self, lanes: L) -> f64 {
        let row = std::mem::take(&mut self.row);
        let whole = row.len() / 8 * 8;
        let (whole, rest) = row.split_at_mut(whole);
        let mut sums = [0.0; 8];
        for logits in eights_mut(whole) {
            self.weigh(lanes, logits, &mut sums);
        }
        let mut last = [f32::NEG_INFINITY; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.weigh(lanes, &mut last, &mut sums);
        rest.copy_from_slice(&last[..rest.len()]);
        sums.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scans_agree_with_the_obvious() {
        for length in [1, 7, 8, 31, 32, 33, 5000] {
            let logits: Vec<f32> =
                (0..length).map(|index| ((index * 7919) % 1000) as f32 / 50.0 - 9.0).collect();
            let peak = logits.iter().copied().fold(f32::MIN, f32::max);
            let expected: f64 = logits.iter().map(|&logit| f64::from(logit - peak).exp()).sum();
            for isa in Isa::available() {
                assert_eq!(scan_logits(isa, &logits), LogitScan { maximum: peak, has_nan: false });
                let found = exp_total(isa, &logits, peak);
                assert!(
                    (found - expected).abs() < 1e-6 * expected,
                    "{length}: {found}, not {expected}"
                );
                assert_eq!(found.to_bits(), exp_total(Isa::portable(), &logits, peak).to_bits());
            }
            let mut broken = logits.clone();
            broken[length / 2] = f32::NAN;
            assert!(Isa::available().into_iter().all(|isa| scan_logits(isa, &broken).has_nan));
        }
    }

    #[test]
    fn weights_are_those_of_the_formula_and_the_same_bits_everywhere() {
        for length in [1, 7, 8, 9, 5000] {
            for temperature in [0.3_f32, 1.0, 7.0] {
                let logits: Vec<f32> = (0..length)
                    .map(|index| match index % 11 {
                        10 => f32::NEG_INFINITY,
                        _ => ((index * 7919) % 1000) as f32 / 20.0 - 9.0,
                    })
                    .collect();
                let peak = logits.iter().copied().fold(f32::MIN, f32::max);
                let weigh = |isa| {
                    let mut row = logits.clone();
                    let total = softmax_weights(isa, &mut row, peak, temperature);
                    (row, total)
                };
                let (row, total) = weigh(Isa::portable());
                let mut sum = 0.0;
                for (&weight, &logit) in row.iter().zip(&logits) {
                    let exponent = f64::from((logit - peak) / temperature);
                    let expected = if exponent < -87.0 { 0.0 } else { exponent.exp() };
                    assert!(
                        (f64::from(weight) - expected).abs() <= 3e-7 * expected,
                        "{logit}: {weight}"
                    );
                    sum += f64::from(weight);
                }
                assert!((total - sum).abs() < 1e-12 * sum && row.contains(&1.0));
                for isa in Isa::available() {
                    assert_eq!(weigh(isa), (row.clone(), total), "{}", isa.name());
                }
            }
        }
    }
}
