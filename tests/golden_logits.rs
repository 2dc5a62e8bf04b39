//! Promise: the forward pass computes what the model file means. Teacher-forced on an independent
//! float32 implementation's greedy output, the top token and its log-probability agree up to what
//! rounding activations to 8 bits costs.
#![allow(clippy::unwrap_used, reason = "helpers of tests may assert by panicking, as tests do")]

mod common;

use common::passes::{group, inputs, runner};
use common::real_model::{DEFAULT_MODEL, threads};
use serde::Deserialize;
use skipstone::kernels::Isa;
use skipstone::model::TokenId;

/// A float32 pass with activations rounded to 8 bits scores 98.7 % and 0.027.
const LEAST_AGREEMENT: f64 = 0.97;
const MOST_DIFFERENCE: f64 = 0.06;

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    prompt_ids: Vec<TokenId>,
    output_ids: Vec<TokenId>,
    /// Token and log-probability, best first, for each output token's position.
    top5: Vec<Vec<(TokenId, f64)>>,
}

/// Agreement of a pass with the golden file.
#[derive(Debug)]
struct Agreement {
    positions: usize,
    same_top: f64,
    mean_difference: f64,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("data/golden-smollm2-135m.json")).unwrap()
}

fn log_probability(logits: &[f32], token: TokenId) -> f64 {
    let peak = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = logits.iter().map(|&logit| f64::from(logit - peak).exp()).sum();
    f64::from(logits[token.index()] - peak) - total.ln()
}

/// Feeds the cases' prompts and outputs to the model, from position `shift` on.
fn agreement(cases: &[Case], shift: usize) -> Agreement {
    let longest =
        cases.iter().map(|case| case.prompt_ids.len() + case.output_ids.len()).max().unwrap();
    let (mut runner, pages) =
        runner(&DEFAULT_MODEL.model, Isa::detect(), threads(), longest + shift);
    let lease = pages.lease(longest + shift).unwrap();
    let (mut positions, mut same, mut difference) = (0, 0, 0.0);
    for case in cases {
        assert_eq!(case.output_ids.len(), case.top5.len());
        let tokens: Vec<TokenId> =
            case.prompt_ids.iter().chain(&case.output_ids).copied().collect();
        let first = case.prompt_ids.len() - 1;
        let rows = inputs(&tokens[..tokens.len() - 1]);
        // The gap that a shift leaves holds zeros, not what the model saw.
        let output = runner.run(&[group(&lease, shift, &rows)]);
        for (index, top) in case.top5.iter().enumerate() {
            let logits = output.logits(0, first + index);
            let (token, expected) = top[0];
            let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            same += usize::from(logits[token.index()] == best);
            difference += (log_probability(logits, token) - expected).abs();
            positions += 1;
        }
    }
    let count = positions as f64;
    Agreement { positions, same_top: same as f64 / count, mean_difference: difference / count }
}

#[test]
fn the_top_token_and_its_log_probability_agree() {
    let found = agreement(&golden().cases, 0);
    println!("{found:?}");
    assert!(found.positions > 400, "{found:?}");
    assert!(found.same_top >= LEAST_AGREEMENT, "{found:?}");
    assert!(found.mean_difference <= MOST_DIFFERENCE, "{found:?}");
}

/// The inverse: a pass that attends to positions that no token was fed at must fall short.
#[test]
fn a_wrong_pass_disagrees() {
    let found = agreement(&golden().cases[..2], 40);
    println!("{found:?}");
    assert!(
        found.same_top < LEAST_AGREEMENT && found.mean_difference > MOST_DIFFERENCE,
        "{found:?}"
    );
}
