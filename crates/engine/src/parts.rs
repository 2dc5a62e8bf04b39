//! What the parts of the model cost: attention sublayers, MLPs and the head, as shares of a plain
//! step.
//!
//! Measured at start and followed by the timers of draft steps, they tell what a plan costs on this
//! host before it drafts: one of a profile that was calibrated elsewhere, or one that the search
//! comes up with.

use serde::{Deserialize, Serialize};

use crate::adapt::cost_without_context;
use crate::drafting::DraftPlan;
use skipstone_model::{
    LogitsWanted, Model, PagePool, RowGroup, RowInput, Runner, SkipMask, TokenId,
};

/// Measurements of each kind at start, interleaved; the quickest counts.
const REPEATS: usize = 4;

/// How much of what one draft step is off moves the shares (normalised least mean squares: Nagumo
/// and Noda, 1967).
const STEP: f64 = 0.02;

/// How far one draft step is believed to be off, either way, in plain steps.
const MOST_OFF: f64 = 0.1;

/// The cheapest step that is believed, in plain steps.
const LEAST_COST: f64 = 0.01;

/// Shares of a plain step at an empty context. What is left is what every pass takes.
#[derive(Clone, Copy, PartialEq, Serialize, Deserialize, Debug)]
pub(super) struct Parts {
    /// All attention sublayers.
    attention: f64,
    /// All MLPs.
    mlp: f64,
    /// The head over the whole vocabulary.
    head: f64,
}

/// What a draft step leaves out and adds, as shares of all there is of each.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Outline {
    /// Attention sublayers left out.
    attention: f64,
    /// MLPs left out.
    mlp: f64,
    /// The vocabulary left out.
    head: f64,
    /// Bytes of bridges / bytes of the weights.
    bridges: f64,
}

// === impl Outline ===

impl Outline {
    /// Of a step of `plan`.
    pub(super) fn of(plan: &DraftPlan, model: &Model) -> Self {
        let weights = model.weights();
        let layers = plan.skip_set().layer_count().max(1) as f64;
        let bridges: usize = plan.bridges().iter().map(|bridge| bridge.bytes()).sum();
        let kept = |vocabulary: usize| vocabulary as f64 / weights.head_bytes() as f64;
        Self {
            attention: 1.0 - attention_share(plan),
            mlp: plan.skip_set().mlp().len() as f64 / layers,
            head: plan
                .vocabulary()
                .map_or(0.0, |vocabulary| 1.0 - kept(vocabulary.bytes()).min(1.0)),
            bridges: bridges as f64 / weights.bytes() as f64,
        }
    }
}

/// Share of the attention sublayers that a step of `plan` runs.
pub(super) fn attention_share(plan: &DraftPlan) -> f64 {
    let skip_set = plan.skip_set();
    1.0 - skip_set.attention().len() as f64 / skip_set.layer_count().max(1) as f64
}

// === impl Parts ===

impl Parts {
    /// Measures passes that leave out one kind of part each, beside whole ones; averaged with
    /// `kept`, if an earlier run kept it.
    pub(super) fn measure(runner: &mut Runner, pages: &PagePool, kept: Option<Self>) -> Self {
        let sublayers = runner.model().config().sublayers();
        // The first layer and the last always run; there may be no other.
        let inner = 2..sublayers.saturating_sub(2);
        let without = |parity: usize| {
            SkipMask::new((0..sublayers).map(|s| inner.contains(&s) && s % 2 == parity).collect())
        };
        let (no_attention, no_mlp) = (without(0), without(1));
        let mut quickest = [f64::INFINITY; 4];
        if let Some(lease) = pages.lease(1) {
            for _ in 0..REPEATS {
                let ways = [
                    (None, LogitsWanted::All),
                    (Some(&no_attention), LogitsWanted::All),
                    (Some(&no_mlp), LogitsWanted::All),
                    (None, LogitsWanted::None),
                ];
                for ((skip, logits), quickest) in ways.into_iter().zip(&mut quickest) {
                    let group = RowGroup {
                        skip,
                        logits,
                        ..RowGroup::new(lease.pages(), 0, &[RowInput::Token(TokenId(0))])
                    };
                    *quickest = quickest.min(runner.run(std::slice::from_ref(&group)).seconds);
                }
            }
        }
        let [whole, ..] = quickest;
        let share = |way: usize| 1.0 - quickest[way] / whole;
        let all = sublayers as f64 / inner.len().max(1) as f64;
        let measured =
            Self { attention: all * share(1), mlp: all * share(2), head: share(3) }.bounded();
        let mean = |now: f64, then: f64| (now + then) / 2.0;
        kept.map_or(measured, |kept| Self {
            attention: mean(measured.attention, kept.attention),
            mlp: mean(measured.mlp, kept.mlp),
            head: mean(measured.head, kept.head),
        })
    }

