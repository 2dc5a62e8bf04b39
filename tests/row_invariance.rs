//! The promise behind losslessness: row `i` of a call over many rows has the bits of a call over that row alone.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::weights::{Random, random_weights};
use skipstone::kernels::{
    Activations, AttentionRow, FormatSet, Isa, KvPrecision, KvShape, KvSlot, KvStore, PAGE_POSITIONS,
    PackedMatrix, Product, RopeAngles, RopePairs, ThreadPool, WeightType, multiply,
};

type Multiply<'a> = dyn Fn(&PackedMatrix, &[f32]) -> Vec<f32> + 'a;

fn multiply_rows(isa: Isa, threads: usize, matrix: &PackedMatrix, rows: &[f32]) -> Vec<f32> {
    let mut inputs = Activations::default();
    inputs.reset(rows.len() / matrix.width(), matrix.width());
    inputs.values_mut().copy_from_slice(rows);
    let mut pool = ThreadPool::new(threads);
    inputs.quantize(&mut pool, isa, FormatSet::default().with(matrix.kind().activation_format()));
    let mut out = vec![0.0; inputs.rows() * matrix.outputs()];
    let rows = inputs.rows();
    multiply(&mut pool, isa, &inputs, [Product::all(matrix, rows, &mut out)]);
    out
}

/// The first row count, up to `most`, at which some row differs from the row alone.
fn first_difference(kind: WeightType, most: usize, multiply: &Multiply<'_>) -> Option<usize> {
    let (outputs, width) = (43, 512);
    let mut random = Random(kind as u64 + 11);
    let bytes = random_weights(kind, outputs, width, 1.0, &mut random);
    let matrix = PackedMatrix::pack(kind, outputs, width, &bytes, 1).unwrap();
    let rows = random.floats(most * width, 2.0);
    let alone: Vec<Vec<f32>> = rows.chunks_exact(width).map(|row| multiply(&matrix, row)).collect();
    (1..=most).find(|&count| {
        let together = multiply(&matrix, &rows[..count * width]);
        let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits();
        !together.iter().zip(alone[..count].iter().flatten()).all(same)
    })
}

#[test]
fn products_of_every_type_are_row_invariant() {
    for kind in WeightType::ALL {
        for isa in Isa::available() {
            let most = if isa == Isa::portable() { 9 } else { 64 };
            for threads in [1, 2, 3] {
                let found =
                    first_difference(kind, most, &|matrix, rows| multiply_rows(isa, threads, matrix, rows));
                assert_eq!(found, None, "{kind} on {} with {threads} threads", isa.name());
            }
        }
    }
}

/// The inverse: a product whose order of summation depends on the number of rows must be caught.
#[test]
fn a_row_dependent_product_is_caught() {
    let broken = |matrix: &PackedMatrix, rows: &[f32]| {
        let isa = Isa::detect();
        if rows.len() / matrix.width() < 5 {
            return multiply_rows(isa, 1, matrix, rows);
        }
        // From five rows on, the width is summed in two halves: right to within rounding, but not the same bits.
        let width = matrix.width();
        let half = |keep: fn(usize, usize) -> bool| -> Vec<f32> {
            let masked: Vec<f32> = rows
                .iter()
                .enumerate()
                .map(|(index, &value)| if keep(index % width, width / 2) { value } else { 0.0 })
                .collect();
            multiply_rows(isa, 1, matrix, &masked)
        };
        let (first, second) = (half(|at, middle| at < middle), half(|at, middle| at >= middle));
        first.iter().zip(&second).map(|(a, b)| a + b).collect()
    };
    assert_eq!(first_difference(WeightType::Q8_0, 8, &broken), Some(5));
}

/// No rotation: what is left of attention can be checked by its formula.
const UNTURNED: RopeAngles<'static> = RopeAngles { pairs: RopePairs::Halves, cosines: &[], sines: &[] };

#[test]
fn attention_is_row_invariant_and_right() {
    for precision in [KvPrecision::F16, KvPrecision::F32] {
        for (query_heads, kv_heads, head_dim) in [(9, 3, 64), (12, 2, 128), (4, 4, 8), (5, 1, 24), (4, 1, 48)]
        {
            check_attention_shape(KvShape { layers: 2, query_heads, kv_heads, head_dim }, precision);
        }
    }
}

fn check_attention_shape(shape: KvShape, precision: KvPrecision) {
    let mut random = Random(shape.head_dim as u64);
    let length = PAGE_POSITIONS * 2 + 5;
    let pages = [4_u32, 1, 3];
    let kv_width = shape.kv_heads * shape.head_dim;
    let mut keys = random.floats(length * kv_width, 1.0);
    let values = random.floats(length * kv_width, 1.0);
    let queries = random.floats(16 * shape.query_heads * shape.head_dim, 1.0);
    let row = |index: usize| AttentionRow { pages: &pages, length: length - index * 4, angles: UNTURNED };
    let width = shape.query_heads * shape.head_dim;
    let mut reference: Option<Vec<u32>> = None;
    for isa in Isa::available() {
        let mut store = KvStore::new(shape, precision, 5);
        let slot = |position: usize| KvSlot {
            page: pages[position / PAGE_POSITIONS],
            slot: position % PAGE_POSITIONS,
            angles: UNTURNED,
        };
        store.write(&mut ThreadPool::new(2), isa, 1, slot, &mut keys, &values);
        let mut attend = |first: usize, queries: &[f32], threads| {
            let (mut queries, mut out) = (queries.to_vec(), vec![0.0; queries.len()]);
            let mut pool = ThreadPool::new(threads);
            store.attend(&mut pool, isa, 1, |index| row(first + index), &mut queries, &mut out);
            out
        };
        let together = attend(0, &queries, 2);
        let alone: Vec<f32> = queries
            .chunks_exact(width)
            .enumerate()
            .flat_map(|(index, queries)| attend(index, queries, 1))
            .collect();
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&together), bits(&alone), "{}", isa.name());
        assert_eq!(reference.get_or_insert(bits(&together)), &bits(&together), "{}", isa.name());
        check_attention(shape, precision, length, &keys, &values, &queries, &together);
    }
}

/// The first row's heads against softmax attention in double precision.
fn check_attention(
    shape: KvShape,
    precision: KvPrecision,
    length: usize,
    keys: &[f32],
    values: &[f32],
    queries: &[f32],
    out: &[f32],
) {
    let stored = |value: f32| match precision {
        KvPrecision::F16 => f64::from(half::f16::from_f32(value).to_f32()),
        KvPrecision::F32 => f64::from(value),
    };
    let (dim, kv_width) = (shape.head_dim, shape.kv_heads * shape.head_dim);
    for head in 0..shape.query_heads {
        let kv_head = head / (shape.query_heads / shape.kv_heads);
        let scores: Vec<f64> = (0..length)
            .map(|position| {
                let dot: f64 = (0..dim)
                    .map(|index| {
                        stored(keys[position * kv_width + kv_head * dim + index])
                            * f64::from(queries[head * dim + index])
                    })
                    .sum();
                (dot / (dim as f64).sqrt()).exp()
            })
            .collect();
        let total: f64 = scores.iter().sum();
        for index in 0..dim {
            let expected: f64 = (0..length)
                .map(|position| {
                    scores[position] / total * stored(values[position * kv_width + kv_head * dim + index])
                })
                .sum();
            let found = f64::from(out[head * dim + index]);
            assert!(
                (found - expected).abs() < 1e-5,
                "head {head} element {index}: {found}, expected {expected}"
            );
        }
    }
}
