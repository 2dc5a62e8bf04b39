//! Promise: none of the mistakes that speculative decoders were shipped with. Those of sampling are
//! in `sampling_rules.rs` and `sampling_distribution.rs`, those of streams that draft and don't in
//! turn in `policies.rs`.
#![allow(clippy::unwrap_used, reason = "helpers of tests may assert by panicking, as tests do")]

mod common;

use std::sync::LazyLock;

use common::engine::{
    Outcome, Said, fixed, generate, generate_all, options, prompt, random_skip_set, request, start,
};
use common::tiny_model::{Loaded, TinyModel};
use common::weights::Random;
use skipstone::drafting::SkipSet;
use skipstone::engine::{Delta, Engine, FinishReason, Speculation, StopCriteria, ValidRequest};
use skipstone::kernels::WeightType;
use skipstone::model::TokenId;
use skipstone::sampling::{SamplingParams, SamplingSettings};

static MODEL: LazyLock<Loaded> = LazyLock::new(|| TinyModel::default().load());

const VOCABULARY: usize = 48;

const END: TokenId = TokenId(1);

fn engine() -> Engine {
    start(&MODEL, options(&MODEL))
}

fn prompts(count: usize) -> Vec<Vec<TokenId>> {
    let mut random = Random(41);
    (0..count).map(|_| prompt(1 + random.below(12), VOCABULARY, &mut random)).collect()
}

/// Plans whose drafts are always, mostly and seldom accepted.
fn plans() -> Vec<SkipSet> {
    let layers = MODEL.model.config().layers;
    let mut random = Random(43);
    let mut plans =
        vec![SkipSet::empty(layers), SkipSet::new(&[1, 2, 3, 4], &[1, 2, 3, 4], layers).unwrap()];
    plans.extend((0..6).map(|_| random_skip_set(layers, 0.3, &mut random)));
    plans
}

/// Runs each request without drafts and with every plan and several draft lengths, all in one
/// batch; the answers without drafts, and the outcomes with them, those of one request together.
fn compare(requests: &[ValidRequest]) -> Vec<(Said, Vec<Outcome>)> {
    let engine = engine();
    let off =
        |request: &ValidRequest| ValidRequest { speculation: Speculation::Off, ..request.clone() };
    let plain: Vec<Said> = generate_all(&engine, requests.iter().map(off))
        .into_iter()
        .map(|outcome| outcome.unwrap().said())
        .collect();
    let plans: Vec<Speculation> =
        plans().iter().flat_map(|set| [1, 4, 9].map(|length| fixed(set, length))).collect();
    let drafting = requests.iter().flat_map(|request| {
        let with =
            |plan: &Speculation| ValidRequest { speculation: plan.clone(), ..request.clone() };
        plans.iter().map(with)
    });
    let mut outcomes = generate_all(&engine, drafting).into_iter().map(Result::unwrap);
    let mut wrong = Vec::new();
    let compared: Vec<(Said, Vec<Outcome>)> = plain
        .into_iter()
        .zip(requests)
        .map(|(plain, request)| {
            let with: Vec<Outcome> = outcomes.by_ref().take(plans.len()).collect();
            for (outcome, plan) in with.iter().zip(&plans) {
                if outcome.said() != plain {
                    wrong.push(format!(
                        "{request:?} with {plan:?}: {:?}, not {plain:?}",
                        outcome.said()
                    ));
                }
            }
            (plain, with)
        })
        .collect();
    assert!(wrong.is_empty(), "{} answers differ, such as {}", wrong.len(), wrong[0]);
    compared
}

/// Whether the stream ended at a token that was drafted, with more of the chain after it: what is
/// behind a stop does not count as accepted.
fn ended_inside_a_draft(outcome: &Outcome) -> bool {
    let last: &Delta = outcome.deltas.last().unwrap();
    last.tokens.len() == last.accepted
        && last.accepted < last.drafted
        && last.tokens.iter().all(|token| token.drafted)
}

fn with_stop(request: ValidRequest, change: impl FnOnce(&mut StopCriteria)) -> ValidRequest {
    let mut request = request;
    change(&mut request.stop);
    request
}

fn with_sampling(
    request: ValidRequest,
    change: impl FnOnce(&mut SamplingSettings),
) -> ValidRequest {
    let mut settings = SamplingSettings::default();
    change(&mut settings);
    ValidRequest { sampling: SamplingParams::new(settings, VOCABULARY).unwrap(), ..request }
}

fn greedy(prompt: &[TokenId]) -> ValidRequest {
    request(prompt, 40, Speculation::Off)
}

