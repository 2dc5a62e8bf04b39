//! A draft plan: all that defines a drafter.

use std::ops::Range;
use std::sync::Arc;

use super::skip_set::{SkipSet, SkipSetError};
use skipstone_model::sublayer::{layer_of, sublayers};
use skipstone_model::{Bridge, DraftVocabulary, Gate, SkipMask, SkippedKeys, StandIn, StandInPart};

/// A way to draft: what to skip and what stands in for it, which tokens to look at, and when to
/// stop.
#[derive(Clone, Debug)]
pub struct DraftPlan {
    gaps: Vec<Gap>,
    vocabulary: Option<Arc<DraftVocabulary>>,
    /// A cycle stops drafting before a token whose draft probability is below this.
    pub confidence_threshold: f32,
    /// With the first sublayer that it decides about.
    gate: Option<(Arc<dyn Gate>, usize)>,
    skipped_keys: SkippedKeys,
    // What follows from the gaps, as a pass and the books want it.
    skip_set: SkipSet,
    mask: SkipMask,
    bridges: Vec<Arc<Bridge>>,
    stand_in: Option<Arc<StandIn>>,
    entry: [usize; 1],
}

/// A run of sublayers that a draft skips, and what takes its place.
#[derive(Clone, Debug)]
pub struct Gap {
    /// The sublayers, ascending.
    pub span: Range<usize>,
    /// Spans the same sublayers.
    pub filler: Filler,
}

/// What takes the place of skipped sublayers.
#[derive(Clone, Debug)]
pub enum Filler {
    /// Nothing: the state passes through.
    Identity,
    /// A linear map of the state and the feature of the position before.
    Bridge(Arc<Bridge>),
    /// A trained block with keys and values of its own.
    StandIn(Arc<StandIn>),
}

/// A reason why gaps make no plan.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PlanError {
    /// A gap is empty, or begins before the one before it has ended.
    #[error("the gap over sublayers {start} to {end} is empty or overlaps the one before it")]
    Order {
        /// First sublayer of the gap.
        start: usize,
        /// The one after its last.
        end: usize,
    },
    /// A filler spans other sublayers than its gap.
    #[error(
        "what fills sublayers {start} to {end} must cover exactly one run of skipped sublayers"
    )]
    Filler {
        /// First sublayer of the filler.
        start: usize,
        /// The one after its last.
        end: usize,
    },
    /// Something is left out before a stand-in: the rows that get its keys are committed ones, and
    /// must be exact.
    #[error("a stand-in must be a plan's only gap, and this plan has {0}")]
    StandIn(usize),
    /// A sublayer can't be skipped.
    #[error(transparent)]
    SkipSet(#[from] SkipSetError),
}

/// The name of a run of sublayers, by its layers.
pub fn run_name(run: &Range<usize>) -> String {
    format!("layers {}-{}", layer_of(run.start), layer_of(run.end.saturating_sub(1)))
}

/// The runs that sublayers form, in whatever order they come.
pub fn runs(skipped: impl IntoIterator<Item = usize>) -> Vec<Range<usize>> {
    let mut skipped: Vec<usize> = skipped.into_iter().collect();
    skipped.sort_unstable();
    skipped.dedup();
    let mut runs: Vec<Range<usize>> = Vec::new();
    for sublayer in skipped {
        match runs.last_mut().filter(|run| run.end == sublayer) {
            Some(run) => run.end += 1,
            None => runs.push(sublayer..sublayer + 1),
        }
    }
    runs
}

// === impl Gap ===

impl Gap {
    /// A gap with nothing in its place.
    pub fn empty(span: Range<usize>) -> Self {
        Self { span, filler: Filler::Identity }
    }

    /// The gap that `bridge` fills.
    pub fn bridged(bridge: Arc<Bridge>) -> Self {
        Self { span: bridge.span(), filler: Filler::Bridge(bridge) }
    }

    /// The gap that `stand_in` fills.
    pub fn stand_in(stand_in: Arc<StandIn>) -> Self {
        Self { span: stand_in.span(), filler: Filler::StandIn(stand_in) }
    }
}

// === impl Filler ===

impl Filler {
    /// The sublayers that it was made for; nothing fits any.
    fn span(&self) -> Option<Range<usize>> {
        match self {
            Self::Identity => None,
            Self::Bridge(bridge) => Some(bridge.span()),
            Self::StandIn(stand_in) => Some(stand_in.span()),
        }
    }
}

