//! Promise: greedy output is token for token that of plain decoding, for any skip set, any draft
//! length, any company in the batch.
#![allow(clippy::unwrap_used, reason = "helpers of tests may assert by panicking, as tests do")]

mod common;

use std::collections::HashSet;

use common::engine::{
    Outcome, Said, fixed, generate_all, options, prompt, random_skip_set, request, start,
};
use common::frontier::frontier;
use common::passes::{drafted, group, inputs, runner};
use common::tiny_model::{Loaded, TinyModel};
use common::weights::Random;
use skipstone::adapt::Allowed;
use skipstone::drafting::{PolicyRequest, SkipSet};
use skipstone::engine::{EngineOptions, FinishReason, GenerationError, Speculation, ValidRequest};
use skipstone::kernels::{Isa, KvPrecision, WeightType};
use skipstone::model::TokenId;

const DRAFT_LENGTHS: [usize; 4] = [1, 3, 8, 16];

/// A request and the name that a failure is reported under.
type Case = (String, ValidRequest);

fn models() -> Vec<(&'static str, Loaded)> {
    let wide = TinyModel { hidden: 256, feed_forward: 256, head_dim: 32, ..TinyModel::default() };
    [
        ("llama Q8_0", TinyModel::default()),
        (
            "llama F32",
            TinyModel { kind: WeightType::F32, layers: 5, seed: 2, ..TinyModel::default() },
        ),
        (
            "qwen2 Q4_K",
            TinyModel { architecture: "qwen2", kind: WeightType::Q4_K, seed: 3, ..wide.clone() },
        ),
        (
            "qwen2 Q4_1",
            TinyModel { architecture: "qwen2", kind: WeightType::Q4_1, seed: 4, ..wide },
        ),
    ]
    .map(|(name, recipe)| (name, recipe.load()))
    .into()
}

/// Nothing, everything, each kind alone, and fifty at random.
fn skip_sets(layers: usize) -> Vec<SkipSet> {
    let inner: Vec<u32> = (1..layers as u32 - 1).collect();
    let all: Vec<u32> = (1..layers as u32).collect();
    let mut sets = vec![
        SkipSet::empty(layers),
        SkipSet::new(&inner, &inner, layers).unwrap(),
        SkipSet::new(&inner, &[], layers).unwrap(),
        SkipSet::new(&[], &inner, layers).unwrap(),
        SkipSet::new(&all, &all, layers).unwrap(),
    ];
    let mut random = Random(99);
    sets.extend(
        (0..50).map(|index| random_skip_set(layers, [0.2, 0.4, 0.7][index % 3], &mut random)),
    );
    sets
}

/// The same request without drafts.
fn plain(request: &ValidRequest) -> ValidRequest {
    ValidRequest { speculation: Speculation::Off, ..request.clone() }
}

/// Answers of plain decoding to each case, one stream at a time.
fn expected(loaded: &Loaded, cases: &[Case]) -> Vec<Said> {
    let alone = EngineOptions { max_streams: 1, ..options(loaded) };
    let outcomes =
        generate_all(&start(loaded, alone), cases.iter().map(|(_, request)| plain(request)));
    outcomes.into_iter().map(|outcome| outcome.unwrap().said()).collect()
}

/// The cases whose answers differ, with what was said.
fn differences(cases: &[Case], expected: &[Said], found: &[Said]) -> Vec<String> {
    let both = cases.iter().zip(expected.iter().zip(found));
    both.filter(|(_, (expected, found))| expected != found)
        .map(|((name, _), (expected, found))| {
            format!("{name}: {:?}, not {:?}", found.0, expected.0)
        })
        .collect()
}

fn said(outcomes: &[Result<Outcome, GenerationError>]) -> Vec<Said> {
    outcomes.iter().map(|outcome| outcome.as_ref().unwrap().said()).collect()
}

