//! A draft plan: all that defines a drafter.

use std::ops::Range;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::skip_set::SkipSet;
use skipstone_model::sublayer::{layer_of, sublayers};
use skipstone_model::{Bridge, DraftVocabulary, SkipMask};

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

/// Tells plans apart by what decides how good their drafts are, so that what was learned of one is
/// not taken for another's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct PlanIdentity(pub [u8; 16]);

/// Why bridges don't fit a skip set.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PlanError {
    /// A bridged sublayer runs, or two bridges overlap.
    #[error(
        "the bridge over sublayers {start} to {end} must cover exactly one run of skipped sublayers"
    )]
    Bridge {
        /// First sublayer of the bridge.
        start: usize,
        /// The one after its last.
        end: usize,
    },
}

/// The name of a run of sublayers, by its layers.
pub fn run_name(run: &Range<usize>) -> String {
    format!("layers {}-{}", layer_of(run.start), layer_of(run.end.saturating_sub(1)))
}

// === impl DraftPlan ===

impl DraftPlan {
    /// A plan that skips `skip_set` and puts nothing in its place.
    pub fn new(skip_set: SkipSet, confidence_threshold: f32) -> Self {
        let mask = skip_set.mask();
        let entry = [mask.first_skipped().unwrap_or(sublayers(skip_set.layer_count()))];
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

    /// The first sublayer that the draft skips, or the number of sublayers if it skips none:
    /// everything before is exact, so the verify pass may enter there.
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
        let mut bridges: Vec<Arc<Bridge>> = others.chain([bridge]).collect();
        bridges.sort_by_key(|bridge| bridge.span().start);
        self.clone().with_bridges(bridges)
    }

    /// A hash of the skip set, the bridges and the draft vocabulary.
    pub fn identity(&self) -> PlanIdentity {
        let mut hash = Sha256::new_with_prefix(b"skipstone plan 1");
        hash.update((sublayers(self.skip_set.layer_count()) as u64).to_le_bytes());
        for run in self.runs() {
            hash_range(&mut hash, &run);
        }
        for bridge in &self.bridges {
            hash.update(b"bridge");
            hash_range(&mut hash, &bridge.span());
            hash.update(bridge.digest());
        }
        if let Some(vocabulary) = &self.vocabulary {
            hash.update(b"vocabulary");
            vocabulary.tokens().iter().for_each(|token| hash.update(token.0.to_le_bytes()));
        }
        let mut identity = PlanIdentity::default();
        identity.0.copy_from_slice(&hash.finalize()[..16]);
        identity
    }

    /// The runs of skipped sublayers, ascending.
    pub fn runs(&self) -> Vec<Range<usize>> {
        let mut runs: Vec<Range<usize>> = Vec::new();
        let all = 0..sublayers(self.skip_set.layer_count());
        for index in all.filter(|&index| self.mask.skips(index)) {
            match runs.last_mut().filter(|run| run.end == index) {
                Some(run) => run.end += 1,
                None => runs.push(index..index + 1),
            }
        }
        runs
    }
}

fn hash_range(hash: &mut Sha256, range: &Range<usize>) {
    hash.update((range.start as u64).to_le_bytes());
    hash.update((range.end as u64).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bridge_covers_one_whole_run() {
        let plan = || DraftPlan::new(SkipSet::new(&[2, 3], &[2, 3, 5], 8).unwrap(), 0.5);
        let bridge =
            |span: Range<usize>| Arc::new(Bridge::new(span, 8, vec![0.0; 8], &[], &[]).unwrap());
        assert!(plan().with_bridges(vec![bridge(4..8), bridge(11..12)]).is_ok());
        for spans in [&[(4, 7)][..], &[(5, 8)], &[(4, 9)], &[(11, 12), (11, 12)], &[(0, 2)]] {
            let bridges = spans.iter().map(|&(start, end)| bridge(start..end)).collect();
            assert!(plan().with_bridges(bridges).is_err(), "{spans:?}");
        }
    }
    #[test]
    fn an_identity_is_of_what_drafts() {
        let plan =
            |mlp: &[u32], threshold| DraftPlan::new(SkipSet::new(&[2], mlp, 8).unwrap(), threshold);
        let bridge = |bias: f32| Arc::new(Bridge::new(4..6, 8, vec![bias; 8], &[], &[]).unwrap());
        let bridged = |bias| plan(&[2], 0.5).with_bridges(vec![bridge(bias)]).unwrap();
        assert_eq!(
            plan(&[2], 0.5).identity(),
            plan(&[2], 0.9).identity(),
            "when to stop is not the drafts'"
        );
        assert_eq!(bridged(0.5).identity(), bridged(0.5).identity());
        let different =
            [plan(&[2], 0.5), plan(&[3], 0.5), plan(&[2, 3], 0.5), bridged(0.5), bridged(0.25)];
        for (index, one) in different.iter().enumerate() {
            for other in &different[..index] {
                assert_ne!(one.identity(), other.identity(), "{one:?} {other:?}");
            }
        }
    }
}
