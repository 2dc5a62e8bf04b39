//! The tile kernel number by number, straight from the description of the layout: the oracle that
//! every instruction set must equal bit for bit.

use half::{bf16, f16};

use crate::activations::Activations;
use crate::layout::{COLUMNS, Layout, SUB_SCALES, VECTOR, for_layout};
use crate::packed::Tile;
use crate::weight_type::WeightType;

/// The outputs of tile `tile` for activation row `row`.
pub(super) fn tile_row(tile: Tile<'_>, inputs: &Activations, row: usize) -> [f32; COLUMNS] {
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

mod tests {
    use super::*;
    use crate::activations::FormatSet;
    use crate::isa::Isa;
    use crate::packed::PackedMatrix;
    use crate::pool::ThreadPool;

    /// More rows than any instruction set takes at once.
    const ROWS: usize = 9;

    /// Computes outputs of a tile for the rows from one on.
    type TileRows<'a> = dyn Fn(Tile<'_>, &Activations, usize, &mut [[f32; COLUMNS]]) + 'a;

    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u32 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (self.0 >> 33) as u32
        }

        /// A number in [-1, 1].
        fn signed(&mut self) -> f32 {
            self.next() as f32 / (1_u32 << 30) as f32 - 1.0
        }

        /// Random rows of a matrix, as in a file. Every code occurs, and every scale or weight
        /// below 2, denormal ones too.
        fn weights(&mut self, kind: WeightType, outputs: usize, width: usize) -> Vec<u8> {
            let mut bytes: Vec<u8> =
                (0..outputs * kind.row_bytes(width)).map(|_| self.next() as u8).collect();
            // The last bytes of floating-point numbers, whose second bit is the exponent's highest.
            let fields: &[usize] = match kind {
                WeightType::F32 => &[3],
                WeightType::Q4_1 | WeightType::Q5_1 | WeightType::Q4_K | WeightType::Q5_K => {
                    &[1, 3]
                }
                WeightType::Q6_K => &[209],
                _ => &[1],
            };
            for block in bytes.chunks_exact_mut(kind.block_bytes()) {
                for &field in fields {
                    block[field] &= !0x40;
                }
            }
            bytes
        }
    }

    /// First difference between `tile_rows` and the reference, over all weight types, numbers of
    /// rows and some magnitudes.
    fn first_difference(tile_rows: &TileRows<'_>) -> Option<String> {
        let mut random = Random(5);
        for kind in WeightType::ALL {
            let width = if kind.block_len() == 1 { 33 } else { 512 };
            let bytes = random.weights(kind, COLUMNS + 3, width);
            let matrix = PackedMatrix::pack(kind, COLUMNS + 3, width, &bytes, 1).unwrap();
            for magnitude in [1e-30, 1.0, 1e20] {
                let mut inputs = Activations::default();
                inputs.reset(ROWS, width);
                inputs.values_mut().fill_with(|| random.signed() * magnitude);
                let formats = FormatSet::default().with(kind.activation_format());
                inputs.quantize(&mut ThreadPool::new(1), Isa::portable(), formats);
                for index in 0..matrix.tiles() {
                    let tile = Tile::new(&matrix, index, None);
                    let expected: Vec<_> =
                        (0..ROWS).map(|row| tile_row(tile, &inputs, row)).collect();
                    for rows in 1..=ROWS {
                        let mut found = vec![[f32::NAN; COLUMNS]; rows];
                        tile_rows(tile, &inputs, ROWS - rows, &mut found);
                        let bits = |rows: &[[f32; COLUMNS]]| {
                            rows.iter().map(|row| row.map(f32::to_bits)).collect::<Vec<_>>()
                        };
                        if bits(&found) != bits(&expected[ROWS - rows..]) {
                            return Some(format!("{kind}, {rows} rows, magnitude {magnitude:e}"));
                        }
                    }
                }
            }
        }
        None
    }

    #[test]
    fn every_instruction_set_gives_the_bits_of_the_reference() {
        for isa in Isa::available() {
            let found = first_difference(&|tile, inputs, row, out| {
                isa.tile_rows(tile, inputs, row, out);
            });
            assert_eq!(found, None, "{}", isa.name());
        }
    }

    /// The inverse: one bit of one column, for five rows only, must be noticed.
    #[test]
    fn a_single_wrong_bit_is_found() {
        let found = first_difference(&|tile, inputs, row, out| {
            Isa::portable().tile_rows(tile, inputs, row, out);
            if tile.matrix().kind() == WeightType::Q6_K && out.len() == 5 {
                out[4][15] = f32::from_bits(out[4][15].to_bits() ^ 1);
            }
        });
        assert_eq!(found.as_deref(), Some("Q6_K, 5 rows, magnitude 1e-30"));
    }
}