/// Runs the cases in batches of up to each of `widths` streams, in a different order each time, and
/// compares them with plain decoding. Returns the share of drafts that were accepted.
fn check(
    model: &str,
    loaded: &Loaded,
    mut cases: Vec<Case>,
    change: EngineOptions,
    widths: &[usize],
) -> f64 {
    let mut random = Random(5);
    let mut expected = expected(loaded, &cases);
    let (mut drafted, mut accepted) = (0, 0);
    for &max_streams in widths {
        for index in (1..cases.len()).rev() {
            let other = random.below(index + 1);
            cases.swap(index, other);
            expected.swap(index, other);
        }
        let engine = start(loaded, EngineOptions { max_streams, ..change.clone() });
        let outcomes = generate_all(&engine, cases.iter().map(|(_, request)| request.clone()));
        let different = differences(&cases, &expected, &said(&outcomes));
        assert!(
            different.is_empty(),
            "{model}, up to {max_streams} streams: {} of {} differ: {different:#?}",
            different.len(),
            cases.len()
        );
        for outcome in outcomes {
            let stats = outcome.unwrap().finished.speculation;
            drafted += stats.draft_tokens;
            accepted += stats.accepted_tokens;
        }
    }
    assert!(drafted > 0, "{model}: nothing was drafted");
    accepted as f64 / drafted as f64
}

#[test]
fn any_plan_alone_and_in_any_company() {
    for (name, loaded) in models() {
        let config = loaded.model.config();
        let mut random = Random(17);
        let prompts: Vec<Vec<TokenId>> =
            (0..12).map(|_| prompt(1 + random.below(40), config.vocabulary, &mut random)).collect();
        let mut cases = Vec::new();
        for (index, set) in skip_sets(config.layers).into_iter().enumerate() {
            // The large models are slow: one draft length for each set.
            let lengths =
                if config.hidden > 64 { &DRAFT_LENGTHS[index % 4..][..1] } else { &DRAFT_LENGTHS };
            for &length in lengths {
                let prompt = &prompts[cases.len() % prompts.len()];
                let new = 8 + random.below(32);
                let (attention, mlp) = (set.attention(), set.mlp());
                cases.push((
                    format!("skip {attention:?} {mlp:?}, K {length}, prompt {prompt:?}"),
                    request(prompt, new, fixed(&set, length)),
                ));
            }
        }
        for (index, prompt) in prompts.iter().enumerate() {
            let cap = Some(DRAFT_LENGTHS[index % 4]);
            let adaptive = Speculation::adaptive(cap);
            cases.push((
                format!("adaptive {cap:?}, prompt {prompt:?}"),
                request(prompt, 60, adaptive),
            ));
            cases.push((format!("off, prompt {prompt:?}"), request(prompt, 40, Speculation::Off)));
        }
        let mild = SkipSet::new(&[2], &[1], config.layers).unwrap();
        let options = EngineOptions { default_skip_set: mild, ..options(&loaded) };
        let texts = expected(&loaded, &cases[..20]);
        let distinct = |said: &Said| said.0.iter().collect::<HashSet<_>>().len();
        let varied = texts.iter().filter(|said| distinct(said) > 3).count();
        assert!(
            2 * varied > texts.len(),
            "{name}: the texts are too dull to tell anything: {texts:?}"
        );
        let share = check(name, &loaded, cases, options, &[1, 3, 8]);
        println!("{name}: {share:.2} of the drafts accepted");
        assert!(
            (0.1..0.95).contains(&share),
            "{name}: {share} of the drafts are accepted, which tests one side only"
        );
    }
}

/// Pages end at 32 positions: drafts and verifies that cross, touch and just miss the border, and
/// outputs that end inside a draft.
#[test]
fn lengths_about_a_page_and_about_a_draft() {
    let (name, loaded) = models().swap_remove(0);
    let config = loaded.model.config();
    let mut random = Random(23);
    let mut cases = Vec::new();
    for length in [1, 2, 23, 30, 31, 32, 33, 63, 64, 65] {
        let prompt = prompt(length, config.vocabulary, &mut random);
        for drafts in [1, 3, 8] {
            for new in [1, 2, drafts, drafts + 1, drafts + 2, 2 * drafts + 3] {
                for set in [
                    SkipSet::empty(config.layers),
                    random_skip_set(config.layers, 0.3, &mut random),
                ] {
                    let case = format!("prompt of {length}, {new} new, K {drafts}, {set:?}");
                    cases.push((case, request(&prompt, new, fixed(&set, drafts))));
                }
            }
        }
    }
    for (case, (tokens, _, reason)) in cases.iter().zip(expected(&loaded, &cases)) {
        assert_eq!(
            (tokens.len(), reason),
            (case.1.stop.max_new_tokens, FinishReason::Length),
            "{}",
            case.0
        );
    }
    // Chunks of a prompt share steps with drafts and verifies.
    for prefill_tokens_per_step in [1, 7, 64] {
        let options = EngineOptions { prefill_tokens_per_step, ..options(&loaded) };
        check(name, &loaded, cases.clone(), options, &[1, 4]);
    }
}

