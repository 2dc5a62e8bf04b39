//! From the engine's events to wire messages.

use std::sync::Arc;
use std::time::Duration;

use super::metadata::RequestId;
use super::serve::ServedModel;
use super::wire;
use super::wire::generate_stream_response::Event as WireEvent;
use skipstone_engine::adapt::OffReason;
use skipstone_engine::drafting::SkipSet;
use skipstone_engine::{
    CommittedToken, Delta, Event, FinishReason, Finished, OutputOptions, PhaseTime, PlanSummary,
    SpeculationStats, Started, Timing, Usage,
};
use skipstone_model::LayerIndex;

/// The parts that the replies to one request have in common.
#[derive(Debug)]
pub(super) struct Reply {
    /// Names the request.
    pub(super) id: RequestId,
    /// The model that answers.
    pub(super) model: Arc<ServedModel>,
    /// The seed in use.
    pub(super) seed: u64,
    /// Output that was asked for.
    pub(super) output: OutputOptions,
    /// Reason why nothing would be drafted, if that was settled by the request or the
    /// configuration.
    pub(super) off_reason: Option<wire::SpeculationOffReason>,
}

/// The parts of a unary reply, as they come in.
#[derive(Debug, Default)]
pub(super) struct Collected {
    text: String,
    tokens: Vec<wire::Token>,
    committed: usize,
}

// === impl Reply ===

impl Reply {
    /// One event as a message of the stream.
    pub(super) fn message(&self, event: Event) -> wire::GenerateStreamResponse {
        let event = match event {
            Event::Started(started) => WireEvent::Started(self.started(started)),
            Event::Delta(delta) => WireEvent::Delta(self.delta(delta)),
            Event::Finished(finished) => WireEvent::Finished(self.finished(*finished)),
        };
        wire::GenerateStreamResponse { event: Some(event) }
    }

    /// The whole result, once it is finished.
    pub(super) fn response(
        &self,
        collected: Collected,
        finished: Finished,
    ) -> wire::GenerateResponse {
        let finished = self.finished(finished);
        wire::GenerateResponse {
            request_id: self.id.as_str().to_owned(),
            model: self.model.name.clone(),
            seed: self.seed,
            text: collected.text,
            tokens: collected.tokens,
            finish: finished.finish,
            usage: finished.usage,
            speculation: finished.speculation,
            timing: finished.timing,
        }
    }

    fn started(&self, started: Started) -> wire::StreamStarted {
        wire::StreamStarted {
            request_id: self.id.as_str().to_owned(),
            model: self.model.name.clone(),
            seed: self.seed,
            prompt_tokens: count(started.prompt_tokens),
            draft_plan: started.plan.map(draft_plan),
        }
    }

    fn delta(&self, delta: Delta) -> wire::TokenDelta {
        wire::TokenDelta {
            tokens: self.tokens(delta.tokens),
            text: delta.text,
            drafted: count(delta.drafted),
            accepted: count(delta.accepted),
        }
    }

    fn tokens(&self, tokens: Vec<CommittedToken>) -> Vec<wire::Token> {
        if !self.output.tokens {
            return Vec::new();
        }
        tokens.into_iter().map(|token| self.token(token)).collect()
    }

    fn token(&self, token: CommittedToken) -> wire::Token {
        let origin =
            if token.drafted { wire::TokenOrigin::Draft } else { wire::TokenOrigin::Target };
        let alternatives = token.top_logprobs.into_iter().map(|(id, logprob)| wire::TopLogprob {
            id: id.0,
            text: self.model.text.token_text(id),
            logprob,
        });
        wire::Token {
            id: token.id.0,
            text: self.model.text.token_text(token.id),
            logprob: token.logprob,
            top_logprobs: alternatives.collect(),
            origin: origin.into(),
        }
    }

