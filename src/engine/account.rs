//! One stream's books: times, draft counts, what it costs against plain decoding.

use std::time::{Duration, Instant};

use super::event::{PlanSummary, SpeculationStats, Timing};
use crate::telemetry::record::Phase;

/// Counts and times of a stream.
pub(super) struct Account {
    submitted: Instant,
    started: Instant,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
    stats: SpeculationStats,
    /// What plain decoding would have taken for the tokens committed so far, in seconds.
    plain_seconds: f64,
    /// What their draft, verify and plain steps took.
    spent_seconds: f64,
}

/// The share of a step's time that falls to a stream, and what plain decoding would take for one token there.
#[derive(Clone, Copy, Debug)]
pub(super) struct StepTime {
    pub(super) spent_seconds: f64,
    pub(super) plain_seconds: f64,
}

// === impl Account ===

impl Account {
    pub(super) fn new(submitted: Instant) -> Self {
        Self {
            submitted,
            started: Instant::now(),
            first_token: None,
            last_token: None,
            stats: SpeculationStats::default(),
            plain_seconds: 0.0,
            spent_seconds: 0.0,
        }
    }

    /// Time between submission and admission.
    pub(super) fn queue(&self) -> Duration {
        self.started.saturating_duration_since(self.submitted)
    }

    /// Books a step that committed nothing yet: a draft.
    pub(super) fn spend(&mut self, time: StepTime) {
        self.spent_seconds += time.spent_seconds;
    }

    /// Books what a step's time went to.
    pub(super) fn count_phase(&mut self, phase: Phase, seconds: f64) {
        let phases = &mut self.stats.phases;
        let time = match phase {
            Phase::Prefill => return,
            Phase::Draft => &mut phases.draft,
            Phase::Verify => &mut phases.verify,
            Phase::Plain => &mut phases.plain,
        };
        time.steps += 1;
        time.seconds += seconds;
    }

    /// Books the tokens of a verify or plain step.
    pub(super) fn earn(&mut self, tokens: usize, time: StepTime) {
        self.plain_seconds += tokens as f64 * time.plain_seconds;
    }

    /// Books a finished cycle's drafts.
    pub(super) fn count_drafts(&mut self, drafted: usize, accepted: usize) {
        if drafted == 0 {
            return;
        }
        self.stats.drafts += 1;
        self.stats.draft_tokens += drafted;
        self.stats.accepted_tokens += accepted;
        let positions = &mut self.stats.accepted_per_position;
        positions.resize(positions.len().max(drafted), 0);
        positions[..accepted].iter_mut().for_each(|count| *count += 1);
    }

    /// Notes that tokens went out now; returns the time since the last message, or since submission for the first.
    pub(super) fn mark_tokens(&mut self, now: Instant) -> Gap {
        let gap = match self.last_token {
            None => Gap::First(now.saturating_duration_since(self.submitted)),
            Some(last) => Gap::Next(now.saturating_duration_since(last)),
        };
        self.first_token.get_or_insert(now);
        self.last_token = Some(now);
        gap
    }

    pub(super) fn timing(&self, now: Instant) -> Timing {
        let since = |later: Option<Instant>, earlier| {
            later.map_or(Duration::ZERO, |later| later.saturating_duration_since(earlier))
        };
        Timing {
            queue: self.queue(),
            time_to_first_token: since(self.first_token, self.submitted),
            decode: self.first_token.map_or(Duration::ZERO, |first| since(self.last_token, first)),
            total: now.saturating_duration_since(self.submitted),
        }
    }

    /// The counts, with the speedup estimated and the plan at the end.
    pub(super) fn stats(&self, final_plan: Option<PlanSummary>) -> SpeculationStats {
        let ratio = self.plain_seconds / self.spent_seconds;
        let has_bet = final_plan.is_some() && self.plain_seconds > 0.0;
        SpeculationStats {
            estimated_speedup: (has_bet && ratio.is_finite()).then_some(ratio),
            final_plan,
            ..self.stats.clone()
        }
    }
}

/// Time before a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Gap {
    /// Since submission.
    First(Duration),
    /// Since the message before.
    Next(Duration),
}