// === impl DraftPlan ===

impl DraftPlan {
    /// A plan with these gaps, ascending, for a model of `layers` layers. It looks at the whole
    /// vocabulary and never stops because it is unsure.
    ///
    /// # Errors
    /// If gaps overlap, a filler does not fit its gap, or a sublayer can't be skipped. Only a
    /// stand-in may take the place of the first layer.
    pub fn new(gaps: Vec<Gap>, layers: usize) -> Result<Self, PlanError> {
        let mut last = 0;
        for Gap { span: Range { start, end }, filler } in &gaps {
            let (start, end) = (*start, *end);
            if start >= end || start < last {
                return Err(PlanError::Order { start, end });
            }
            last = end;
            match filler.span() {
                Some(span) if span != (start..end) => {
                    return Err(PlanError::Filler { start: span.start, end: span.end });
                }
                _ => {}
            }
        }
        let skipped = || gaps.iter().flat_map(|gap| gap.span.clone());
        let skip_set = match gaps.iter().any(|gap| matches!(gap.filler, Filler::StandIn(_))) {
            true if gaps.len() > 1 => return Err(PlanError::StandIn(gaps.len())),
            true => SkipSet::of_any_sublayers(skipped(), layers)?,
            false => SkipSet::of_sublayers(skipped(), layers)?,
        };
        Ok(Self::derived(skip_set, gaps))
    }

    /// A plan that skips `skip_set` and puts nothing in its place.
    pub fn skipping(skip_set: &SkipSet, confidence_threshold: f32) -> Self {
        let skipped = (0..sublayers(skip_set.layer_count())).filter(|&index| skip_set.skips(index));
        let gaps = runs(skipped).into_iter().map(Gap::empty).collect();
        Self { confidence_threshold, ..Self::derived(skip_set.clone(), gaps) }
    }

    fn derived(skip_set: SkipSet, gaps: Vec<Gap>) -> Self {
        let mask = skip_set.mask();
        let (mut bridges, mut stand_in) = (Vec::new(), None);
        for Gap { filler, .. } in &gaps {
            match filler {
                Filler::Identity => {}
                Filler::Bridge(bridge) => bridges.push(Arc::clone(bridge)),
                Filler::StandIn(filler) => stand_in = Some(Arc::clone(filler)),
            }
        }
        let entry = [mask.first_skipped().unwrap_or(sublayers(skip_set.layer_count()))];
        let (vocabulary, confidence_threshold) = (None, 0.0);
        let (gate, skipped_keys) = (None, SkippedKeys::default());
        Self {
            gaps,
            vocabulary,
            confidence_threshold,
            gate,
            skipped_keys,
            skip_set,
            mask,
            bridges,
            stand_in,
            entry,
        }
    }

    /// The plan with a draft head over `vocabulary` only.
    pub fn with_vocabulary(self, vocabulary: Arc<DraftVocabulary>) -> Self {
        Self { vocabulary: Some(vocabulary), ..self }
    }

    /// The plan with another threshold; see [`DraftPlan::confidence_threshold`].
    pub fn with_threshold(self, confidence_threshold: f32) -> Self {
        Self { confidence_threshold, ..self }
    }

    /// The plan with a gate that decides, row by row, what else is left out. Rows of one chain may
    /// then run different sublayers, so their keys are filled in. A plan with a stand-in has none:
    /// what comes before that must be exact, and what comes after does not run.
    pub fn with_gate(self, gate: Arc<dyn Gate>) -> Self {
        if self.stand_in.is_some() {
            return self;
        }
        let first = gate.first();
        let entry = [self.entry[0].min(first)];
        Self { gate: Some((gate, first)), entry, ..self.with_filled_keys() }
    }

    /// The plan with keys and values of the attention that it skips: for chains whose plans differ
    /// from position to position, other than by skipping more and more.
    pub fn with_filled_keys(self) -> Self {
        Self { skipped_keys: SkippedKeys::Fill, ..self }
    }

    /// The plan with states saved before `sublayer` or where it begins to skip, whichever is
    /// earlier. The plans of one chain must agree there; see [`Next::DraftBy`](super::Next).
    pub fn entering_at(self, sublayer: usize) -> Self {
        let entry = [self.entry[0].min(sublayer)];
        Self { entry, ..self }
    }

