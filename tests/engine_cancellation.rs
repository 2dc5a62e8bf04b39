//! Promise: a caller who loses interest costs nothing more; the cache pages are free within one
//! step.

mod common;

use common::engine::{
    fixed, options, request, start, wait_until, wait_until_idle, wait_until_started,
};
use common::tiny_model::{Loaded, TinyModel};
use skipstone::drafting::SkipSet;
use skipstone::engine::{Engine, EngineOptions, Event, GenerationStream, Speculation, Submit};
use skipstone::model::TokenId;

/// Positions of a stream that takes all pages.
const LONG: usize = 2000;

/// A prompt that takes seconds to read.
const PREFILL: usize = 30_000;

fn model() -> Loaded {
    TinyModel { context_length: 2 * PREFILL, ..TinyModel::default() }.load()
}

/// An engine whose cache has room for `positions` positions.
fn tight(
    loaded: &Loaded,
    positions: usize,
    change: impl FnOnce(EngineOptions) -> EngineOptions,
) -> Engine {
    start(loaded, change(EngineOptions { kv_cache_tokens: positions, ..options(loaded) }))
}

fn prompt(length: usize) -> Vec<TokenId> {
    vec![TokenId(3); length]
}

fn deltas(stream: &mut GenerationStream) -> usize {
    std::iter::from_fn(|| stream.blocking_next())
        .filter(|message| matches!(message, Ok(Event::Delta(_))))
        .count()
}

/// A dropped prefill stops where it is: a companion that commits a token each step has seen few
/// steps by the time that the pages are somebody else's.
#[test]
fn a_stream_dropped_during_prefill_stops_there() {
    let loaded = model();
    let engine = tight(&loaded, 2 * PREFILL + 64, |options| EngineOptions {
        prefill_tokens_per_step: 1,
        event_buffer: PREFILL,
        ..options
    });
    let mut companion = engine.submit(request(&prompt(1), PREFILL - 1, Speculation::Off)).unwrap();
    wait_until_started(&mut companion);
    let mut dropped = engine.submit(request(&prompt(PREFILL - 1), 1, Speculation::Off)).unwrap();
    wait_until_started(&mut dropped);
    drop(dropped);
    // It needs the pages of the dropped one; its own prefill is a step.
    let mut heir = engine.submit(request(&prompt(1), PREFILL - 1, Speculation::Off)).unwrap();
    wait_until_started(&mut heir);
    drop(heir);
    companion.cancel();
    let steps = deltas(&mut companion);
    assert!(
        steps < PREFILL / 2,
        "the pages were free after {steps} steps; the prefill would have taken {PREFILL}"
    );
    wait_until_idle(&engine);
}

#[test]
fn a_stream_dropped_during_decoding_frees_its_pages() {
    let loaded = model();
    let set = SkipSet::new(&[2], &[3], loaded.model.config().layers).unwrap();
    for (name, speculation) in [("plain", Speculation::Off), ("drafting", fixed(&set, 4))] {
        let engine = tight(&loaded, LONG, |options| EngineOptions { event_buffer: 4, ..options });
        for round in 0..5 {
            let mut stream =
                engine.submit(request(&prompt(1), LONG - 1, speculation.clone())).unwrap();
            wait_until_started(&mut stream);
            for _ in 0..3 {
                assert!(
                    matches!(stream.blocking_next(), Some(Ok(Event::Delta(_)))),
                    "{name}, round {round}"
                );
            }
            drop(stream);
        }
        // Each round needed all pages, so that four of them came from a stream that was dropped.
        wait_until_idle(&engine);
        let mut last = engine.submit(request(&prompt(1), LONG - 1, speculation)).unwrap();
        wait_until_started(&mut last);
    }
}

/// After `cancel`, what was sent can still be read; at most the step under way adds a message.
#[test]
fn a_cancelled_stream_ends_within_a_step() {
    let loaded = model();
    let buffer = 2;
    let engine = tight(&loaded, LONG, |options| EngineOptions { event_buffer: buffer, ..options });
    let mut stream = engine.submit(request(&prompt(1), LONG - 1, Speculation::Off)).unwrap();
    wait_until_started(&mut stream);
    assert!(matches!(stream.blocking_next(), Some(Ok(Event::Delta(_)))));
    stream.cancel();
    // The buffer, the message that waited for room in it, and the step under way.
    let late = deltas(&mut stream);
    assert!(late <= buffer + 2, "{late} messages after the cancellation");
    wait_until_idle(&engine);
}

#[test]
fn a_stream_cancelled_while_it_waits_never_starts() {
    let loaded = model();
    let engine = tight(&loaded, LONG, |options| options);
    let mut running = engine.submit(request(&prompt(1), LONG - 1, Speculation::Off)).unwrap();
    wait_until_started(&mut running);
    let mut waiting = engine.submit(request(&prompt(1), LONG - 1, Speculation::Off)).unwrap();
    waiting.cancel();
    assert!(waiting.blocking_next().is_none(), "a cancelled request must not start");
    wait_until("only the running stream is left", || engine.in_flight() == 1);
    drop(running);
    wait_until_idle(&engine);
}