    fn finished(&self, finished: Finished) -> wire::StreamFinished {
        wire::StreamFinished {
            finish: Some(finish(finished.reason)),
            usage: Some(usage(finished.usage)),
            speculation: Some(self.speculation(finished.speculation)),
            timing: Some(timing(finished.timing)),
            request_id: self.id.as_str().to_owned(),
            model: self.model.name.clone(),
        }
    }

    fn speculation(&self, stats: SpeculationStats) -> wire::SpeculationStats {
        let off_reason = match stats.drafts {
            0 => self.off_reason.unwrap_or(wire::SpeculationOffReason::NotWorthwhile),
            _ => wire::SpeculationOffReason::Unspecified,
        };
        wire::SpeculationStats {
            drafts: count(stats.drafts),
            draft_tokens: count(stats.draft_tokens),
            accepted_tokens: count(stats.accepted_tokens),
            accepted_per_position: stats.accepted_per_position.into_iter().map(count).collect(),
            estimated_speedup: stats.estimated_speedup,
            final_plan: stats.final_plan.map(draft_plan),
            off_reason: off_reason.into(),
            drafted_per_position: stats.drafted_per_position.into_iter().map(count).collect(),
            arms: stats
                .arms
                .into_iter()
                .map(|arm| wire::DraftArm { name: arm.name, cycles: count(arm.cycles) })
                .collect(),
            off_times: stats.off.into_iter().map(|(reason, time)| off_time(reason, time)).collect(),
            policy: stats.policy.to_owned(),
        }
    }
}

// === impl Collected ===

impl Collected {
    /// Takes in what one step committed.
    pub(super) fn add(&mut self, delta: Delta, reply: &Reply) {
        self.committed += delta.tokens.len();
        self.text.push_str(&delta.text);
        self.tokens.extend(reply.tokens(delta.tokens));
    }

    /// Tokens so far.
    pub(super) fn committed(&self) -> usize {
        self.committed
    }
}

fn off_time(reason: OffReason, time: PhaseTime) -> wire::OffTime {
    wire::OffTime {
        reason: reason.name().to_owned(),
        steps: count(time.steps),
        time: duration(Duration::try_from_secs_f64(time.seconds).unwrap_or_default()),
    }
}

fn finish(reason: FinishReason) -> wire::FinishInfo {
    use wire::finish_info::Matched;
    let (reason, matched) = match reason {
        FinishReason::EndOfSequence => (wire::FinishReason::EndOfSequence, None),
        FinishReason::StopString(text) => {
            (wire::FinishReason::Stop, Some(Matched::StopString(text)))
        }
        FinishReason::StopToken(token) => {
            (wire::FinishReason::Stop, Some(Matched::StopTokenId(token.0)))
        }
        FinishReason::Length => (wire::FinishReason::Length, None),
    };
    wire::FinishInfo { reason: reason.into(), matched }
}

fn usage(usage: Usage) -> wire::Usage {
    wire::Usage {
        prompt_tokens: count(usage.prompt_tokens),
        completion_tokens: count(usage.completion_tokens),
    }
}

fn timing(timing: Timing) -> wire::Timing {
    wire::Timing {
        queue: duration(timing.queue),
        time_to_first_token: duration(timing.time_to_first_token),
        decode: duration(timing.decode),
        total: duration(timing.total),
    }
}

fn draft_plan(plan: PlanSummary) -> wire::DraftPlan {
    wire::DraftPlan {
        skip_set: Some((&plan.skip_set).into()),
        max_draft_tokens: count(plan.max_draft_tokens),
        revision: plan.revision,
    }
}

impl From<&SkipSet> for wire::SkipSet {
    fn from(skip_set: &SkipSet) -> Self {
        let layers = |layers: &[LayerIndex]| layers.iter().map(|layer| layer.0.into()).collect();
        Self { attention_layers: layers(skip_set.attention()), mlp_layers: layers(skip_set.mlp()) }
    }
}

/// Counts on the wire have 32 bits; a context of more than 4 billion tokens would read as 4
/// billion.
fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn duration(duration: Duration) -> Option<prost_types::Duration> {
    duration.try_into().ok()
}
