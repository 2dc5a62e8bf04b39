//! One running stream: what it wants of the next pass, and what it makes of the answer.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;

use super::account::{Account, Gap, StepTime};
use super::bets::{Bets, Betting};
use super::cycle::{Chooser, Confirmed, CurrentPlan, Cycle, Origin};
use super::event::{
    CommittedToken, Delta, Event, FinishReason, Finished, GenerationError, PlanSummary, Started, Usage,
};
use super::handle::{CancelFlag, StreamMessage};
use super::options::EngineOptions;
use super::outbox::Outbox;
use super::output_text::OutputText;
use super::request::{Speculation, ValidRequest};
use crate::adapt::{Bet, Costs};
use crate::drafting::DraftPlan;
use crate::model::{DraftHead, LogitsWanted, PageLease, PassOutput, RowGroup, RowInput, TokenId};
use crate::sampling::{Sampler, SamplingError, TokenHistory, log_probabilities, top_probability};
use crate::telemetry::record::{self, DraftCycle, DraftSource, Phase};
use crate::text::TextModel;

/// A request that waits, with the ends of its channels.
pub(super) struct Pending {
    pub(super) request: ValidRequest,
    pub(super) events: mpsc::Sender<StreamMessage>,
    pub(super) cancel: CancelFlag,
    pub(super) submitted: Instant,
}

/// A request that runs.
pub(super) struct Stream {
    request: ValidRequest,
    pub(super) cancel: CancelFlag,
    pub(super) outbox: Outbox,
    /// Given back as soon as the last token is committed, even if the reader still has to fetch it.
    lease: Option<PageLease>,
    /// Prompt and committed tokens.
    tokens: Vec<TokenId>,
    /// Positions whose keys and values are the full model's. Once the prompt is through, all tokens but the last.
    computed: usize,
    sampler: Sampler,
    history: TokenHistory,
    text: OutputText,
    plan: Option<CurrentPlan>,
    bets: Option<Bets>,
    /// Tiles of the head for tokens of the stream that the draft vocabulary lacks.
    extra_tiles: Vec<u32>,
    /// A draft's logits over the whole vocabulary.
    draft_logits: Vec<f32>,
    cycle: Cycle,
    /// Seconds spent on the current cycle.
    cycle_seconds: f64,
    account: Account,
    /// Tokens drafted in a cycle at most.
    max_draft_tokens: usize,
}

/// Tiles of the head that a draft step reads beside the draft vocabulary, at most.
const MAX_EXTRA_TILES: usize = 96;

/// What a stream wants of the next pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Work {
    /// The next tokens of the prompt.
    Prefill {
        /// How many.
        tokens: usize,
    },
    /// One token through the whole model.
    Plain,
    /// One token through the draft plan.
    Draft,
    /// The drafted chain through the whole model.
    Verify,
}

/// What a stream needs to know about the pass that did its work.
pub(super) struct Answer<'a> {
    pub(super) output: PassOutput<'a>,
    /// The stream's group in the pass.
    pub(super) group: usize,
    /// Seconds of the pass that fall to this stream.
    pub(super) seconds: f64,
    /// Seconds that plain decoding would take for a token of this stream in such a pass.
    pub(super) plain_seconds: f64,
    /// What rows of such a pass cost the stream.
    pub(super) costs: Costs,
}

// === impl Work ===

impl Work {
    pub(super) fn phase(self) -> Phase {
        match self {
            Self::Prefill { .. } => Phase::Prefill,
            Self::Plain => Phase::Plain,
            Self::Draft => Phase::Draft,
            Self::Verify => Phase::Verify,
        }
    }
}

// === impl Stream ===

