//! Promise: a draft whose rows run different sublayers repeats, whatever earlier drafts or other
//! streams left in its pages; and no gate changes the output.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;

use common::engine::{generate, generate_all, options, prompt, request, start};
use common::passes::{Bits, bits, forced, group, inputs, runner};
use common::tiny_model::{Loaded, TinyModel};
use common::weights::Random;
use skipstone::drafting::{
    Begin, Context, DraftPlan, DraftPolicy, DraftStep, Next, PolicyEntry, PolicyRequest, SkipSet,
};
use skipstone::engine::{Betting, EngineOptions, Speculation};
use skipstone::kernels::Isa;
use skipstone::model::{
    Gate, GateStep, LogitsWanted, Model, RowGroup, Signs, SkippedKeys, TokenId,
};

/// Positions that the runs of these tests reach.
const POSITIONS: usize = 48;

fn model() -> Loaded {
    TinyModel { layers: 6, context_length: 256, ..TinyModel::default() }.load()
}

/// Runs all, and so only reports what sublayers do.
#[derive(Debug)]
struct Tracer;

impl Gate for Tracer {
    fn first(&self) -> usize {
        0
    }

    fn decide(&self, _: usize, _: usize, _: &[Option<Signs>]) -> GateStep {
        GateStep::Run
    }
}

/// Skips by position and sublayer, with no pattern, and now and then leaves for good.
#[derive(Debug)]
struct Scatter {
    first: usize,
}

impl Gate for Scatter {
    fn first(&self) -> usize {
        self.first
    }

    fn decide(&self, position: usize, sublayer: usize, signs: &[Option<Signs>]) -> GateStep {
        assert!(sublayer >= self.first && signs.len() == sublayer);
        match (position * 7 + sublayer * 5) % 11 {
            0..5 => GateStep::Skip,
            5 if position.is_multiple_of(3) => GateStep::Exit,
            _ => GateStep::Run,
        }
    }
}

/// Skips a sublayer where the one before hardly turned the state.
#[derive(Debug)]
struct Turns(f32);

impl Gate for Turns {
    fn first(&self) -> usize {
        2
    }

    fn decide(&self, _: usize, _: usize, signs: &[Option<Signs>]) -> GateStep {
        match signs.last().copied().flatten() {
            Some(signs) if signs.cosine > self.0 => GateStep::Skip,
            _ => GateStep::Run,
        }
    }
}

/// Logits of a chain of drafts, one token after the other, behind a few exact positions; the
/// pages held `poison` before, large finite numbers if it is true.
fn chain(
    model: &Arc<Model>,
    gate: Option<(&dyn Gate, usize)>,
    skipped_keys: SkippedKeys,
    poison: bool,
) -> Vec<Bits> {
    let (mut runner, pages) = runner(model, Isa::detect(), 2, 2 * POSITIONS);
    let lease = pages.lease(POSITIONS).unwrap();
    let vocabulary = model.config().vocabulary;
    let tokens = prompt(POSITIONS, vocabulary, &mut Random(3));
    if poison {
        // The whole model over states that no embedding has.
        let state = vec![1e4_f32; model.config().hidden];
        let rows: Vec<_> = (0..POSITIONS)
            .map(|_| skipstone::model::RowInput::Hidden { first: 0, state: &state })
            .collect();
        runner.run(&[RowGroup::new(lease.pages(), 0, &rows)]);
    }
    forced(&mut runner, &lease, &tokens[..8], 8);
    let mut all = Vec::new();
    for (position, token) in tokens.iter().enumerate().skip(8) {
        let rows = inputs(&[*token]);
        let draft = RowGroup { gate, skipped_keys, ..group(&lease, position, &rows) };
        all.push(bits(runner.run(&[draft]).logits(0, 0)));
    }
    all
}

#[test]
fn what_others_left_in_the_pages_does_not_change_a_draft() {
    let model = model().model;
    let gate = Scatter { first: 2 };
    let drafts = |keys, poison| chain(&model, Some((&gate, 2)), keys, poison);
    assert_eq!(drafts(SkippedKeys::Fill, false), drafts(SkippedKeys::Fill, true));
    // The test would notice: without keys of its own the draft reads what was there.
    assert_ne!(drafts(SkippedKeys::Unread, false), drafts(SkippedKeys::Unread, true));
    let plain = chain(&model, None, SkippedKeys::Unread, true);
    assert_ne!(drafts(SkippedKeys::Fill, false), plain, "the gate skips something");
}

#[test]
fn a_gate_that_always_runs_changes_no_bit_and_tells_what_each_sublayer_does() {
    let model = model().model;
    let plain = chain(&model, None, SkippedKeys::Unread, false);
    assert_eq!(chain(&model, Some((&Tracer, 0)), SkippedKeys::Fill, false), plain);
    let (mut runner, pages) = runner(&model, Isa::detect(), 2, 32);
    let lease = pages.lease(8).unwrap();
    let (hidden, sublayers) = (model.config().hidden, model.config().sublayers());
    let rows = inputs(&prompt(5, model.config().vocabulary, &mut Random(1)));
    let places: Vec<usize> = (0..=sublayers).collect();
    let traced =
        RowGroup { gate: Some((&Tracer, 0)), save_before: &places, ..group(&lease, 0, &rows) };
    let output = runner.run(&[traced]);
    let norm = |state: &[f32]| state.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
    for row in 0..rows.len() {
        let signs = output.signs(0, row);
        assert_eq!(signs.len(), sublayers);
        for (sublayer, signs) in signs.iter().enumerate() {
            let signs = signs.unwrap();
            let (before, after) =
                (output.saved(0, sublayer, row), output.saved(0, sublayer + 1, row));
            let dot: f64 =
                before.iter().zip(after).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            let (old, new) = (norm(before), norm(after));
            assert!((f64::from(signs.before) / old - 1.0).abs() < 1e-5, "{hidden} numbers");
            assert!((f64::from(signs.after) / new - 1.0).abs() < 1e-5);
            assert!((f64::from(signs.cosine) - dot / (old * new)).abs() < 1e-5);
        }
    }
}

