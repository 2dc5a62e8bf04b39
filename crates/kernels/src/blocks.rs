//! One block of each quantised type, decoded from the bytes of a GGUF file as the format defines
//! them.

use half::f16;

use super::weight_type::WeightType;

/// 32 weights with one scale: weight = `scale * (code - offset) + minimum`.
#[derive(Clone, Copy, Debug)]
pub struct Block32 {
    /// Scale, kept at the file's precision.
    pub scale: f16,
    /// Added to each weight; zero for the types without one.
    pub minimum: f16,
    /// Unsigned codes.
    pub codes: [u8; 32],
}

/// 256 weights in sub-blocks with integer scales:
/// weight = `scale * sub_scale * (code - offset) - minimum * sub_minimum`.
#[derive(Clone, Copy, Debug)]
pub struct Block256 {
    /// Scale of the scales.
    pub scale: f16,
    /// Scale of the minima; zero for Q6_K.
    pub minimum: f16,
    /// One for each 32 weights (Q4_K, Q5_K: the first 8) or for each 16 (Q6_K).
    pub sub_scales: [i8; 16],
    /// One for each 32 weights.
    pub sub_minima: [u8; 8],
    /// Unsigned codes.
    pub codes: [u8; 256],
}

/// Offset that is subtracted from a code of this type.
pub fn code_offset(kind: WeightType) -> i32 {
    match kind {
        WeightType::Q4_0 => 8,
        WeightType::Q5_0 => 16,
        WeightType::Q8_0 => 128,
        WeightType::Q6_K => 32,
        _ => 0,
    }
}

fn half_at(bytes: &[u8], at: usize) -> f16 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// Decodes a block of Q4_0, Q4_1, Q5_0, Q5_1 or Q8_0; `bytes` is one block.
pub fn decode_block32(kind: WeightType, bytes: &[u8]) -> Block32 {
    let mut block = Block32 { scale: half_at(bytes, 0), minimum: f16::ZERO, codes: [0; 32] };
    let data = match kind {
        WeightType::Q4_1 | WeightType::Q5_1 => {
            block.minimum = half_at(bytes, 2);
            &bytes[4..]
        }
        _ => &bytes[2..],
    };
    match kind {
        WeightType::Q8_0 => {
            for (code, &byte) in block.codes.iter_mut().zip(data) {
                *code = byte ^ 0x80; // two's complement to offset binary
            }
        }
        WeightType::Q5_0 | WeightType::Q5_1 => {
            let high = u32::from_le_bytes([data[0], data[1], data[2], data[3]]);
            nibbles(&data[4..20], &mut block.codes);
            for (index, code) in block.codes.iter_mut().enumerate() {
                *code |= ((high >> index & 1) as u8) << 4;
            }
        }
        _ => nibbles(&data[..16], &mut block.codes),
    }
    block
}

/// Decodes a block of Q4_K, Q5_K or Q6_K; `bytes` is one block.
pub fn decode_block256(kind: WeightType, bytes: &[u8]) -> Block256 {
    let mut block = Block256 {
        scale: f16::ZERO,
        minimum: f16::ZERO,
        sub_scales: [0; 16],
        sub_minima: [0; 8],
        codes: [0; 256],
    };
    if kind == WeightType::Q6_K {
        decode_q6_k(bytes, &mut block);
        return block;
    }
    block.scale = half_at(bytes, 0);
    block.minimum = half_at(bytes, 2);
    let packed = &bytes[4..16];
    for group in 0..8 {
        let (scale, minimum) = if group < 4 {
            (packed[group] & 63, packed[group + 4] & 63)
        } else {
            (
                packed[group + 4] & 15 | packed[group - 4] >> 6 << 4,
                packed[group + 4] >> 4 | packed[group] >> 6 << 4,
            )
        };
        block.sub_scales[group] = scale as i8;
        block.sub_minima[group] = minimum;
    }
    let low = if kind == WeightType::Q5_K { &bytes[48..176] } else { &bytes[16..144] };
    for (pair, (codes, nibbles)) in
        block.codes.chunks_exact_mut(64).zip(low.chunks_exact(32)).enumerate()
    {
        for (index, &byte) in nibbles.iter().enumerate() {
            codes[index] = byte & 15;
            codes[index + 32] = byte >> 4;
            if kind == WeightType::Q5_K {
                let high = bytes[16 + index] >> (2 * pair);
                codes[index] |= (high & 1) << 4;
                codes[index + 32] |= (high >> 1 & 1) << 4;
            }
        }
    }
    block
}

fn decode_q6_k(bytes: &[u8], block: &mut Block256) {
    let (low, high, scales) = (&bytes[..128], &bytes[128..192], &bytes[192..208]);
    block.scale = half_at(bytes, 208);
    for (sub_scale, &byte) in block.sub_scales.iter_mut().zip(scales) {
        *sub_scale = byte as i8;
    }
    for half in 0..2 {
        let codes = &mut block.codes[half * 128..][..128];
        for index in 0..32 {
            let (first, second) = (low[half * 64 + index], low[half * 64 + 32 + index]);
            let two_bits = high[half * 32 + index];
            codes[index] = first & 15 | (two_bits & 3) << 4;
            codes[index + 32] = second & 15 | (two_bits >> 2 & 3) << 4;
            codes[index + 64] = first >> 4 | (two_bits >> 4 & 3) << 4;
            codes[index + 96] = second >> 4 | (two_bits >> 6) << 4;
        }
    }
}

fn nibbles(bytes: &[u8], codes: &mut [u8; 32]) {
    for (index, &byte) in bytes.iter().enumerate() {
        codes[index] = byte & 15;
        codes[index + 16] = byte >> 4;
    }
}

/// Writes the `out.len()` weights of one row as floats. `bytes` holds the whole row as in the file,
/// and `out.len()` is a multiple of the type's block length.
pub fn dequantize_row(kind: WeightType, bytes: &[u8], out: &mut [f32]) {
    let blocks = bytes.chunks_exact(kind.block_bytes()).zip(out.chunks_exact_mut(kind.block_len()));
    let offset = code_offset(kind);
    for (bytes, out) in blocks {
        match (kind, kind.block_len()) {
            (WeightType::F32, _) => {
                out[0] = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
            }
            (WeightType::F16, _) => out[0] = half_at(bytes, 0).to_f32(),
            (WeightType::BF16, _) => {
                out[0] = half::bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
            }
            (_, 32) => {
                let block = decode_block32(kind, bytes);
                for (value, &code) in out.iter_mut().zip(&block.codes) {
                    *value = block.scale.to_f32() * (i32::from(code) - offset) as f32
                        + block.minimum.to_f32();
                }
            }
            _ => {
                let block = decode_block256(kind, bytes);
                let sub_block = if kind == WeightType::Q6_K { 16 } else { 32 };
                for (index, value) in out.iter_mut().enumerate() {
                    let scale =
                        block.scale.to_f32() * f32::from(block.sub_scales[index / sub_block]);
                    let minimum = block.minimum.to_f32() * f32::from(block.sub_minima[index / 32]);
                    *value = scale * (i32::from(block.codes[index]) - offset) as f32 - minimum;
                }
            }
        }
    }
}
