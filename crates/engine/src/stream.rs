//! One running stream: what it wants of the next pass, and what it makes of the answer.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use super::account::{Account, Ended, StepTime};
use super::activity::{Ending, StreamActivity};
use super::betting::Betting;
use super::cost::Company;
use super::cycle::{Chooser, Confirmed};
use super::drafter::{DraftAnswer, Drafter, Moment};
use super::event::{CommittedToken, Delta, Event, FinishReason, GenerationError, Started, Usage};
use super::handle::CancelFlag;
use super::lab::{Lab, SparePages};
use super::options::EngineOptions;
use super::outbox::Outbox;
use super::output_text::OutputText;
use super::queue::Pending;
use super::request::ValidRequest;
use super::step::{Answer, Step, StepKind};
use crate::drafting::{PromptStates, SharedStates};
use crate::record;
use skipstone_model::sampling::{Sampler, SamplingError, TokenHistory, log_probabilities};
use skipstone_model::text::TextModel;
use skipstone_model::{
    LogitsWanted, Model, PageLease, RowGroup, RowInput, Runner, StandInPart, TokenId,
};

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
}

// === impl Stream ===

impl Stream {
    /// Admits a request: its pages are leased, `Started` is on its way.
    pub(super) fn admit(
        pending: Pending,
        lease: PageLease,
        text: &TextModel,
        options: &EngineOptions,
        betting: &mut Betting,
        policies: (&mut SharedStates, &Model),
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
            drafter: Drafter::new(&request, options, betting, policies),
            account: Account::new(submitted),
            ending: None,
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

    /// The stream's next step, given how many prompt tokens the pass still has room for, and how
    /// many rows others have in it. At the start of a cycle its policy chooses.
    pub(super) fn next_step(
        &mut self,
        prefill_budget: usize,
        betting: &mut Betting,
        others: Company,
    ) -> Option<Step> {
        if self.is_finished() {
            return None;
        }
        let prompt_left = self.prompt_left();
        if prompt_left > 0 {
            let rows = prompt_left.min(prefill_budget);
            let logits = usize::from(rows == prompt_left);
            let keys_of = self.drafter.stand_in(betting);
            let whole = Step::whole(StepKind::Prefill, self.computed, rows);
            return (rows > 0).then_some(Step { logits, keys_of, ..whole });
        }
        let costs = betting.costs.costs(self.context(), others);
        let (prompt, left) = (self.request.prompt.len(), self.left());
        let moment = Moment { betting, costs: &costs, tokens: &self.tokens, prompt, left };
        Some(self.drafter.next_step(moment, self.computed))
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

    /// The rows of a step. Positions from the first one that is not final on hold the last
    /// committed token, then the drafted ones.
    pub(super) fn rows(&self, step: &Step, hidden: usize) -> Vec<RowInput<'_>> {
        let cycle = self.drafter.cycle();
        let row = |index: usize| {
            if index < step.entered {
                return RowInput::Hidden { first: step.entry, state: cycle.state(index, hidden) };
            }
            let position = step.position + index;
            RowInput::Token(match position.checked_sub(self.tokens.len()) {
                None => self.tokens[position],
                Some(drafted) => cycle.token(drafted),
            })
        };
        (0..step.rows).map(row).collect()
    }

    /// The group of a step with these rows.
    pub(super) fn group<'a>(&'a self, step: &'a Step, rows: &'a [RowInput<'a>]) -> RowGroup<'a> {
        let mut whole = RowGroup::new(self.pages(), step.position, rows);
        if step.kind == StepKind::Prefill {
            whole.save_before = self.drafter.prompt_places();
            whole.stand_in = step.keys_of.as_deref().map_or(StandInPart::None, StandInPart::Keys);
        }
        match (&step.plan, step.logits) {
            (Some(plan), logits) => RowGroup {
                skip: Some(plan.mask()),
                gate: plan.gate(),
                skipped_keys: plan.skipped_keys(),
                bridges: plan.bridges(),
                stand_in: plan.stand_in_part(),
                save_before: plan.entry(),
                logits: match logits {
                    0 => LogitsWanted::None,
                    _ => self.drafter.head().map_or(LogitsWanted::Last, LogitsWanted::Draft),
                },
                ..whole
            },
            (None, 0) => whole,
            (None, 1) => RowGroup { logits: LogitsWanted::Last, ..whole },
            (None, _) => RowGroup { logits: LogitsWanted::All, ..whole },
        }
    }

    /// Its pages; none once it has ended.
    fn pages(&self) -> &[u32] {
        self.lease.as_ref().map_or(&[], PageLease::pages)
    }

    /// Takes in the answer to a step.
    pub(super) fn apply(
        &mut self,
        step: &Step,
        answer: &Answer<'_>,
        betting: &mut Betting,
    ) -> Result<(), GenerationError> {
        self.account.count_step(step.kind, answer.seconds);
        let time = StepTime::new(answer.seconds, answer.plain_seconds);
        match step.kind {
            StepKind::Prefill => {
                if !self.drafter.prompt_places().is_empty() {
                    let (output, group) = (answer.output, answer.group);
                    self.drafter.see_prompt(&PromptStates { rows: step.rows, output, group });
                }
                let read = self.computed..self.computed + step.rows;
                self.drafter.read(&self.tokens[read]);
                self.computed += step.rows;
                if let Some(stand_in) = &step.keys_of {
                    self.drafter.note_keys(stand_in, self.computed);
                }
                if step.logits == 0 {
                    return Ok(());
                }
                // The prompt's own cost is not part of the bet: nothing was drafted.
                let confirmed = self.judge(answer)?;
                self.deliver(&confirmed, None, answer, betting)
            }
            StepKind::Draft => {
                self.spend(time);
                if let Some(stand_in) = step.plan.as_ref().and_then(|plan| plan.stand_in()) {
                    let keyed = (step.position + step.rows).min(self.computed + 1);
                    self.drafter.note_keys(stand_in, keyed);
                }
                if step.logits == 0 {
                    return Ok(());
                }
                step.plan.iter().for_each(|plan| self.account.count_skips(plan));
                let drafted = DraftAnswer {
                    entered: answer.output.saved(answer.group, 0, step.rows - 1),
                    logits: answer.output.logits(answer.group, 0),
                    vocabulary: answer.output.vocabulary,
                };
                let (prompt, left) = (self.request.prompt.len(), self.left());
                let moment =
                    Moment { betting, costs: answer.costs, tokens: &self.tokens, prompt, left };
                let chooser = Chooser { sampler: &mut self.sampler, history: &mut self.history };
                let started = Instant::now();
                self.drafter.draft(&drafted, moment, chooser);
                let seconds = started.elapsed().as_secs_f64();
                self.spend(StepTime::new(seconds, answer.plain_seconds));
                Ok(())
            }
            StepKind::Plain(_) | StepKind::Verify => {
                self.spend(time);
                let started = Instant::now();
                let confirmed = self.judge(answer)?;
                let chosen = started.elapsed().as_secs_f64();
                let excess = self.account.choose(confirmed.tokens.len(), chosen);
                // One choice that was interrupted makes those that follow look quick.
                let excess = excess.max(-0.5 * answer.seconds);
                self.drafter.spend(StepTime::new(excess, answer.plain_seconds));
                let (prompt, left) = (self.request.prompt.len(), self.left());
                let moment =
                    Moment { betting, costs: answer.costs, tokens: &self.tokens, prompt, left };
                let cycle_time = self.drafter.settle(&confirmed, moment);
                // The last token is not fed yet; all before it now have the full model's keys and
                // values.
                self.computed += confirmed.tokens.len();
                self.deliver(&confirmed, Some(cycle_time), answer, betting)
            }
        }
    }

    /// Lets the stream's policy run passes of its own. A pass that breaks is given up; the stream,
    /// whose own pages are not written, goes on.
    pub(super) fn study(&mut self, runner: &mut Runner, spare: &SparePages, betting: &Betting) {
        let Some(lease) = &self.lease else { return };
        let (pages, prompt, started) = (lease.pages(), self.request.prompt.len(), Instant::now());
        let mut lab = Lab { runner, spare, pages, tokens: &self.tokens, prompt };
        match catch_unwind(AssertUnwindSafe(|| self.drafter.study(&mut lab))) {
            Ok(false) => {}
            Ok(true) => {
                let plain_seconds = betting.costs.plain_seconds(self.context(), Company::default());
                self.spend(StepTime::new(started.elapsed().as_secs_f64(), plain_seconds));
            }
            Err(_) => tracing::error!("a policy's own pass failed: a defect of the server"),
        }
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

    /// Appends confirmed tokens, books them with the time of their cycle, sends them, and ends the
    /// stream if they do.
    fn deliver(
        &mut self,
        confirmed: &Confirmed,
        cycle_time: Option<StepTime>,
        answer: &Answer<'_>,
        betting: &Betting,
    ) -> Result<(), GenerationError> {
        let (delta, end) = self.append(confirmed, answer);
        cycle_time.iter().for_each(|&time| self.account.earn(delta.tokens.len(), time));
        self.account.count_drafts(delta.drafted, delta.accepted);
        self.send(delta, end.clone(), betting);
        match (&confirmed.failed, end) {
            (Some(error), None) => Err(internal(error)),
            _ => Ok(()),
        }
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

    /// Its activity, for operators.
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
}

fn internal(error: &SamplingError) -> GenerationError {
    GenerationError::Internal(error.to_string())
}
