//! The options of blocks against a naive reference.

use super::toy::{Toy, VOCABULARY};
use super::*;
use crate::TokenId;
use crate::blueprint::Blueprint;
use crate::pages::{PageLease, PagePool};
use crate::pass::{RowInput, SkipMask};
use crate::sublayer::{attention_of, layers};

/// Past the end of a page of 32.
const LENGTH: usize = 40;

/// Weights, keys and values are floats, and so are the products: the pass differs from the
/// reference by roundings of 2^-24 only, some hundred of them in a row.
const TOLERANCE: f64 = 1e-5;

/// An option that the reference alone has, or the pass alone, must differ by more.
const DIFFERENCE: f64 = 10_000.0 * TOLERANCE;

struct Case {
    name: &'static str,
    change: fn(&mut Blueprint),
    has_biases: bool,
}

const CASES: &[Case] = &[
    Case { name: "no option", change: |_| {}, has_biases: false },
    Case { name: "biases", change: |_| {}, has_biases: true },
    Case { name: "norms of heads", change: head_norms, has_biases: false },
    Case { name: "a scale of scores", change: score_scales, has_biases: false },
    Case { name: "windows", change: windows, has_biases: false },
    Case { name: "ropes by layer", change: ropes, has_biases: false },
    Case { name: "norms after blocks", change: post_norms, has_biases: false },
    Case { name: "scales of the residual", change: residual_scales, has_biases: false },
    Case { name: "a scale of embeddings", change: embedding_scale, has_biases: false },
    Case { name: "a scale of logits", change: logit_scale, has_biases: false },
    Case { name: "everything", change: everything, has_biases: true },
];

fn head_norms(blueprint: &mut Blueprint) {
    blueprint.layers.iter_mut().for_each(|layer| layer.attention.has_head_norms = true);
}

fn score_scales(blueprint: &mut Blueprint) {
    blueprint.layers.iter_mut().for_each(|layer| layer.attention.scale = Some(0.8));
}

fn windows(blueprint: &mut Blueprint) {
    blueprint.layers[0].attention.window = Some(3);
    blueprint.layers[2].attention.window = Some(33);
}

fn ropes(blueprint: &mut Blueprint) {
    blueprint.layers[1].attention.rope = None;
    blueprint.layers[2].attention.rope = Some(1);
}

fn post_norms(blueprint: &mut Blueprint) {
    for layer in &mut blueprint.layers {
        layer.attention.exit.has_post_norm = true;
        layer.mlp.exit.has_post_norm = true;
    }
}

fn residual_scales(blueprint: &mut Blueprint) {
    for layer in &mut blueprint.layers {
        layer.attention.exit.residual_scale = Some(0.4);
        layer.mlp.exit.residual_scale = Some(1.7);
    }
}

fn embedding_scale(blueprint: &mut Blueprint) {
    blueprint.embedding_scale = Some(3.5);
}

fn logit_scale(blueprint: &mut Blueprint) {
    blueprint.logit_scale = Some(0.6);
}

fn everything(blueprint: &mut Blueprint) {
    for change in [
        head_norms,
        score_scales,
        windows,
        ropes,
        post_norms,
        residual_scales,
        embedding_scale,
        logit_scale,
    ] {
        change(blueprint);
    }
}

fn tokens() -> Vec<TokenId> {
    (0..LENGTH).map(|index| TokenId((index * 7 % VOCABULARY) as u32)).collect()
}

fn runner(model: &Arc<Model>, threads: usize) -> (Runner, PageLease) {
    let pages = PagePool::pages_for(LENGTH);
    let options =
        RunnerOptions { pages, threads, kv_precision: KvPrecision::F32, ..Default::default() };
    let lease = PagePool::new(pages).lease(LENGTH).unwrap();
    (Runner::with_options(Arc::clone(model), options), lease)
}

fn group<'a>(lease: &'a PageLease, position: usize, rows: &'a [RowInput<'a>]) -> RowGroup<'a> {
    RowGroup { logits: LogitsWanted::All, ..RowGroup::new(lease.pages(), position, rows) }
}

