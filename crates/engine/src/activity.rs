//! The engine's activity, as its operators see it. Nothing here holds text or tokens of a request.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::event::{ArmUse, PhaseTime, SpeculationStats, Timing};
use super::request::Speculation;
use crate::drafting::{DraftPlan, SkipSet};

/// The engine's activity at one moment.
#[derive(Clone, Default, Debug)]
pub struct Activity {
    /// Streams in the batch, in the order of their admission.
    pub running: Vec<StreamActivity>,
    /// The last streams that ended, newest first.
    pub finished: Vec<Arc<StreamActivity>>,
    /// Requests that wait.
    pub waiting: usize,
    /// All streams since the start.
    pub totals: Totals,
    /// The measured plain step of one stream at an empty context, in seconds.
    pub plain_step_seconds: f64,
    /// Share of the cache's pages that is leased.
    pub kv_cache_usage: f64,
}

/// One stream.
#[derive(Clone, Debug)]
pub struct StreamActivity {
    /// Names the request.
    pub request_id: String,
    /// Drafting that the request asked for.
    pub speculation: Speculation,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Of those, the ones that are computed.
    pub prefilled_tokens: usize,
    /// Tokens generated so far.
    pub committed_tokens: usize,
    /// Tokens that it may generate.
    pub max_new_tokens: usize,
    /// The plan that drafts now; `None` where drafting is off.
    pub plan: Option<PlanActivity>,
    /// Counts and times of its drafting.
    pub stats: SpeculationStats,
    /// Its times.
    pub timing: Timing,
    /// Its end; `None` while it runs.
    pub ending: Option<Ending>,
}

/// The end of a stream.
#[derive(Clone, Copy, Debug)]
pub struct Ending {
    /// The label of metrics.
    pub reason: &'static str,
    /// Moment of the end.
    pub at: Instant,
}

/// The current way to draft.
#[derive(Clone, PartialEq, Debug)]
pub struct PlanActivity {
    /// Its name in the profile, or what the policy calls it.
    pub name: String,
    /// The sublayers skipped.
    pub skip_set: SkipSet,
    /// Bridges over runs of them.
    pub bridges: Vec<BridgeActivity>,
    /// Layers of the stand-in that takes the place of what is skipped; 0 without one.
    pub stand_in_layers: usize,
    /// Cap on the draft length.
    pub max_draft_tokens: usize,
    /// Tokens that drafts look at; `None` is all of them.
    pub draft_vocabulary: Option<usize>,
    /// Rises by one at each change.
    pub revision: u64,
}

/// A bridge and the sublayers that it stands in for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BridgeActivity {
    /// The first one.
    pub first_sublayer: usize,
    /// The last one.
    pub last_sublayer: usize,
    /// Its rank; 0 is a bias alone.
    pub rank: usize,
}

/// Sums over streams.
#[derive(Clone, Default, Debug)]
pub struct Totals {
    /// Streams that ended, by the label of metrics.
    pub finished: BTreeMap<&'static str, usize>,
    /// Tokens of prompts.
    pub prompt_tokens: usize,
    /// Tokens generated.
    pub committed_tokens: usize,
    /// Counts and times of their drafting.
    pub stats: SpeculationStats,
}

// === impl Ending ===

impl Ending {
    pub(super) fn now(reason: &'static str) -> Self {
        Self { reason, at: Instant::now() }
    }

    /// Time since then.
    pub fn age(&self) -> Duration {
        self.at.elapsed()
    }
}

// === impl PlanActivity ===

impl PlanActivity {
    pub(super) fn new(
        name: String,
        plan: &DraftPlan,
        max_draft_tokens: usize,
        revision: u64,
    ) -> Self {
        let bridges = plan.bridges().iter().map(|bridge| BridgeActivity {
            first_sublayer: bridge.span().start,
            last_sublayer: bridge.span().end.saturating_sub(1),
            rank: bridge.rank(),
        });
        Self {
            name,
            skip_set: plan.skip_set().clone(),
            bridges: bridges.collect(),
            stand_in_layers: plan.stand_in().map_or(0, |stand_in| stand_in.layers()),
            max_draft_tokens,
            draft_vocabulary: plan.vocabulary().map(|vocabulary| vocabulary.tokens().len()),
            revision,
        }
    }
}

