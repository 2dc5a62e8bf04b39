//! The kernels between the products: RMSNorm, SwiGLU, rotary embedding, the exponential.

use super::isa::Isa;
use super::isa::portable::Portable;
use super::lanes::{Kernel, Lanes, add, eights, eights_mut, sum_lanes};

/// RMSNorm of one row: `out = input / sqrt(mean(input^2) + epsilon) * weight`. Lengths are equal
/// and a multiple of 8. Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019.
pub fn rms_norm(isa: Isa, input: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    isa.run(RmsNorm { input, weight, epsilon, out });
}

/// SwiGLU: `gate = gate / (1 + exp(-gate)) * up`, element by element. Lengths are equal and a
/// multiple of 8. Shazeer, "GLU Variants Improve Transformer", 2020.
pub fn swiglu(isa: Isa, gate: &[f32], up: &[f32], out: &mut [f32]) {
    isa.run(SwiGlu { gate, up, out });
}

/// Pairs of elements of a head that the rotary embedding turns together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RopePairs {
    /// `(2i, 2i + 1)`: GGUF files of the llama architecture.
    Adjacent,
    /// `(i, i + n / 2)`, n the rotated dimensions: qwen2 and others.
    Halves,
}

/// The rotary angles of a position.
#[derive(Clone, Copy, Debug)]
pub struct RopeAngles<'a> {
    /// Elements that turn together.
    pub pairs: RopePairs,
    /// Cosines, one for each pair.
    pub cosines: &'a [f32],
    /// Sines, one for each pair.
    pub sines: &'a [f32],
}

/// Turns each head of `row` by `angles`. Elements of a head beyond the pairs stay as they are. Su
/// et al., "RoFormer", 2021.
pub(super) fn rope(angles: RopeAngles<'_>, row: &mut [f32], head_dim: usize) {
    let RopeAngles { pairs, cosines, sines } = angles;
    let half = cosines.len();
    for head in row.chunks_exact_mut(head_dim) {
        for (index, (&cosine, &sine)) in cosines.iter().zip(sines).enumerate() {
            let (first, second) = match pairs {
                RopePairs::Adjacent => (2 * index, 2 * index + 1),
                RopePairs::Halves => (index, index + half),
            };
            let (a, b) = (head[first], head[second]);
            head[first] = a * cosine - b * sine;
            head[second] = a * sine + b * cosine;
        }
    }
}

/// 1.5 * 2^23. A float of this size has no fraction: adding it rounds, ties to even, and leaves the
/// integer in the low bits. (A conversion to an integer would keep compilers from working on
/// several numbers at once.)
pub(super) const ROUNDER: f32 = 12_582_912.0;

/// e^x to within 2 units in the last place for -87 <= x <= 88, clamped outside. Cody-Waite
/// reduction and the Taylor polynomial of degree 7 on |r| <= ln(2) / 2, whose remainder there is
/// below 1e-8.
#[inline(always)]
pub(super) fn exp<L: Lanes>(lanes: L, x: L::Vector) -> L::Vector {
    // ln(2) in two parts; the high part has few bits, so that multiplying it by a small integer is
    // exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = lanes.clamp(x, -87.0, 88.0);
    let shifted = lanes.mul_add(x, lanes.splat(std::f32::consts::LOG2_E), lanes.splat(ROUNDER));
    let n = add(lanes, shifted, lanes.splat(-ROUNDER));
    let r = lanes.mul_add(n, lanes.splat(-LN_2_HIGH), x);
    let r = lanes.mul_add(n, lanes.splat(-LN_2_LOW), r);
    let mut sum = lanes.splat(1.0 / 5040.0);
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        sum = lanes.mul_add(r, sum, lanes.splat(coefficient));
    }
    lanes.mul(sum, lanes.power_of_two(shifted))
}

/// [`exp`] of one number.
#[inline(always)]
pub(super) fn exp_of(x: f32) -> f32 {
    exp(Portable, [x; 8])[0]
}

// === kernels ===

struct RmsNorm<'a> {
    input: &'a [f32],
    weight: &'a [f32],
    epsilon: f32,
    out: &'a mut [f32],
}