impl Stream {
    /// Admits a request: its pages are leased, `Started` is on its way.
    pub(super) fn admit(
        pending: Pending,
        lease: PageLease,
        text: &TextModel,
        options: &EngineOptions,
        betting: &Betting,
    ) -> Self {
        let Pending { request, events, cancel, submitted } = pending;
        let (plan, bets) = match &request.speculation {
            Speculation::Off => (None, None),
            Speculation::Static { skip_set, max_draft_tokens } => {
                let skip_set = skip_set.as_ref().unwrap_or(&options.default_skip_set).clone();
                let cap = max_draft_tokens.unwrap_or(options.max_draft_tokens);
                (Some(Arc::new(DraftPlan::new(skip_set, cap, options.confidence_threshold))), None)
            }
            Speculation::Adaptive { allowed, .. } => {
                let plan = betting.frontier.first().map(|frontier| Arc::clone(&frontier.plan));
                (plan, Some(Bets::new(betting, *allowed, &request.prompt)))
            }
        };
        let plan = plan.map(|plan| CurrentPlan { plan, revision: 1 });
        let max_draft_tokens = match &request.speculation {
            Speculation::Off => 0,
            Speculation::Static { max_draft_tokens, .. } | Speculation::Adaptive { max_draft_tokens, .. } => {
                max_draft_tokens.unwrap_or(options.max_draft_tokens)
            }
        };
        let mut stream = Self {
            tokens: request.prompt.clone(),
            computed: 0,
            sampler: Sampler::new(request.sampling.clone()),
            history: TokenHistory::new(&request.prompt),
            text: OutputText::new(text, &request.stop),
            outbox: Outbox::new(events),
            lease: Some(lease),
            cycle: Cycle::default(),
            cycle_seconds: 0.0,
            account: Account::new(submitted),
            cancel,
            plan,
            bets,
            extra_tiles: Vec::new(),
            draft_logits: Vec::new(),
            max_draft_tokens,
            request,
        };
        (0..stream.tokens.len()).for_each(|index| stream.add_extra_tile(stream.tokens[index]));
        record::queue_time(stream.account.queue().as_secs_f64());
        let started = Started { prompt_tokens: stream.request.prompt.len(), plan: stream.plan_summary() };
        stream.outbox.push(Ok(Event::Started(started)));
        stream
    }

    /// Whether the last token is committed.
    pub(super) fn is_finished(&self) -> bool {
        self.lease.is_none()
    }

    /// Whether the request's deadline has passed.
    pub(super) fn is_expired(&self, now: Instant) -> bool {
        !self.is_finished() && self.request.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// The error that says so.
    pub(super) fn deadline_error(&self) -> GenerationError {
        GenerationError::DeadlineExceeded {
            committed: self.generated(),
            wanted: self.request.stop.max_new_tokens,
        }
    }

    /// Ends the stream with an error; its pages are free.
    pub(super) fn fail(&mut self, error: GenerationError) {
        tracing::info!(request = %self.request.id, %error, "stream failed");
        record::request_finished(error.reason());
        self.lease = None;
        self.outbox.fail(error);
    }

    /// What the stream wants next, given how many prompt tokens the pass still has room for, and what rows cost now. An adaptive stream
    /// places the bet of its next cycle here.
    pub(super) fn next_work(
        &mut self,
        prefill_budget: usize,
        betting: &Betting,
        costs: &Costs,
    ) -> Option<Work> {
        if self.is_finished() {
            return None;
        }
        let prompt_left = self.request.prompt.len().saturating_sub(self.computed);
        if prompt_left > 0 && self.generated() == 0 {
            let tokens = prompt_left.min(prefill_budget);
            return (tokens > 0).then_some(Work::Prefill { tokens });
        }
        let limit = self.draft_limit();
        if limit == 0 {
            return Some(Work::Plain);
        }
        if let Some(bets) = self.bets.as_mut().filter(|_| self.cycle.is_idle()) {
            match bets.begin(betting, costs, limit, &mut self.cycle) {
                Bet::Plain => return Some(Work::Plain),
                Bet::Ngram(_) => return Some(Work::Verify),
                Bet::Plan(index) => self.take_plan(&betting.frontier[index].plan),
            }
        }
        Some(if self.cycle.wants_verify(limit) {
            Work::Verify
        } else if self.plan.is_some() {
            Work::Draft
        } else {
            Work::Plain
        })
    }

    /// Tokens that a cycle may draft now.
    fn draft_limit(&self) -> usize {
        // The verify commits one token more than it accepts.
        let left = self.request.stop.max_new_tokens - self.generated();
        self.max_draft_tokens.min(left.saturating_sub(1))
    }

    /// Makes `plan` the stream's plan. Plans of one frontier share their draft vocabulary, so the stream's extra tiles stay right.
    fn take_plan(&mut self, plan: &Arc<DraftPlan>) {
        if let Some(current) = self.plan.as_mut().filter(|current| !Arc::ptr_eq(&current.plan, plan)) {
            current.plan = Arc::clone(plan);
            current.revision += 1;
        }
    }

    /// Makes sure that drafts can say `token`.
    fn add_extra_tile(&mut self, token: TokenId) {
        let vocabulary = self.plan.as_ref().and_then(|current| current.plan.vocabulary());
        let Some(tile) = vocabulary.and_then(|vocabulary| vocabulary.extra_tile(token)) else { return };
        if self.extra_tiles.len() < MAX_EXTRA_TILES && !self.extra_tiles.contains(&tile) {
            self.extra_tiles.push(tile);
        }
    }

    /// The rows of `work`.
    pub(super) fn rows(&self, work: Work, hidden: usize) -> Vec<RowInput<'_>> {
        let committed = self.tokens[self.tokens.len() - 1];
        match (work, &self.plan) {
            (Work::Prefill { tokens }, _) => {
                self.tokens[self.computed..][..tokens].iter().map(|&token| RowInput::Token(token)).collect()
            }
            (Work::Draft, _) => vec![RowInput::Token(self.cycle.next_input(committed))],
            (Work::Verify, plan) => {
                let entry = plan.as_ref().map_or(0, |current| current.plan.exact_until());
                self.cycle.verify_rows(committed, entry, hidden)
            }
            (Work::Plain, _) => vec![RowInput::Token(committed)],
        }
    }

