//! Promise: what can't be taken is refused at once and by name; what was taken is served, first
//! come first served.

mod common;

use common::engine::{
    generate, generate_all, options, read, request, start, wait_until_idle, wait_until_started,
};
use common::tiny_model::{Loaded, TinyModel};
use skipstone::engine::{
    EngineOptions, GenerationError, Speculation, Submit, SubmitError, ValidRequest,
};
use skipstone::model::TokenId;

fn model() -> Loaded {
    TinyModel::default().load()
}

fn short() -> ValidRequest {
    request(&[TokenId(5); 3], 4, Speculation::Off)
}

fn long() -> ValidRequest {
    request(&[TokenId(5); 3], 3000, Speculation::Off)
}

#[test]
fn a_full_queue_refuses_at_once_and_takes_again_when_it_empties() {
    let loaded = model();
    // The small buffer holds the running stream back until it is read.
    let engine = start(
        &loaded,
        EngineOptions { max_streams: 1, max_waiting: 3, event_buffer: 4, ..options(&loaded) },
    );
    let mut running = engine.submit(long()).unwrap();
    wait_until_started(&mut running);
    let waiting: Vec<_> = (0..3).map(|_| engine.submit(short()).unwrap()).collect();
    for attempt in 0..1000 {
        let refused = engine.submit(short()).err();
        assert_eq!(refused, Some(SubmitError::QueueFull { waiting: 3 }), "attempt {attempt}");
    }
    assert_eq!(engine.in_flight(), 4);
    drop(running);
    for stream in waiting {
        assert_eq!(read(stream).map(|outcome| outcome.tokens.len()), Ok(4));
    }
    wait_until_idle(&engine);
    assert!(generate(&engine, short()).is_ok());
}

/// With room for one, each stream starts when the one before it is gone, and no later one can have
/// overtaken it.
#[test]
fn first_come_is_first_served() {
    let loaded = model();
    let engine =
        start(&loaded, EngineOptions { max_streams: 1, event_buffer: 4, ..options(&loaded) });
    let streams: Vec<_> = (0..20).map(|_| engine.submit(long()).unwrap()).collect();
    for mut stream in streams {
        wait_until_started(&mut stream);
    }
    wait_until_idle(&engine);
}

#[test]
fn more_streams_than_pages_all_finish_and_say_the_same() {
    let loaded = model();
    let alone = generate(&start(&loaded, options(&loaded)), short()).unwrap().said();
    // Room for two of the eight streams that may run.
    let engine = start(&loaded, EngineOptions { kv_cache_tokens: 64, ..options(&loaded) });
    for outcome in generate_all(&engine, (0..50).map(|_| short())) {
        assert_eq!(outcome.unwrap().said(), alone);
    }
    wait_until_idle(&engine);
}

#[test]
fn a_request_beyond_the_whole_cache_fails_alone_and_names_both_numbers() {
    let loaded = model();
    let engine = start(&loaded, EngineOptions { kv_cache_tokens: 64, ..options(&loaded) });
    let outcomes =
        generate_all(&engine, [short(), request(&[TokenId(5); 60], 37, Speculation::Off), short()]);
    let Err(GenerationError::Internal(message)) = &outcomes[1] else {
        unreachable!("97 positions can't fit: {:?}", outcomes[1])
    };
    assert!(message.contains("97") && message.contains("64"), "{message}");
    assert!(outcomes[0].is_ok() && outcomes[2].is_ok());
    wait_until_idle(&engine);
}