/// Logits after each token, fed in chunks.
fn forced(
    model: &Arc<Model>,
    threads: usize,
    chunk: usize,
    skip: Option<&SkipMask>,
) -> Vec<Vec<f32>> {
    let (mut runner, lease) = runner(model, threads);
    let rows: Vec<RowInput<'_>> = tokens().into_iter().map(RowInput::Token).collect();
    let mut all = Vec::with_capacity(LENGTH);
    for (index, rows) in rows.chunks(chunk).enumerate() {
        let group = RowGroup { skip, ..group(&lease, index * chunk, rows) };
        let output = runner.run(&[group]);
        all.extend((0..rows.len()).map(|row| output.logits(0, row).to_vec()));
    }
    all
}

/// The largest difference of two sets of logits.
fn distance(found: &[Vec<f32>], expected: &[Vec<f64>]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let pairs = found.iter().flatten().zip(expected.iter().flatten());
    pairs.map(|(&found, expected)| (f64::from(found) - expected).abs()).fold(0.0, f64::max)
}

#[test]
fn every_option_does_what_the_reference_does() {
    let plain = Toy::new(|_| {}, false).reference(&tokens(), &[]);
    for &Case { name, change, has_biases } in CASES {
        let toy = Toy::new(change, has_biases);
        let found = forced(&toy.load(), 1, LENGTH, None);
        let distances =
            (distance(&found, &toy.reference(&tokens(), &[])), distance(&found, &plain));
        println!("{name}: {distances:?}");
        assert!(distances.0 < TOLERANCE, "{name}: {}", distances.0);
        // The inverse: a pass that ignored the option would be caught.
        assert!(name == "no option" || distances.1 > DIFFERENCE, "{name}: {}", distances.1);
    }
}

#[test]
fn any_sublayer_can_be_skipped() {
    let toy = Toy::new(everything, true);
    let model = toy.load();
    let sublayers = model.config().sublayers();
    let last_layer = attention_of(layers(sublayers) - 1)..sublayers;
    let one_by_one = (0..sublayers).map(|sublayer| sublayer..sublayer + 1);
    for skipped in one_by_one.chain([last_layer]) {
        let mask = SkipMask::new((0..sublayers).map(|index| skipped.contains(&index)).collect());
        let found = forced(&model, 1, LENGTH, Some(&mask));
        let list: Vec<usize> = skipped.clone().collect();
        let difference = distance(&found, &toy.reference(&tokens(), &list));
        assert!(difference < TOLERANCE, "{skipped:?}: {difference}");
        assert!(distance(&found, &toy.reference(&tokens(), &[])) > DIFFERENCE, "{skipped:?}");
    }
}

#[test]
fn rows_have_the_same_bits_however_they_enter() {
    let model = Toy::new(everything, true).load();
    let expected = forced(&model, 1, 1, None);
    for (threads, chunk) in [(1, 5), (1, LENGTH), (2, 1), (2, 7), (2, LENGTH)] {
        assert!(
            forced(&model, threads, chunk, None) == expected,
            "{threads} threads, {chunk} rows"
        );
    }
    for first in 0..=model.config().sublayers() {
        let (mut runner, lease) = runner(&model, 1);
        let rows: Vec<RowInput<'_>> = tokens().into_iter().map(RowInput::Token).collect();
        let saving = RowGroup { save_before: &[first], ..group(&lease, 0, &rows) };
        let output = runner.run(&[saving]);
        let states: Vec<Vec<f32>> =
            (0..LENGTH).map(|row| output.saved(0, 0, row).to_vec()).collect();
        let entered: Vec<RowInput<'_>> =
            states.iter().map(|state| RowInput::Hidden { first, state }).collect();
        let output = runner.run(&[group(&lease, 0, &entered)]);
        let found: Vec<Vec<f32>> = (0..LENGTH).map(|row| output.logits(0, row).to_vec()).collect();
        assert!(found == expected, "entered before sublayer {first}");
    }
}
