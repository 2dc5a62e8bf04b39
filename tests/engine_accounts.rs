//! Promise: what a stream is said to gain is measured against plain decoding in the same company.
#![allow(clippy::unwrap_used, reason = "helpers of tests may assert by panicking, as tests do")]

mod common;

use common::engine::{fixed, options, prompt, read, request, start};
use common::tiny_model::TinyModel;
use common::weights::Random;
use skipstone::drafting::SkipSet;
use skipstone::engine::{EngineOptions, Speculation, Submit};

/// Beside the prompts of others a row is cheap, whether it drafts or not: that is no speedup.
#[test]
fn company_is_no_speedup() {
    // Other work on the machine can disturb a run, but not all of them.
    let tries: Vec<Vec<f64>> = (0..5).map(|_| alone_and_in_company()).collect();
    println!("plain / spent alone and in company: {tries:?}");
    let is_fair = |ratios: &Vec<f64>| ratios.iter().all(|ratio| (0.8..1.25).contains(ratio));
    assert!(tries.iter().any(is_fair), "{tries:?}");
}

/// What plain decoding is said to take / what it took, for a stream that decodes plainly.
fn alone_and_in_company() -> Vec<f64> {
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
    ratios
}

/// Choosing tokens from the full model's answers is part of what a stream takes: drafts need it for
/// each row that they add.
#[test]
fn choosing_tokens_is_booked_too() {
    let loaded = TinyModel::default().load();
    let engine = start(&loaded, options(&loaded));
    let layers = loaded.model.config().layers;
    let prompt = prompt(5, loaded.model.config().vocabulary, &mut Random(1));
    for speculation in [Speculation::Off, fixed(&SkipSet::empty(layers), 4)] {
        // A busy machine may interrupt one try, not five.
        let ratios: Vec<f64> = (0..5)
            .map(|_| {
                let wanted = request(&prompt, 60, speculation.clone());
                let stream = engine.submit(wanted).unwrap();
                let stats = read(stream).unwrap().finished.speculation;
                let phases = &stats.phases;
                let passes = phases.draft.seconds + phases.verify.seconds + phases.plain.seconds;
                stats.spent_seconds / passes
            })
            .collect();
        assert!(ratios.iter().all(|&ratio| ratio > 1.0), "{ratios:?}");
        assert!(ratios.iter().any(|&ratio| ratio < 2.0), "{ratios:?}");
    }
}
