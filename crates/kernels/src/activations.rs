//! The inputs of a matrix product: rows of floats, and the same rows as 8-bit integers.

use super::disjoint::Disjoint;
use super::elementwise::ROUNDER;
use super::isa::Isa;
use super::lanes::{Kernel, Lanes};
use super::pool::ThreadPool;
use super::weight_type::ActivationFormat;

/// The integer forms that a product needs.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct FormatSet {
    block32: bool,
    block256: bool,
}

/// Rows of one width, written as floats by the caller and quantised once for all products that
/// share them.
///
/// Buffers grow to the largest pass and are then reused.
#[derive(Default, Debug)]
pub struct Activations {
    rows: usize,
    width: usize,
    values: Vec<f32>,
    block32: Quantized,
    block256: Quantized,
    /// The integer forms that all rows have.
    formats: FormatSet,
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

/// The rows of a [`Quantized`], lent out to threads.
struct QuantizedRows<'a> {
    width: usize,
    group: usize,
    codes: Disjoint<'a, i8>,
    scales: Disjoint<'a, f32>,
    scaled_sums: Disjoint<'a, f32>,
    sums: Disjoint<'a, i32>,
    sums16: Disjoint<'a, i16>,
    sums32: Disjoint<'a, i16>,
}

/// One of them.
struct QuantizedRow<'a> {
    codes: &'a mut [i8],
    scales: &'a mut [f32],
    scaled_sums: &'a mut [f32],
    sums: &'a mut [i32],
    sums16: &'a mut [i16],
    sums32: &'a mut [i16],
}

/// Floats that a thread should at least fill: below, a fork costs more than it saves.
const FILL_GRAIN: usize = 1024;

// === impl Quantized ===

impl Quantized {
    /// Makes room for `rows` rows of `width` codes in groups of `group`, which is 32 or 256, and
    /// lends them out.
    fn resize(&mut self, rows: usize, width: usize, group: usize) -> QuantizedRows<'_> {
        let all = rows * width;
        self.codes.resize(all, 0);
        self.scales.resize(all / group, 0.0);
        if group == 32 {
            self.scaled_sums.resize(all / 32, 0.0);
            self.sums.resize(all / 32, 0);
        } else {
            self.sums16.resize(all / 16, 0);
            self.sums32.resize(all / 32, 0);
        }
        QuantizedRows {
            width,
            group,
            codes: Disjoint::new(&mut self.codes),
            scales: Disjoint::new(&mut self.scales),
            scaled_sums: Disjoint::new(&mut self.scaled_sums),
            sums: Disjoint::new(&mut self.sums),
            sums16: Disjoint::new(&mut self.sums16),
            sums32: Disjoint::new(&mut self.sums32),
        }
    }
}

impl QuantizedRows<'_> {
    /// Row `index`.
    ///
    /// # Safety
    /// No row is lent out twice at a time.
    unsafe fn row(&self, index: usize) -> QuantizedRow<'_> {
        // Buffers that the format doesn't use are empty.
        fn of<T>(all: &Disjoint<'_, T>, index: usize, length: usize) -> std::ops::Range<usize> {
            if all.is_empty() { 0..0 } else { index * length..(index + 1) * length }
        }
        let Self { width, group, .. } = *self;
        // SAFETY: rows don't overlap, and the caller lends each out once.
        unsafe {
            QuantizedRow {
                codes: self.codes.part(of(&self.codes, index, width)),
                scales: self.scales.part(of(&self.scales, index, width / group)),
                scaled_sums: self.scaled_sums.part(of(&self.scaled_sums, index, width / 32)),
                sums: self.sums.part(of(&self.sums, index, width / 32)),
                sums16: self.sums16.part(of(&self.sums16, index, width / 16)),
                sums32: self.sums32.part(of(&self.sums32, index, width / 32)),
            }
        }
    }
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
        (self.rows, self.width, self.formats) = (rows, width, FormatSet::default());
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

    /// Writes all rows with `write`, which is given the index of a row and its floats, and derives
    /// the integer forms in `formats`. A width that a format's groups don't divide can't be asked
    /// for: the matrices that need the format have that width.
    pub fn fill(
        &mut self,
        pool: &mut ThreadPool,
        isa: Isa,
        formats: FormatSet,
        write: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        let (rows, width) = (self.rows, self.width);
        self.formats = formats;
        let values = Disjoint::new(&mut self.values);
        let block32 = formats.block32.then(|| self.block32.resize(rows, width, 32));
        let block256 = formats.block256.then(|| self.block256.resize(rows, width, 256));
        let grain = FILL_GRAIN.div_ceil(width.max(1));
        pool.run_ranges(rows, grain, &|range| {
            for row in range {
                // SAFETY: each row is claimed by one thread, which alone touches its values and
                // codes.
                let (values, first, second) = unsafe {
                    let values = values.part(row * width..(row + 1) * width);
                    (
                        values,
                        block32.as_ref().map(|all| all.row(row)),
                        block256.as_ref().map(|all| all.row(row)),
                    )
                };
                write(row, values);
                if let Some(target) = first {
                    isa.run(Quantize32 { values, target });
                }
                if let Some(target) = second {
                    isa.run(Quantize256 { values, target });
                }
            }
        });
    }

    /// Derives the integer forms in `formats` from floats that are in place.
    pub fn quantize(&mut self, pool: &mut ThreadPool, isa: Isa, formats: FormatSet) {
        self.fill(pool, isa, formats, |_, _| {});
    }

    /// Whether its rows are there in this form.
    pub(super) fn has(&self, format: ActivationFormat) -> bool {
        self.formats.with(format) == self.formats
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
    target: QuantizedRow<'a>,
}

struct Quantize256<'a> {
    values: &'a [f32],
    target: QuantizedRow<'a>,
}

impl Kernel for Quantize32<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, _: L) {
        let QuantizedRow { codes, scales, scaled_sums, sums, .. } = self.target;
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
        let QuantizedRow { codes, scales, sums16, sums32, .. } = self.target;
        let groups = self.values.chunks_exact(256).zip(codes.chunks_exact_mut(256));
        for (index, (values, codes)) in groups.enumerate() {
            let (scale, inverse) = group_scale(values);
            scales[index] = scale;
            for sub in 0..16 {
                let sum =
                    round_codes(&values[sub * 16..][..16], &mut codes[sub * 16..][..16], inverse);
                sums16[index * 16 + sub] = sum as i16;
            }
            for sub in 0..8 {
                let at = index * 16 + sub * 2;
                sums32[index * 8 + sub] = sums16[at] + sums16[at + 1];
            }
        }
    }
}

/// The scale that maps the largest magnitude to 127, and its inverse. A group with a NaN or an
/// infinity gets a NaN scale, so that the fault shows in the logits instead of passing as a zero.
#[inline(always)]
fn group_scale(values: &[f32]) -> (f32, f32) {
    let mut largest = [0.0_f32; 8];
    let mut faults = [0_u32; 8];
    for lanes in values.chunks_exact(8) {
        for lane in 0..8 {
            largest[lane] =
                if lanes[lane].abs() > largest[lane] { lanes[lane].abs() } else { largest[lane] };
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
        // At most 127 in magnitude, up to rounding. Of a NaN any code will do: its group has a NaN
        // scale.
        *code = ((value * inverse).clamp(-127.0, 127.0) + ROUNDER).to_bits() as i8;
        sum += i32::from(*code);
    }
    sum
}
