//! The tile kernel number by number, straight from the description of the layout: the oracle that
//! every instruction set must equal bit for bit.

use half::{bf16, f16};

use crate::activations::Activations;
use crate::layout::{COLUMNS, Layout, SUB_SCALES, VECTOR, for_layout};
use crate::packed::Tile;
use crate::weight_type::WeightType;

/// The outputs of tile `tile` for activation row `row`.
pub(crate) fn tile_row(tile: Tile<'_>, inputs: &Activations, row: usize) -> [f32; COLUMNS] {
    let (kind, bytes) = (tile.matrix().kind(), tile.weights());
    for_layout!(kind, floats(kind, bytes, inputs.row(row)), |L| {
        match kind.block_len() {
            32 => blocks32::<L>(bytes, inputs, row),
            _ => blocks256::<L>(bytes, inputs, row),
        }
    })
}

fn half_at(bytes: &[u8], index: usize) -> f32 {
    f16::from_le_bytes([bytes[2 * index], bytes[2 * index + 1]]).to_f32()
}

/// Two chains, even and odd inputs, as the loops keep them to hide the latency of the
/// multiply-add.
fn floats(kind: WeightType, bytes: &[u8], input: &[f32]) -> [f32; COLUMNS] {
    let mut sums = [[0.0_f32; COLUMNS]; 2];
    for (index, (weights, &value)) in
        bytes.chunks_exact(COLUMNS * kind.block_bytes()).zip(input).enumerate()
    {
        for (column, sum) in sums[index % 2].iter_mut().enumerate() {
            let weight = match kind {
                WeightType::F16 => half_at(weights, column),
                WeightType::BF16 => {
                    bf16::from_le_bytes([weights[2 * column], weights[2 * column + 1]]).to_f32()
                }
                _ => f32::from_le_bytes(std::array::from_fn(|byte| weights[4 * column + byte])),
            };
            *sum = weight.mul_add(value, *sum);
        }
    }
    std::array::from_fn(|column| sums[0][column] + sums[1][column])
}

fn code<L: Layout>(planes: &[u8], column: usize, input: usize) -> i32 {
    let (vector, lane) = (input / 4, 4 * column + input % 4);
    if L::BITS == 8 {
        return i32::from(planes[VECTOR * vector + lane]);
    }
    let low = planes[VECTOR * (vector % 4) + lane] >> (vector / 4 * 4) & 15;
    let high = match L::BITS {
        5 => planes[4 * VECTOR + lane] >> vector & 1,
        6 => planes[(4 + vector / 4) * VECTOR + lane] >> (vector % 4 * 2) & 3,
        _ => 0,
    };
    i32::from(low | high << 4)
}

fn dot<L: Layout>(planes: &[u8], column: usize, codes: &[i8], first: usize) -> i32 {
    let pairs = codes.iter().enumerate();
    pairs.map(|(index, &value)| code::<L>(planes, column, first + index) * i32::from(value)).sum()
}

fn blocks32<L: Layout>(tile: &[u8], inputs: &Activations, row: usize) -> [f32; COLUMNS] {
    let quantized = inputs.block32();
    let groups = inputs.width() / 32;
    let mut sums = [0.0_f32; COLUMNS];
    for (group, block) in tile.chunks_exact(L::HEAD + L::PLANES).enumerate() {
        let at = row * groups + group;
        let codes = &quantized.codes[at * 32..][..32];
        for (column, sum) in sums.iter_mut().enumerate() {
            let total =
                dot::<L>(&block[L::HEAD..], column, codes, 0) - L::OFFSET * quantized.sums[at];
            *sum = (total as f32 * half_at(block, column)).mul_add(quantized.scales[at], *sum);
            if L::MINIMA {
                *sum =
                    half_at(&block[2 * COLUMNS..], column).mul_add(quantized.scaled_sums[at], *sum);
            }
        }
    }
    sums
}

fn blocks256<L: Layout>(tile: &[u8], inputs: &Activations, row: usize) -> [f32; COLUMNS] {
    let quantized = inputs.block256();
    let blocks = inputs.width() / 256;
    let mut sums = [0.0_f32; COLUMNS];
    for (index, block) in tile.chunks_exact(L::HEAD + SUB_SCALES + 8 * L::PLANES).enumerate() {
        let at = row * blocks + index;
        let codes = &quantized.codes[at * 256..][..256];
        let scale = quantized.scales[at];
        let (head, planes) = block.split_at(L::HEAD + SUB_SCALES);
        let sub = &head[L::HEAD..];
        let sub_value = |column: usize, sub_block: usize| {
            sub[2 * (sub_block / 2 * COLUMNS + column) + sub_block % 2]
        };
        for (column, sum) in sums.iter_mut().enumerate() {
            let mut total = 0;
            let mut correction = 0;
            for sub_block in 0..16 {
                let group = sub_block / 2;
                let first = sub_block % 2 * 16;
                let part = dot::<L>(
                    &planes[group * L::PLANES..],
                    column,
                    &codes[group * 32 + first..][..16],
                    first,
                );
                if L::MINIMA {
                    total += part * i32::from(sub_value(column, group));
                } else {
                    let sub_scale = i32::from(sub_value(column, sub_block) as i8);
                    total += part * sub_scale;
                    correction += sub_scale * i32::from(quantized.sums16[at * 16 + sub_block]);
                }
            }
            let weight_scale = half_at(block, column);
            if L::MINIMA {
                for group in 0..8 {
                    let sum32 = i32::from(quantized.sums32[at * 8 + group]);
                    correction += i32::from(sub_value(column, 8 + group)) * sum32;
                }
                *sum = (total as f32 * weight_scale).mul_add(scale, *sum);
                *sum = (correction as f32 * half_at(&block[2 * COLUMNS..], column))
                    .mul_add(-scale, *sum);
            } else {
                *sum =
                    ((total - L::OFFSET * correction) as f32 * weight_scale).mul_add(scale, *sum);
            }
        }
    }
    sums
}
