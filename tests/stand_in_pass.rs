//! Promise: a draft by a stand-in has the same bits however its keys and values came about, in any
//! company and on any number of threads, and computes its formula.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;

use common::engine::prompt;
use common::passes::{Bits, bits, forced, group, inputs};
use common::stand_in::{Shape, weights};
use common::tiny_model::TinyModel;
use common::weights::Random;
use skipstone::kernels::{KvPrecision, WeightType};
use skipstone::model::{
    LogitsWanted, Model, PageLease, PagePool, RowGroup, RowInput, Runner, RunnerOptions, SkipMask,
    StandIn, StandInLayer, StandInPart, StandInWeights, TokenId,
};

/// Tokens that are committed before the draft: past the end of a page.
const COMMITTED: usize = 40;

/// Positions of a stream.
const POSITIONS: usize = 64;

const SHAPES: [Shape; 3] = [
    Shape { first_layer: 0, layers: 1, width: 96 },
    Shape { first_layer: 2, layers: 1, width: 32 },
    Shape { first_layer: 1, layers: 2, width: 64 },
];

struct Bench {
    model: Arc<Model>,
    stand_in: StandIn,
    mask: SkipMask,
    tokens: Vec<TokenId>,
}

impl Bench {
    fn new(model: Arc<Model>, shape: Shape) -> Self {
        let stand_in = StandIn::new(&model, &weights(&model, shape, &mut Random(5)), 1).unwrap();
        let mask = (0..model.config().sublayers()).map(|at| stand_in.span().contains(&at));
        let mask = SkipMask::new(mask.collect());
        let tokens = prompt(POSITIONS, model.config().vocabulary, &mut Random(6));
        Self { model, stand_in, mask, tokens }
    }

    fn runner(&self, threads: usize, streams: usize) -> (Runner, Vec<PageLease>) {
        let pages = streams * PagePool::pages_for(POSITIONS);
        let options = RunnerOptions { pages, threads, stand_in_layers: 2, ..Default::default() };
        let pool = PagePool::new(pages);
        let leases = (0..streams).map(|_| pool.lease(POSITIONS).unwrap()).collect();
        (Runner::with_options(Arc::clone(&self.model), options), leases)
    }

    /// Feeds the committed tokens but for the last, in chunks; with keys of the stand-in, or
    /// without.
    fn commit(&self, runner: &mut Runner, lease: &PageLease, chunk: usize, with_keys: bool) {
        let part = if with_keys { StandInPart::Keys(&self.stand_in) } else { StandInPart::None };
        for (index, tokens) in self.tokens[..COMMITTED - 1].chunks(chunk).enumerate() {
            let rows = inputs(tokens);
            let group = RowGroup { stand_in: part, ..group(lease, index * chunk, &rows) };
            runner.run(&[group]);
        }
    }

    /// A draft whose first row has this position.
    fn draft<'a>(
        &'a self,
        lease: &'a PageLease,
        position: usize,
        rows: &'a [RowInput<'a>],
    ) -> RowGroup<'a> {
        RowGroup {
            skip: Some(&self.mask),
            stand_in: StandInPart::Draft(&self.stand_in),
            logits: LogitsWanted::Last,
            ..RowGroup::new(lease.pages(), position, rows)
        }
    }

    /// Drafts after the committed tokens, feeding the tokens that follow; the rows from `keyed` on
    /// come along with the first.
    fn chain(&self, runner: &mut Runner, lease: &PageLease, keyed: usize) -> Vec<Bits> {
        let mut first = keyed;
        (COMMITTED - 1..COMMITTED + 4)
            .map(|position| {
                let rows = inputs(&self.tokens[first..=position]);
                let output = runner.run(&[self.draft(lease, first, &rows)]);
                first = position + 1;
                bits(output.logits(0, 0))
            })
            .collect()
    }
}

fn benches() -> impl Iterator<Item = Bench> {
    let model = TinyModel { layers: 4, ..TinyModel::default() }.load().model;
    SHAPES.into_iter().map(move |shape| Bench::new(Arc::clone(&model), shape))
}

#[test]
fn keys_are_the_same_whenever_they_are_made() {
    for bench in benches() {
        let (mut runner, leases) = bench.runner(1, 1);
        bench.commit(&mut runner, &leases[0], 7, true);
        let expected = bench.chain(&mut runner, &leases[0], COMMITTED - 1);
        assert!(expected.windows(2).all(|pair| pair[0] != pair[1]));
        for (threads, chunk, with_keys, keyed) in [
            (1, COMMITTED, true, COMMITTED - 1),
            (2, 1, true, 20),
            (2, 16, false, 0),
            (1, 16, true, 33),
        ] {
            let (mut runner, leases) = bench.runner(threads, 1);
            bench.commit(&mut runner, &leases[0], chunk, with_keys);
            let found = bench.chain(&mut runner, &leases[0], keyed);
            let case = (&bench.stand_in, threads, chunk, with_keys, keyed);
            assert!(found == expected, "{case:?}");
        }
    }
}

