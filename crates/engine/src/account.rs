//! One stream's books: times, draft counts, what it costs against plain decoding.

use std::time::{Duration, Instant};

use super::betting::Betting;
use super::drafter::Drafter;
use super::event::{Event, FinishReason, Finished, PhaseTime, SpeculationStats, Timing, Usage};
use super::step::StepKind;
use crate::drafting::DraftPlan;
use crate::record;
use skipstone_model::sublayer::sublayers;

/// Counts and times of a stream.
pub(super) struct Account {
    submitted: Instant,
    started: Instant,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
    /// Tokens chosen from the full model's answers, and what choosing took.
    chosen: PhaseTime,
    stats: SpeculationStats,
}

/// The share of a step's time that falls to a stream, or the sum over the steps of a cycle: each is
/// counted in plain steps of the same company, since a row beside many others is cheap whether it
/// drafts or not.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct StepTime {
    pub(super) spent_seconds: f64,
    /// The time spent, in plain steps.
    pub(super) spent_steps: f64,
}

/// Closing account of a stream that ended as it should.
pub(super) struct Ended<'a> {
    pub(super) request_id: &'a str,
    pub(super) reason: FinishReason,
    pub(super) usage: Usage,
    pub(super) speculation: SpeculationStats,
}

// === impl StepTime ===

impl StepTime {
    /// Time of a step that took `spent_seconds`, where a plain one takes `plain_seconds`.
    pub(super) fn new(spent_seconds: f64, plain_seconds: f64) -> Self {
        Self { spent_seconds, spent_steps: spent_seconds / plain_seconds.max(f64::MIN_POSITIVE) }
    }

    /// Adds another step of the same cycle.
    pub(super) fn add(&mut self, step: Self) {
        self.spent_seconds += step.spent_seconds;
        self.spent_steps += step.spent_steps;
    }

    /// Seconds that plain decoding would take for `tokens` tokens.
    fn plain_seconds(self, tokens: usize) -> f64 {
        if self.spent_steps > 0.0 {
            tokens as f64 * self.spent_seconds / self.spent_steps
        } else {
            0.0
        }
    }
}

// === impl Account ===

impl Account {
    pub(super) fn new(submitted: Instant) -> Self {
        Self {
            submitted,
            started: Instant::now(),
            first_token: None,
            last_token: None,
            chosen: PhaseTime::default(),
            stats: SpeculationStats::default(),
        }
    }

    /// Time between submission and admission.
    pub(super) fn queue(&self) -> Duration {
        self.started.saturating_duration_since(self.submitted)
    }

    /// Books what a step took, whatever it will have committed.
    pub(super) fn spend(&mut self, seconds: f64) {
        self.stats.spent_seconds += seconds;
    }

    /// Books what choosing `tokens` tokens from the full model's answer took; returns how much more
    /// that was than plain decoding takes for as many.
    pub(super) fn choose(&mut self, tokens: usize, seconds: f64) -> f64 {
        self.spend(seconds);
        self.chosen.steps += tokens;
        self.chosen.seconds += seconds;
        seconds - tokens as f64 * self.chosen.mean()
    }

    /// Books what a step's time went to.
    pub(super) fn count_step(&mut self, kind: StepKind, seconds: f64) {
        record::phase_seconds(kind.phase(), seconds);
        let phases = &mut self.stats.phases;
        match kind {
            StepKind::Prefill => phases.prefill.add(seconds),
            StepKind::Draft => phases.draft.add(seconds),
            StepKind::Verify => phases.verify.add(seconds),
            StepKind::Plain(reason) => {
                phases.plain.add(seconds);
                self.stats.off.entry(reason).or_default().add(seconds);
                record::off_seconds(reason, seconds);
            }
        }
    }

    /// Books the tokens that a cycle of this time has added to the output.
    pub(super) fn earn(&mut self, tokens: usize, cycle: StepTime) {
        let choosing = tokens as f64 * self.chosen.mean();
        self.stats.plain_seconds += cycle.plain_seconds(tokens) + choosing;
    }

