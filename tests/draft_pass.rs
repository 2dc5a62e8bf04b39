//! The parts of a pass that only drafts use: bridges and the draft head.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;

use common::engine::prompt;
use common::passes::{bits, drafted, forced, group, inputs, runner};
use common::tiny_model::TinyModel;
use common::weights::Random;
use skipstone::drafting::SkipSet;
use skipstone::kernels::{COLUMNS, Isa};
use skipstone::model::{
    Bridge, DraftHead, DraftVocabulary, LogitsWanted, Model, RowGroup, RowInput, TokenId,
};

fn model() -> Arc<Model> {
    TinyModel::default().load().model
}

/// Logits of one draft row after a few exact ones.
fn draft_logits(model: &Arc<Model>, bridges: &[Arc<Bridge>], skip: &[u32]) -> Vec<f32> {
    let mask = SkipSet::new(skip, skip, model.config().layers).unwrap().mask();
    let (mut runner, pages) = runner(model, Isa::detect(), 2, 64);
    let lease = pages.lease(32).unwrap();
    let tokens = prompt(6, model.config().vocabulary, &mut Random(3));
    forced(&mut runner, &lease, &tokens[..5], 5);
    let rows = inputs(&tokens[5..]);
    let draft = RowGroup { bridges, ..drafted(group(&lease, 5, &rows), &mask) };
    runner.run(&[draft]).logits(0, 0).to_vec()
}

/// A bridge over layers 2 and 3.
fn bridge(model: &Model, bias: f32, rank: usize, scale: f32) -> Arc<Bridge> {
    let hidden = model.config().hidden;
    let mut random = Random(9);
    let (down, up) = (random.floats(2 * rank * hidden, scale), random.floats(rank * hidden, scale));
    Arc::new(Bridge::new(4..8, hidden, vec![bias; hidden], &down, &up).unwrap())
}

#[test]
fn a_bridge_of_zeros_is_the_identity() {
    let model = model();
    let plain = bits(&draft_logits(&model, &[], &[2, 3]));
    for rank in [0, 8] {
        assert_eq!(
            bits(&draft_logits(&model, &[bridge(&model, 0.0, rank, 0.0)], &[2, 3])),
            plain,
            "rank {rank}"
        );
    }
    for (bias, rank, scale) in [(0.5, 0, 0.0), (0.0, 8, 0.5)] {
        let bridged = bits(&draft_logits(&model, &[bridge(&model, bias, rank, scale)], &[2, 3]));
        assert_ne!(bridged, plain, "bias {bias}, rank {rank}");
    }
}

#[test]
fn a_bridge_computes_its_formula() {
    let model = model();
    let (hidden, rank) = (model.config().hidden, 8);
    let mut random = Random(21);
    let bias = random.floats(hidden, 1.0);
    let (down, up) = (random.floats(2 * rank * hidden, 0.3), random.floats(rank * hidden, 0.3));
    let bridges = [Arc::new(Bridge::new(4..8, hidden, bias.clone(), &down, &up).unwrap())];
    let mask = SkipSet::new(&[2, 3], &[2, 3], model.config().layers).unwrap().mask();
    let (mut runner, pages) = runner(&model, Isa::detect(), 2, 64);
    let lease = pages.lease(32).unwrap();
    let tokens = prompt(6, model.config().vocabulary, &mut random);
    forced(&mut runner, &lease, &tokens[..3], 3);
    let half = |value: f32| f64::from(half::f16::from_f32(value).to_f32());
    for (position, &token) in tokens.iter().enumerate().skip(3) {
        let rows = [RowInput::Token(token)];
        let draft = RowGroup {
            skip: Some(&mask),
            bridges: &bridges,
            save_before: &[4, 8],
            ..group(&lease, position, &rows)
        };
        let output = runner.run(&[draft]);
        let (before, after) = (output.saved(0, 0, 0), output.saved(0, 1, 0));
        let mut feature = vec![0.0; hidden];
        output.feature_before(lease.pages(), position, &mut feature);
        assert!(feature.iter().any(|&value| value != 0.0), "position {position}");
        let inputs = || before.iter().chain(&feature);
        let inner: Vec<f64> = down
            .chunks_exact(2 * hidden)
            .map(|weights| {
                weights.iter().zip(inputs()).map(|(&weight, &x)| half(weight) * f64::from(x)).sum()
            })
            .collect();
        for index in 0..hidden {
            let mapped: f64 = up[index * rank..][..rank]
                .iter()
                .zip(&inner)
                .map(|(&weight, x)| half(weight) * x)
                .sum();
            let expected = f64::from(before[index]) + mapped + f64::from(bias[index]);
            let error = (f64::from(after[index]) - expected).abs();
            assert!(error < 1e-3 * (1.0 + expected.abs()), "position {position}, {index}");
        }
    }
}

