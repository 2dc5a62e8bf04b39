//! Promise: the native engine computes what an independent one does. Both are fed the same tokens;
//! where the independent one is sure of the next token ours says the same, and the best tokens come
//! in much the same order.
//!
//! Equality is not to be had: mistral.rs multiplies in another order and differs from itself by up
//! to 1.4 logits between its code for one row and for several.
#![cfg(feature = "mistralrs")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use common::model_path::model_path;
use common::passes::{group, inputs, runner};
use common::real_model::threads;
use serde::Deserialize;
use skipstone::config::{Device, ModelSource};
use skipstone::engine::{Prediction, Predictor};
use skipstone::gguf::GgufFile;
use skipstone::kernels::Isa;
use skipstone::mistralrs::{LoadOptions, Loaded, load};
use skipstone::model::{Model, TokenId};
use skipstone::text::{ChatMessage, Role};

const PROMPTS: usize = 20;
/// Every second of the project's prompts: all categories.
const EVERY: usize = 2;
/// Tokens after each prompt, mistral.rs's own choice, at which logits are compared too.
const STEPS: usize = 3;
/// From this distance between the best two logits on, both must choose the same.
const SURE: f32 = 1.5;
/// The best tokens whose order is compared.
const RANKED: usize = 20;
/// Rank correlation of these, averaged over all positions. A model whose key/value cache is shifted
/// scores far below; see the inverse.
const LEAST_CORRELATION: f64 = 0.9;

#[derive(Deserialize)]
struct Prompt {
    prompt: String,
}

/// The comparison over all positions.
#[derive(Default, Debug)]
struct Comparison {
    positions: usize,
    sure: usize,
    same: usize,
    difference: f64,
    correlation: f64,
    /// Places where mistral.rs was sure, and ours chose another.
    contradictions: Vec<String>,
}

/// The Qwen model that the issue of the second backend names; too large to be fetched by every run
/// of the tests.
fn qwen_path() -> PathBuf {
    let cached = || model_path().with_file_name("qwen2.5-coder-1.5b-instruct-q4_k_m.gguf");
    let path = std::env::var_os("SKIPSTONE_TEST_QWEN_MODEL").map_or_else(cached, PathBuf::from);
    assert!(
        path.is_file(),
        "the test model {} is missing: run `skipstone fetch \
         hub:Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF/qwen2.5-coder-1.5b-instruct-q4_k_m.gguf`, or \
         name a qwen2 file with SKIPSTONE_TEST_QWEN_MODEL",
        path.display()
    );
    path
}

/// The prompts, rendered with the model's template.
fn prompts(loaded: &Loaded) -> Vec<Vec<TokenId>> {
    let lines = include_str!("../benches/data/prompts.jsonl").lines().step_by(EVERY).take(PROMPTS);
    let prompts: Vec<Vec<TokenId>> = lines
        .map(|line| {
            let Prompt { prompt } = serde_json::from_str(line).unwrap();
            loaded.text.encode_chat(&[ChatMessage::new(Role::User, prompt)], true).unwrap()
        })
        .collect();
    assert_eq!(prompts.len(), PROMPTS);
    prompts
}

/// mistral.rs's logits after the prompt and after each of the tokens it chooses next; and these
/// tokens.
fn theirs(loaded: &mut Loaded, prompt: &[TokenId]) -> (Vec<Vec<f32>>, Vec<TokenId>) {
    let predictor = &mut loaded.predictor;
    while !predictor.is_free() {
        predictor.wait(Duration::from_secs(1));
    }
    predictor.begin(prompt, STEPS + 1).unwrap();
    let (mut rows, mut tokens) = (Vec::new(), Vec::new());
    loop {
        match predictor.wait(Duration::from_secs(1)) {
            Prediction::Pending => {}
            Prediction::Failed(reason) => panic!("mistral.rs failed: {reason}"),
            Prediction::Logits(row) => {
                let token = TokenId(order(&row)[0] as u32);
                rows.push(row);
                if rows.len() > STEPS {
                    break;
                }
                tokens.push(token);
                predictor.feed(token);
            }
        }
    }
    predictor.end();
    (rows, tokens)
}

