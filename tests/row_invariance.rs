//! The promise behind losslessness: row `i` of a call over many rows has the bits of a call over
//! that row alone.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::ops::Range;

use common::weights::{Random, random_weights};
use skipstone::kernels::{
    Activations, AttentionRow, FormatSet, Isa, KvPrecision, KvShape, KvSlot, KvStore,
    PAGE_POSITIONS, PackedMatrix, Product, RopeAngles, RopePairs, ThreadPool, WeightType, multiply,
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
    multiply(&mut pool, isa, &inputs, [Product::all(matrix, rows, &mut out)], None);
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
                let found = first_difference(kind, most, &|matrix, rows| {
                    multiply_rows(isa, threads, matrix, rows)
                });
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
        // From five rows on, the width is summed in two halves: right to within rounding, but not
        // the same bits.
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
const UNTURNED: RopeAngles<'static> =
    RopeAngles { pairs: RopePairs::Halves, cosines: &[], sines: &[] };

/// Rows of one stream in a pass.
const ATTENDING: usize = 16;

/// Lengths of attention that lie within a segment, cross a few, and need more than a round of them.
const LENGTHS: [usize; 3] =
    [PAGE_POSITIONS * 2 + 5, PAGE_POSITIONS * 12 + 9, PAGE_POSITIONS * 66 + 3];

#[test]
fn attention_is_row_invariant_and_right() {
    for precision in [KvPrecision::F16, KvPrecision::F32] {
        for (query_heads, kv_heads, head_dim) in
            [(9, 3, 64), (12, 2, 128), (4, 4, 8), (5, 1, 24), (4, 1, 48)]
        {
            for length in LENGTHS {
                let shape = KvShape { layers: 2, query_heads, kv_heads, head_dim };
                for window in WINDOWS {
                    check_attention_shape(shape, precision, length, window);
                }
            }
        }
    }
}

/// Positions that a row sees at most: all, its own, less than a segment of the kernel, and more.
const WINDOWS: [usize; 4] = [usize::MAX, 1, 100, 300];

fn check_attention_shape(shape: KvShape, precision: KvPrecision, length: usize, window: usize) {
    let mut random = Random(shape.head_dim as u64);
    // Out of order, as pages are after some streams.
    let count = length.div_ceil(PAGE_POSITIONS);
    let pages: Vec<u32> = (0..count).map(|page| ((page * 5 + 3) % (count + 1)) as u32).collect();
    let kv_width = shape.kv_heads * shape.head_dim;
    let mut keys = random.floats(length * kv_width, 1.0);
    let values = random.floats(length * kv_width, 1.0);
    let queries = random.floats(ATTENDING * shape.query_heads * shape.head_dim, 1.0);
    // The rows of a verify follow each other; rows that don't are attended to one by one.
    let following = |index: usize| length - ATTENDING + 1 + index;
    let apart = |index: usize| length - index * 4;
    let width = shape.query_heads * shape.head_dim;
    let mut references: [Option<Vec<u32>>; 2] = [None, None];
    for isa in Isa::available() {
        let mut store = KvStore::new(shape, precision, count + 1);
        let slot = |position: usize| KvSlot {
            page: pages[position / PAGE_POSITIONS],
            slot: position % PAGE_POSITIONS,
            angles: UNTURNED,
        };
        store.write(&mut ThreadPool::new(2), isa, 1, slot, &mut keys, &values);
        let mut attend =
            |lengths: &(dyn Fn(usize) -> usize + Sync), first, queries: &[f32], threads| {
                let (mut queries, mut out) = (queries.to_vec(), vec![0.0; queries.len()]);
                let row = |index| {
                    let length = lengths(first + index);
                    let first = length.saturating_sub(window);
                    AttentionRow { pages: &pages, first, length, angles: UNTURNED }
                };
                store.attend(&mut ThreadPool::new(threads), isa, 1, row, &mut queries, &mut out);
                out
            };
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        let ways: [&(dyn Fn(usize) -> usize + Sync); 2] = [&following, &apart];
        for (lengths, reference) in ways.into_iter().zip(&mut references) {
            let alone: Vec<f32> = queries
                .chunks_exact(width)
                .enumerate()
                .flat_map(|(index, queries)| attend(lengths, index, queries, 1))
                .collect();
            for (rows, threads) in [(ATTENDING, 1), (ATTENDING, 2), (5, 3), (1, 4)] {
                let together: Vec<f32> = queries
                    .chunks(rows * width)
                    .enumerate()
                    .flat_map(|(index, queries)| attend(lengths, index * rows, queries, threads))
                    .collect();
                assert_eq!(
                    bits(&together),
                    bits(&alone),
                    "{rows} rows, {threads} threads, {}",
                    isa.name()
                );
            }
            assert_eq!(reference.get_or_insert(bits(&alone)), &bits(&alone), "{}", isa.name());
            for index in [0, ATTENDING - 1] {
                let part = index * width..(index + 1) * width;
                let (queries, out) = (&queries[part.clone()], &alone[part]);
                let length = lengths(index);
                let seen = length.saturating_sub(window)..length;
                check_attention(shape, precision, seen, &keys, &values, queries, out);
            }
        }
    }
}

/// A row's heads against softmax attention in double precision.
fn check_attention(
    shape: KvShape,
    precision: KvPrecision,
    seen: Range<usize>,
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
        let scores: Vec<f64> = seen
            .clone()
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
            let expected: f64 = seen
                .clone()
                .zip(&scores)
                .map(|(position, score)| {
                    score / total * stored(values[position * kv_width + kv_head * dim + index])
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
