//! Promise: whoever decides what is drafted, the output is that of plain decoding; a policy is one
//! file behind [`DraftPolicy`], and the engine needs to know nothing of it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;

use common::engine::{generate, options, prompt, request, start};
use common::frontier::frontier;
use common::tiny_model::{Loaded, TinyModel};
use common::weights::Random;
use rand_chacha::rand_core::Rng;
use skipstone::adapt::{Allowed, OffReason};
use skipstone::drafting::{
    Begin, Context, DraftPlan, DraftPolicy, DraftStep, FinishedCycle, Next, POLICIES, PolicyEntry,
    PolicyRequest, PromptStates, Proposal, SkipSet,
};
use skipstone::engine::{Betting, EngineOptions, Speculation};
use skipstone::model::TokenId;

fn model() -> Loaded {
    TinyModel { layers: 8, context_length: 512, ..TinyModel::default() }.load()
}

/// A toy policy, as somebody else might write one: it tosses a coin at every turn, and now and then
/// proposes what the stream said four tokens ago.
static COIN: PolicyEntry = PolicyEntry {
    name: "coin",
    about: "tosses a coin",
    takes_skip_set: true,
    start: |setup| {
        let skip_set = setup.request.skip_set.as_ref().unwrap_or(setup.default_skip_set);
        let plan = Arc::new(DraftPlan::skipping(skip_set, 0.0));
        Box::new(Coin { plan, seen: 0, committed: 0, judged: 0 })
    },
};

struct Coin {
    plan: Arc<DraftPlan>,
    seen: usize,
    committed: usize,
    judged: usize,
}

fn heads(context: &mut Context<'_>) -> bool {
    context.random.next_u32().is_multiple_of(2)
}

fn echo(context: &Context<'_>) -> Option<Proposal> {
    let token = *context.tokens.iter().rev().nth(3)?;
    Some(Proposal { tokens: vec![token], matched: 1 })
}

impl DraftPolicy for Coin {
    fn begin(&mut self, context: &mut Context<'_>) -> Begin {
        assert!(context.limit > 0 && context.tokens.len() > context.prompt);
        assert_eq!(self.seen, context.prompt, "it was shown the whole prompt, once");
        match (heads(context), heads(context), echo(context)) {
            (true, true, _) => Begin::Plain(OffReason::NoGain),
            (true, false, Some(proposal)) => Begin::Verify(proposal),
            _ => Begin::Draft { plan: Arc::clone(&self.plan), arm: 0 },
        }
    }

    fn keeps(&mut self, context: &mut Context<'_>, step: &DraftStep) -> bool {
        assert!((0.0..=1.0).contains(&step.confidence));
        heads(context) || heads(context)
    }

    fn next(&mut self, context: &mut Context<'_>, chain: &[TokenId]) -> Next {
        assert!(!chain.is_empty() && chain.len() < context.limit);
        match (heads(context), heads(context), echo(context)) {
            (true, _, _) => Next::Draft,
            (false, true, Some(proposal)) => Next::Append(proposal),
            _ => Next::Verify,
        }
    }

    fn learn(&mut self, _: &mut Context<'_>, cycle: &FinishedCycle<'_>) {
        assert!(cycle.committed == cycle.accepted + 1 && cycle.steps > 0.0);
        self.judged += cycle.origins.len();
    }

    fn prompt_places(&self) -> &[usize] {
        &[3, 16]
    }

    fn see_prompt(&mut self, states: &PromptStates<'_>) {
        for row in 0..states.rows {
            let (early, last) = (states.state(0, row), states.state(1, row));
            assert!(early != last && early.iter().chain(last).all(|value| value.is_finite()));
        }
        self.seen += states.rows;
    }

    fn commit(&mut self, tokens: &[TokenId]) {
        self.committed += tokens.len();
    }

    fn plan(&self, _: &Betting) -> Option<Arc<DraftPlan>> {
        Some(Arc::clone(&self.plan))
    }

    fn arm_name(&self, _: &Betting, _: usize) -> String {
        format!("a coin that saw {} tokens and {} judged drafts", self.committed, self.judged)
    }
}

#[test]
fn a_policy_that_the_engine_does_not_know_drafts_and_changes_nothing() {
    let loaded = model();
    let engine = start(&loaded, EngineOptions { event_buffer: 512, ..options(&loaded) });
    let skip_set = SkipSet::new(&[2, 5], &[3, 5, 7], 8).unwrap();
    for seed in 0..8 {
        let tokens = prompt(5 + seed as usize, loaded.model.config().vocabulary, &mut Random(seed));
        let plain = generate(&engine, request(&tokens, 120, Speculation::Off)).unwrap();
        let wanted =
            PolicyRequest { skip_set: Some(skip_set.clone()), ..PolicyRequest::new(&COIN) };
        let tossed = generate(&engine, request(&tokens, 120, Speculation::Draft(wanted))).unwrap();
        assert_eq!(tossed.tokens, plain.tokens, "prompt {tokens:?}");
        let stats = tossed.finished.speculation;
        assert_eq!((stats.policy, plain.finished.speculation.policy), ("coin", "off"));
        let by = |ngram: bool| {
            let cycles = tossed.deltas.iter().filter(|delta| match ngram {
                true => delta.drafted_by.ngram,
                false => delta.drafted_by.plan.is_some(),
            });
            cycles.count()
        };
        assert!(by(false) > 5 && by(true) > 5, "{} by plan, {} echoes", by(false), by(true));
        assert!(stats.phases.plain.steps > 5, "{stats:?}");
    }
}

#[test]
fn every_policy_of_the_registry_says_what_plain_decoding_says() {
    let loaded = model();
    let vocabulary = loaded.model.config().vocabulary;
    let tokens: Vec<TokenId> = (0..vocabulary as u32).step_by(3).map(TokenId).collect();
    let options = EngineOptions {
        event_buffer: 512,
        frontier: frontier(&loaded.model, &tokens),
        default_skip_set: SkipSet::new(&[2], &[3, 4], 8).unwrap(),
        ..options(&loaded)
    };
    for entry in POLICIES {
        let engine = start(&loaded, options.clone());
        let (mut drafted, mut revisions) = (0, 0);
        // Prompts that end within a page, at its end and at its start.
        for length in [5, 31, 32, 33, 60] {
            let tokens = prompt(length, vocabulary, &mut Random(length as u64));
            let plain = generate(&engine, request(&tokens, 200, Speculation::Off)).unwrap();
            // A tiny model is not worth drafting for: policies that bet do so whatever the odds.
            let allowed = Allowed { always: true, ..Allowed::default() };
            let wanted = PolicyRequest { allowed, ..PolicyRequest::new(entry) };
            let speculation = Speculation::Draft(wanted);
            let found = generate(&engine, request(&tokens, 200, speculation)).unwrap();
            assert_eq!(found.tokens, plain.tokens, "{}, prompt of {length}", entry.name);
            let stats = found.finished.speculation;
            assert_eq!(stats.policy, entry.name);
            drafted += stats.draft_tokens;
            revisions = revisions.max(stats.final_plan.unwrap().revision);
        }
        assert!(drafted > 0, "{} drafted nothing", entry.name);
        // The search goes on while it drafts.
        assert!(revisions > 1 || entry.name != "swift", "no set was ever found better");
    }
}