#[test]
fn the_end_of_the_sequence_inside_an_accepted_draft_ends_the_stream_there() {
    let biased = |prompt: &Vec<TokenId>, bias| {
        let request = with_stop(greedy(prompt), |stop| stop.ignore_end_of_sequence = false);
        with_sampling(request, |settings| settings.logit_bias = vec![(END, bias)])
    };
    let requests: Vec<ValidRequest> = prompts(12)
        .iter()
        .flat_map(|prompt| [0.0, 2.0, 4.0].map(|bias| biased(prompt, bias)))
        .collect();
    let compared = compare(&requests);
    let mut inside = 0;
    for ((tokens, text, reason), outcomes) in &compared {
        let end = tokens.iter().position(|&token| token == END);
        assert_eq!(end.map(|end| end + 1).unwrap_or(40), tokens.len());
        assert_eq!(end.is_some(), *reason == FinishReason::EndOfSequence);
        assert_eq!(
            text.len(),
            tokens.iter().filter(|&&token| token.0 > 1).count(),
            "{text:?} of {tokens:?}"
        );
        inside += outcomes.iter().filter(|outcome| ended_inside_a_draft(outcome)).count();
    }
    assert!(inside > 10, "the end fell inside a draft {inside} times: too few to tell");
}

#[test]
fn a_stop_token_inside_an_accepted_draft_ends_the_stream_there() {
    let mut requests = Vec::new();
    for prompt in prompts(6) {
        let text = generate(&engine(), greedy(&prompt)).unwrap().tokens;
        for place in [0, 1, 3, 6, 11, 20, 39] {
            requests
                .push(with_stop(greedy(&prompt), |stop| stop.stop_token_ids = vec![text[place]]));
        }
    }
    let compared = compare(&requests);
    let mut inside = 0;
    for (((tokens, _, reason), outcomes), request) in compared.iter().zip(&requests) {
        let stop = request.stop.stop_token_ids[0];
        assert_eq!(*reason, FinishReason::StopToken(stop));
        assert_eq!(tokens.iter().position(|&token| token == stop), Some(tokens.len() - 1));
        inside += outcomes.iter().filter(|outcome| ended_inside_a_draft(outcome)).count();
    }
    assert!(inside > 10, "a stop token fell inside a draft {inside} times: too few to tell");
}

/// What the model would make of tokens behind the end is no concern of the stream: plain decoding
/// never computes it.
#[test]
fn nonsense_behind_an_accepted_stop_token_fails_nobody() {
    let recipe = TinyModel { kind: WeightType::F32, ..TinyModel::default() };
    let healthy = recipe.load();
    let reference = start(&healthy, options(&healthy));
    let whole = SkipSet::empty(healthy.model.config().layers);
    let mut ended_inside = 0;
    for prompt in prompts(12) {
        let plain = generate(&reference, request(&prompt, 16, Speculation::Off)).unwrap();
        let Some(place) = (2..14).find(|&place| {
            let stop = plain.tokens[place];
            !prompt.contains(&stop) && !plain.tokens[..place].contains(&stop)
        }) else {
            continue;
        };
        let stop = plain.tokens[place];
        let poisoned = TinyModel { poisoned: Some(stop), ..recipe.clone() }.load();
        let engine = start(&poisoned, options(&poisoned));
        for speculation in [Speculation::Off, fixed(&whole, 16)] {
            let mut request = request(&prompt, 16, speculation);
            request.stop.stop_token_ids = vec![stop];
            let outcome = generate(&engine, request).unwrap();
            assert_eq!(outcome.tokens, plain.tokens[..=place], "{prompt:?}");
            let last = outcome.deltas.last().unwrap();
            ended_inside += usize::from(last.accepted == last.tokens.len());
        }
    }
    assert!(ended_inside > 3, "the stop was seldom an accepted draft: {ended_inside}");
}

#[test]
fn a_stop_string_across_accepted_drafts_ends_the_stream_there() {
    let (mut requests, mut expected) = (Vec::new(), Vec::new());
    for prompt in prompts(6) {
        let whole = generate(&engine(), greedy(&prompt)).unwrap().text;
        // Tokens print one ASCII letter each, so these stop strings span one to five tokens.
        for (place, length) in [(0, 1), (1, 2), (4, 3), (9, 5), (17, 2), (30, 4)] {
            for include_stop_string in [false, true] {
                let stop = whole[place..place + length].to_owned();
                let end = whole.find(&stop).unwrap() + if include_stop_string { length } else { 0 };
                expected.push((whole[..end].to_owned(), FinishReason::StopString(stop.clone())));
                requests.push(with_stop(greedy(&prompt), |criteria| {
                    criteria.stop_strings = vec!["not there".to_owned(), stop];
                    criteria.include_stop_string = include_stop_string;
                }));
            }
        }
    }
    let mut inside = 0;
    for (((_, text, reason), outcomes), expected) in compare(&requests).into_iter().zip(expected) {
        assert_eq!((text, reason), expected);
        inside += outcomes.iter().filter(|outcome| ended_inside_a_draft(outcome)).count();
    }
    assert!(inside > 10, "a stop string fell inside a draft {inside} times: too few to tell");
}