    /// Books a draft step that left out what `plan` skips.
    pub(super) fn count_skips(&mut self, plan: &DraftPlan) {
        let counts = &mut self.stats.skipped_per_sublayer;
        counts.resize(sublayers(plan.skip_set().layer_count()), 0);
        for (index, count) in counts.iter_mut().enumerate() {
            *count += usize::from(plan.mask().skips(index));
        }
    }

    /// Books a finished cycle's drafts: tokens drafted, and those of them that the output has.
    pub(super) fn count_drafts(&mut self, drafted: usize, accepted: usize) {
        if drafted == 0 {
            return;
        }
        self.stats.drafts += 1;
        self.stats.draft_tokens += drafted;
        self.stats.accepted_tokens += accepted;
        let count = |positions: &mut Vec<usize>, tokens: usize| {
            positions.resize(positions.len().max(drafted), 0);
            positions[..tokens].iter_mut().for_each(|count| *count += 1);
        };
        count(&mut self.stats.drafted_per_position, drafted);
        count(&mut self.stats.accepted_per_position, accepted);
    }

    /// Notes that a message with tokens goes out now.
    pub(super) fn mark_tokens(&mut self, now: Instant) {
        match self.last_token {
            None => {
                record::time_to_first_token(
                    now.saturating_duration_since(self.submitted).as_secs_f64(),
                );
            }
            Some(last) => record::inter_token(now.saturating_duration_since(last).as_secs_f64()),
        }
        self.first_token.get_or_insert(now);
        self.last_token = Some(now);
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

    /// Closes the books of a stream that ended as it should: tells metrics and the log, and returns
    /// the last message.
    pub(super) fn finish(&self, ended: Ended<'_>, now: Instant) -> Event {
        let Ended { request_id, reason, usage, speculation } = ended;
        let timing = self.timing(now);
        record::tokens(usage.prompt_tokens as u64, usage.completion_tokens as u64);
        record::request_latency(timing.total.as_secs_f64());
        if usage.completion_tokens > 1 {
            let tokens = (usage.completion_tokens - 1) as f64;
            record::time_per_output_token(timing.decode.as_secs_f64() / tokens);
        }
        if speculation.draft_tokens > 0 {
            let (policy, drafted) = (speculation.policy, speculation.draft_tokens as f64);
            record::request_acceptance(policy, speculation.accepted_tokens as f64 / drafted);
            if let Some(ratio) = speculation.estimated_speedup {
                record::request_speedup(policy, ratio);
            }
        }
        tracing::info!(
            request_id,
            reason = reason.name(),
            prompt_tokens = usage.prompt_tokens,
            completion_tokens = usage.completion_tokens,
            drafted = speculation.draft_tokens,
            accepted = speculation.accepted_tokens,
            speedup = speculation.estimated_speedup,
            plan_revision = speculation.final_plan.as_ref().map(|plan| plan.revision),
            arms = speculation.story(),
            seconds = timing.total.as_secs_f64(),
            "stream finished"
        );
        Event::Finished(Box::new(Finished { reason, usage, speculation, timing }))
    }

    /// The counts of a stream that never drafts.
    pub(super) fn plain_stats(&self) -> SpeculationStats {
        self.stats.clone()
    }

    /// The counts, with the speedup estimated, the plan at the end, and what drafted.
    pub(super) fn stats(&self, drafter: &Drafter, betting: &Betting) -> SpeculationStats {
        let final_plan = drafter.summary();
        let ratio = self.stats.plain_seconds / self.stats.spent_seconds;
        let has_bet = drafter.may_draft() && self.stats.plain_seconds > 0.0;
        SpeculationStats {
            policy: drafter.name(),
            estimated_speedup: (has_bet && ratio.is_finite()).then_some(ratio),
            final_plan,
            arms: drafter.arms(betting),
            ..self.stats.clone()
        }
    }
}

// === impl PhaseTime ===

impl PhaseTime {
    fn add(&mut self, seconds: f64) {
        self.steps += 1;
        self.seconds += seconds;
    }

    /// Seconds of a step; 0 without any.
    fn mean(self) -> f64 {
        self.seconds / self.steps.max(1) as f64
    }
}
