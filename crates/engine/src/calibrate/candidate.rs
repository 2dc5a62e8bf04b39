//! A candidate draft: a plan with a name, and what its bridges were made of.

use std::ops::Range;
use std::sync::Arc;

use super::CalibrationError;
use crate::adapt::{BridgeWeights, FillerKind};
use crate::drafting::{DraftPlan, Gap};
use skipstone_model::{Bridge, ModelConfig, StandIn};

/// A plan that calibration looks at.
#[derive(Clone)]
pub(super) struct Candidate {
    /// For people.
    pub(super) name: String,
    pub(super) plan: DraftPlan,
    /// Weights of the plan's bridges, in their order: what the profile keeps.
    pub(super) weights: Vec<BridgeWeights>,
}

// === impl Candidate ===

impl Candidate {
    /// A candidate that skips these runs and puts `bridge(run)` in place of each.
    ///
    /// # Errors
    /// If the runs make no plan, or a bridge does not fit the model.
    pub(super) fn new(
        name: String,
        runs: Vec<Range<usize>>,
        config: &ModelConfig,
        bridge: impl Fn(&Range<usize>) -> Option<BridgeWeights>,
    ) -> Result<Self, CalibrationError> {
        let mut weights = Vec::new();
        let mut gaps = Vec::with_capacity(runs.len());
        for span in runs {
            let Some(filling) = bridge(&span) else {
                gaps.push(Gap::empty(span));
                continue;
            };
            let BridgeWeights { bias, down, up } = &filling;
            let bridge = Bridge::new(span, config.hidden, bias.clone(), down, up)?;
            gaps.push(Gap::bridged(Arc::new(bridge)));
            weights.push(filling);
        }
        Ok(Self { name, plan: DraftPlan::new(gaps, config.layers)?, weights })
    }

    /// The skipped runs, ascending.
    pub(super) fn runs(&self) -> Vec<Range<usize>> {
        self.plan.gaps().iter().map(|gap| gap.span.clone()).collect()
    }

    /// The skipped sublayers, ascending.
    pub(super) fn skipped(&self) -> Vec<usize> {
        self.runs().into_iter().flatten().collect()
    }

    /// A candidate in which `stand_in` takes the place of what follows.
    ///
    /// # Errors
    /// If it makes no plan.
    pub(super) fn by_stand_in(
        name: String,
        stand_in: Arc<StandIn>,
        layers: usize,
    ) -> Result<Self, CalibrationError> {
        let plan = DraftPlan::new(vec![Gap::stand_in(stand_in)], layers)?;
        Ok(Self { name, plan, weights: Vec::new() })
    }

    /// Kind of its most capable filler.
    pub(super) fn kind(&self) -> FillerKind {
        if self.plan.stand_in().is_some() {
            return FillerKind::StandIn;
        }
        match self.weights.iter().map(BridgeWeights::rank).max() {
            None => FillerKind::Identity,
            Some(0) => FillerKind::Bias,
            Some(_) => FillerKind::LowRank,
        }
    }
}