impl Kernel for RmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let mut squares = lanes.splat(0.0);
        for values in eights(self.input) {
            let values = lanes.load(values);
            squares = lanes.mul_add(values, values, squares);
        }
        let mut parts = [0.0; 8];
        lanes.store(squares, &mut parts);
        let mean = sum_lanes(parts) / self.input.len() as f32;
        let factor = lanes.splat(1.0 / (mean + self.epsilon).sqrt());
        let rows = eights(self.input).iter().zip(eights(self.weight)).zip(eights_mut(self.out));
        for ((values, weights), out) in rows {
            let scaled = lanes.mul(lanes.load(values), factor);
            lanes.store(lanes.mul(scaled, lanes.load(weights)), out);
        }
    }
}

struct SwiGlu<'a> {
    gate: &'a [f32],
    up: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for SwiGlu<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let one = lanes.splat(1.0);
        for ((gates, ups), out) in
            eights(self.gate).iter().zip(eights(self.up)).zip(eights_mut(self.out))
        {
            let gate = lanes.load(gates);
            // A NaN passes the clamp of `exp` and comes out as NaN.
            let divisor = add(lanes, one, exp(lanes, lanes.mul(gate, lanes.splat(-1.0))));
            lanes.store(lanes.mul(lanes.div(gate, divisor), lanes.load(ups)), out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_accurate() {
        for step in -87_000..=88_000 {
            let x = step as f32 / 1000.0;
            let (found, expected) = (f64::from(exp_of(x)), f64::from(x).exp());
            assert!(
                (found - expected).abs() <= 3e-7 * expected,
                "exp({x}) = {found}, not {expected}"
            );
        }
        assert!(exp_of(f32::NAN).is_nan());
        assert!(exp_of(-1e9) > 0.0 && exp_of(1e9).is_finite());
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let input: Vec<f32> =
            (0..64).map(|index| ((index * 37 % 101) as f32 - 50.0) / 7.0).collect();
        let weight: Vec<f32> = (0..64).map(|index| 1.0 + (index % 5) as f32 / 3.0).collect();
        let mut expected: Option<(Vec<f32>, Vec<f32>)> = None;
        for isa in Isa::available() {
            let (mut norm, mut glu) = (vec![0.0; 64], vec![0.0; 64]);
            rms_norm(isa, &input, &weight, 1e-5, &mut norm);
            swiglu(isa, &input, &weight, &mut glu);
            let expected = expected.get_or_insert_with(|| (norm.clone(), glu.clone()));
            assert_eq!((&norm, &glu), (&expected.0, &expected.1), "{}", isa.name());
        }
    }

    #[test]
    fn norm_and_swiglu_match_their_formulas() {
        let input: Vec<f32> = (0..16).map(|index| index as f32 - 7.5).collect();
        let weight = vec![2.0; 16];
        let mut out = vec![0.0; 16];
        rms_norm(Isa::detect(), &input, &weight, 1e-5, &mut out);
        let mean: f64 = input.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / 16.0;
        for (&x, &y) in input.iter().zip(&out) {
            let expected = f64::from(x) / (mean + 1e-5).sqrt() * 2.0;
            assert!((f64::from(y) - expected).abs() < 1e-6);
        }
        swiglu(Isa::detect(), &input, &weight, &mut out);
        for (&x, &y) in input.iter().zip(&out) {
            let expected = f64::from(x) / (1.0 + (-f64::from(x)).exp()) * 2.0;
            assert!((f64::from(y) - expected).abs() < 1e-5);
        }
    }

    #[test]
    fn rope_turns_the_right_pairs() {
        let (cosines, sines) = ([0.0, 1.0], [1.0, 0.0]); // a quarter turn, then none
        let mut row = [1.0, 2.0, 3.0, 4.0, 9.0];
        let angles = |pairs| RopeAngles { pairs, cosines: &cosines, sines: &sines };
        rope(angles(RopePairs::Adjacent), &mut row, 5);
        assert_eq!(row, [-2.0, 1.0, 3.0, 4.0, 9.0]);
        let mut row = [1.0, 2.0, 3.0, 4.0, 9.0];
        rope(angles(RopePairs::Halves), &mut row, 5);
        assert_eq!(row, [-3.0, 2.0, 1.0, 4.0, 9.0]);
    }
}