#[test]
fn the_feature_of_a_position_is_its_state_near_the_end() {
    let model = model();
    let (hidden, place) = (model.config().hidden, model.config().feature_sublayer());
    assert!(place > 0 && place < model.config().sublayers());
    let (mut runner, pages) = runner(&model, Isa::detect(), 2, 128);
    let lease = pages.lease(64).unwrap();
    let rows = inputs(&prompt(40, model.config().vocabulary, &mut Random(2)));
    let output = runner.run(&[RowGroup { save_before: &[place], ..group(&lease, 0, &rows) }]);
    for row in 0..rows.len() {
        let mut feature = vec![0.0; hidden];
        output.feature_before(lease.pages(), row + 1, &mut feature);
        for (kept, state) in feature.iter().zip(output.saved(0, 0, row)) {
            assert!((kept - state).abs() <= state.abs() / 128.0, "row {row}: {kept} for {state}");
        }
    }
}

#[test]
fn a_verify_leaves_exact_features_wherever_its_rows_enter() {
    let model = TinyModel { layers: 30, ..TinyModel::default() }.load().model;
    let (layers, hidden) = (model.config().layers, model.config().hidden);
    let tokens = prompt(6, model.config().vocabulary, &mut Random(4));
    let (mut runner, pages) = runner(&model, Isa::detect(), 2, 128);
    let mut features_of = |drafts: Option<u32>| {
        let lease = pages.lease(32).unwrap();
        forced(&mut runner, &lease, &tokens[..4], 4);
        let mut states = Vec::new();
        let mask = drafts.map(|layer| SkipSet::new(&[layer], &[layer], layers).unwrap().mask());
        for (position, &token) in tokens.iter().enumerate().skip(4) {
            let Some(mask) = &mask else { continue };
            let rows = [RowInput::Token(token)];
            let output = runner.run(&[drafted(group(&lease, position, &rows), mask)]);
            states.push(output.saved(0, 0, 0).to_vec());
        }
        let first = mask.and_then(|mask| mask.first_skipped()).unwrap_or_default();
        let rows: Vec<RowInput<'_>> = match drafts {
            Some(_) => states.iter().map(|state| RowInput::Hidden { first, state }).collect(),
            None => inputs(&tokens[4..]),
        };
        let output = runner.run(&[group(&lease, 4, &rows)]);
        let mut feature = vec![0.0; hidden];
        let mut read = |position| {
            output.feature_before(lease.pages(), position, &mut feature);
            bits(&feature)
        };
        [read(5), read(6)]
    };
    let plain = features_of(None);
    // Before and after where features are taken.
    assert!((3..56).contains(&model.config().feature_sublayer()));
    for layer in [1, 28] {
        assert_eq!(features_of(Some(layer)), plain, "layer {layer}");
    }
}

