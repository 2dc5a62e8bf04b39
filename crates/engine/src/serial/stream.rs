//! The stream that a serial engine runs: from logits to messages.

use std::time::Instant;

use super::super::account::{Account, Ended, StepTime};
use super::super::activity::{Ending, StreamActivity};
use super::super::event::{CommittedToken, Delta, Event, GenerationError, Started, Usage};
use super::super::handle::CancelFlag;
use super::super::outbox::Outbox;
use super::super::output_text::OutputText;
use super::super::queue::Pending;
use super::super::request::ValidRequest;
use super::super::step::StepKind;
use crate::adapt::OffReason;
use crate::record;
use skipstone_model::TokenId;
use skipstone_model::sampling::{RandomStream, Sampler, TokenHistory, log_probabilities};
use skipstone_model::text::TextModel;

/// A request that runs, or has ended and is being read.
pub(super) struct SerialStream {
    request: ValidRequest,
    pub(super) cancel: CancelFlag,
    pub(super) outbox: Outbox,
    sampler: Sampler,
    history: TokenHistory,
    text: OutputText,
    account: Account,
    /// Start of its last pass.
    pass_began: Instant,
    ending: Option<Ending>,
}

// === impl SerialStream ===

impl SerialStream {
    /// Admits a request; `Started` is on its way.
    pub(super) fn admit(pending: Pending, text: &TextModel) -> Self {
        let Pending { request, events, cancel, submitted } = pending;
        let mut stream = Self {
            sampler: Sampler::new(request.sampling.clone()),
            history: TokenHistory::new(&request.prompt),
            text: OutputText::new(text, &request.stop),
            outbox: Outbox::new(events),
            account: Account::new(submitted),
            pass_began: Instant::now(),
            ending: None,
            cancel,
            request,
        };
        record::queue_time(stream.account.queue().as_secs_f64());
        let started = Started { prompt_tokens: stream.prompt().len(), plan: None };
        stream.outbox.push(Ok(Event::Started(started)));
        stream
    }

    /// The prompt's tokens.
    pub(super) fn prompt(&self) -> &[TokenId] {
        &self.request.prompt
    }

    /// Tokens that it may generate.
    pub(super) fn max_new_tokens(&self) -> usize {
        self.request.stop.max_new_tokens
    }

    /// Positions of the prompt and of all tokens that may follow.
    pub(super) fn positions(&self) -> usize {
        self.prompt().len() + self.max_new_tokens()
    }

    /// Whether its prompt is not through.
    pub(super) fn is_prefilling(&self) -> bool {
        self.generated() == 0
    }

    /// Whether it has ended.
    pub(super) fn is_finished(&self) -> bool {
        self.ending.is_some()
    }

    /// Whether the request's deadline has passed.
    pub(super) fn is_expired(&self, now: Instant) -> bool {
        !self.is_finished() && self.request.is_expired(now)
    }

    /// The error that says so.
    pub(super) fn deadline_error(&self) -> GenerationError {
        self.request.deadline_error(self.generated())
    }

    /// Ends the stream with an error.
    pub(super) fn fail(&mut self, error: GenerationError) {
        tracing::info!(request_id = %self.request.id, %error, "stream failed");
        self.end(error.reason());
        self.outbox.fail(error);
    }

    /// Ends the stream of a client that has left.
    pub(super) fn abandon(&mut self, now: Instant) {
        self.end(self.request.abandoned(now));
    }

    /// Notes that the stream has ended, and how.
    pub(super) fn end(&mut self, reason: &'static str) {
        record::request_finished(reason);
        self.ending = Some(Ending::now(reason));
    }

    /// Chooses the next token from `logits`, and sends it. Returns it if the stream goes on, and
    /// what the pass took in seconds.
    pub(super) fn take(&mut self, logits: &[f32]) -> (Option<TokenId>, f64) {
        let now = Instant::now();
        let seconds = now.saturating_duration_since(self.pass_began).as_secs_f64();
        self.book(seconds);
        let position = self.prompt().len() + self.generated();
        let token = match self.sampler.distribution(logits, &self.history) {
            Ok(target) => self.sampler.draw(&target, RandomStream::Target, position as u64),
            Err(error) => {
                self.fail(GenerationError::Internal(error.to_string()));
                return (None, seconds);
            }
        };
        let goes_on = self.commit(token, logits, now);
        self.pass_began = Instant::now();
        (goes_on.then_some(token), seconds)
    }

    /// Books the pass that ended now.
    fn book(&mut self, seconds: f64) {
        if self.is_prefilling() {
            self.account.count_step(StepKind::Prefill, seconds);
            return;
        }
        let time = StepTime::new(seconds, seconds);
        self.account.count_step(StepKind::Plain(OffReason::Backend), seconds);
        self.account.spend(seconds);
        self.account.earn(1, time);
    }

    /// Appends a token and sends its message; returns whether the stream goes on.
    fn commit(&mut self, token: TokenId, logits: &[f32], now: Instant) -> bool {
        let mut committed =
            CommittedToken { id: token, logprob: None, top_logprobs: Vec::new(), drafted: false };
        if self.request.output.logprobs {
            let logprobs = log_probabilities(logits, token, self.request.output.top_logprobs);
            (committed.logprob, committed.top_logprobs) = (Some(logprobs.logprob), logprobs.top);
        }
        let mut delta = Delta { tokens: vec![committed], ..Delta::default() };
        self.history.push(token);
        let reason = self.text.push(token, self.generated(), &mut delta.text);
        self.account.mark_tokens(now);
        self.outbox.push(Ok(Event::Delta(delta)));
        let Some(reason) = reason else { return true };
        self.end(reason.name());
        let ended = Ended {
            request_id: &self.request.id,
            reason,
            usage: Usage {
                prompt_tokens: self.prompt().len(),
                completion_tokens: self.generated(),
            },
            speculation: self.account.plain_stats(),
        };
        self.outbox.push(Ok(self.account.finish(ended, now)));
        false
    }

    /// Its activity, for operators.
    pub(super) fn activity(&self) -> StreamActivity {
        let prompt_tokens = self.prompt().len();
        StreamActivity {
            request_id: self.request.id.clone(),
            speculation: self.request.speculation.clone(),
            prompt_tokens,
            prefilled_tokens: if self.is_prefilling() { 0 } else { prompt_tokens },
            committed_tokens: self.generated(),
            max_new_tokens: self.max_new_tokens(),
            plan: None,
            stats: self.account.plain_stats(),
            timing: self.account.timing(self.ending.map_or_else(Instant::now, |ending| ending.at)),
            ending: self.ending,
        }
    }

    fn generated(&self) -> usize {
        self.history.generated().len()
    }
}
