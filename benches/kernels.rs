//! Micro benches of the kernels on data that stays in the cache: what the arithmetic costs.
//! `skipstone bench rows` shows what memory adds.
//!
//! Each bench compares its result with the portable instruction set, bit by bit, before it
//! measures.

use std::hint::black_box;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
};
use skipstone::kernels::{
    Activations, AttentionRow, FormatSet, Isa, KvPrecision, KvShape, KvSlot, KvStore,
    PAGE_POSITIONS, PackedMatrix, Product, RopeAngles, RopePairs, ThreadPool, WeightType, multiply,
    rms_norm, swiglu,
};

#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../tests/common/weights.rs"]
mod weights;

use weights::{Random, random_weights};

/// Sizes of a 1.5-billion-parameter model.
const WIDTH: usize = 1536;
const FEED_FORWARD: usize = 8960;
/// Enough columns for a steady time, few enough for the caches.
const OUTPUTS: usize = 1024;

/// Checks that every instruction set gives the bits of the portable one.
fn check(isa: Isa, name: &str, result: impl Fn(Isa) -> Vec<f32>) {
    let bits = |isa| result(isa).into_iter().map(f32::to_bits).collect::<Vec<_>>();
    assert!(bits(isa) == bits(Isa::portable()), "{name}: {} differs from portable", isa.name());
}

fn group<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    group
}

// === products ===

/// A matrix and rows of inputs for it.
struct Multiplication {
    matrix: PackedMatrix,
    rows: Vec<f32>,
}

impl Multiplication {
    fn new(kind: WeightType, rows: usize) -> Self {
        let mut random = Random(1);
        let bytes = random_weights(kind, OUTPUTS, WIDTH, 1.0, &mut random);
        let matrix = PackedMatrix::pack(kind, OUTPUTS, WIDTH, &bytes, 1);
        let matrix =
            matrix.unwrap_or_else(|error| unreachable!("the width suits every type: {error}"));
        Self { matrix, rows: random.floats(rows * WIDTH, 1.0) }
    }

    fn inputs(&self, isa: Isa) -> Activations {
        let mut inputs = Activations::default();
        inputs.reset(self.rows.len() / WIDTH, WIDTH);
        inputs.values_mut().copy_from_slice(&self.rows);
        let formats = FormatSet::default().with(self.matrix.kind().activation_format());
        inputs.quantize(&mut ThreadPool::new(1), isa, formats);
        inputs
    }

    fn result(&self, isa: Isa) -> Vec<f32> {
        let inputs = self.inputs(isa);
        let mut out = vec![0.0; inputs.rows() * OUTPUTS];
        let product = Product::all(&self.matrix, inputs.rows(), &mut out);
        multiply(&mut ThreadPool::new(1), isa, &inputs, [product], None);
        out
    }
}

fn products(criterion: &mut Criterion) {
    for kind in [WeightType::Q4_1, WeightType::Q8_0, WeightType::Q4_K, WeightType::Q6_K] {
        let mut group = group(criterion, &format!("product/{kind}"));
        for isa in Isa::available() {
            for rows in [1, 4, 8] {
                group.throughput(Throughput::Elements((rows * OUTPUTS * WIDTH) as u64));
                // Made on first use: a bench that is only listed, or left out, makes nothing.
                let mut prepared = None;
                group.bench_function(BenchmarkId::new(isa.name(), rows), |bencher| {
                    let (multiplication, inputs, out, pool) = prepared.get_or_insert_with(|| {
                        let multiplication = Multiplication::new(kind, rows);
                        check(isa, "product", |isa| multiplication.result(isa));
                        let inputs = multiplication.inputs(isa);
                        (multiplication, inputs, vec![0.0; rows * OUTPUTS], ThreadPool::new(1))
                    });
                    bencher.iter(|| {
                        let product = Product::all(&multiplication.matrix, rows, black_box(out));
                        multiply(pool, isa, black_box(inputs), [product], None);
                    });
                });
            }
        }
    }
}

// === attention ===