#[test]
fn bridges_do_not_touch_other_streams() {
    let model = model();
    let mask = SkipSet::new(&[2, 3], &[2, 3], model.config().layers).unwrap().mask();
    let bridges = [
        [bridge(&model, 0.1, 8, 0.4)],
        [bridge(&model, 0.0, 0, 0.0)],
        [bridge(&model, 0.1, 8, 0.4)],
    ];
    let (mut runner, pages) = runner(&model, Isa::detect(), 2, 256);
    let leases: Vec<_> = (0..4).map(|_| pages.lease(32).unwrap()).collect();
    let lengths: Vec<usize> = (0..4).map(|index| 2 + index).collect();
    let mut rows: Vec<Vec<RowInput<'_>>> = Vec::new();
    for (lease, &length) in leases.iter().zip(&lengths) {
        let tokens = prompt(length + 1, model.config().vocabulary, &mut Random(length as u64));
        forced(&mut runner, lease, &tokens[..length], length);
        rows.push(inputs(&tokens[length..]));
    }
    let groups: Vec<RowGroup<'_>> = (0..4)
        .map(|index| {
            let plain = group(&leases[index], lengths[index], &rows[index]);
            match index {
                3 => plain,
                _ => RowGroup { bridges: &bridges[index], ..drafted(plain, &mask) },
            }
        })
        .collect();
    let mut answers = |from: usize, to: usize| -> Vec<Vec<u32>> {
        let output = runner.run(&groups[from..to]);
        (from..to).map(|index| bits(output.logits(index - from, 0))).collect()
    };
    let alone: Vec<_> = (0..4).flat_map(|index| answers(index, index + 1)).collect();
    assert_eq!(answers(0, 4), alone);
}

#[test]
fn the_draft_head_gives_the_bits_of_the_whole_head() {
    let model = model();
    let vocabulary = model.config().vocabulary;
    let tokens: Vec<TokenId> =
        (0..vocabulary as u32).filter(|id| id % 3 == 1).rev().map(TokenId).collect();
    let shared = DraftVocabulary::new(&model, &tokens, 2).unwrap();
    assert_eq!(shared.tokens(), tokens);
    let missing = TokenId(vocabulary as u32 - 3);
    let extra: Vec<u32> =
        [TokenId(0), missing].iter().filter_map(|&token| shared.extra_tile(token)).collect();
    let (mut runner, pages) = runner(&model, Isa::detect(), 2, 128);
    let leases = [pages.lease(32).unwrap(), pages.lease(32).unwrap()];
    let rows = inputs(&prompt(4, vocabulary, &mut Random(5)));
    let whole = runner.run(&[group(&leases[0], 0, &rows)]).logits(0, 3).to_vec();
    let head = DraftHead { vocabulary: &shared, extra_tiles: &extra };
    let draft = RowGroup { logits: LogitsWanted::Draft(head), ..group(&leases[0], 0, &rows) };
    // In company of a stream that wants the whole head, on either side.
    for place in 0..2 {
        let other = group(&leases[1], 0, &rows);
        let groups = if place == 0 { [draft.clone(), other] } else { [other, draft.clone()] };
        let output = runner.run(&groups);
        assert_eq!(bits(output.logits(1 - place, 3)), bits(&whole));
        // A token that counted twice would halve the probability of each.
        let covered = |id: &u32| id % 3 == 1 || extra.contains(&(id / COLUMNS as u32));
        let possible = output.logits(place, 0).iter().filter(|logit| logit.is_finite()).count();
        assert_eq!(possible, (0..vocabulary as u32).filter(covered).count(), "each token once");
        let mut scattered = vec![f32::NEG_INFINITY; vocabulary];
        head.scatter(output.logits(place, 0), &mut scattered);
        for (id, (found, expected)) in scattered.iter().zip(&whole).enumerate() {
            let expected = if covered(&(id as u32)) { *expected } else { f32::NEG_INFINITY };
            assert_eq!(found.to_bits(), expected.to_bits(), "token {id}");
        }
    }
}