/// Drafts that stop when they are unsure, at any of their tokens, the first included.
#[test]
fn drafts_that_stop_early() {
    let (name, loaded) = models().swap_remove(1);
    let config = loaded.model.config();
    let mut random = Random(29);
    for confidence_threshold in [0.2, 0.5, 0.9, 1.0] {
        let mut cases = Vec::new();
        for set in skip_sets(config.layers).into_iter().take(16) {
            let prompt = prompt(5, config.vocabulary, &mut random);
            let case = format!("threshold {confidence_threshold}, {set:?}, prompt {prompt:?}");
            cases.push((case, request(&prompt, 40, fixed(&set, 6))));
        }
        let engine = start(&loaded, EngineOptions { confidence_threshold, ..options(&loaded) });
        let outcomes = generate_all(&engine, cases.iter().map(|(_, request)| request.clone()));
        let different = differences(&cases, &expected(&loaded, &cases), &said(&outcomes));
        assert!(different.is_empty(), "{name}: {different:#?}");
        let lengths = outcomes.iter().flatten().flat_map(|outcome| &outcome.deltas);
        let short = lengths.filter(|delta| delta.drafted < 6).count();
        assert!(short > cases.len(), "threshold {confidence_threshold} hardly stopped a draft");
    }
}

/// A cache of single precision: other bits than one of half precision, and lossless as well.
#[test]
fn a_cache_of_single_precision() {
    let (name, loaded) = models().swap_remove(0);
    let config = loaded.model.config();
    let mut random = Random(31);
    let cases: Vec<Case> = skip_sets(config.layers)
        .into_iter()
        .take(16)
        .map(|set| {
            let mut request =
                request(&prompt(20, config.vocabulary, &mut random), 40, fixed(&set, 4));
            request.output.logprobs = true;
            (format!("{set:?}, prompt {:?}", request.prompt), request)
        })
        .collect();
    let single = EngineOptions { kv_precision: KvPrecision::F32, ..options(&loaded) };
    let run = |options: &EngineOptions, speculates: bool| {
        let request =
            |(_, request): &Case| if speculates { request.clone() } else { plain(request) };
        generate_all(&start(&loaded, options.clone()), cases.iter().map(request))
    };
    let (drafted, undrafted) = (run(&single, true), run(&single, false));
    let different = differences(&cases, &said(&undrafted), &said(&drafted));
    assert!(different.is_empty(), "{name}: {different:#?}");
    let logprobs = |outcomes: &[Result<Outcome, GenerationError>]| -> Vec<Option<u32>> {
        let deltas = outcomes.iter().flatten().flat_map(|outcome| &outcome.deltas);
        deltas
            .flat_map(|delta| &delta.tokens)
            .map(|token| token.logprob.map(f32::to_bits))
            .collect()
    };
    assert!(logprobs(&undrafted).iter().all(Option::is_some), "log-probabilities were asked for");
    assert_eq!(logprobs(&drafted), logprobs(&undrafted));
    assert_ne!(
        logprobs(&undrafted),
        logprobs(&run(&options(&loaded), false)),
        "the precision has no effect"
    );
}

/// A draft that skips nothing is the full model, so every drafted token is accepted and each cycle
/// yields one more.
#[test]
fn a_plan_that_skips_nothing_is_always_accepted() {
    for (name, loaded) in models() {
        let config = loaded.model.config();
        let prompt = prompt(9, config.vocabulary, &mut Random(31));
        for length in DRAFT_LENGTHS {
            let set = SkipSet::empty(config.layers);
            let new = 1 + 3 * (length + 1);
            let outcome = generate_all(
                &start(&loaded, options(&loaded)),
                [request(&prompt, new, fixed(&set, length))],
            );
            let stats = outcome[0].as_ref().unwrap().finished.speculation.clone();
            let counts = (stats.drafts, stats.draft_tokens, stats.accepted_tokens);
            assert_eq!(counts, (3, 3 * length, 3 * length), "{name}, K {length}");
            assert_eq!(stats.accepted_per_position, vec![3; length], "{name}, K {length}");
        }
    }
}