#[test]
fn a_verify_after_the_draft_is_as_without_it() {
    for bench in benches() {
        let (mut runner, leases) = bench.runner(2, 1);
        let expected = forced(&mut runner, &leases[0], &bench.tokens, 9);
        for keyed in [0, COMMITTED - 1] {
            let (mut runner, leases) = bench.runner(2, 1);
            bench.commit(&mut runner, &leases[0], 9, true);
            bench.chain(&mut runner, &leases[0], keyed);
            let rows = inputs(&bench.tokens[COMMITTED - 1..]);
            let output = runner.run(&[group(&leases[0], COMMITTED - 1, &rows)]);
            for (row, expected) in expected[COMMITTED - 1..].iter().enumerate() {
                assert!(bits(output.logits(0, row)) == *expected, "row {row}");
            }
        }
    }
}

#[test]
fn company_changes_nothing() {
    for bench in benches() {
        let (mut runner, leases) = bench.runner(1, 1);
        bench.commit(&mut runner, &leases[0], 8, true);
        let expected = bench.chain(&mut runner, &leases[0], COMMITTED - 1);

        let (mut runner, leases) = bench.runner(2, 3);
        leases.iter().for_each(|lease| bench.commit(&mut runner, lease, 8, true));
        let mut others = bench.tokens.clone();
        others.reverse();
        for (step, expected) in expected.iter().enumerate() {
            let position = COMMITTED - 1 + step;
            let first = if step == 0 { 30 } else { position };
            let (own, plain) = (inputs(&bench.tokens[first..=position]), inputs(&others[..5]));
            let other = inputs(&others[COMMITTED - 6..=COMMITTED - 1]);
            let keys = StandInPart::Keys(&bench.stand_in);
            let prompt = RowGroup { stand_in: keys, ..group(&leases[1], COMMITTED, &plain) };
            let output = runner.run(&[
                prompt,
                bench.draft(&leases[0], first, &own),
                bench.draft(&leases[2], COMMITTED - 6, &other),
            ]);
            assert!(bits(output.logits(1, 0)) == *expected, "step {step}");
        }
    }
}

#[test]
fn what_others_left_in_the_pages_is_never_read() {
    for bench in benches() {
        let (mut runner, leases) = bench.runner(1, 1);
        bench.commit(&mut runner, &leases[0], 8, true);
        let expected = bench.chain(&mut runner, &leases[0], COMMITTED - 1);
        // Another stream had the pages before.
        let (mut runner, leases) = bench.runner(1, 1);
        let mut others = bench.tokens.clone();
        others.reverse();
        let rows = inputs(&others);
        let keys = StandInPart::Keys(&bench.stand_in);
        runner.run(&[RowGroup { stand_in: keys, ..group(&leases[0], 0, &rows) }]);
        for (with_keys, keyed) in [(true, COMMITTED - 1), (false, 0)] {
            bench.commit(&mut runner, &leases[0], 8, with_keys);
            assert!(bench.chain(&mut runner, &leases[0], keyed) == expected, "{with_keys}");
        }
    }
}

/// What a stand-in does, row by row in double precision. Its weights are in 8 bits, as are the
/// inputs of products: hence the tolerance.
#[test]
fn it_computes_its_formula() {
    let model = TinyModel { kind: WeightType::F32, layers: 3, ..TinyModel::default() }.load().model;
    for shape in SHAPES {
        let weights = weights(&model, shape, &mut Random(5));
        let bench = Bench::new(Arc::clone(&model), shape);
        let pages = PagePool::pages_for(POSITIONS);
        let kv_precision = KvPrecision::F32;
        let options =
            RunnerOptions { pages, kv_precision, stand_in_layers: 2, ..Default::default() };
        let mut runner = Runner::with_options(Arc::clone(&model), options);
        let lease = PagePool::new(pages).lease(POSITIONS).unwrap();
        let rows = inputs(&bench.tokens[..COMMITTED]);
        let places = [2 * shape.first_layer, model.config().sublayers()];
        let saving = RowGroup { save_before: &places, ..group(&lease, 0, &rows) };
        let output = runner.run(&[saving]);
        let states = |place: usize| -> Vec<Vec<f32>> {
            (0..COMMITTED).map(|row| output.saved(0, place, row).to_vec()).collect()
        };
        let expected = reference(&model, &weights, &states(0), &states(1));
        let sublayers = [model.config().sublayers()];
        let draft = RowGroup { save_before: &sublayers, ..bench.draft(&lease, 0, &rows) };
        let found = runner.run(&[draft]).saved(0, 0, COMMITTED - 1).to_vec();
        let dot = |a: &dyn Fn(usize) -> f64, b: &dyn Fn(usize) -> f64| -> f64 {
            (0..found.len()).map(|index| a(index) * b(index)).sum()
        };
        let (theirs, ours) =
            (|index: usize| expected[index], |index: usize| f64::from(found[index]));
        let norms = dot(&theirs, &theirs).sqrt() * dot(&ours, &ours).sqrt();
        let cosine = dot(&theirs, &ours) / norms;
        assert!(cosine > 0.999, "{shape:?}: {cosine}");
        let ratio = dot(&ours, &ours) / dot(&theirs, &theirs);
        assert!((ratio - 1.0).abs() < 0.03, "{shape:?}: {ratio}");
    }
}

