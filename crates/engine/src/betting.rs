//! The means by which the streams of an engine bet: plans, knowledge about them, and the cost of
//! passes.

use crate::adapt::{Knowledge, Seat};
use crate::cost::{CostModel, DraftShape, PassLog, StepShape};
use skipstone_model::Model;

/// Shared by all streams of an engine.
pub struct Betting {
    /// The plans that may be bet on, and what all streams have learned about them.
    pub knowledge: Knowledge,
    /// The cost of passes.
    pub costs: CostModel,
    /// The plans of `knowledge`, as far as they cost time.
    shapes: Vec<DraftShape>,
    /// Share of the attention sublayers that each runs.
    attention: Vec<f64>,
    log: Option<PassLog>,
}

// === impl Betting ===

impl Betting {
    /// Streams bet on the plans of `seats`, which draft for `model`.
    pub(crate) fn new(seats: Vec<Seat>, model: &Model, costs: CostModel) -> Self {
        let shapes = seats.iter().map(|seat| DraftShape::of(&seat.plan, model)).collect();
        let attention = seats.iter().map(|seat| seat.plan.skip_set().attention_share()).collect();
        let knowledge = Knowledge::new(seats);
        let mut betting = Self { knowledge, costs, shapes, attention, log: None };
        betting.price_plans();
        betting
    }

    /// Writes each pass to `log` from now on.
    pub(crate) fn log_passes(&mut self, log: PassLog) {
        self.log = Some(log);
    }

    /// Whether the next step of a stream should be a plain one, which tells what drafts are
    /// compared with; other streams have `others` rows in the pass.
    pub fn takes_plain_step(&mut self, others: usize) -> bool {
        others == 0 && self.knowledge.mechanisms().confirmation && self.costs.wants_plain_step()
    }

    /// Takes in what a pass of these steps took.
    pub(crate) fn observe(&mut self, steps: &[StepShape], seconds: f64) {
        if let Some(log) = &mut self.log
            && let Err(error) = log.write(steps, seconds)
        {
            tracing::warn!(%error, "passes are no longer written down");
            self.log = None;
        }
        self.costs.observe(steps, seconds);
        self.price_plans();
    }

    fn price_plans(&mut self) {
        for (index, (shape, &attention)) in self.shapes.iter().zip(&self.attention).enumerate() {
            self.knowledge.set_cost(index, self.costs.draft(shape, 0), attention);
        }
    }
}