/// Whatever drafts, wherever the odds stand: bridges, a draft vocabulary, matches, and matches at
/// the end of a plan's drafts.
#[test]
fn bridges_a_draft_vocabulary_and_matches() {
    for (name, loaded) in models() {
        let config = loaded.model.config();
        let tokens: Vec<TokenId> = (0..config.vocabulary as u32).step_by(3).map(TokenId).collect();
        let options =
            EngineOptions { frontier: frontier(&loaded.model, &tokens), ..options(&loaded) };
        let allowed = |plans, ngram| Allowed { plans, ngram, always: true };
        let mut random = Random(41);
        let mut cases = Vec::new();
        for index in 0..24 {
            // Of few tokens, so that matches are found; longer ones cross a page.
            let words = prompt(4, config.vocabulary, &mut random);
            let prompt: Vec<TokenId> =
                (0..3 + random.below(40)).map(|_| words[random.below(words.len())]).collect();
            let max_draft_tokens = Some(DRAFT_LENGTHS[index % 4]);
            let allowed =
                [allowed(true, true), allowed(true, false), allowed(false, true)][index % 3];
            let speculation = Speculation::betting(max_draft_tokens, allowed);
            let case = format!("{allowed:?}, K {max_draft_tokens:?}, prompt {prompt:?}");
            cases.push((case, request(&prompt, 48, speculation)));
        }
        let share = check(name, &loaded, cases.clone(), options.clone(), &[1, 3, 8]);
        assert!((0.02..0.98).contains(&share), "{name}: {share} of the drafts are accepted");
        let outcomes =
            generate_all(&start(&loaded, options), cases.into_iter().map(|(_, request)| request));
        let deltas = outcomes.iter().flatten().flat_map(|outcome| &outcome.deltas);
        let mut by: [usize; 3] = [0; 3];
        for delta in deltas {
            match (delta.drafted_by.plan, delta.drafted_by.ngram) {
                (Some(_), false) => by[0] += 1,
                (None, true) => by[1] += 1,
                (Some(_), true) => by[2] += 1,
                (None, false) => {}
            }
        }
        assert!(
            by.iter().all(|&cycles| cycles > 10),
            "{name}: cycles by plan, match and both: {by:?}"
        );
    }
}

/// The inverse: an engine that commits what it drafted, unverified, must be caught by the same
/// comparison.
#[test]
fn unverified_drafts_are_caught() {
    let (_, loaded) = models().swap_remove(0);
    let config = loaded.model.config();
    let mut random = Random(37);
    let cases: Vec<Case> = skip_sets(config.layers)
        .into_iter()
        .filter(|set| !set.is_empty())
        .map(|set| {
            let prompt = prompt(6, config.vocabulary, &mut random);
            (format!("{set:?}"), request(&prompt, 32, fixed(&set, 4)))
        })
        .collect();
    let unverified: Vec<Said> =
        cases.iter().map(|(_, request)| draft_alone(&loaded, request)).collect();
    let caught = differences(&cases, &expected(&loaded, &cases), &unverified).len();
    assert!(caught * 10 >= cases.len() * 9, "only {caught} of {} faults were seen", cases.len());
}

/// Greedy decoding by the draft plan alone.
fn draft_alone(loaded: &Loaded, request: &ValidRequest) -> Said {
    let Speculation::Draft(PolicyRequest { skip_set: Some(set), .. }) = &request.speculation else {
        return (Vec::new(), String::new(), FinishReason::Length);
    };
    let mask = set.mask();
    let (prompt, new) = (&request.prompt, request.stop.max_new_tokens);
    let (mut runner, pages) = runner(&loaded.model, Isa::detect(), 1, prompt.len() + new);
    let lease = pages.lease(prompt.len() + new).unwrap();
    let mut tokens = prompt.clone();
    let mut fed = 0;
    while tokens.len() < prompt.len() + new {
        let rows = inputs(&tokens[fed..]);
        let exact = group(&lease, fed, &rows);
        // The prompt goes through the whole model, as in the engine.
        let output = runner.run(&[if fed == 0 { exact } else { drafted(exact, &mask) }]);
        let logits = output.logits(0, rows.len() - 1);
        fed = tokens.len();
        let best =
            (0..logits.len()).rev().max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
        tokens.push(TokenId(best as u32));
    }
    let tokens = tokens.split_off(prompt.len());
    let text = loaded.text.decode(&tokens);
    (tokens, text, FinishReason::Length)
}
