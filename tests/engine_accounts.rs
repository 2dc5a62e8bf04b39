//! Promise: what a stream is said to gain is measured against plain decoding in the same company.
#![allow(clippy::unwrap_used, reason = "helpers of tests may assert by panicking, as tests do")]

mod common;

use common::engine::{options, prompt, read, request, start};
use common::tiny_model::TinyModel;
use common::weights::Random;
use skipstone::engine::{EngineOptions, Speculation, Submit};

/// Beside the prompts of others a row is cheap, whether it drafts or not: that is no speedup.
#[test]
fn company_is_no_speedup() {
    let recipe = TinyModel { hidden: 256, feed_forward: 256, head_dim: 32, ..TinyModel::default() };
    let loaded = recipe.load();
    let vocabulary = loaded.model.config().vocabulary;
    let mut random = Random(3);
    let mut ratios = Vec::new();
    for is_busy in [false, true] {
        let engine = start(&loaded, EngineOptions { max_streams: 4, ..options(&loaded) });
        let short = prompt(4, vocabulary, &mut random);
        let stream = engine.submit(request(&short, 120, Speculation::Off)).unwrap();
        // Prompts that are read in chunks all the while.
        let others: Vec<_> = (0..if is_busy { 48 } else { 0 })
            .map(|_| {
                let long = prompt(200, vocabulary, &mut random);
                engine.submit(request(&long, 1, Speculation::Off)).unwrap()
            })
            .collect();
        let stats = read(stream).unwrap().finished.speculation;
        others.into_iter().for_each(|other| drop(read(other).unwrap()));
        ratios.push(stats.plain_seconds / stats.spent_seconds);
    }
    println!("plain / spent alone and in company: {ratios:?}");
    assert!(ratios.iter().all(|ratio| (0.8..1.25).contains(ratio)), "{ratios:?}");
}
