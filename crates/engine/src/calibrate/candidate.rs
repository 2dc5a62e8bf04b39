//! A candidate draft: runs of skipped sublayers, and what stands in for each.

use std::ops::Range;
use std::sync::Arc;

use crate::adapt::{BridgeKind, BridgeWeights};
use skipstone_model::{Bridge, BridgeError, SkipMask};

/// Runs that a draft skips, ascending, with a running sublayer between any two.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    /// For people.
    pub(super) name: String,
    pub(super) gaps: Vec<Gap>,
}

/// A skipped run, and what stands in for it; `None` is the identity.
#[derive(Clone, Debug)]
pub(super) struct Gap {
    pub(super) span: Range<usize>,
    pub(super) bridge: Option<BridgeWeights>,
}

// === impl Candidate ===

impl Candidate {
    /// A candidate that puts `bridge(run)` in place of each run.
    pub(super) fn new(
        name: String,
        runs: Vec<Range<usize>>,
        bridge: impl Fn(&Range<usize>) -> Option<BridgeWeights>,
    ) -> Self {
        let gaps = runs.into_iter().map(|span| Gap { bridge: bridge(&span), span }).collect();
        Self { name, gaps }
    }

    /// The skipped sublayers, ascending.
    pub(super) fn skipped(&self) -> Vec<usize> {
        self.gaps.iter().flat_map(|gap| gap.span.clone()).collect()
    }

    /// The first skipped sublayer: the draft is exact before it.
    pub(super) fn entry(&self) -> usize {
        self.gaps.first().map_or(0, |gap| gap.span.start)
    }

    pub(super) fn mask(&self, sublayers: usize) -> SkipMask {
        let mut skipped = vec![false; sublayers];
        self.skipped().into_iter().for_each(|sublayer| skipped[sublayer] = true);
        SkipMask::new(skipped)
    }

    pub(super) fn bridges(&self, hidden: usize) -> Result<Vec<Arc<Bridge>>, BridgeError> {
        let bridged =
            self.gaps.iter().filter_map(|gap| Some((gap.span.clone(), gap.bridge.as_ref()?)));
        bridged
            .map(|(span, weights)| {
                Ok(Arc::new(Bridge::new(
                    span,
                    hidden,
                    weights.bias.clone(),
                    &weights.down,
                    &weights.up,
                )?))
            })
            .collect()
    }

    /// The highest rank of its bridges; `None` without any.
    pub(super) fn rank(&self) -> Option<usize> {
        self.gaps.iter().filter_map(|gap| gap.bridge.as_ref()).map(BridgeWeights::rank).max()
    }

    pub(super) fn kind(&self) -> BridgeKind {
        match self.rank() {
            None => BridgeKind::Identity,
            Some(0) => BridgeKind::Bias,
            Some(_) => BridgeKind::LowRank,
        }
    }
}