    /// The group of `work`.
    pub(super) fn group<'a>(&'a self, work: Work, rows: &'a [RowInput<'a>]) -> RowGroup<'a> {
        let plan = self.plan.as_ref().filter(|_| work == Work::Draft).map(|current| &*current.plan);
        let (position, logits) = match work {
            Work::Prefill { tokens } if self.computed + tokens < self.request.prompt.len() => {
                (self.computed, LogitsWanted::None)
            }
            Work::Draft => {
                let logits = self.draft_head().map_or(LogitsWanted::Last, LogitsWanted::Draft);
                (self.cycle.next_position(self.computed), logits)
            }
            Work::Prefill { .. } | Work::Plain => (self.computed, LogitsWanted::Last),
            Work::Verify => (self.computed, LogitsWanted::All),
        };
        RowGroup {
            pages: self.lease.as_ref().map_or(&[], PageLease::pages),
            position,
            rows,
            skip: plan.map(DraftPlan::mask),
            bridges: plan.map_or(&[], DraftPlan::bridges),
            save_before: plan.map_or(&[], DraftPlan::entry),
            logits,
        }
    }

    /// The part of the head that drafts use, if not all of it.
    fn draft_head(&self) -> Option<DraftHead<'_>> {
        let vocabulary = self.plan.as_ref()?.plan.vocabulary()?;
        Some(DraftHead { vocabulary, extra_tiles: &self.extra_tiles })
    }

    /// Takes in the answer to `work`.
    pub(super) fn apply(
        &mut self,
        work: Work,
        answer: &Answer<'_>,
        betting: &mut Betting,
    ) -> Result<(), GenerationError> {
        let time = StepTime { spent_seconds: answer.seconds, plain_seconds: answer.plain_seconds };
        record::phase_seconds(work.phase(), answer.seconds);
        self.account.count_phase(work.phase(), answer.seconds);
        match work {
            Work::Prefill { tokens } => {
                self.computed += tokens;
                if self.computed < self.request.prompt.len() {
                    return Ok(());
                }
                // The prompt's own cost is not part of the bet: nothing was drafted.
                let confirmed = self.judge(answer)?;
                self.commit(confirmed, 0, answer);
            }
            Work::Draft => {
                self.spend(time);
                self.draft(answer, betting);
            }
            Work::Plain | Work::Verify => {
                self.spend(time);
                let drafted = self.cycle.len();
                let confirmed = self.judge(answer)?;
                self.settle(&confirmed, time, betting);
                // The last token is not fed yet; all before it now have the full model's keys and values.
                self.computed += confirmed.tokens.len();
                self.commit(confirmed, drafted, answer);
            }
        }
        Ok(())
    }

    fn spend(&mut self, time: StepTime) {
        self.account.spend(time);
        self.cycle_seconds += time.spent_seconds;
    }

    fn draft(&mut self, answer: &Answer<'_>, betting: &mut Betting) {
        let Some(current) = self.plan.clone() else { return };
        record::sublayers_skipped(current.plan.skip_set(), 1);
        self.cycle.feed(answer.output.saved(answer.group, 0, 0));
        let answered = answer.output.logits(answer.group, 0);
        let logits = match current.plan.vocabulary() {
            Some(vocabulary) => {
                self.draft_logits.clear();
                self.draft_logits.resize(answer.output.vocabulary, f32::NEG_INFINITY);
                DraftHead { vocabulary, extra_tiles: &self.extra_tiles }
                    .scatter(answered, &mut self.draft_logits);
                &self.draft_logits
            }
            None => answered,
        };
        // Judged before the draw, and by the most likely token whichever is drawn: to drop a token because it itself turned out unlikely
        // would favour the likely ones.
        let (_, confidence) = top_probability(logits);
        let keeps = match &mut self.bets {
            Some(bets) => {
                bets.observe_step(betting, confidence, answer.seconds / answer.plain_seconds);
                bets.keeps(betting, &answer.costs, &self.cycle, confidence)
            }
            None => confidence >= current.plan.confidence_threshold,
        };
        if !keeps {
            self.cycle.close();
            return;
        }
        let chooser = Chooser { sampler: &mut self.sampler, history: &mut self.history };
        self.cycle.draw(logits, confidence, chooser);
        let limit = self.draft_limit();
        if let Some(bets) = &mut self.bets {
            bets.go_on(betting, &answer.costs, limit, &mut self.cycle);
        }
    }

    fn judge(&mut self, answer: &Answer<'_>) -> Result<Confirmed, GenerationError> {
        let chooser = Chooser { sampler: &mut self.sampler, history: &mut self.history };
        let logits = |row| answer.output.logits(answer.group, row);
        self.cycle.judge(logits, self.tokens.len(), chooser).map_err(|error| internal(&error))
    }

    /// Books a cycle that committed tokens.
    fn settle(&mut self, confirmed: &Confirmed, time: StepTime, betting: &mut Betting) {
        self.account.earn(confirmed.tokens.len(), time);
        self.account.count_drafts(confirmed.origins.len(), confirmed.accepted);
        let from = |source: DraftSource| {
            let is_from = |origin: &Origin| {
                matches!(
                    (source, origin),
                    (DraftSource::LayerSkip, Origin::Plan { .. })
                        | (DraftSource::Ngram, Origin::Ngram { .. })
                )
            };
            let count = |origins: &[Origin]| origins.iter().filter(|origin| is_from(origin)).count();
            let accepted = count(&confirmed.origins[..confirmed.accepted]);
            DraftCycle { source, drafted: count(&confirmed.origins), accepted }
        };
        record::draft_cycle(&from(DraftSource::LayerSkip));
        record::draft_cycle(&from(DraftSource::Ngram));
        if let Some(bets) = &mut self.bets {
            bets.finish(betting, confirmed, time.plain_seconds, self.cycle_seconds);
        }
        self.cycle_seconds = 0.0;
    }

    /// Appends confirmed tokens, stops where a stop says so, and sends one message.
    fn commit(&mut self, confirmed: Confirmed, drafted: usize, answer: &Answer<'_>) {
        let mut delta = Delta { drafted, accepted: confirmed.accepted, ..Delta::default() };
        let mut reason = None;
        for (index, &token) in confirmed.tokens.iter().enumerate() {
            let mut committed = CommittedToken {
                id: token,
                logprob: None,
                top_logprobs: Vec::new(),
                drafted: index < confirmed.accepted,
            };
            let output = &self.request.output;
            if output.logprobs {
                let row = answer.output.logits(answer.group, index);
                let logprobs = log_probabilities(row, token, output.top_logprobs);
                (committed.logprob, committed.top_logprobs) = (Some(logprobs.logprob), logprobs.top);
            }
            delta.tokens.push(committed);
            self.tokens.push(token);
            self.history.push(token);
            self.add_extra_tile(token);
            let generated = self.generated();
            reason = self.text.push(token, generated, &mut delta.text);
            if reason.is_some() {
                break;
            }
        }
        if let Some(bets) = &mut self.bets {
            let from = self.tokens.len() - delta.tokens.len();
            bets.commit(&self.tokens[from..]);
        }
        let now = Instant::now();
        match self.account.mark_tokens(now) {
            Gap::First(gap) => record::time_to_first_token(gap.as_secs_f64()),
            Gap::Next(gap) => record::inter_token(gap.as_secs_f64()),
        }
        self.outbox.push(Ok(Event::Delta(delta)));
        if let Some(reason) = reason {
            self.finish(reason, now);
        }
    }

    fn finish(&mut self, reason: FinishReason, now: Instant) {
        let speculation = self.account.stats(self.plan_summary());
        let timing = self.account.timing(now);
        let usage = Usage { prompt_tokens: self.request.prompt.len(), completion_tokens: self.generated() };
        record::request_finished(reason.name());
        record::tokens(usage.prompt_tokens as u64, usage.completion_tokens as u64);
        record::request_latency(timing.total.as_secs_f64());
        if usage.completion_tokens > 1 {
            let tokens = (usage.completion_tokens - 1) as f64;
            record::time_per_output_token(timing.decode.as_secs_f64() / tokens);
        }
        if speculation.draft_tokens > 0 {
            record::request_acceptance(speculation.accepted_tokens as f64 / speculation.draft_tokens as f64);
            speculation.estimated_speedup.into_iter().for_each(record::request_speedup);
        }
        tracing::info!(
            request = %self.request.id,
            reason = reason.name(),
            prompt_tokens = usage.prompt_tokens,
            completion_tokens = usage.completion_tokens,
            drafted = speculation.draft_tokens,
            accepted = speculation.accepted_tokens,
            speedup = speculation.estimated_speedup,
            seconds = timing.total.as_secs_f64(),
            "stream finished"
        );
        self.outbox.push(Ok(Event::Finished(Box::new(Finished { reason, usage, speculation, timing }))));
        self.lease = None;
    }

    fn generated(&self) -> usize {
        self.tokens.len() - self.request.prompt.len()
    }

    fn plan_summary(&self) -> Option<PlanSummary> {
        self.plan.as_ref().map(|current| PlanSummary {
            skip_set: current.plan.skip_set().clone(),
            max_draft_tokens: current.plan.max_draft_tokens,
            revision: current.revision,
        })
    }

    /// Whether it is past its prompt and not done.
    pub(super) fn is_decoding(&self) -> bool {
        !self.is_finished() && self.generated() > 0
    }

    /// Context of the next step, in positions.
    pub(super) fn context(&self) -> usize {
        self.computed
    }

    /// Rows times sublayers that `work` runs, of a model with `sublayers`: the stream's share of the pass.
    pub(super) fn cost_weight(&self, work: Work, rows: usize, sublayers: usize) -> f64 {
        let skipped = match (work, &self.plan) {
            (Work::Draft, Some(current)) => current.plan.mask().count(),
            (Work::Verify, Some(current)) if self.cycle.fed() > 0 => current.plan.exact_until(),
            _ => 0,
        };
        // The head costs about as much as four sublayers.
        rows as f64 * (sublayers.saturating_sub(skipped) + 4) as f64
    }
}

fn internal(error: &SamplingError) -> GenerationError {
    GenerationError::Internal(error.to_string())
}