    /// A draft step at an empty context, in plain steps.
    pub(super) fn cost(&self, outline: &Outline) -> f64 {
        let left_out =
            outline.attention * self.attention + outline.mlp * self.mlp + outline.head * self.head;
        (1.0 - left_out + outline.bridges).max(LEAST_COST)
    }

    /// Takes in a draft step that took `cost` plain steps, where the context adds the share
    /// `context` to those.
    pub(super) fn observe(&mut self, outline: &Outline, cost: f64, context: f64) {
        let cost = cost_without_context(cost, 1.0 - outline.attention, context);
        let off = (cost - self.cost(outline)).clamp(-MOST_OFF, MOST_OFF);
        let Outline { attention, mlp, head, .. } = *outline;
        let norm = attention * attention + mlp * mlp + head * head;
        if !(off.is_finite() && norm > 0.0) {
            return;
        }
        let step = STEP * off / norm;
        self.attention -= step * attention;
        self.mlp -= step * mlp;
        self.head -= step * head;
        *self = self.bounded();
    }

    /// Whether it can be what was once measured.
    pub(super) fn is_plausible(&self) -> bool {
        *self == self.bounded()
    }

    /// Nothing costs less than nothing, and all parts together not more than a plain step.
    fn bounded(self) -> Self {
        let share = |share: f64| if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 };
        let Self { attention, mlp, head } = self;
        let (attention, mlp, head) = (share(attention), share(mlp), share(head));
        // A hair of room, or rounding would make what is bounded look unbounded.
        let excess = attention + mlp + head;
        let scale = if excess > 1.0 + 1e-9 { excess.recip() } else { 1.0 };
        Self { attention: attention * scale, mlp: mlp * scale, head: head * scale }
    }
}

#[cfg(test)]
pub(super) mod testing {
    use super::Parts;

    pub(crate) const PARTS: Parts = Parts { attention: 0.3, mlp: 0.4, head: 0.2 };
}

#[cfg(test)]
mod tests {
    use super::testing::PARTS;
    use super::*;

    const HALF: Outline = Outline { attention: 0.5, mlp: 0.5, head: 0.875, bridges: 0.01 };
    const NO_MLP: Outline = Outline { attention: 0.0, mlp: 0.5, head: 0.875, bridges: 0.0 };

    #[test]
    fn a_step_costs_what_it_does_not_leave_out() {
        assert!((PARTS.cost(&HALF) - (1.0 - 0.15 - 0.2 - 0.175 + 0.01)).abs() < 1e-12);
        let nothing = Outline { attention: 0.0, mlp: 0.0, head: 0.0, bridges: 0.0 };
        assert_eq!(PARTS.cost(&nothing), 1.0);
        let mut same = PARTS;
        same.observe(&nothing, 1.2, 0.0);
        assert_eq!(same, PARTS, "a step that leaves out nothing tells nothing");
    }

    #[test]
    fn timers_of_some_plans_tell_what_others_cost() {
        let truth = Parts { attention: 0.2, mlp: 0.6, head: 0.1 };
        let mut parts = PARTS;
        for _ in 0..6000 {
            for outline in [HALF, NO_MLP] {
                let (context, kept) = (0.5, 1.0 - outline.attention);
                let cost = (truth.cost(&outline) + kept * context) / (1.0 + context);
                parts.observe(&outline, cost, context);
            }
        }
        let found = parts.cost(&HALF) - parts.cost(&NO_MLP);
        assert!((found - (truth.cost(&HALF) - truth.cost(&NO_MLP))).abs() < 1e-3, "{parts:?}");
        parts.observe(&HALF, f64::NAN, 0.0);
        assert!(parts.is_plausible());
        (0..9000).for_each(|_| parts.observe(&HALF, -5.0, 0.0));
        assert!(parts.is_plausible() && parts.cost(&HALF) >= LEAST_COST, "{parts:?}");
    }
}
