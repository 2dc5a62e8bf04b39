//! One running stream: what it wants of the next pass, and what it makes of the answer.

mod score;

use std::time::Instant;

use super::account::{Account, Ended, StepTime};
use super::activity::{Ending, StreamActivity};
use super::bets::{Bets, Betting};
use super::cycle::{Chooser, Confirmed};
use super::drafter::{Drafted, Drafter};
use super::event::{CommittedToken, Delta, Event, FinishReason, GenerationError, Started, Usage};
use super::handle::CancelFlag;
use super::learner::CommittedRows;
use super::options::EngineOptions;
use super::outbox::Outbox;
use super::output_text::OutputText;
use super::parts::Outline;
use super::profiles::ProfileLink;
use super::queue::Pending;
use super::request::ValidRequest;
use super::work::{Answer, Work};
use crate::adapt::Learned;
use crate::drafting::DraftPlan;
use crate::record;
use skipstone_model::sampling::{Sampler, SamplingError, TokenHistory, log_probabilities};
use skipstone_model::text::TextModel;
use skipstone_model::{LogitsWanted, Model, PageLease, RowGroup, RowInput, TokenId};

/// Judged drafts that a running stream gathers before it hands them on.
const MANY_LESSONS: f64 = 64.0;

/// A request that runs.
pub(super) struct Stream {
    request: ValidRequest,
    pub(super) cancel: CancelFlag,
    pub(super) outbox: Outbox,
    /// Given back as soon as the last token is committed, even if the reader still has to fetch it.
    lease: Option<PageLease>,
    /// Prompt and committed tokens.
    tokens: Vec<TokenId>,
    /// Positions whose keys and values are the full model's. Once the prompt is through, all tokens
    /// but the last.
    computed: usize,
    sampler: Sampler,
    history: TokenHistory,
    text: OutputText,
    drafter: Drafter,
    account: Account,
    ending: Option<Ending>,
    /// Tokens when plans were last tried on the stream's text.
    auditioned: usize,
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
        let mut stream = Self {
            tokens: request.prompt.clone(),
            computed: 0,
            sampler: Sampler::new(request.sampling.clone()),
            history: TokenHistory::new(&request.prompt),
            text: OutputText::new(text, &request.stop),
            outbox: Outbox::new(events),
            lease: Some(lease),
            drafter: Drafter::new(&request, options, betting),
            account: Account::new(submitted),
            ending: None,
            auditioned: 0,
            cancel,
            request,
        };
        record::queue_time(stream.account.queue().as_secs_f64());
        let started =
            Started { prompt_tokens: stream.request.prompt.len(), plan: stream.drafter.summary() };
        stream.outbox.push(Ok(Event::Started(started)));
        stream
    }

    /// Whether the last token is committed.
    pub(super) fn is_finished(&self) -> bool {
        self.lease.is_none()
    }

    /// Whether the request's deadline has passed.
    pub(super) fn is_expired(&self, now: Instant) -> bool {
        !self.is_finished() && self.request.is_expired(now)
    }

    /// The error that says so.
    pub(super) fn deadline_error(&self) -> GenerationError {
        self.request.deadline_error(self.generated())
    }

    /// Ends the stream with an error; its pages are free.
    pub(super) fn fail(&mut self, error: GenerationError) {
        tracing::info!(request_id = %self.request.id, %error, "stream failed");
        self.end(error.reason());
        self.outbox.fail(error);
    }

    /// Notes that the stream has ended, and how; its pages are free.
    pub(super) fn end(&mut self, reason: &'static str) {
        record::request_finished(reason);
        self.ending = Some(Ending::now(reason));
        self.lease = None;
    }

    /// Ends the stream of a client that has left.
    pub(super) fn abandon(&mut self, now: Instant) {
        self.end(self.request.abandoned(now));
    }

    /// What the stream wants next, given how many prompt tokens the pass still has room for, and
    /// how many rows others have in it. An adaptive stream places the bet of its next cycle here.
    pub(super) fn next_work(
        &mut self,
        prefill_budget: usize,
        betting: &mut Betting,
        others: usize,
    ) -> Option<Work> {
        if self.is_finished() {
            return None;
        }
        let prompt_left = self.prompt_left();
        if prompt_left > 0 {
            let tokens = prompt_left.min(prefill_budget);
            return (tokens > 0).then_some(Work::Prefill { tokens });
        }
        let costs = betting.baseline.costs(self.context(), others);
        Some(self.drafter.next_work(self.left(), betting, &costs))
    }

    /// Tokens of the prompt still to be read.
    pub(super) fn prompt_left(&self) -> usize {
        match self.is_finished() || self.generated() > 0 {
            true => 0,
            false => self.request.prompt.len().saturating_sub(self.computed),
        }
    }

    /// Tokens still to be generated.
    fn left(&self) -> usize {
        self.request.stop.max_new_tokens - self.generated()
    }

    /// The rows of `work`.
    pub(super) fn rows(&self, work: Work, hidden: usize) -> Vec<RowInput<'_>> {
        let committed = self.tokens[self.tokens.len() - 1];
        let cycle = self.drafter.cycle();
        match work {
            Work::Prefill { tokens } => self.tokens[self.computed..][..tokens]
                .iter()
                .map(|&token| RowInput::Token(token))
                .collect(),
            Work::Draft => vec![RowInput::Token(cycle.next_input(committed))],
            Work::Verify => {
                let entry = self.drafter.plan().map_or(0, DraftPlan::exact_until);
                cycle.verify_rows(committed, entry, hidden)
            }
            Work::Plain(_) => vec![RowInput::Token(committed)],
        }
    }

    /// The group of `work`; passes of the full model save their states at `places` if the stream
    /// may be learned from.
    pub(super) fn group<'a>(
        &'a self,
        work: Work,
        rows: &'a [RowInput<'a>],
        places: &'a [usize],
    ) -> RowGroup<'a> {
        let places = if self.request.teaches { places } else { &[] };
        let plan = self.drafter.plan().filter(|_| work == Work::Draft);
        let (position, logits) = match work {
            Work::Prefill { tokens } if self.computed + tokens < self.request.prompt.len() => {
                (self.computed, LogitsWanted::None)
            }
            Work::Draft => {
                let logits = self.drafter.head().map_or(LogitsWanted::Last, LogitsWanted::Draft);
                (self.drafter.cycle().next_position(self.computed), logits)
            }
            Work::Prefill { .. } | Work::Plain(_) => (self.computed, LogitsWanted::Last),
            Work::Verify => (self.computed, LogitsWanted::All),
        };
        RowGroup {
            pages: self.pages(),
            position,
            rows,
            skip: plan.map(DraftPlan::mask),
            bridges: plan.map_or(&[], DraftPlan::bridges),
            save_before: if work == Work::Draft {
                plan.map_or(&[], DraftPlan::entry)
            } else {
                places
            },
            logits,
        }
    }

    /// Its pages; none once it has ended.
    pub(super) fn pages(&self) -> &[u32] {
        self.lease.as_ref().map_or(&[], PageLease::pages)
    }

    /// How the rows of `work` enter the model; none of them is committed yet.
    pub(super) fn entered_rows(&self, work: Work) -> CommittedRows {
        let (entry, entered) = match (work, self.drafter.plan()) {
            (Work::Verify, Some(plan)) => (plan.exact_until(), self.drafter.cycle().fed()),
            _ => (0, 0),
        };
        CommittedRows { rows: 0..0, position: self.computed, entry, entered }
    }

    /// Takes in the answer to `work`; returns how many of its rows went to what is committed now
    /// and may be learned from.
    pub(super) fn apply(
        &mut self,
        work: Work,
        answer: &Answer<'_>,
        betting: &mut Betting,
    ) -> Result<usize, GenerationError> {
        let time = StepTime::new(answer.seconds, answer.plain_seconds);
        self.account.count_work(work, answer.seconds);
        let rows = match work {
            Work::Prefill { tokens } => {
                self.computed += tokens;
                if self.computed < self.request.prompt.len() {
                    return Ok(self.taught(tokens));
                }
                // The prompt's own cost is not part of the bet: nothing was drafted.
                let confirmed = self.judge(answer)?;
                let (delta, end) = self.append(&confirmed, answer);
                self.send(delta, end, betting);
                tokens
            }
            Work::Draft => {
                self.spend(time);
                self.drafter.plan().into_iter().for_each(|plan| self.account.count_skips(plan));
                let step = Drafted {
                    entered: answer.output.saved(answer.group, 0, 0),
                    logits: answer.output.logits(answer.group, 0),
                    vocabulary: answer.output.vocabulary,
                    cost: answer.alone.then_some(time.spent_steps),
                    costs: answer.costs,
                };
                let left = self.left();
                let chooser = Chooser { sampler: &mut self.sampler, history: &mut self.history };
                self.drafter.draft(&step, left, chooser, betting);
                0
            }
            Work::Plain(_) | Work::Verify => {
                self.spend(time);
                let confirmed = self.judge(answer)?;
                let cycle_time = self.drafter.settle(&confirmed, betting);
                // The last token is not fed yet; all before it now have the full model's keys and
                // values.
                let rows = confirmed.tokens.len();
                self.computed += rows;
                let (delta, end) = self.append(&confirmed, answer);
                self.account.earn(delta.tokens.len(), cycle_time);
                self.account.count_drafts(delta.drafted, delta.accepted);
                self.send(delta, end, betting);
                rows
            }
        };
        Ok(self.taught(rows))
    }

    /// What its drafts have taught and nobody was told yet, if it may be learned from.
    pub(super) fn lessons(&self) -> Option<&Learned> {
        self.drafter.bets().filter(|_| self.request.teaches).map(Bets::taught)
    }

    /// Hands lessons on when there are many, or no more will come.
    pub(super) fn hand_on(&mut self, link: &ProfileLink) {
        let judged = self.lessons().map_or(0.0, Learned::judged);
        let due = judged >= MANY_LESSONS || self.is_finished() && judged > 0.0;
        if let Some(bets) = self.drafter.bets_mut().filter(|_| due) {
            link.report(self.request.traffic.key, bets.take_taught());
        }
    }

    /// Of `rows`, those that may be learned from.
    fn taught(&self, rows: usize) -> usize {
        if self.request.teaches { rows } else { 0 }
    }

    fn spend(&mut self, time: StepTime) {
        self.account.spend(time.spent_seconds);
        self.drafter.spend(time);
    }

    fn judge(&mut self, answer: &Answer<'_>) -> Result<Confirmed, GenerationError> {
        let chooser = Chooser { sampler: &mut self.sampler, history: &mut self.history };
        let logits = |row| answer.output.logits(answer.group, row);
        let judged = self.drafter.cycle_mut().judge(logits, self.tokens.len(), chooser);
        judged.map_err(|error| internal(&error))
    }

    /// Appends confirmed tokens up to where a stop says so; returns what is new, and why it ends
    /// there, if it does.
    fn append(
        &mut self,
        confirmed: &Confirmed,
        answer: &Answer<'_>,
    ) -> (Delta, Option<FinishReason>) {
        let drafted_by = self.drafter.drafted_by(&confirmed.origins);
        let mut delta = Delta { drafted: confirmed.origins.len(), drafted_by, ..Delta::default() };
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
                (committed.logprob, committed.top_logprobs) =
                    (Some(logprobs.logprob), logprobs.top);
            }
            delta.tokens.push(committed);
            self.tokens.push(token);
            self.history.push(token);
            let generated = self.generated();
            reason = self.text.push(token, generated, &mut delta.text);
            if reason.is_some() {
                break;
            }
        }
        // A stop may have discarded the last ones.
        delta.accepted = confirmed.accepted.min(delta.tokens.len());
        self.drafter.commit(&self.tokens[self.tokens.len() - delta.tokens.len()..]);
        (delta, reason)
    }

    /// Sends one message, and the last one if the stream ends.
    fn send(&mut self, delta: Delta, end: Option<FinishReason>, betting: &Betting) {
        let now = Instant::now();
        self.account.mark_tokens(now);
        self.outbox.push(Ok(Event::Delta(delta)));
        if let Some(reason) = end {
            self.finish(reason, now, betting);
        }
    }

    fn finish(&mut self, reason: FinishReason, now: Instant, betting: &Betting) {
        self.end(reason.name());
        let ended = Ended {
            request_id: &self.request.id,
            reason,
            usage: Usage {
                prompt_tokens: self.request.prompt.len(),
                completion_tokens: self.generated(),
            },
            speculation: self.account.stats(&self.drafter, betting),
        };
        self.outbox.push(Ok(self.account.finish(ended, now)));
    }

    /// What it is at, for operators.
    pub(super) fn activity(&self, betting: &Betting) -> StreamActivity {
        StreamActivity {
            request_id: self.request.id.clone(),
            speculation: self.request.speculation.clone(),
            prompt_tokens: self.request.prompt.len(),
            prefilled_tokens: self.computed.min(self.request.prompt.len()),
            committed_tokens: self.generated(),
            max_new_tokens: self.request.stop.max_new_tokens,
            plan: self.drafter.activity(betting),
            stats: self.account.stats(&self.drafter, betting),
            timing: self.account.timing(self.ending.map_or_else(Instant::now, |ending| ending.at)),
            ending: self.ending,
        }
    }

    fn generated(&self) -> usize {
        self.tokens.len() - self.request.prompt.len()
    }

    /// Whether it is past its prompt and not done.
    pub(super) fn is_decoding(&self) -> bool {
        !self.is_finished() && self.generated() > 0
    }

    /// Context of the next step, in positions.
    pub(super) fn context(&self) -> usize {
        self.computed
    }

    /// See [`Drafter::share`].
    pub(super) fn share(
        &self,
        work: Work,
        rows: (usize, usize),
        betting: &Betting,
        model: &Model,
    ) -> f64 {
        self.drafter.share(work, rows, self.context(), betting, model)
    }

    /// Outlines a step of the plan that drafts now.
    pub(super) fn outline(&self, model: &Model) -> Option<Outline> {
        self.drafter.plan().map(|plan| Outline::of(plan, model))
    }
}

fn internal(error: &SamplingError) -> GenerationError {
    GenerationError::Internal(error.to_string())
}
