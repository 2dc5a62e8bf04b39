//! Promise: the default model says the same with drafts as without, alone and in mixed batches.
#![allow(clippy::unwrap_used, reason = "helpers of tests may assert by panicking, as tests do")]

mod common;

use common::engine::{fixed, generate_all, options, request, start};
use common::real_model::{DEFAULT_MODEL, threads};
use common::weights::Random;
use serde::Deserialize;
use skipstone::adapt::{self, Allowed, Profile};
use skipstone::drafting::SkipSet;
use skipstone::engine::{Engine, EngineOptions, Speculation, ValidRequest};
use skipstone::model::TokenId;
use skipstone::text::{ChatMessage, Role};

/// Prompts, spread over the categories, and tokens of each answer. A plain token takes 5 ms on two
/// cores, and each prompt is answered four times, drafting.
const PROMPTS: usize = 10;
const NEW_TOKENS: usize = 48;

/// The profile that ships with the program for this model.
const PROFILE: &[u8] = include_bytes!("../profiles/smollm2-135m-instruct-q4_1.profile");

#[derive(Deserialize)]
struct Prompt {
    id: String,
    prompt: String,
}

struct Case {
    name: String,
    request: ValidRequest,
}

/// Every third or so of the project's own prompts, as chats. The long ones with a passage are among
/// them.
fn prompts() -> Vec<(String, Vec<TokenId>)> {
    let all: Vec<Prompt> = include_str!("../benches/data/prompts.jsonl")
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let step = all.len() / PROMPTS;
    all.into_iter()
        .step_by(step)
        .take(PROMPTS)
        .map(|Prompt { id, prompt }| {
            let chat = [ChatMessage::new(Role::User, prompt)];
            (id, DEFAULT_MODEL.text.encode_chat(&chat, true).unwrap())
        })
        .collect()
}

/// A few layers without attention, MLP or both: mild enough that drafts are accepted.
fn mild_skip_set(random: &mut Random) -> SkipSet {
    let layers = DEFAULT_MODEL.model.config().layers;
    let count = 2 + random.below(3);
    let mut chosen: Vec<u32> = (0..count).map(|_| 1 + random.below(layers - 2) as u32).collect();
    chosen.sort_unstable();
    chosen.dedup();
    let (attention, mlp) = match random.below(3) {
        0 => (&chosen[..], &[][..]),
        1 => (&[][..], &chosen[..]),
        _ => (&chosen[..chosen.len() / 2], &chosen[chosen.len() / 2..]),
    };
    SkipSet::new(attention, mlp, layers).unwrap()
}

fn engine(max_streams: usize, confidence_threshold: f32) -> Engine {
    let default_skip_set =
        SkipSet::new(&[], &[5, 9, 13], DEFAULT_MODEL.model.config().layers).unwrap();
    let options = EngineOptions {
        threads: threads(),
        max_streams,
        default_skip_set,
        ..options(&DEFAULT_MODEL)
    };
    start(&DEFAULT_MODEL, EngineOptions { kv_cache_tokens: 8192, confidence_threshold, ..options })
}

/// The plans of the profile that ships with the program, their bridges and draft vocabulary, and
/// matches, whatever the odds.
#[test]
fn bets_change_nothing_alone_or_together() {
    let prompts = prompts();
    let plain = prompts.iter().map(|(_, prompt)| request(prompt, NEW_TOKENS, Speculation::Off));
    let expected: Vec<_> = generate_all(&engine(1, 0.0), plain)
        .into_iter()
        .map(|outcome| outcome.unwrap().said())
        .collect();
    let profile = Profile::from_bytes(PROFILE).unwrap();
    let frontier = adapt::frontier(&profile, &DEFAULT_MODEL.model, threads()).unwrap();
    let mut failures = Vec::new();
    for max_streams in [1, 4] {
        let options = EngineOptions {
            threads: threads(),
            max_streams,
            kv_cache_tokens: 8192,
            frontier: frontier.clone(),
            ..options(&DEFAULT_MODEL)
        };
        let requests = prompts.iter().enumerate().map(|(index, (_, prompt))| {
            let allowed = Allowed { always: true, ngram: index % 2 == 0, ..Allowed::default() };
            let max_draft_tokens = Some([1, 3, 8][index % 3]);
            request(prompt, NEW_TOKENS, Speculation::betting(max_draft_tokens, allowed))
        });
        let outcomes = generate_all(&start(&DEFAULT_MODEL, options), requests);
        let (mut drafted, mut accepted) = (0, 0);
        for (((id, _), outcome), expected) in prompts.iter().zip(outcomes).zip(&expected) {
            let outcome = outcome.unwrap();
            drafted += outcome.finished.speculation.draft_tokens;
            accepted += outcome.finished.speculation.accepted_tokens;
            if outcome.said() != *expected {
                failures.push(format!(
                    "{id}, up to {max_streams} streams: {:?}, not {expected:?}",
                    outcome.said()
                ));
            }
        }
        println!("up to {max_streams} streams: {accepted} of {drafted} drafts accepted");
        let share = f64::from(accepted as u32) / f64::from(drafted as u32);
        assert!(
            (0.2..0.95).contains(&share),
            "{accepted} of {drafted} accepted tests one side only"
        );
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn drafts_change_nothing_alone_or_in_mixed_batches() {
    let prompts = prompts();
    assert_eq!(prompts.len(), PROMPTS);
    let plain = prompts.iter().map(|(_, prompt)| request(prompt, NEW_TOKENS, Speculation::Off));
    let expected: Vec<_> = generate_all(&engine(1, 0.0), plain)
        .into_iter()
        .map(|outcome| outcome.unwrap().said())
        .collect();
    let mut random = Random(2024);
    let mut failures = Vec::new();
    let (mut drafted, mut accepted) = (0, 0);
    // Alone, a different plan for each prompt; then in batches that mix plans and modes, with
    // drafts that stop when unsure.
    for (round, (max_streams, confidence_threshold)) in
        [(1, 0.0), (8, 0.3), (4, 0.3)].into_iter().enumerate()
    {
        let cases: Vec<Case> = prompts
            .iter()
            .enumerate()
            .map(|(index, (id, prompt))| {
                let length = [1, 3, 8][(index + round) % 3];
                let adaptive = Speculation::adaptive(Some(length));
                let speculation = match (round, index % 6) {
                    (2, 4) => Speculation::Off,
                    (1.., 5) => adaptive,
                    _ => fixed(&mild_skip_set(&mut random), length),
                };
                let name = format!("{id}, up to {max_streams} streams, {speculation:?}");
                Case { name, request: request(prompt, NEW_TOKENS, speculation) }
            })
            .collect();
        let outcomes = generate_all(
            &engine(max_streams, confidence_threshold),
            cases.iter().map(|case| case.request.clone()),
        );
        for ((case, outcome), expected) in cases.iter().zip(outcomes).zip(&expected) {
            let outcome = outcome.unwrap();
            drafted += outcome.finished.speculation.draft_tokens;
            accepted += outcome.finished.speculation.accepted_tokens;
            if outcome.said() != *expected {
                failures.push(format!("{}: {:?}, not {:?}", case.name, outcome.said(), expected));
            }
        }
    }
    println!("{accepted} of {drafted} drafts accepted");
    assert!(failures.is_empty(), "{failures:#?}");
    let share = f64::from(accepted as u32) / f64::from(drafted as u32);
    assert!((0.2..0.95).contains(&share), "{accepted} of {drafted} accepted tests one side only");
}
