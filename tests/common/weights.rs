//! Random and adversarial weight bytes of every type, as they would lie in a GGUF file.

use half::{bf16, f16};
use skipstone::kernels::WeightType;

/// A small, seeded generator (SplitMix64): tests must give the same data on every machine.
#[derive(Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number in [-1, 1).
    pub fn signed(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub fn floats(&mut self, count: usize, scale: f32) -> Vec<f32> {
        (0..count).map(|_| self.signed() * scale).collect()
    }
}

/// `outputs` rows of `width` weights with magnitudes of about `scale`.
pub fn random_weights(
    kind: WeightType,
    outputs: usize,
    width: usize,
    scale: f32,
    random: &mut Random,
) -> Vec<u8> {
    weights(
        kind,
        outputs,
        width,
        random,
        |random| random.next() as u8,
        |random| random.signed() * scale,
    )
}

/// Every code the largest there is, every scale equal: the products reach the limits of the integer
/// sums.
pub fn largest_codes(kind: WeightType, outputs: usize, width: usize, scale: f32) -> Vec<u8> {
    weights(kind, outputs, width, &mut Random(0), |_| 0xff, |_| scale)
}

fn weights(
    kind: WeightType,
    outputs: usize,
    width: usize,
    random: &mut Random,
    code: impl Fn(&mut Random) -> u8,
    value: impl Fn(&mut Random) -> f32,
) -> Vec<u8> {
    // Scales of integer types are divided by a typical code, so that weights come out at about the
    // asked magnitude.
    let (half_fields, divisor): (&[usize], f32) = match kind {
        WeightType::F32 => {
            return (0..outputs * width).flat_map(|_| value(random).to_le_bytes()).collect();
        }
        WeightType::F16 => {
            return (0..outputs * width)
                .flat_map(|_| f16::from_f32(value(random)).to_le_bytes())
                .collect();
        }
        WeightType::BF16 => {
            return (0..outputs * width)
                .flat_map(|_| bf16::from_f32(value(random)).to_le_bytes())
                .collect();
        }
        WeightType::Q4_0 => (&[0], 8.0),
        WeightType::Q4_1 => (&[0, 2], 8.0),
        WeightType::Q5_0 => (&[0], 16.0),
        WeightType::Q5_1 => (&[0, 2], 16.0),
        WeightType::Q8_0 => (&[0], 64.0),
        WeightType::Q4_K => (&[0, 2], 256.0),
        WeightType::Q5_K => (&[0, 2], 512.0),
        WeightType::Q6_K => (&[208], 1024.0),
    };
    let mut bytes: Vec<u8> = (0..outputs * kind.row_bytes(width)).map(|_| code(random)).collect();
    for block in bytes.chunks_exact_mut(kind.block_bytes()) {
        for &field in half_fields {
            let half = f16::from_f32(value(random) / divisor);
            block[field..field + 2].copy_from_slice(&half.to_le_bytes());
        }
    }
    bytes
}
