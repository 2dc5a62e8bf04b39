//! Promise: a deadline is kept at every stage of a request, and only that request notices.

mod common;

use std::time::{Duration, Instant};

use common::engine::{
    generate, options, read, request, start, wait_until, wait_until_idle, wait_until_started,
};
use common::tiny_model::{Loaded, TinyModel};
use skipstone::engine::{EngineOptions, Event, GenerationError, Speculation, Submit, ValidRequest};
use skipstone::model::TokenId;

/// Far more tokens than the deadlines leave time for.
const LONG: usize = 1_000_000;

fn model() -> Loaded {
    TinyModel {
        context_length: 2 * LONG,
        layers: 2,
        hidden: 32,
        head_dim: 8,
        kv_heads: 1,
        ..TinyModel::default()
    }
    .load()
}

fn roomy(loaded: &Loaded) -> EngineOptions {
    EngineOptions { kv_cache_tokens: LONG + 100, event_buffer: LONG + 10, ..options(loaded) }
}

fn until(request: ValidRequest, milliseconds: u64) -> ValidRequest {
    ValidRequest { deadline: Some(Instant::now() + Duration::from_millis(milliseconds)), ..request }
}

#[test]
fn a_running_stream_ends_at_its_deadline_with_what_it_has() {
    let loaded = model();
    let engine = start(&loaded, roomy(&loaded));
    let request = until(request(&[TokenId(5)], LONG, Speculation::Off), 200);
    let deadline = request.deadline.unwrap();
    let mut stream = engine.submit(request).unwrap();
    wait_until_started(&mut stream);
    let mut read = 0;
    let error = loop {
        match stream.blocking_next() {
            Some(Ok(Event::Delta(delta))) => read += delta.tokens.len(),
            Some(Err(error)) => break error,
            other => unreachable!("the deadline comes before {other:?}"),
        }
    };
    assert!(Instant::now() >= deadline);
    assert_eq!(error, GenerationError::DeadlineExceeded { committed: read, wanted: LONG });
    assert!(read > 0);
    wait_until_idle(&engine);
}

#[test]
fn a_prefill_ends_at_its_deadline() {
    let loaded = model();
    let engine = start(&loaded, EngineOptions { prefill_tokens_per_step: 1, ..roomy(&loaded) });
    let request = until(request(&vec![TokenId(5); LONG - 1], 1, Speculation::Off), 100);
    let error = read(engine.submit(request).unwrap()).err();
    assert_eq!(error, Some(GenerationError::DeadlineExceeded { committed: 0, wanted: 1 }));
    wait_until_idle(&engine);
}

#[test]
fn a_request_whose_deadline_passes_in_the_queue_is_told_so() {
    let loaded = model();
    let engine = start(&loaded, EngineOptions { max_streams: 1, ..roomy(&loaded) });
    let mut running = engine.submit(request(&[TokenId(5)], LONG, Speculation::Off)).unwrap();
    wait_until_started(&mut running);
    for (case, milliseconds) in [("already over", 0), ("over while it waits", 50)] {
        let waiting = engine
            .submit(until(request(&[TokenId(6)], 7, Speculation::Off), milliseconds))
            .unwrap();
        let error = read(waiting).err();
        let expected = GenerationError::DeadlineExceeded { committed: 0, wanted: 7 };
        assert_eq!(error, Some(expected), "{case}");
    }
    wait_until("the running stream is left", || engine.in_flight() == 1);
    assert!(matches!(running.blocking_next(), Some(Ok(Event::Delta(_)))));
}

#[test]
fn others_do_not_notice() {
    let loaded = model();
    let engine = start(&loaded, roomy(&loaded));
    let other = request(&[TokenId(9); 4], 60, Speculation::Off);
    let alone = generate(&engine, other.clone()).unwrap().said();
    let hurried =
        engine.submit(until(request(&[TokenId(5)], LONG / 2, Speculation::Off), 30)).unwrap();
    let others: Vec<_> = (0..4).map(|_| engine.submit(other.clone()).unwrap()).collect();
    assert!(matches!(read(hurried), Err(GenerationError::DeadlineExceeded { .. })));
    for stream in others {
        assert_eq!(read(stream).unwrap().said(), alone);
    }
}
