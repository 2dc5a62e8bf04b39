//! A draft plan: all that defines a drafter.

use std::ops::Range;
use std::sync::Arc;

use super::skip_set::SkipSet;
use crate::model::{Bridge, DraftVocabulary, SkipMask};

/// What to skip and what stands in for it, which tokens to look at, and when to stop.
#[derive(Clone, Debug)]
pub struct DraftPlan {
    skip_set: SkipSet,
    mask: SkipMask,
    /// By their first sublayer.
    bridges: Vec<Arc<Bridge>>,
    vocabulary: Option<Arc<DraftVocabulary>>,
    /// Where the verify pass enters.
    entry: [usize; 1],
    /// A cycle stops drafting before a token whose draft probability is below this.
    pub confidence_threshold: f32,
}

/// Why bridges don't fit a skip set.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PlanError {
    /// A bridged sublayer runs, or two bridges overlap.
    #[error("the bridge over sublayers {start} to {end} must cover exactly one run of skipped sublayers")]
    Bridge {
        /// First sublayer of the bridge.
        start: usize,
        /// The one after its last.
        end: usize,
    },
}

// === impl DraftPlan ===

impl DraftPlan {
    /// A plan that skips `skip_set` and puts nothing in its place.
    pub fn new(skip_set: SkipSet, confidence_threshold: f32) -> Self {
        let mask = skip_set.mask();
        let entry = [mask.first_skipped().unwrap_or(2 * skip_set.layer_count())];
        let bridges = Vec::new();
        Self { skip_set, mask, bridges, vocabulary: None, entry, confidence_threshold }
    }

    /// The plan with `bridges` in place of runs of skipped sublayers, each of one whole run.
    pub fn with_bridges(mut self, bridges: Vec<Arc<Bridge>>) -> Result<Self, PlanError> {
        let runs = self.runs();
        for bridge in &bridges {
            let Range { start, end } = bridge.span();
            let twice = bridges.iter().filter(|other| other.span().start == start).count() > 1;
            if twice || !runs.contains(&(start..end)) {
                return Err(PlanError::Bridge { start, end });
            }
        }
        self.bridges = bridges;
        Ok(self)
    }

    /// The plan with a draft head over `vocabulary` only.
    pub fn with_vocabulary(mut self, vocabulary: Arc<DraftVocabulary>) -> Self {
        self.vocabulary = Some(vocabulary);
        self
    }

    /// The sublayers that the draft does not run.
    pub fn skip_set(&self) -> &SkipSet {
        &self.skip_set
    }

    /// The same for a pass.
    pub fn mask(&self) -> &SkipMask {
        &self.mask
    }

    /// What stands in for skipped runs.
    pub fn bridges(&self) -> &[Arc<Bridge>] {
        &self.bridges
    }

    /// The tokens that a draft looks at; `None` is all of them.
    pub fn vocabulary(&self) -> Option<&Arc<DraftVocabulary>> {
        self.vocabulary.as_ref()
    }

    /// The first sublayer that the draft skips, or the number of sublayers if it skips none: everything before is exact, so
    /// the verify pass may enter there.
    pub fn exact_until(&self) -> usize {
        self.entry[0]
    }

    /// The same as a list: where a pass saves the draft's states.
    pub fn entry(&self) -> &[usize] {
        &self.entry
    }

    /// The plan with another bridge over the run that `bridge` covers.
    pub fn with_bridge(&self, bridge: Arc<Bridge>) -> Result<Self, PlanError> {
        let start = bridge.span().start;
        let others = self.bridges.iter().filter(|other| other.span().start != start).cloned();
        self.clone().with_bridges(others.chain([bridge.clone()]).collect())
    }

    /// The runs of skipped sublayers, ascending.
    pub fn runs(&self) -> Vec<Range<usize>> {
        let mut runs: Vec<Range<usize>> = Vec::new();
        for index in (0..2 * self.skip_set.layer_count()).filter(|&index| self.mask.skips(index)) {
            match runs.last_mut().filter(|run| run.end == index) {
                Some(run) => run.end += 1,
                None => runs.push(index..index + 1),
            }
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bridge_covers_one_whole_run() {
        let plan = || DraftPlan::new(SkipSet::new(&[2, 3], &[2, 3, 5], 8).unwrap(), 0.5);
        let bridge = |span: Range<usize>| Arc::new(Bridge::new(span, 8, vec![0.0; 8], &[], &[]).unwrap());
        assert!(plan().with_bridges(vec![bridge(4..8), bridge(11..12)]).is_ok());
        for spans in [&[(4, 7)][..], &[(5, 8)], &[(4, 9)], &[(11, 12), (11, 12)], &[(0, 2)]] {
            let bridges = spans.iter().map(|&(start, end)| bridge(start..end)).collect();
            assert!(plan().with_bridges(bridges).is_err(), "{spans:?}");
        }
    }
}