#[test]
fn stops_before_the_least_length_are_passed_over() {
    let mut requests = Vec::new();
    for prompt in prompts(4) {
        let text = generate(&engine(), greedy(&prompt)).unwrap();
        for min_new_tokens in [1, 5, 12, 40] {
            requests.push(with_stop(greedy(&prompt), |stop| {
                stop.stop_token_ids = text.tokens[2..5].to_vec();
                stop.stop_strings = vec![text.text[6..8].to_owned()];
                stop.min_new_tokens = min_new_tokens;
            }));
        }
    }
    for (((tokens, _, _), _), request) in compare(&requests).iter().zip(&requests) {
        assert!(
            tokens.len() >= request.stop.min_new_tokens,
            "{} tokens: {request:?}",
            tokens.len()
        );
    }
}

#[test]
fn the_length_limit_inside_a_draft_is_kept() {
    let requests: Vec<ValidRequest> = prompts(4)
        .iter()
        .flat_map(|prompt| {
            (1..=12).map(|new| request(prompt, new, Speculation::Off)).collect::<Vec<_>>()
        })
        .collect();
    for (((tokens, _, reason), outcomes), request) in compare(&requests).iter().zip(&requests) {
        assert_eq!((tokens.len(), reason), (request.stop.max_new_tokens, &FinishReason::Length));
        for outcome in outcomes {
            assert_eq!(outcome.finished.usage.completion_tokens, tokens.len());
        }
    }
}

#[test]
fn penalties_and_bias_apply_to_drafts_and_to_their_verification() {
    let favoured: Vec<(TokenId, f32)> = (2..12).map(|token| (TokenId(token), 3.0)).collect();
    let settings: [fn(&mut SamplingSettings); 5] = [
        |settings| settings.repetition_penalty = 1.3,
        |settings| settings.presence_penalty = 2.0,
        |settings| settings.frequency_penalty = 0.7,
        |settings| settings.logit_bias = vec![(TokenId(5), 4.0), (TokenId(9), -100.0)],
        |settings| {
            settings.repetition_penalty = 0.8;
            (settings.presence_penalty, settings.frequency_penalty) = (-1.0, 1.5);
        },
    ];
    let mut requests = Vec::new();
    for prompt in prompts(6) {
        requests.extend(settings.iter().map(|change| with_sampling(greedy(&prompt), change)));
        requests.push(with_sampling(greedy(&prompt), |settings| {
            settings.logit_bias = favoured.clone()
        }));
    }
    let compared = compare(&requests);
    let untouched = generate_all(&engine(), prompts(6).iter().map(|prompt| greedy(prompt)));
    for (answers, untouched) in compared.chunks(settings.len() + 1).zip(untouched) {
        let plain = untouched.unwrap().tokens;
        let changed = answers.iter().filter(|((tokens, _, _), _)| *tokens != plain).count();
        assert!(changed >= 4, "only {changed} of the settings changed anything");
    }
    // What a plan that skips nothing drafts differs from the verified token only if the processors
    // differ.
    for (_, outcomes) in &compared {
        let stats = &outcomes[1].finished.speculation;
        assert_eq!(
            stats.accepted_tokens, stats.draft_tokens,
            "drafts of the full model must all be accepted"
        );
    }
}

/// Rejected drafts wrote keys and values; what is decoded after them must not see them.
#[test]
fn keys_and_values_of_rejected_drafts_leave_no_trace() {
    let requests: Vec<ValidRequest> =
        prompts(4).iter().map(|prompt| request(prompt, 150, Speculation::Off)).collect();
    let rejected = |outcome: &Outcome| {
        let stats = &outcome.finished.speculation;
        stats.draft_tokens - stats.accepted_tokens
    };
    let count: usize =
        compare(&requests).iter().flat_map(|(_, outcomes)| outcomes).map(rejected).sum();
    assert!(count > 1000, "only {count} drafts were rejected");
}

#[test]
fn acceptance_is_counted_by_position_and_never_inflated() {
    let requests: Vec<ValidRequest> =
        prompts(4).iter().map(|prompt| request(prompt, 60, Speculation::Off)).collect();
    for (_, outcomes) in compare(&requests) {
        for outcome in outcomes {
            let stats = &outcome.finished.speculation;
            let by_position = &stats.accepted_per_position;
            assert_eq!(by_position.iter().sum::<usize>(), stats.accepted_tokens);
            assert!(by_position.is_sorted_by(|a, b| a >= b), "{by_position:?}");
            let cycles: Vec<&Delta> =
                outcome.deltas.iter().filter(|delta| delta.drafted > 0).collect();
            assert_eq!(cycles.len(), stats.drafts);
            assert_eq!(cycles.iter().map(|delta| delta.drafted).sum::<usize>(), stats.draft_tokens);
            for delta in &outcome.deltas {
                // Nothing stops these streams inside a chain: each cycle commits what it accepted,
                // and one token more.
                assert_eq!(delta.tokens.len(), delta.accepted + 1, "{delta:?}");
                let drafted = delta.tokens.iter().filter(|token| token.drafted).count();
                assert_eq!(drafted, delta.accepted, "{delta:?}");
            }
            let committed: usize = outcome.deltas.iter().map(|delta| delta.tokens.len()).sum();
            assert_eq!(committed, outcome.finished.usage.completion_tokens);
        }
    }
}
