//! Promise: behind one sequence at a time, requests mean what they mean to the batching engine;
//! they are served in turn, and none gets another's text.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use common::engine::{
    PATIENCE, generate, generate_all, options, prompt, read, request, start, wait_until,
    wait_until_idle, wait_until_started,
};
use common::predictor::{Controls, NativePredictor};
use common::tiny_model::{Loaded, TinyModel};
use common::weights::Random;
use skipstone::adapt::OffReason;
use skipstone::engine::{
    Engine, GenerationError, OutputOptions, SerialOptions, Speculation, Submit, SubmitError,
    ValidRequest,
};
use skipstone::model::TokenId;
use skipstone::sampling::{SamplingParams, SamplingSettings};

const VOCABULARY: usize = 48;

fn limits() -> SerialOptions {
    SerialOptions {
        max_waiting: 64,
        stall_timeout: PATIENCE,
        event_buffer: 4,
        context_length: 4096,
    }
}

fn serial(loaded: &Loaded, options: SerialOptions) -> (Engine, Arc<Controls>) {
    let controls = Arc::new(Controls::default());
    let predictor = Box::new(NativePredictor::new(loaded, &controls));
    (Engine::serial(predictor, loaded.text.clone(), options).unwrap(), controls)
}

fn short(seed: u64) -> ValidRequest {
    request(&prompt(5, VOCABULARY, &mut Random(seed)), 20, Speculation::Off)
}

/// Requests that use every wish.
fn wishes() -> Vec<(&'static str, ValidRequest)> {
    let sampled = |change: fn(&mut SamplingSettings)| {
        let mut settings =
            SamplingSettings { temperature: 1.0, seed: 7, ..SamplingSettings::default() };
        change(&mut settings);
        ValidRequest { sampling: SamplingParams::new(settings, VOCABULARY).unwrap(), ..short(3) }
    };
    let stopped = |change: fn(&mut ValidRequest)| {
        let mut wish = short(4);
        wish.stop.max_new_tokens = 200;
        change(&mut wish);
        wish
    };
    vec![
        ("greedy", short(2)),
        ("temperature", sampled(|_| ())),
        ("another seed", sampled(|settings| settings.seed = 8)),
        (
            "filters",
            sampled(|settings| (settings.top_k, settings.top_p, settings.min_p) = (9, 0.9, 0.05)),
        ),
        (
            "penalties",
            sampled(|settings| {
                (
                    settings.repetition_penalty,
                    settings.presence_penalty,
                    settings.frequency_penalty,
                ) = (1.3, 0.4, 0.2);
            }),
        ),
        (
            "bias",
            sampled(|settings| settings.logit_bias = vec![(TokenId(9), 4.0), (TokenId(1), -100.0)]),
        ),
        ("end of sequence", stopped(|wish| wish.stop.ignore_end_of_sequence = false)),
        ("stop token", stopped(|wish| wish.stop.stop_token_ids = (2..30).map(TokenId).collect())),
        (
            "stop string",
            stopped(|wish| wish.stop.stop_strings = ["aa", "e", "Q"].map(str::to_owned).into()),
        ),
        (
            "least length",
            stopped(|wish| {
                wish.stop.min_new_tokens = 11;
                wish.stop.stop_token_ids = (2..40).map(TokenId).collect();
            }),
        ),
        (
            "log-probabilities",
            ValidRequest {
                output: OutputOptions { tokens: true, logprobs: true, top_logprobs: 3 },
                ..short(5)
            },
        ),
    ]
}