#[test]
fn a_gated_row_has_the_same_bits_in_any_company() {
    let model = model().model;
    let (mut runner, pages) = runner(&model, Isa::detect(), 2, 128);
    let (one, two) = (pages.lease(32).unwrap(), pages.lease(32).unwrap());
    let tokens = prompt(16, model.config().vocabulary, &mut Random(8));
    let (rows, others) = (inputs(&tokens[..6]), inputs(&tokens[6..]));
    let gates: [&dyn Gate; 2] = [&Scatter { first: 3 }, &Turns(0.9)];
    for gate in gates {
        let gated = || RowGroup {
            gate: Some((gate, gate.first())),
            skipped_keys: SkippedKeys::Fill,
            ..group(&one, 0, &rows)
        };
        let logits = |output: skipstone::model::PassOutput<'_>, group: usize| -> Vec<Bits> {
            (0..6).map(|row| bits(output.logits(group, row))).collect()
        };
        let alone = logits(runner.run(&[gated()]), 0);
        let beside = RowGroup { logits: LogitsWanted::Last, ..group(&two, 0, &others) };
        assert_eq!(logits(runner.run(&[beside, gated()]), 1), alone, "{gate:?}");
    }
}

/// A toy policy whose drafts have a mask for each position, or a gate.
struct Varied {
    plans: Vec<Arc<DraftPlan>>,
    turn: usize,
}

fn varied(plans: impl Fn(usize) -> Vec<DraftPlan>, layers: usize) -> Box<dyn DraftPolicy> {
    Box::new(Varied { plans: plans(layers).into_iter().map(Arc::new).collect(), turn: 0 })
}

static BY_POSITION: PolicyEntry = PolicyEntry {
    name: "by_position",
    about: "another mask at each position of the chain",
    takes_skip_set: false,
    start: |setup| {
        let plans = |layers: usize| -> Vec<DraftPlan> {
            let skipping = |attention: &[u32], mlp: &[u32]| {
                let set = SkipSet::new(attention, mlp, layers).unwrap();
                DraftPlan::skipping(&set, 0.0).with_filled_keys().entering_at(2)
            };
            vec![skipping(&[1, 4], &[2]), skipping(&[3], &[3, 5]), skipping(&[], &[1])]
        };
        varied(plans, setup.model.config().layers)
    },
};

static GATED: PolicyEntry = PolicyEntry {
    name: "gated",
    about: "a gate decides",
    takes_skip_set: false,
    start: |setup| {
        let plans = |layers: usize| {
            let whole = || DraftPlan::skipping(&SkipSet::empty(layers), 0.0);
            vec![whole().with_gate(Arc::new(Scatter { first: 2 }))]
        };
        varied(plans, setup.model.config().layers)
    },
};

impl DraftPolicy for Varied {
    fn begin(&mut self, _: &mut Context<'_>) -> Begin {
        self.turn = 0;
        Begin::Draft { plan: Arc::clone(&self.plans[0]), arm: 0 }
    }

    fn keeps(&mut self, _: &mut Context<'_>, _: &DraftStep) -> bool {
        true
    }

    fn next(&mut self, _: &mut Context<'_>, _: &[TokenId]) -> Next {
        self.turn += 1;
        let arm = self.turn % self.plans.len();
        Next::DraftBy { plan: Arc::clone(&self.plans[arm]), arm }
    }

    fn plan(&self, _: &Betting) -> Option<Arc<DraftPlan>> {
        self.plans.first().map(Arc::clone)
    }

    fn arm_name(&self, _: &Betting, arm: usize) -> String {
        format!("plan {arm}")
    }
}

#[test]
fn policies_with_a_mask_for_each_position_or_a_gate_change_nothing_and_repeat() {
    let loaded = model();
    let engine = start(&loaded, EngineOptions { event_buffer: 512, ..options(&loaded) });
    let vocabulary = loaded.model.config().vocabulary;
    for entry in [&BY_POSITION, &GATED] {
        let drafts =
            |tokens: &[TokenId]| request(tokens, 90, Speculation::Draft(PolicyRequest::new(entry)));
        let prompts: Vec<Vec<TokenId>> =
            (0..4).map(|seed| prompt(5 + seed, vocabulary, &mut Random(seed as u64))).collect();
        let alone: Vec<_> = prompts
            .iter()
            .map(|tokens| {
                let plain = generate(&engine, request(tokens, 90, Speculation::Off)).unwrap();
                let found = generate(&engine, drafts(tokens)).unwrap();
                assert_eq!(found.tokens, plain.tokens, "{}", entry.name);
                let stats = found.finished.speculation;
                assert!(stats.draft_tokens > 50, "{stats:?}");
                (stats.drafted_per_position, stats.accepted_per_position)
            })
            .collect();
        // In one batch, in pages that others had: the same drafts are accepted.
        let batch = generate_all(&engine, prompts.iter().map(|tokens| drafts(tokens)));
        for (found, alone) in batch.into_iter().zip(alone) {
            let stats = found.unwrap().finished.speculation;
            assert_eq!((stats.drafted_per_position, stats.accepted_per_position), alone);
        }
    }
}
