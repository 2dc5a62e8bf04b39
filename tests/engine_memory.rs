//! Promise: every page comes back, however its stream ended, so that the last request has the room
//! of the first.

mod common;

use std::time::Instant;

use common::engine::{
    fixed, generate, options, request, start, wait_until_idle, wait_until_started,
};
use common::tiny_model::TinyModel;
use skipstone::drafting::SkipSet;
use skipstone::engine::{EngineOptions, Event, GenerationError, Speculation, Submit, ValidRequest};
use skipstone::kernels::WeightType;
use skipstone::model::TokenId;

const POISON: TokenId = TokenId(7);

const POSITIONS: usize = 512;

#[test]
fn pages_come_back_however_a_stream_ends() {
    let loaded =
        TinyModel { kind: WeightType::F32, poisoned: Some(POISON), ..TinyModel::default() }.load();
    let options = EngineOptions { kv_cache_tokens: POSITIONS, event_buffer: 4, ..options(&loaded) };
    let engine = start(&loaded, options);
    let set = SkipSet::new(&[1, 3], &[2], loaded.model.config().layers).unwrap();
    // Bias keeps the poison out of the answers.
    let healthy = |prompt: usize, new: usize, plan: Speculation| {
        let mut request = request(&vec![TokenId(4); prompt], new, plan);
        request.stop.stop_token_ids = vec![POISON];
        request
    };
    let whole = |plan: Speculation| healthy(POSITIONS - 20, 20, plan);
    for round in 0..12 {
        let plan = if round % 2 == 0 { Speculation::Off } else { fixed(&set, 1 + round % 7) };
        // Every one of these takes all pages.
        let finished = generate(&engine, whole(plan.clone()));
        assert!(finished.is_ok(), "round {round}: {finished:?}");
        let poisoned =
            ValidRequest { prompt: vec![POISON; POSITIONS - 9], ..healthy(1, 9, plan.clone()) };
        assert!(
            matches!(generate(&engine, poisoned), Err(GenerationError::Internal(_))),
            "round {round}"
        );
        let late = ValidRequest { deadline: Some(Instant::now()), ..whole(plan.clone()) };
        assert!(
            matches!(generate(&engine, late), Err(GenerationError::DeadlineExceeded { .. })),
            "round {round}"
        );
        let mut dropped = engine.submit(healthy(9, POSITIONS - 9, plan)).unwrap();
        wait_until_started(&mut dropped);
        if round % 3 > 0 {
            assert!(matches!(dropped.blocking_next(), Some(Ok(Event::Delta(_)))), "round {round}");
        }
    }
    wait_until_idle(&engine);
}
