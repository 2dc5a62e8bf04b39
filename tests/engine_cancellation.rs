//! Promise: a caller who loses interest costs nothing more; the cache pages are free within one step.

mod common;

use common::engine::{fixed, options, read, request, start, wait_until_idle, wait_until_started};
use common::tiny_model::{Loaded, TinyModel};
use skipstone::drafting::SkipSet;
use skipstone::engine::{Engine, EngineOptions, Event, GenerationStream, Speculation, Submit};
use skipstone::model::TokenId;

const LONG: usize = 8000;

fn model() -> Loaded {
    TinyModel { context_length: 4 * LONG, ..TinyModel::default() }.load()
}

/// An engine whose cache has room for one long stream and `spare` positions.
fn tight(loaded: &Loaded, spare: usize, change: impl FnOnce(EngineOptions) -> EngineOptions) -> Engine {
    start(loaded, change(EngineOptions { kv_cache_tokens: LONG + spare, ..options(loaded) }))
}

fn prompt(length: usize) -> Vec<TokenId> {
    vec![TokenId(3); length]
}

fn deltas(stream: &mut GenerationStream) -> usize {
    std::iter::from_fn(|| stream.blocking_next())
        .filter(|message| matches!(message, Ok(Event::Delta(_))))
        .count()
}

/// A dropped prefill stops where it is: a companion that commits a token each step has seen few steps by the time that the pages are
/// somebody else's.
#[test]
fn a_stream_dropped_during_prefill_stops_there() {
    let loaded = model();
    let engine = tight(&loaded, LONG, |options| EngineOptions {
        prefill_tokens_per_step: 1,
        event_buffer: LONG,
        ..options
    });
    let mut companion = engine.submit(request(&prompt(1), LONG - 1, Speculation::Off)).unwrap();
    wait_until_started(&mut companion);
    let mut dropped = engine.submit(request(&prompt(LONG - 1), 1, Speculation::Off)).unwrap();
    wait_until_started(&mut dropped);
    drop(dropped);
    // It needs the pages of the dropped one; its own prefill is a step.
    let mut heir = engine.submit(request(&prompt(1), LONG - 1, Speculation::Off)).unwrap();
    wait_until_started(&mut heir);
    drop(heir);
    companion.cancel();
    let steps = deltas(&mut companion);
    assert!(steps < LONG / 2, "the pages were free after {steps} steps; the prefill would have taken {LONG}");
    wait_until_idle(&engine);
}

#[test]
fn a_stream_dropped_during_decoding_frees_its_pages() {
    let loaded = model();
    let layers = loaded.model.config().layers;
    let set = SkipSet::new(&[2], &[3], layers).unwrap_or_else(|_| SkipSet::empty(layers));
    for (name, speculation) in [("plain", Speculation::Off), ("drafting", fixed(&set, 4))] {
        let engine = tight(&loaded, 0, |options| EngineOptions { event_buffer: 4, ..options });
        for round in 0..5 {
            let mut stream = engine.submit(request(&prompt(1), LONG - 1, speculation.clone())).unwrap();
            wait_until_started(&mut stream);
            for _ in 0..3 {
                assert!(matches!(stream.blocking_next(), Some(Ok(Event::Delta(_)))), "{name}, round {round}");
            }
            drop(stream);
        }
        // Each round needed all pages, so that four of them came from a stream that was dropped.
        wait_until_idle(&engine);
        let last = read(engine.submit(request(&prompt(LONG - 8), 8, speculation)).unwrap());
        assert_eq!(last.map(|outcome| outcome.tokens.len()), Ok(8), "{name}");
    }
}

/// After `cancel`, what was sent can still be read; at most the step under way adds a message.
#[test]
fn a_cancelled_stream_ends_within_a_step() {
    let loaded = model();
    let buffer = 2;
    let engine = tight(&loaded, 0, |options| EngineOptions { event_buffer: buffer, ..options });
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
    let engine = tight(&loaded, 0, |options| options);
    let mut running = engine.submit(request(&prompt(1), LONG - 1, Speculation::Off)).unwrap();
    wait_until_started(&mut running);
    let mut waiting = engine.submit(request(&prompt(1), LONG - 1, Speculation::Off)).unwrap();
    waiting.cancel();
    assert!(waiting.blocking_next().is_none(), "a cancelled request must not start");
    assert_eq!(engine.in_flight(), 1);
    drop(running);
    wait_until_idle(&engine);
}
