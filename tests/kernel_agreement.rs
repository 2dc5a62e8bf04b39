//! The promise: every instruction set gives the same bits as plain Rust, and those are right.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::weights::{Random, largest_codes, random_weights};
use proptest::prelude::*;
use skipstone::kernels::{
    Activations, FormatSet, Isa, PackedMatrix, Product, ThreadPool, WeightType, dequantize_row,
    multiply,
};

fn product(isa: Isa, threads: usize, matrix: &PackedMatrix, rows: &[f32]) -> Vec<f32> {
    let mut inputs = Activations::default();
    inputs.reset(rows.len() / matrix.width(), matrix.width());
    inputs.values_mut().copy_from_slice(rows);
    let mut pool = ThreadPool::new(threads);
    inputs.quantize(&mut pool, isa, FormatSet::default().with(matrix.kind().activation_format()));
    let mut out = vec![f32::NAN; inputs.rows() * matrix.outputs()];
    let rows = inputs.rows();
    multiply(&mut pool, isa, &inputs, [Product::all(matrix, rows, &mut out)], None);
    out
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// In double precision, from the weights' definition and the unquantised inputs.
fn exact(kind: WeightType, bytes: &[u8], width: usize, rows: &[f32]) -> Vec<(f64, f64)> {
    let weights: Vec<Vec<f32>> = bytes
        .chunks_exact(kind.row_bytes(width))
        .map(|bytes| {
            let mut row = vec![0.0; width];
            dequantize_row(kind, bytes, &mut row);
            row
        })
        .collect();
    let mut sums = Vec::new();
    for row in rows.chunks_exact(width) {
        for weights in &weights {
            let terms = weights
                .iter()
                .zip(row)
                .map(|(&weight, &input)| f64::from(weight) * f64::from(input));
            let largest = row.iter().fold(0.0_f32, |a, &b| a.max(b.abs()));
            // Each input is off by at most half a step of its scale.
            let error: f64 =
                weights.iter().map(|&weight| f64::from(weight.abs() * largest / 254.0)).sum();
            sums.push((terms.sum(), error));
        }
    }
    sums
}

#[test]
fn products_match_the_definition_of_each_type() {
    let mut failures = Vec::new();
    for kind in WeightType::ALL {
        let (outputs, width, rows) = (19, 512, 3);
        let mut random = Random(7);
        let bytes = random_weights(kind, outputs, width, 1.0, &mut random);
        let inputs = random.floats(rows * width, 3.0);
        let matrix = PackedMatrix::pack(kind, outputs, width, &bytes, 2).unwrap();
        let found = product(Isa::detect(), 2, &matrix, &inputs);
        for (index, (&found, (expected, bound))) in
            found.iter().zip(exact(kind, &bytes, width, &inputs)).enumerate()
        {
            let bound = if kind.block_len() == 1 { 1e-3 } else { bound + 1e-3 };
            if (f64::from(found) - expected).abs() > bound {
                failures.push(format!(
                    "{kind} output {index}: {found}, expected {expected} +- {bound}"
                ));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn largest_codes_do_not_overflow() {
    let mut failures = Vec::new();
    for kind in WeightType::ALL {
        for sign in [1.0, -1.0] {
            let (outputs, width) = (8, 512);
            let bytes = largest_codes(kind, outputs, width, 1.0);
            let inputs = vec![sign * 5.0; 2 * width];
            let matrix = PackedMatrix::pack(kind, outputs, width, &bytes, 1).unwrap();
            // Equal inputs quantise exactly, so only rounding is left.
            for isa in Isa::available() {
                let found = product(isa, 1, &matrix, &inputs);
                for (&found, (expected, _)) in found.iter().zip(exact(kind, &bytes, width, &inputs))
                {
                    if (f64::from(found) - expected).abs() > 1e-4 * expected.abs() {
                        failures
                            .push(format!("{kind} {}: {found}, expected {expected}", isa.name()));
                    }
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn a_nan_or_an_infinity_reaches_the_output() {
    for kind in WeightType::ALL {
        let mut random = Random(3);
        let bytes = random_weights(kind, 8, 256, 1.0, &mut random);
        let matrix = PackedMatrix::pack(kind, 8, 256, &bytes, 1).unwrap();
        for fault in [f32::NAN, f32::INFINITY] {
            let mut inputs = random.floats(2 * 256, 1.0);
            inputs[256 + 77] = fault;
            for isa in Isa::available() {
                let out = product(isa, 1, &matrix, &inputs);
                assert!(
                    out[..8].iter().all(|value| value.is_finite()),
                    "{kind}: the other row is clean"
                );
                assert!(
                    out[8..].iter().all(|value| !value.is_finite()),
                    "{kind} {}: {:?}",
                    isa.name(),
                    &out[8..]
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_instruction_set_gives_the_same_bits(
        kind in proptest::sample::select(WeightType::ALL.to_vec()),
        outputs in 1_usize..40,
        blocks in 1_usize..4,
        rows in 1_usize..20,
        scale in proptest::sample::select(vec![1e-30_f32, 1e-3, 1.0, 100.0, 1e20]),
        seed in any::<u64>(),
    ) {
        let width = blocks * if kind.block_len() == 1 { 24 } else { kind.block_len() };
        let mut random = Random(seed);
        let bytes = random_weights(kind, outputs, width, 1.0, &mut random);
        let inputs = random.floats(rows * width, scale);
        let matrix = PackedMatrix::pack(kind, outputs, width, &bytes, 2).unwrap();
        let expected = bits(&product(Isa::portable(), 1, &matrix, &inputs));
        for isa in Isa::available() {
            prop_assert_eq!(&bits(&product(isa, 2, &matrix, &inputs)), &expected, "{} {}", kind, isa.name());
        }
    }
}