/// The prediction for the last row, from the states where the stand-in begins and the last states.
fn reference(
    model: &Model,
    weights: &StandInWeights,
    entering: &[Vec<f32>],
    last: &[Vec<f32>],
) -> Vec<f64> {
    let config = model.config();
    let (hidden, head_dim) = (config.hidden, config.head_dim);
    let epsilon = f64::from(config.norm_epsilon);
    let map = |matrix: &[f32], bias: &[f32], row: &[f64]| -> Vec<f64> {
        let products = matrix.chunks_exact(row.len()).map(|weights| {
            weights.iter().zip(row).map(|(&weight, x)| f64::from(weight) * x).sum::<f64>()
        });
        let bias = bias.iter().copied().chain(std::iter::repeat(0.0));
        products.zip(bias).map(|(product, bias)| product + f64::from(bias)).collect()
    };
    let norm = |weight: Option<&[f32]>, row: &[f64]| -> Vec<f64> {
        let mean = row.iter().map(|x| x * x).sum::<f64>() / row.len() as f64;
        let factor = (mean + epsilon).sqrt().recip();
        let weight = |index: usize| weight.map_or(1.0, |weight| f64::from(weight[index]));
        row.iter().enumerate().map(|(index, x)| x * factor * weight(index)).collect()
    };
    // The tiny model turns adjacent pairs, by the base that a file need not name.
    let turn = |heads: &[f64], position: usize| -> Vec<f64> {
        let mut turned = heads.to_vec();
        for head in turned.chunks_exact_mut(head_dim) {
            for (pair, values) in head.chunks_exact_mut(2).enumerate() {
                let angle = position as f64 * 10_000_f64.powf(-2.0 * pair as f64 / head_dim as f64);
                let (sin, cos) = angle.sin_cos();
                let (a, b) = (values[0], values[1]);
                (values[0], values[1]) = (a * cos - b * sin, a * sin + b * cos);
            }
        }
        turned
    };
    let mut states: Vec<Vec<f64>> = entering
        .iter()
        .enumerate()
        .map(|(position, state)| {
            let before = match position.checked_sub(1) {
                Some(before) => last[before].iter().map(|&x| f64::from(x)).collect(),
                None => vec![0.0; hidden],
            };
            let mut input: Vec<f64> = state.iter().map(|&x| f64::from(x)).collect();
            input.extend(norm(None, &before));
            map(&weights.mix, &weights.bias, &input)
        })
        .collect();
    for layer in &weights.layers {
        let StandInLayer { attention_norm, query, key, value, query_bias, value_bias, .. } = layer;
        let StandInLayer { output, mlp_norm, gate, up, down, .. } = layer;
        let normed: Vec<Vec<f64>> =
            states.iter().map(|state| norm(Some(attention_norm), state)).collect();
        let each = |matrix: &[f32], bias: &[f32]| -> Vec<Vec<f64>> {
            normed.iter().map(|row| map(matrix, bias, row)).collect()
        };
        let turned = |rows: Vec<Vec<f64>>| -> Vec<Vec<f64>> {
            rows.iter().enumerate().map(|(position, row)| turn(row, position)).collect()
        };
        let (queries, keys) = (turned(each(query, query_bias)), turned(each(key, &[])));
        let values = each(value, value_bias);
        for (position, state) in states.iter_mut().enumerate() {
            let mut heads = Vec::new();
            for (head, query) in queries[position].chunks_exact(head_dim).enumerate() {
                let at = head / (config.query_heads / config.kv_heads) * head_dim;
                let scores: Vec<f64> = keys[..=position]
                    .iter()
                    .map(|key| {
                        let dot: f64 = query.iter().zip(&key[at..]).map(|(a, b)| a * b).sum();
                        (dot / (head_dim as f64).sqrt()).exp()
                    })
                    .collect();
                let sum: f64 = scores.iter().sum();
                heads.extend((0..head_dim).map(|index| {
                    let pairs = scores.iter().zip(&values);
                    pairs.map(|(score, value)| score * value[at + index]).sum::<f64>() / sum
                }));
            }
            let attended = map(output, &[], &heads);
            state.iter_mut().zip(attended).for_each(|(x, more)| *x += more);
            let normed = norm(Some(mlp_norm), state);
            let up = map(up, &[], &normed);
            let inner: Vec<f64> = map(gate, &[], &normed)
                .iter()
                .zip(up)
                .map(|(gate, up)| gate / (1.0 + (-gate).exp()) * up)
                .collect();
            let more = map(down, &[], &inner);
            state.iter_mut().zip(more).for_each(|(x, more)| *x += more);
        }
    }
    states.pop().unwrap()
}