#[test]
fn requests_mean_the_same_as_to_the_batching_engine() {
    let loaded = TinyModel::default().load();
    let (engine, _) = serial(&loaded, limits());
    let batching = start(&loaded, options(&loaded));
    let mut failures = Vec::new();
    for (name, wish) in wishes() {
        let expected = generate(&batching, wish.clone()).unwrap();
        let found = generate(&engine, wish).unwrap();
        let logprobs = |outcome: &common::engine::Outcome| -> Vec<_> {
            let tokens = outcome.deltas.iter().flat_map(|delta| &delta.tokens);
            tokens.map(|token| (token.logprob, token.top_logprobs.clone())).collect()
        };
        if found.said() != expected.said() || logprobs(&found) != logprobs(&expected) {
            failures.push(format!("{name}: {:?}, not {:?}", found.said(), expected.said()));
        }
        let usage = (found.finished.usage.prompt_tokens, found.finished.usage.completion_tokens);
        if usage != (5, found.tokens.len()) {
            failures
                .push(format!("{name}: {usage:?} tokens are counted of {}", found.tokens.len()));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn many_at_once_get_each_their_own() {
    let loaded = TinyModel::default().load();
    let (engine, controls) = serial(&loaded, limits());
    let alone: Vec<_> = (0..8).map(|seed| generate(&engine, short(seed)).unwrap().said()).collect();
    assert!(alone.windows(2).any(|pair| pair[0].0 != pair[1].0), "or nothing could be mixed up");
    let together = generate_all(&engine, (0..8).map(short));
    let said: Vec<_> = together.into_iter().map(|outcome| outcome.unwrap().said()).collect();
    assert_eq!(said, alone);
    assert_eq!(controls.begun.load(Ordering::SeqCst), 16);
}

#[test]
fn the_books_say_that_the_backend_can_not_draft() {
    let loaded = TinyModel::default().load();
    let (engine, _) = serial(&loaded, limits());
    let wish = ValidRequest { speculation: Speculation::adaptive(None), ..short(1) };
    let stats = generate(&engine, wish).unwrap().finished.speculation;
    assert_eq!((stats.drafts, stats.draft_tokens, stats.estimated_speedup), (0, 0, None));
    let reasons: Vec<_> = stats.off.iter().map(|(reason, time)| (*reason, time.steps)).collect();
    assert_eq!(reasons, [(OffReason::Backend, 19)]);
    assert_eq!(stats.phases.prefill.steps, 1);
}

#[test]
fn a_cancelled_stream_frees_its_place_when_its_sequence_has_stopped() {
    let loaded = TinyModel::default().load();
    let (engine, controls) = serial(&loaded, limits());
    controls.holds.store(true, Ordering::SeqCst);
    controls.lingers.store(false, Ordering::SeqCst);
    let mut first = engine.submit(short(1)).unwrap();
    wait_until_started(&mut first);
    let second = engine.submit(short(2)).unwrap();
    controls.lingers.store(true, Ordering::SeqCst);
    drop(first);
    wait_until("the first is gone", || engine.in_flight() == 1);
    assert_eq!(controls.begun.load(Ordering::SeqCst), 1, "the second waits for the first to stop");
    controls.holds.store(false, Ordering::SeqCst);
    controls.lingers.store(false, Ordering::SeqCst);
    assert_eq!(read(second).map(|outcome| outcome.tokens.len()), Ok(20));
    wait_until_idle(&engine);
}

#[test]
fn deadlines_hold_for_those_who_wait_and_those_who_run() {
    let loaded = TinyModel::default().load();
    let (engine, controls) = serial(&loaded, limits());
    controls.holds.store(true, Ordering::SeqCst);
    let soon = || Some(Instant::now() + Duration::from_millis(50));
    let running = engine.submit(ValidRequest { deadline: soon(), ..short(1) }).unwrap();
    let waiting = engine.submit(ValidRequest { deadline: soon(), ..short(2) }).unwrap();
    let after = engine.submit(short(3)).unwrap();
    for stream in [running, waiting] {
        let error = read(stream).unwrap_err();
        assert_eq!(error, GenerationError::DeadlineExceeded { committed: 0, wanted: 20 });
    }
    controls.holds.store(false, Ordering::SeqCst);
    assert!(read(after).is_ok());
}

#[test]
fn a_full_queue_refuses_and_a_drain_lets_finish() {
    let loaded = TinyModel::default().load();
    let (engine, controls) = serial(&loaded, SerialOptions { max_waiting: 2, ..limits() });
    controls.holds.store(true, Ordering::SeqCst);
    let mut running = engine.submit(short(1)).unwrap();
    wait_until_started(&mut running);
    let waiting: Vec<_> = (0..2).map(|seed| engine.submit(short(seed)).unwrap()).collect();
    assert_eq!(engine.submit(short(9)).err(), Some(SubmitError::QueueFull { waiting: 2 }));
    engine.drain();
    assert_eq!(engine.submit(short(9)).err(), Some(SubmitError::Draining));
    controls.holds.store(false, Ordering::SeqCst);
    for stream in waiting {
        assert!(read(stream).is_ok());
    }
    drop(running);
    wait_until_idle(&engine);
}

/// Its messages fit no buffer; the others must not wait for it to read them.
#[test]
fn a_slow_reader_holds_nobody_up() {
    let loaded = TinyModel::default().load();
    let (engine, _) = serial(&loaded, limits());
    let mut slow = engine.submit(short(1)).unwrap();
    wait_until_started(&mut slow);
    let expected = generate(&engine, short(2)).unwrap().said();
    assert_eq!(generate(&engine, short(2)).unwrap().said(), expected);
    let mut messages = 0;
    while let Some(message) = slow.blocking_next() {
        assert!(message.is_ok(), "{message:?}");
        messages += 1;
    }
    assert_eq!(messages, 21, "20 tokens and the end");
}

#[test]
fn a_reader_who_stalls_is_given_up() {
    let loaded = TinyModel::default().load();
    let stall_timeout = Duration::from_millis(100);
    let (engine, _) = serial(&loaded, SerialOptions { stall_timeout, ..limits() });
    let stalled = engine.submit(short(1)).unwrap();
    wait_until_idle(&engine);
    drop(stalled);
}

#[test]
fn a_failed_sequence_fails_alone() {
    let loaded = TinyModel::default().load();
    let (engine, controls) = serial(&loaded, limits());
    controls.fails.store(true, Ordering::SeqCst);
    let error = generate(&engine, short(1)).unwrap_err();
    assert_eq!(error, GenerationError::Internal("it was told to".to_owned()));
    assert!(generate(&engine, short(1)).is_ok());
}

#[test]
fn the_end_of_the_engine_is_told_to_all() {
    let loaded = TinyModel::default().load();
    let (engine, controls) = serial(&loaded, limits());
    controls.holds.store(true, Ordering::SeqCst);
    let mut running = engine.submit(short(1)).unwrap();
    wait_until_started(&mut running);
    let waiting = engine.submit(short(2)).unwrap();
    drop(engine);
    assert_eq!(running.blocking_next().unwrap().unwrap_err(), GenerationError::ShuttingDown);
    assert_eq!(read(waiting).unwrap_err(), GenerationError::ShuttingDown);
}
