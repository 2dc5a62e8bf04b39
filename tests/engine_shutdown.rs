//! Promise: a draining engine finishes what it took and takes no more; one that is dropped tells
//! every stream.

mod common;

use common::engine::{
    generate, options, read, request, start, wait_until_idle, wait_until_started,
};
use common::tiny_model::{Loaded, TinyModel};
use skipstone::engine::{
    EngineOptions, Event, GenerationError, GenerationStream, Speculation, Submit, SubmitError,
};
use skipstone::model::TokenId;

fn model() -> Loaded {
    TinyModel::default().load()
}

#[test]
fn draining_refuses_new_requests_and_finishes_the_others() {
    let loaded = model();
    let engine = start(&loaded, EngineOptions { max_streams: 2, ..options(&loaded) });
    let request = request(&[TokenId(5); 3], 50, Speculation::Off);
    let accepted: Vec<_> = (0..6).map(|_| engine.submit(request.clone()).unwrap()).collect();
    engine.drain();
    assert_eq!(engine.submit(request).err(), Some(SubmitError::Draining));
    for stream in accepted {
        assert_eq!(read(stream).map(|outcome| outcome.tokens.len()), Ok(50));
    }
    wait_until_idle(&engine);
}

/// The error that ended a stream, whether or not it had begun.
fn last_words(mut stream: GenerationStream) -> Option<GenerationError> {
    loop {
        match stream.blocking_next() {
            Some(Err(error)) => return Some(error),
            Some(Ok(Event::Finished(_))) | None => return None,
            Some(Ok(_)) => {}
        }
    }
}

#[test]
fn a_dropped_engine_tells_running_and_waiting_streams() {
    let loaded = model();
    let long = request(&[TokenId(5); 3], 4000, Speculation::Off);
    for round in 0..20 {
        let engine = start(
            &loaded,
            EngineOptions {
                max_streams: 2,
                kv_cache_tokens: 16_384,
                event_buffer: 5000,
                ..options(&loaded)
            },
        );
        let mut streams: Vec<_> = (0..5).map(|_| engine.submit(long.clone()).unwrap()).collect();
        wait_until_started(&mut streams[1]);
        // The last one may not even have left the channel.
        streams.push(engine.submit(long.clone()).unwrap());
        drop(engine);
        for (index, stream) in streams.into_iter().enumerate() {
            let found = last_words(stream);
            assert_eq!(found, Some(GenerationError::ShuttingDown), "round {round}, stream {index}");
        }
    }
}

#[test]
fn an_engine_can_be_dropped_while_nothing_runs() {
    let loaded = model();
    drop(start(&loaded, options(&loaded)));
    let engine = start(&loaded, options(&loaded));
    let outcome = generate(&engine, request(&[TokenId(5)], 3, Speculation::Off));
    assert_eq!(outcome.map(|outcome| outcome.tokens.len()), Ok(3));
    drop(engine);
}