    /// The gate, and the first sublayer that it decides about.
    pub fn gate(&self) -> Option<(&dyn Gate, usize)> {
        self.gate.as_ref().map(|(gate, first)| (&**gate, *first))
    }

    /// Whether the next position of a chain may be drafted by this plan after one by `before`: both
    /// are exact up to the same sublayer, draft by the same stand-in, if by any, and no row reads
    /// keys that an earlier one left out.
    pub fn may_follow(&self, before: &Self) -> bool {
        let stand_in = |plan: &Self| plan.stand_in.as_ref().map(Arc::as_ptr);
        let fills = |plan: &Self| plan.skipped_keys == SkippedKeys::Fill;
        let runs_no_more = || {
            let earlier = before.skip_set.attention();
            earlier.iter().all(|layer| self.skip_set.attention().contains(layer))
        };
        self.entry == before.entry
            && stand_in(self) == stand_in(before)
            && ((fills(self) && fills(before)) || runs_no_more())
    }

    /// Treatment of the keys and values of attention that it skips.
    pub fn skipped_keys(&self) -> SkippedKeys {
        self.skipped_keys
    }

    /// The skipped runs and what stands in for them, ascending.
    pub fn gaps(&self) -> &[Gap] {
        &self.gaps
    }

    /// The sublayers that the draft does not run.
    pub fn skip_set(&self) -> &SkipSet {
        &self.skip_set
    }

    /// The same for a pass.
    pub fn mask(&self) -> &SkipMask {
        &self.mask
    }

    /// Bridges over skipped runs, by first sublayer.
    pub fn bridges(&self) -> &[Arc<Bridge>] {
        &self.bridges
    }

    /// The stand-in of the last gap, if that has one.
    pub fn stand_in(&self) -> Option<&Arc<StandIn>> {
        self.stand_in.as_ref()
    }

    /// The same for the rows of a draft step.
    pub fn stand_in_part(&self) -> StandInPart<'_> {
        self.stand_in.as_deref().map_or(StandInPart::None, StandInPart::Draft)
    }

    /// The tokens that a draft looks at; `None` is all of them.
    pub fn vocabulary(&self) -> Option<&Arc<DraftVocabulary>> {
        self.vocabulary.as_ref()
    }

    /// The sublayer before which everything is exact, so that the verify pass may enter there: the
    /// first that the draft skips, or the number of sublayers if it skips none.
    pub fn exact_until(&self) -> usize {
        self.entry[0]
    }

    /// The same as a list: where a pass saves the draft's states.
    pub fn entry(&self) -> &[usize] {
        &self.entry
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bridge_fills_one_whole_gap() {
        let bridge =
            |span: Range<usize>| Arc::new(Bridge::new(span, 8, vec![0.0; 8], &[], &[]).unwrap());
        let gap = |span: Range<usize>, bridged: Range<usize>| Gap {
            span,
            ..Gap::bridged(bridge(bridged))
        };
        let plan = DraftPlan::new(vec![gap(4..8, 4..8), Gap::empty(11..12)], 8).unwrap();
        assert_eq!((plan.exact_until(), plan.bridges().len()), (4, 1));
        assert_eq!(plan.skip_set(), &SkipSet::new(&[2, 3], &[2, 3, 5], 8).unwrap());
        for gaps in [
            vec![gap(4..8, 4..7)],
            vec![gap(4..8, 5..8)],
            vec![Gap::empty(4..8), Gap::empty(6..9)],
            vec![Gap::empty(8..9), Gap::empty(4..6)],
            vec![Gap::empty(4..4)],
            vec![Gap::empty(14..17)],
        ] {
            assert!(DraftPlan::new(gaps.clone(), 8).is_err(), "{gaps:?}");
        }
    }

    #[test]
    fn a_skip_set_is_a_plan_with_empty_gaps() {
        let skip_set = SkipSet::new(&[2, 3], &[2, 5], 8).unwrap();
        let plan = DraftPlan::skipping(&skip_set, 0.5);
        let spans: Vec<Range<usize>> = plan.gaps().iter().map(|gap| gap.span.clone()).collect();
        assert_eq!(spans, [4..7, 11..12]);
        assert_eq!((plan.skip_set(), plan.confidence_threshold), (&skip_set, 0.5));
        assert_eq!(DraftPlan::skipping(&SkipSet::empty(8), 0.5).exact_until(), 16);
    }
}