const POSITIONS: usize = 256;
const PAGES: [u32; POSITIONS / PAGE_POSITIONS] = [3, 0, 7, 2, 5, 1, 4, 6];
const SHAPE: KvShape = KvShape { layers: 1, query_heads: 12, kv_heads: 2, head_dim: 128 };
/// No rotation, so that queries stay what they are from one iteration to the next.
const UNTURNED: RopeAngles<'static> =
    RopeAngles { pairs: RopePairs::Halves, cosines: &[], sines: &[] };

fn filled_store(isa: Isa, precision: KvPrecision) -> KvStore {
    let mut random = Random(2);
    let mut keys = random.floats(POSITIONS * SHAPE.kv_heads * SHAPE.head_dim, 1.0);
    let values = random.floats(keys.len(), 1.0);
    let mut store = KvStore::new(SHAPE, precision, PAGES.len());
    let slot = |position: usize| KvSlot {
        page: PAGES[position / PAGE_POSITIONS],
        slot: position % PAGE_POSITIONS,
        angles: UNTURNED,
    };
    store.write(&mut ThreadPool::new(1), isa, 0, slot, &mut keys, &values);
    store
}

fn attend(
    store: &mut KvStore,
    pool: &mut ThreadPool,
    isa: Isa,
    queries: &mut [f32],
    out: &mut [f32],
) {
    let row = |_| AttentionRow { pages: &PAGES, first: 0, length: POSITIONS, angles: UNTURNED };
    store.attend(pool, isa, 0, row, queries, out);
}

fn attention(criterion: &mut Criterion) {
    for (name, precision) in [("F16", KvPrecision::F16), ("F32", KvPrecision::F32)] {
        let mut group = group(criterion, &format!("attention/{name}"));
        for isa in Isa::available() {
            for rows in [1, 8] {
                group.throughput(Throughput::Elements((rows * POSITIONS) as u64));
                let mut prepared = None;
                group.bench_function(BenchmarkId::new(isa.name(), rows), |bencher| {
                    let (store, pool, queries, out) = prepared.get_or_insert_with(|| {
                        let queries =
                            Random(3).floats(rows * SHAPE.query_heads * SHAPE.head_dim, 1.0);
                        let out = vec![0.0; queries.len()];
                        check(isa, "attention", |isa| {
                            let (mut queries, mut out) = (queries.clone(), out.clone());
                            let mut store = filled_store(isa, precision);
                            attend(
                                &mut store,
                                &mut ThreadPool::new(1),
                                isa,
                                &mut queries,
                                &mut out,
                            );
                            out
                        });
                        (filled_store(isa, precision), ThreadPool::new(1), queries, out)
                    });
                    bencher.iter(|| attend(store, pool, isa, black_box(queries), black_box(out)));
                });
            }
        }
    }
}

// === elementwise ===

fn elementwise(criterion: &mut Criterion) {
    type Apply = fn(Isa, &[f32], &[f32], &mut [f32]);
    let norm: Apply = |isa, input, weight, out| rms_norm(isa, input, weight, 1e-5, out);
    for (name, width, apply) in [("norm", WIDTH, norm), ("swiglu", FEED_FORWARD, swiglu as Apply)] {
        let mut group = group(criterion, name);
        group.throughput(Throughput::Elements(width as u64));
        for isa in Isa::available() {
            let mut prepared = None;
            group.bench_function(BenchmarkId::new(isa.name(), width), |bencher| {
                let (first, second, out) = prepared.get_or_insert_with(|| {
                    let mut random = Random(4);
                    let (first, second) = (random.floats(width, 3.0), random.floats(width, 3.0));
                    let out = vec![0.0; width];
                    check(isa, name, |isa| {
                        let mut out = out.clone();
                        apply(isa, &first, &second, &mut out);
                        out
                    });
                    (first, second, out)
                });
                bencher.iter(|| apply(isa, black_box(first), black_box(second), black_box(out)));
            });
        }
    }
}

criterion_group!(benches, products, attention, elementwise);
criterion_main!(benches);
