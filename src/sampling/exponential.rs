//! The exponential function over a whole row, quick enough for 150,000 logits a token.

/// Below this the result is 0. It is above ln(2^-126) = -87.34, so no result is subnormal.
const LOWEST: f32 = -87.0;
/// Elements handled together: two SSE registers or one AVX register, and as many independent sums.
const LANES: usize = 8;

/// e^x for x <= 0, within 2e-7 of the true value in relation to it; 0 below -87.
///
/// x = n ln 2 + r with |r| <= ln 2 / 2; the series of e^r to the seventh power leaves out less than 1e-8 of it, and
/// 2^n is put together from its bits. No branch and no call, so loops over it vectorise.
#[inline(always)]
fn exponential(x: f32) -> f32 {
    // 1.5 * 2^23: adding it rounds to an integer, which is then in the low bits.
    const ROUNDER: f32 = 12_582_912.0;
    // ln 2 in two parts; the first has so few bits that n times it is exact.
    const LN_2_HIGH: f32 = 355.0 / 512.0;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let bounded = if x > LOWEST { x } else { LOWEST };
    let shifted = bounded * std::f32::consts::LOG2_E + ROUNDER;
    let n = shifted - ROUNDER;
    let r = bounded - n * LN_2_HIGH - n * LN_2_LOW;
    let series = 1.0 / 5040.0;
    let series = series * r + 1.0 / 720.0;
    let series = series * r + 1.0 / 120.0;
    let series = series * r + 1.0 / 24.0;
    let series = series * r + 1.0 / 6.0;
    let series = series * r + 0.5;
    let series = (series * r * r + r) + 1.0;
    let power_of_two = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0_f32.to_bits()));
    let result = series * power_of_two;
    if x < LOWEST { 0.0 } else { result }
}

/// The weight of a logit: e^((logit - peak) / temperature), from 0 to 1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    /// The highest logit of the row, finite.
    pub(super) peak: f32,
    /// Above 0.
    pub(super) temperature: f32,
}

// === impl Scale ===

impl Scale {
    /// The weight of one logit, which must not be above the peak, nor NaN.
    #[inline(always)]
    pub(super) fn weight(self, logit: f32) -> f32 {
        exponential((logit - self.peak) / self.temperature)
    }

    /// The sum of the weights of a row, always added in the same order.
    pub(super) fn total(self, row: &[f32]) -> f64 {
        sum_of(row, |logit| self.weight(logit))
    }

    /// Replaces `weights` by the weights of a row; returns their sum, the same as [`Self::total`].
    pub(super) fn fill(self, row: &[f32], weights: &mut Vec<f32>) -> f64 {
        weights.clear();
        weights.extend(row.iter().map(|&logit| self.weight(logit)));
        sum_of(weights, |weight| weight)
    }
}

#[inline(always)]
fn sum_of(row: &[f32], term: impl Fn(f32) -> f32) -> f64 {
    let (blocks, rest) = row.as_chunks::<LANES>();
    let mut sums = [0.0_f64; LANES];
    for block in blocks {
        for (sum, &value) in sums.iter_mut().zip(block) {
            *sum += f64::from(term(value));
        }
    }
    sums.iter().sum::<f64>() + rest.iter().map(|&value| f64::from(term(value))).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_is_below_two_ten_millionths() {
        let mut worst = (0.0, 0.0);
        for step in 0..=8_700_000 {
            let x = -1e-5 * step as f32;
            if x < LOWEST {
                continue;
            }
            let truth = f64::from(x).exp();
            let error = (f64::from(exponential(x)) - truth).abs() / truth;
            if error > worst.0 {
                worst = (error, x);
            }
        }
        assert!(worst.0 < 2e-7, "{worst:?}");
        assert!(worst.0 > 1e-9, "an error of {} says that nothing was compared", worst.0);
    }

    #[test]
    fn the_ends_are_exact() {
        assert_eq!(exponential(0.0), 1.0);
        assert_eq!(exponential(-0.0), 1.0);
        assert_eq!(exponential(-87.1), 0.0);
        assert_eq!(exponential(f32::MIN), 0.0);
        assert_eq!(exponential(f32::NEG_INFINITY), 0.0);
        assert!(exponential(LOWEST) >= f32::MIN_POSITIVE);
    }

    #[test]
    fn totals_and_filled_rows_agree_for_every_remainder() {
        for length in 0..3 * LANES {
            let row: Vec<f32> = (0..length).map(|index| -(index as f32) * 0.37).collect();
            let scale = Scale { peak: 0.0, temperature: 1.5 };
            let mut weights = vec![9.0];
            assert_eq!(scale.fill(&row, &mut weights), scale.total(&row));
            assert_eq!(weights.len(), length);
            let sum: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
            assert!((scale.total(&row) - sum).abs() < 1e-12, "length {length}");
        }
    }
}
