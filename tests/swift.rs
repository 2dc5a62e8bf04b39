//! Promise: SWIFT's search, like every drafter, changes nothing of what the model says; its scores
//! leave the stream's keys and values alone.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::engine::{generate, options, prompt, request, start};
use common::tiny_model::TinyModel;
use common::weights::Random;
use skipstone::engine::{EngineOptions, Speculation};

#[test]
fn the_output_is_that_of_plain_decoding_while_the_search_goes_on() {
    let loaded = TinyModel { layers: 8, context_length: 512, ..TinyModel::default() }.load();
    let vocabulary = loaded.model.config().vocabulary;
    let engine = start(&loaded, EngineOptions { event_buffer: 512, ..options(&loaded) });
    let mut revisions = Vec::new();
    // Prompts that end within a page, at its end and at its start: the window of the scores begins
    // there.
    for length in [5, 31, 32, 33, 60] {
        let tokens = prompt(length, vocabulary, &mut Random(length as u64));
        let plain = generate(&engine, request(&tokens, 200, Speculation::Off)).unwrap();
        let searched = generate(&engine, request(&tokens, 200, Speculation::Swift)).unwrap();
        assert_eq!(searched.tokens, plain.tokens, "prompt of {length} tokens");
        let speculation = searched.finished.speculation;
        assert!(speculation.draft_tokens > 0);
        revisions.push(speculation.final_plan.unwrap().revision);
    }
    assert!(
        revisions.iter().any(|&revision| revision > 1),
        "no set was ever found better: {revisions:?}"
    );
}