/// The best tokens, best first.
fn order(row: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_by(|&left, &right| row[right].total_cmp(&row[left]).then(left.cmp(&right)));
    order
}

/// Spearman's, of the ranks that both give to the `RANKED` best of `theirs`.
fn correlation(theirs: &[f32], ours: &[f32]) -> f64 {
    let best = &order(theirs)[..RANKED];
    let mut by_ours: Vec<usize> = (0..RANKED).collect();
    by_ours.sort_by(|&left, &right| ours[best[right]].total_cmp(&ours[best[left]]));
    let squares: usize =
        by_ours.iter().enumerate().map(|(rank, &other)| rank.abs_diff(other).pow(2)).sum();
    let count = RANKED as f64;
    1.0 - 6.0 * squares as f64 / (count * (count * count - 1.0))
}

impl Comparison {
    fn add(&mut self, theirs: &[f32], ours: &[f32], place: &str) {
        let (best, our_best) = (order(theirs), order(ours)[0]);
        let gap = theirs[best[0]] - theirs[best[1]];
        self.positions += 1;
        self.same += usize::from(our_best == best[0]);
        if gap > SURE {
            self.sure += 1;
            if our_best != best[0] {
                self.contradictions
                    .push(format!("{place}: {our_best}, not {} (gap {gap})", best[0]));
            }
        }
        let differences =
            theirs.iter().zip(ours).map(|(left, right)| f64::from((left - right).abs()));
        self.difference += differences.sum::<f64>() / theirs.len() as f64;
        self.correlation += correlation(theirs, ours);
    }

    fn mean_correlation(&self) -> f64 {
        self.correlation / self.positions as f64
    }
}

/// Compares over all prompts; ours are fed from position `shift` on.
fn compare(path: &Path, prompts_at_most: usize, shift: usize) -> Comparison {
    let source = ModelSource::File(path.to_owned());
    let mut loaded =
        load(&LoadOptions { source: &source, device: Device::Cpu, threads: threads() }).unwrap();
    let file = Arc::new(GgufFile::open(path).unwrap());
    let model = Arc::new(Model::load(file, threads(), &mut |_, _| {}).unwrap());
    let prompts = prompts(&loaded);
    let longest = prompts.iter().map(Vec::len).max().unwrap() + STEPS + shift;
    let (mut runner, pages) = runner(&model, Isa::detect(), threads(), longest);
    let lease = pages.lease(longest).unwrap();
    let mut comparison = Comparison::default();
    for (index, prompt) in prompts.iter().take(prompts_at_most).enumerate() {
        let (rows, tokens) = theirs(&mut loaded, prompt);
        let all: Vec<TokenId> = prompt.iter().chain(&tokens).copied().collect();
        let fed = inputs(&all);
        let output = runner.run(&[group(&lease, shift, &fed)]);
        for (step, row) in rows.iter().enumerate() {
            let ours = &output.logits(0, prompt.len() - 1 + step)[..row.len()];
            comparison.add(row, ours, &format!("prompt {index}, step {step}"));
        }
    }
    println!(
        "{}: {} of {} positions have the same best token, {} are sure; mean absolute difference \
         {:.3} logits, rank correlation of the best {RANKED} {:.4}",
        path.display(),
        comparison.same,
        comparison.positions,
        comparison.sure,
        comparison.difference / comparison.positions as f64,
        comparison.mean_correlation(),
    );
    comparison
}

fn check(path: &Path) {
    let found = compare(path, PROMPTS, 0);
    assert_eq!(found.positions, PROMPTS * (STEPS + 1));
    assert!(found.sure > found.positions / 4, "too few positions tell anything: {found:?}");
    assert!(found.contradictions.is_empty(), "{:#?}", found.contradictions);
    assert!(found.mean_correlation() >= LEAST_CORRELATION, "{found:?}");
}

#[test]
fn smollm2_agrees() {
    check(&model_path());
}

#[test]
fn qwen2_agrees() {
    check(&qwen_path());
}

/// The inverse: a pass that attends to positions that no token was fed at must fall short.
#[test]
fn a_wrong_pass_disagrees() {
    let found = compare(&model_path(), 5, 40);
    assert!(
        !found.contradictions.is_empty() || found.mean_correlation() < LEAST_CORRELATION,
        "{found:?}"
    );
}
