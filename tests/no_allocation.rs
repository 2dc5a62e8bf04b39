//! Promise: once a pass of some shape has run, another of that shape allocates nothing, on any
//! thread.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::alloc::System;

use common::passes::{drafted, group, inputs};
use common::stand_in::{Shape, weights};
use common::tiny_model::TinyModel;
use common::weights::Random;
use skipstone::kernels::{KvPrecision, ThreadPool, WeightType};
use skipstone::model::{
    LogitsWanted, PagePool, RowGroup, RowInput, Runner, RunnerOptions, SkipMask, StandIn,
    StandInPart, TokenId,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static COUNTED: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const THREADS: usize = 2;
const POSITIONS: usize = 320;
/// Position of verify and plain steps.
const CONTEXT: usize = 256;

/// Allocations of all threads while `action` runs.
fn allocations(action: impl FnOnce()) -> usize {
    let count = || {
        let stats = COUNTED.stats();
        stats.allocations + stats.reallocations
    };
    let before = count();
    action();
    count() - before
}

/// One test, because the count is the process's: another test at the same time would be counted as
/// well.
#[test]
fn a_pass_of_a_known_shape_allocates_nothing() {
    the_counter_counts_on_every_thread();
    let wide = TinyModel { hidden: 256, feed_forward: 256, head_dim: 32, ..TinyModel::default() };
    let mut failures = Vec::new();
    for (kind, kv_precision) in [
        (WeightType::Q8_0, KvPrecision::F16),
        (WeightType::Q4_K, KvPrecision::F32),
        (WeightType::F16, KvPrecision::F16),
    ] {
        let model = TinyModel { kind, ..wide.clone() }.load().model;
        let config = model.config();
        let pages = PagePool::pages_for(POSITIONS);
        let options = RunnerOptions {
            pages,
            threads: THREADS,
            kv_precision,
            stand_in_layers: 1,
            ..RunnerOptions::default()
        };
        let mut runner = Runner::with_options(model.clone(), options);
        let pool = PagePool::new(pages);
        let lease = pool.lease(POSITIONS).unwrap();

        let tokens: Vec<TokenId> = (0..64).map(|index| TokenId(2 + index % 20)).collect();
        let mask = SkipMask::new(
            (0..config.sublayers()).map(|sublayer| (3..5).contains(&sublayer)).collect(),
        );
        let states = vec![0.25; 8 * config.hidden];
        let entered: Vec<RowInput<'_>> = states
            .chunks_exact(config.hidden)
            .map(|state| RowInput::Hidden { first: 3, state })
            .collect();
        let rows = inputs(&tokens);

        let prefill = RowGroup { logits: LogitsWanted::Last, ..group(&lease, CONTEXT - 64, &rows) };
        let plain = group(&lease, CONTEXT, &rows[..1]);
        let draft = drafted(plain.clone(), &mask);
        let verify = RowGroup { save_before: &[5], ..group(&lease, CONTEXT, &entered) };
        let shape = Shape { first_layer: 1, layers: 1, width: 64 };
        let stand_in = StandIn::new(&model, &weights(&model, shape, &mut Random(3)), 1).unwrap();
        let replaced = SkipMask::new(
            (0..config.sublayers()).map(|sublayer| stand_in.span().contains(&sublayer)).collect(),
        );
        let by_stand_in = RowGroup {
            stand_in: StandInPart::Draft(&stand_in),
            logits: LogitsWanted::Last,
            ..drafted(group(&lease, CONTEXT, &rows[..3]), &replaced)
        };
        let all = [prefill, plain, draft, by_stand_in, verify];
        for (shape, groups) in [
            ("prefill chunk", &all[..1]),
            ("plain step", &all[1..2]),
            ("draft", &all[2..3]),
            ("draft by a stand-in", &all[3..4]),
            ("verify of saved states", &all[4..]),
            ("all at once", &all),
        ] {
            let run = |runner: &mut Runner| {
                allocations(|| {
                    runner.run(groups);
                })
            };
            let first = run(&mut runner);
            // The runner's first pass makes its memory; if that went unseen, later ones would too.
            assert!(
                first > 0 || shape != "prefill chunk",
                "{kind}: the first pass allocated nothing"
            );
            let counts: Vec<usize> = (0..10).map(|_| run(&mut runner)).collect();
            if counts.iter().any(|&count| count > 0) {
                failures.push(format!("{kind}, {shape}: {counts:?} allocations"));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn the_counter_counts_on_every_thread() {
    let mut pool = ThreadPool::new(THREADS);
    let all_arrived = std::sync::Barrier::new(THREADS);
    let mut boxes_of = |each: usize| {
        allocations(|| {
            pool.run(THREADS, &|_| {
                all_arrived.wait();
                (0..each).for_each(|_| drop(std::hint::black_box(Box::new(1))));
            });
        })
    };
    // A thread that waits for the first time may allocate.
    boxes_of(0);
    assert_eq!(boxes_of(0), 0, "nothing was allocated");
    assert_eq!(boxes_of(3), 3 * THREADS, "three boxes on each of {THREADS} threads");
}
