//! What the streams of an engine bet with: plans and what is known of them, and what passes cost.

use crate::adapt::{Costs, Knowledge, Seat};
use crate::baseline::PlainStep;
use crate::parts::{Outline, Parts, attention_share};
use crate::step::{Step, StepKind};
use skipstone_model::Model;

/// Shared by all streams of an engine.
pub struct Betting {
    /// The plans that may be bet on, and what all streams have learned about them.
    pub knowledge: Knowledge,
    pub(crate) baseline: PlainStep,
    pub(crate) parts: Parts,
}

// === impl Betting ===

impl Betting {
    /// Streams bet on the plans of `seats`, which draft for `model`.
    pub(crate) fn new(seats: Vec<Seat>, model: &Model, baseline: PlainStep, parts: Parts) -> Self {
        let mut knowledge = Knowledge::new(seats);
        for index in 0..knowledge.seats().len() {
            let plan = &knowledge.seats()[index].plan;
            let cost = parts.cost(&Outline::of(plan, model));
            knowledge.place(index, attention_share(plan), cost);
        }
        Self { knowledge, baseline, parts }
    }

    /// Whether the next step should be a plain one, which tells what drafts are compared with. Asks
    /// once.
    pub fn takes_plain_step(&mut self) -> bool {
        self.knowledge.mechanisms().confirmation && self.baseline.takes_due()
    }

    /// What rows cost a stream at `context` positions beside `others` rows of other streams.
    pub(crate) fn costs(&self, context: usize, others: usize) -> Costs {
        self.baseline.costs(context, others)
    }

    /// Takes in what a pass took that did nothing but this step, at `context` positions.
    pub(crate) fn observe_lone_pass(
        &mut self,
        step: &Step,
        context: usize,
        seconds: f64,
        model: &Model,
    ) {
        let baseline = &mut self.baseline;
        match (step.kind, &step.plan) {
            (StepKind::Plain(_), _) => baseline.observe(step.rows, context, seconds),
            // Rows that a draft was fed enter late and cost a little less; but all weights are read
            // as long as one row enters at the embedding.
            (StepKind::Verify, _) if step.entered < step.rows => {
                baseline.observe(step.rows, context, seconds);
            }
            (StepKind::Draft, Some(plan)) => {
                let cost = seconds / baseline.seconds(context, 1);
                let added = baseline.context_share(context, 1);
                self.parts.observe(&Outline::of(plan, model), cost, added);
            }
            _ => {}
        }
    }

    /// The share that a step at `context` positions has in a pass of `in_pass` rows, roughly and in
    /// plain steps.
    pub(crate) fn share(&self, step: &Step, in_pass: usize, context: usize, model: &Model) -> f64 {
        let (weight, attention) = match &step.plan {
            Some(plan) => (self.parts.cost(&Outline::of(plan, model)), attention_share(plan)),
            None => (step.rows as f64, 1.0),
        };
        let baseline = &self.baseline;
        baseline.share(weight, in_pass) + attention * baseline.context_share(context, step.rows)
    }
}
