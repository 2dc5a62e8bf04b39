//! Promise: bridges get better by serving, and only by serving what may be learned from.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::{Arc, LazyLock};

use common::engine::{generate_all, options, prompt, request, start};
use common::tiny_model::{Loaded, TinyModel};
use common::weights::Random;
use skipstone::adapt::{Allowed, FrontierPlan, PlanKnowledge};
use skipstone::drafting::{DraftPlan, SkipSet};
use skipstone::engine::{Engine, EngineOptions, Speculation, ValidRequest};
use skipstone::kernels::WeightType;
use skipstone::model::Bridge;

const LAYERS: usize = 6;
const VOCABULARY: usize = 64;

static MODEL: LazyLock<Loaded> = LazyLock::new(|| {
    TinyModel {
        kind: WeightType::Q8_0,
        layers: LAYERS,
        hidden: 64,
        head_dim: 16,
        feed_forward: 64,
        vocabulary: VOCABULARY,
        context_length: 256,
        head_scale: 1.0,
        sublayer_scale: 0.5,
        seed: 3,
        ..TinyModel::default()
    }
    .load()
});

/// An engine whose only plan has a bridge that does nothing.
fn engine(learn_bridges: bool) -> Engine {
    let hidden = MODEL.model.config().hidden;
    let (down, up) = (vec![0.0; 32 * hidden], vec![0.0; 16 * hidden]);
    let bridge = Bridge::new(2..8, hidden, vec![0.0; hidden], &down, &up).unwrap();
    let plan = DraftPlan::new(SkipSet::new(&[1, 2, 3], &[1, 2, 3], LAYERS).unwrap(), 0.0)
        .with_bridges(vec![Arc::new(bridge)])
        .unwrap();
    let frontier = vec![FrontierPlan {
        name: "a plan".to_owned(),
        plan: Arc::new(plan),
        profile_tokens: 0,
        knowledge: PlanKnowledge::unknown(0.5),
    }];
    start(&MODEL, EngineOptions { frontier, learn_bridges, event_buffer: 256, ..options(&MODEL) })
}

fn requests(count: u64, first_seed: u64, teaches: bool) -> Vec<ValidRequest> {
    let allowed = Allowed { always: true, ngram: false, ..Allowed::default() };
    let speculation = Speculation::Adaptive { max_draft_tokens: Some(1), allowed };
    let build = |seed: u64| {
        let tokens = prompt(48, VOCABULARY, &mut Random(1 + seed));
        ValidRequest { teaches, ..request(&tokens, 160, speculation.clone()) }
    };
    (first_seed..first_seed + count).map(build).collect()
}

/// The share of drafts accepted on texts that teach nothing.
fn acceptance(engine: &Engine) -> f64 {
    let (mut drafted, mut accepted) = (0, 0);
    for outcome in generate_all(engine, requests(24, 0, false)) {
        let speculation = outcome.unwrap().finished.speculation;
        drafted += speculation.draft_tokens;
        accepted += speculation.accepted_tokens;
    }
    assert!(drafted > 1000, "{drafted}");
    accepted as f64 / drafted as f64
}

fn serve(engine: &Engine, rounds: u64, teaches: bool) {
    for round in 0..rounds {
        let traffic = requests(16, 1000 + 16 * round, teaches);
        generate_all(engine, traffic).into_iter().for_each(|outcome| drop(outcome.unwrap()));
    }
}

#[test]
fn acceptance_rises_with_what_is_served() {
    let engine = engine(true);
    let before = acceptance(&engine);
    let mut after = before;
    for _ in 0..10 {
        serve(&engine, 6, true);
        after = acceptance(&engine);
        if after > before + 0.1 {
            return;
        }
    }
    panic!("acceptance was {before} and is {after}");
}

#[test]
fn nothing_is_learned_where_it_may_not_be() {
    for (learn_bridges, teaches) in [(false, true), (true, false)] {
        let engine = engine(learn_bridges);
        let before = acceptance(&engine);
        serve(&engine, 6, teaches);
        assert_eq!(acceptance(&engine), before, "learn_bridges {learn_bridges}, teaches {teaches}");
    }
}
