//! Promise: a poisoned request fails alone, and leaves nothing behind that another could stumble
//! over.

mod common;

use common::engine::{
    Said, fixed, generate, generate_all, options, prompt, random_skip_set, request, start,
    wait_until_idle,
};
use common::tiny_model::{Loaded, TinyModel};
use common::weights::Random;
use skipstone::engine::{EngineOptions, GenerationError, Speculation, ValidRequest};
use skipstone::kernels::WeightType;
use skipstone::model::TokenId;

/// Its embedding is not a number.
const POISON: TokenId = TokenId(7);

const VOCABULARY: u32 = 48;

/// No such token: looking it up panics in the middle of a pass.
const BEYOND: TokenId = TokenId(VOCABULARY);

fn model() -> Loaded {
    TinyModel { kind: WeightType::F32, poisoned: Some(POISON), ..TinyModel::default() }.load()
}

/// Requests whose prompts, and answers, are free of poison.
fn healthy(loaded: &Loaded) -> Vec<(ValidRequest, Said)> {
    let engine = start(loaded, options(loaded));
    let mut random = Random(3);
    let mut healthy = Vec::new();
    for index in 0..200 {
        let mut prompt = prompt(1 + random.below(40), VOCABULARY as usize, &mut random);
        prompt.retain(|&token| token != POISON);
        let plan = match index % 3 {
            0 => Speculation::Off,
            _ => fixed(
                &random_skip_set(loaded.model.config().layers, 0.4, &mut random),
                1 + index % 5,
            ),
        };
        if prompt.is_empty() {
            continue;
        }
        // A draft may well run into the poison where the full model does not.
        if let Ok(outcome) = generate(&engine, request(&prompt, 24, Speculation::Off)) {
            healthy.push((request(&prompt, 24, plan), outcome.said()));
        }
    }
    assert!(healthy.len() > 20, "only {} answers are free of poison", healthy.len());
    healthy
}

fn with_token(token: TokenId, place: usize) -> ValidRequest {
    let mut prompt = vec![TokenId(4); 20];
    prompt[place] = token;
    request(&prompt, 24, Speculation::Off)
}

#[test]
fn a_poisoned_request_fails_alone() {
    let loaded = model();
    let healthy = healthy(&loaded);
    for (name, token) in [("not a number", POISON), ("a panic in the pass", BEYOND)] {
        for prefill_tokens_per_step in [8, 64] {
            let engine =
                start(&loaded, EngineOptions { prefill_tokens_per_step, ..options(&loaded) });
            // One bad request for every three good ones.
            let mut requests = Vec::new();
            for (index, (request, _)) in healthy.iter().enumerate() {
                if index % 3 == 0 {
                    requests.push(with_token(token, [0, 9, 19][index / 3 % 3]));
                }
                requests.push(request.clone());
            }
            let outcomes = generate_all(&engine, requests.clone());
            let mut expected = healthy.iter().map(|(_, said)| said);
            for (request, outcome) in requests.iter().zip(outcomes) {
                if request.prompt.contains(&token) {
                    let error = outcome.err();
                    assert!(
                        matches!(error, Some(GenerationError::Internal(_))),
                        "{name}: {error:?}"
                    );
                } else {
                    let said = outcome.map(|outcome| outcome.said());
                    assert_eq!(
                        said.as_ref(),
                        Ok(expected.next().unwrap()),
                        "{name}: {:?}",
                        request.prompt
                    );
                }
            }
            wait_until_idle(&engine);
        }
    }
}

/// The pages of a poisoned stream hold keys and values that are not numbers. Their next owner must
/// not read beyond its own.
#[test]
fn the_pages_of_a_poisoned_stream_are_clean_for_the_next() {
    let loaded = model();
    let healthy = healthy(&loaded);
    // Room for one stream at a time, so that all share the same pages.
    let engine = start(&loaded, EngineOptions { kv_cache_tokens: 64, ..options(&loaded) });
    for (round, (request, expected)) in healthy.iter().enumerate() {
        let poisoned = generate(&engine, with_token(POISON, round % 20));
        assert!(
            matches!(poisoned, Err(GenerationError::Internal(_))),
            "round {round}: {poisoned:?}"
        );
        let said = generate(&engine, request.clone()).map(|outcome| outcome.said());
        assert_eq!(said.as_ref(), Ok(expected), "round {round}: {request:?}");
    }
}
