//! The inputs of a matrix product: rows of floats, and the same rows as 8-bit integers.

use super::isa::Isa;
use super::lanes::{Kernel, Lanes};
use super::weight_type::ActivationFormat;

/// Which integer forms a product needs.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct FormatSet {
    block32: bool,
    block256: bool,
}

/// Rows of one width, written as floats by the caller and quantised once for all products that share them.
///
/// Buffers grow to the largest pass and are then reused.
#[derive(Default, Debug)]
pub struct Activations {
    rows: usize,
    width: usize,
    values: Vec<f32>,
    block32: Quantized,
    block256: Quantized,
}

/// Rows as integers: value = `scale * code`, one scale for each group.
#[derive(Default, Debug)]
pub(super) struct Quantized {
    /// \[rows, width\], within -127..=127.
    pub(super) codes: Vec<i8>,
    /// \[rows, width / group\].
    pub(super) scales: Vec<f32>,
    /// \[rows, width / 32\] (groups of 32): `scale` times the sum of the codes.
    pub(super) scaled_sums: Vec<f32>,
    /// \[rows, width / 32\] (groups of 32) sums of the codes.
    pub(super) sums: Vec<i32>,
    /// \[rows, width / 16\] (groups of 256) sums of 16 codes.
    pub(super) sums16: Vec<i16>,
    /// \[rows, width / 32\] (groups of 256) sums of 32 codes.
    pub(super) sums32: Vec<i16>,
}

// === impl FormatSet ===

impl FormatSet {
    /// The set with `format` added.
    pub fn with(mut self, format: ActivationFormat) -> Self {
        match format {
            ActivationFormat::Float => {}
            ActivationFormat::Block32 => self.block32 = true,
            ActivationFormat::Block256 => self.block256 = true,
        }
        self
    }

    /// The formats of either set.
    pub fn union(self, other: Self) -> Self {
        Self { block32: self.block32 || other.block32, block256: self.block256 || other.block256 }
    }
}

// === impl Activations ===

impl Activations {
    /// Makes room for `rows` rows of `width` floats; their contents are undefined until written.
    pub fn reset(&mut self, rows: usize, width: usize) {
        (self.rows, self.width) = (rows, width);
        self.values.resize(rows * width, 0.0);
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Floats in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Row `index`, to be written.
    pub fn row_mut(&mut self, index: usize) -> &mut [f32] {
        &mut self.values[index * self.width..][..self.width]
    }

    /// Row `index`.
    pub fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.width..][..self.width]
    }

    /// All rows, \[rows, width\].
    pub fn values_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }

    /// All rows, \[rows, width\].
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Derives the integer forms in `formats` from the floats. A width that a format's groups don't divide can't be asked for:
    /// the matrices that need the format have that width.
    pub fn quantize(&mut self, isa: Isa, formats: FormatSet) {
        let (rows, width) = (self.rows, self.width);
        if formats.block32 {
            let target = &mut self.block32;
            target.codes.resize(rows * width, 0);
            target.scales.resize(rows * width / 32, 0.0);
            target.scaled_sums.resize(rows * width / 32, 0.0);
            target.sums.resize(rows * width / 32, 0);
            isa.run(Quantize32 { values: &self.values, target });
        }
        if formats.block256 {
            let target = &mut self.block256;
            target.codes.resize(rows * width, 0);
            target.scales.resize(rows * width / 256, 0.0);
            target.sums16.resize(rows * width / 16, 0);
            target.sums32.resize(rows * width / 32, 0);
            isa.run(Quantize256 { values: &self.values, target });
        }
    }

    pub(super) fn block32(&self) -> &Quantized {
        &self.block32
    }

    pub(super) fn block256(&self) -> &Quantized {
        &self.block256
    }
}

// === kernels ===

struct Quantize32<'a> {
    values: &'a [f32],
    target: &'a mut Quantized,
}

struct Quantize256<'a> {
    values: &'a [f32],
    target: &'a mut Quantized,
}

impl Kernel for Quantize32<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, _: L) {
        let Quantized { codes, scales, scaled_sums, sums, .. } = self.target;
        let groups = self.values.chunks_exact(32).zip(codes.chunks_exact_mut(32));
        for (index, (values, codes)) in groups.enumerate() {
            let (scale, inverse) = group_scale(values);
            let sum = round_codes(values, codes, inverse);
            scales[index] = scale;
            sums[index] = sum;
            scaled_sums[index] = scale * sum as f32;
        }
    }
}

impl Kernel for Quantize256<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, _: L) {
        let Quantized { codes, scales, sums16, sums32, .. } = self.target;
        let groups = self.values.chunks_exact(256).zip(codes.chunks_exact_mut(256));
        for (index, (values, codes)) in groups.enumerate() {
            let (scale, inverse) = group_scale(values);
            scales[index] = scale;
            for sub in 0..16 {
                let sum = round_codes(&values[sub * 16..][..16], &mut codes[sub * 16..][..16], inverse);
                sums16[index * 16 + sub] = sum as i16;
            }
            for sub in 0..8 {
                let at = index * 16 + sub * 2;
                sums32[index * 8 + sub] = sums16[at] + sums16[at + 1];
            }
        }
    }
}

/// The scale that maps the largest magnitude to 127, and its inverse. A group with a NaN or an infinity gets a NaN scale, so that
/// the fault shows in the logits instead of passing as a zero.
#[inline(always)]
fn group_scale(values: &[f32]) -> (f32, f32) {
    let mut largest = [0.0_f32; 8];
    let mut faults = [0_u32; 8];
    for lanes in values.chunks_exact(8) {
        for lane in 0..8 {
            largest[lane] = if lanes[lane].abs() > largest[lane] { lanes[lane].abs() } else { largest[lane] };
            faults[lane] |= if lanes[lane].is_finite() { 0 } else { u32::MAX };
        }
    }
    let largest = largest.iter().fold(0.0_f32, |a, &b| a.max(b));
    if faults.iter().any(|&mask| mask != 0) {
        return (f32::NAN, 0.0);
    }
    let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    // A denormal maximum overflows the inverse; such a group is zero for all practical purposes.
    if inverse.is_finite() { (largest / 127.0, inverse) } else { (0.0, 0.0) }
}

#[inline(always)]
fn round_codes(values: &[f32], codes: &mut [i8], inverse: f32) -> i32 {
    let mut sum = 0;
    for (code, &value) in codes.iter_mut().zip(values) {
        // |value * inverse| <= 127 up to rounding; ties to even is what the vector unit does.
        let rounded = (value * inverse).round_ties_even().clamp(-127.0, 127.0) as i32;
        *code = rounded as i8;
        sum += rounded;
    }
    sum
}
