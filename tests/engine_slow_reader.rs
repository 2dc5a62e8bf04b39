//! Promise: a client that does not read slows nobody down, and is told why the stream ended.

mod common;

use std::time::{Duration, Instant};

use common::engine::{
    PATIENCE, fixed, generate, options, prompt, read, request, start, wait_until, wait_until_idle,
    wait_until_started,
};
use common::tiny_model::{Loaded, TinyModel};
use common::weights::Random;
use skipstone::drafting::SkipSet;
use skipstone::engine::{EngineOptions, Event, GenerationError, Speculation, Submit};
use skipstone::model::TokenId;

const BUFFER: usize = 4;

fn model() -> Loaded {
    TinyModel::default().load()
}

fn narrow(loaded: &Loaded, stall_timeout: Duration) -> EngineOptions {
    EngineOptions { event_buffer: BUFFER, stall_timeout, ..options(loaded) }
}

#[test]
fn a_stalled_reader_is_cancelled_and_told_why() {
    let loaded = model();
    let stall_timeout = Duration::from_millis(300);
    let engine = start(&loaded, narrow(&loaded, stall_timeout));
    let start = Instant::now();
    let mut stalled = engine.submit(request(&[TokenId(5)], 2000, Speculation::Off)).unwrap();
    wait_until_idle(&engine);
    assert!(start.elapsed() >= stall_timeout, "cancelled after {:?}", start.elapsed());
    wait_until_started(&mut stalled);
    let mut messages = Vec::new();
    while let Some(message) = stalled.blocking_next() {
        messages.push(message);
    }
    let last = messages.pop();
    assert!(messages.iter().all(Result::is_ok) && messages.len() < BUFFER + 2, "{messages:?}");
    assert!(
        matches!(last, Some(Err(GenerationError::ReaderStalled { .. }))),
        "the last message is {last:?}"
    );
}

#[test]
fn others_go_on_while_readers_stall() {
    let loaded = model();
    let engine = start(&loaded, narrow(&loaded, PATIENCE));
    let prompts: Vec<_> = (0..4).map(|seed| prompt(5, 48, &mut Random(seed))).collect();
    let set = SkipSet::new(&[2], &[3], loaded.model.config().layers).unwrap();
    let plans = [Speculation::Off, fixed(&set, 3)];
    let requests: Vec<_> = prompts
        .iter()
        .flat_map(|prompt| plans.iter().map(|plan| request(prompt, 80, plan.clone())))
        .collect();
    let alone: Vec<_> =
        requests.iter().map(|request| generate(&engine, request.clone()).unwrap().said()).collect();
    // Half of the batch does not read.
    let stalled: Vec<_> = plans
        .iter()
        .chain(&plans)
        .map(|plan| engine.submit(request(&[TokenId(7); 9], 300, plan.clone())).unwrap())
        .collect();
    for (request, expected) in requests.iter().zip(&alone) {
        assert_eq!(generate(&engine, request.clone()).unwrap().said(), *expected);
    }
    wait_until("only those who stall are left", || engine.in_flight() == stalled.len());
    // Paused is not lost: a client that reads again gets the whole answer.
    let expected =
        generate(&engine, request(&[TokenId(7); 9], 300, Speculation::Off)).unwrap().said();
    for stream in stalled {
        assert_eq!(read(stream).unwrap().said(), expected);
    }
    wait_until_idle(&engine);
}

/// A stream that is paused holds at most its buffer.
#[test]
fn a_paused_stream_runs_no_further() {
    let loaded = model();
    let engine = start(&loaded, narrow(&loaded, PATIENCE));
    let mut paused = engine.submit(request(&[TokenId(5)], 500, Speculation::Off)).unwrap();
    wait_until_started(&mut paused);
    // Many steps for the others; the paused one takes part in the few that fill its buffer.
    for _ in 0..3 {
        generate(&engine, request(&[TokenId(6)], 100, Speculation::Off)).unwrap();
    }
    paused.cancel();
    wait_until_idle(&engine);
    let mut deltas = 0;
    while let Some(message) = paused.blocking_next() {
        assert!(matches!(message, Ok(Event::Delta(_))), "{message:?}");
        deltas += 1;
    }
    assert!(deltas <= BUFFER, "{deltas} messages were made for a reader who did not read");
}
