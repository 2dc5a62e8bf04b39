//! Forecasts for the drafts of a plan.

use super::super::acceptance::BINS;
use super::super::bet::Chain;
use super::super::costs::Costs;

/// Odds of a plan's drafts on one stream. Made once for a decision, which looks at each bin many
/// times.
pub(super) struct PlanOdds<'a> {
    /// Share of draft steps with each confidence.
    pub(super) confidences: &'a [f64; BINS],
    /// Share of drafts of each confidence that are accepted.
    pub(super) acceptances: [f64; BINS],
    /// A draft step, in plain steps.
    pub(super) cost: f64,
    /// Costs of rows.
    pub(super) costs: &'a Costs,
}

/// Expected tokens and cost of a cycle.
#[derive(Clone, Copy, Debug)]
pub(super) struct Forecast {
    tokens: f64,
    cost: f64,
}

/// Expected outcome of one more draft step.
pub(super) struct Step {
    /// Value of its token, beyond the cost of the token's row.
    pub(super) value: f64,
    /// Probability that its token is kept.
    kept: f64,
    /// Probability that a kept token is accepted.
    accepted: f64,
}

// === impl Forecast ===

impl Forecast {
    /// Tokens for the time of a plain step.
    pub(super) fn rate(self) -> f64 {
        self.tokens / self.cost
    }
}

// === impl PlanOdds ===

impl PlanOdds<'_> {
    /// A cycle, stopped against `rate`.
    pub(super) fn forecast(&self, mut chain: Chain, rate: f64) -> Forecast {
        // The chain is still being drafted with this probability.
        let mut reached = 1.0;
        let mut forecast = Forecast { tokens: 1.0, cost: self.costs.rows[1] };
        while chain.drafted < chain.limit {
            let step = self.step(chain, rate);
            if chain.drafted > 0 && step.value <= rate * self.cost {
                break;
            }
            forecast.cost += reached * (self.cost + step.kept * self.costs.of_row(chain.drafted));
            reached *= step.kept;
            chain.survival *= step.accepted;
            forecast.tokens += reached * chain.survival;
            chain.drafted += 1;
        }
        forecast
    }

    /// One more step at the end of a chain.
    pub(super) fn step(&self, chain: Chain, rate: f64) -> Step {
        let row = self.costs.of_row(chain.drafted);
        let (mut value, mut kept, mut accepted) = (0.0, 0.0, 0.0);
        for (&share, &acceptance) in self.confidences.iter().zip(&self.acceptances) {
            let gain = chain.survival * acceptance - rate * row;
            if gain > 0.0 {
                value += share * gain;
                kept += share;
                accepted += share * acceptance;
            }
        }
        Step { value, kept, accepted: if kept > 0.0 { accepted / kept } else { 0.0 } }
    }
}