// === impl Totals ===

impl Totals {
    /// Adds a stream.
    pub(super) fn add(&mut self, stream: &StreamActivity) {
        if let Some(ending) = stream.ending {
            *self.finished.entry(ending.reason).or_default() += 1;
        }
        self.prompt_tokens += stream.prefilled_tokens;
        self.committed_tokens += stream.committed_tokens;
        self.stats.add(&stream.stats);
    }
}

// === impl SpeculationStats ===

impl SpeculationStats {
    /// Adds the counts of another stream. There is no plan of several streams, and the speedup is
    /// that of all their time.
    fn add(&mut self, other: &Self) {
        self.drafts += other.drafts;
        self.draft_tokens += other.draft_tokens;
        self.accepted_tokens += other.accepted_tokens;
        add_each(&mut self.drafted_per_position, &other.drafted_per_position);
        add_each(&mut self.accepted_per_position, &other.accepted_per_position);
        add_each(&mut self.skipped_per_sublayer, &other.skipped_per_sublayer);
        let (phases, others) = (&mut self.phases, &other.phases);
        phases.prefill.merge(others.prefill);
        phases.draft.merge(others.draft);
        phases.verify.merge(others.verify);
        phases.plain.merge(others.plain);
        for (reason, time) in &other.off {
            self.off.entry(*reason).or_default().merge(*time);
        }
        for arm in &other.arms {
            match self.arms.iter_mut().find(|own| own.name == arm.name) {
                Some(own) => own.cycles += arm.cycles,
                None => self.arms.push(ArmUse { name: arm.name.clone(), cycles: arm.cycles }),
            }
        }
        self.plain_seconds += other.plain_seconds;
        self.spent_seconds += other.spent_seconds;
        self.final_plan = None;
        let ratio = self.plain_seconds / self.spent_seconds;
        self.estimated_speedup = (ratio.is_finite() && ratio > 0.0).then_some(ratio);
    }
}

// === impl PhaseTime ===

impl PhaseTime {
    fn merge(&mut self, other: Self) {
        self.steps += other.steps;
        self.seconds += other.seconds;
    }
}

fn add_each(sums: &mut Vec<usize>, numbers: &[usize]) {
    sums.resize(sums.len().max(numbers.len()), 0);
    sums.iter_mut().zip(numbers).for_each(|(sum, number)| *sum += number);
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;

    /// A stream that committed `tokens` at half the plain time.
    pub(crate) fn stream(id: &str, tokens: usize, reason: Option<&'static str>) -> StreamActivity {
        StreamActivity {
            request_id: id.to_owned(),
            speculation: Speculation::Off,
            prompt_tokens: 4,
            prefilled_tokens: 4,
            committed_tokens: tokens,
            max_new_tokens: 100,
            plan: None,
            stats: SpeculationStats {
                drafted_per_position: vec![tokens; tokens],
                accepted_per_position: vec![1; tokens],
                plain_seconds: tokens as f64,
                spent_seconds: tokens as f64 / 2.0,
                arms: vec![ArmUse { name: "ngram".to_owned(), cycles: tokens }],
                ..SpeculationStats::default()
            },
            timing: Timing::default(),
            ending: reason.map(Ending::now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_add_up_streams_of_different_lengths() {
        let mut totals = Totals::default();
        for (tokens, reason) in [
            (3, Some("end_of_sequence")),
            (1, Some("length")),
            (2, Some("end_of_sequence")),
            (4, None),
        ] {
            totals.add(&testing::stream("a", tokens, reason));
        }
        assert_eq!(totals.finished, BTreeMap::from([("end_of_sequence", 2), ("length", 1)]));
        assert_eq!((totals.prompt_tokens, totals.committed_tokens), (16, 10));
        let stats = totals.stats;
        assert_eq!(stats.drafted_per_position, [10, 9, 7, 4]);
        assert_eq!(stats.accepted_per_position, [4, 3, 2, 1]);
        assert_eq!(stats.arms, [ArmUse { name: "ngram".to_owned(), cycles: 10 }]);
        assert_eq!(stats.estimated_speedup, Some(2.0));
    }
}
