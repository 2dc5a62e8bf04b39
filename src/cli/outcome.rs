//! Outcome of a stream: collected from its events, reported as JSON or as one line.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, anyhow};
use serde::Serialize;

use skipstone_engine::adapt::OffReason;
use skipstone_engine::{Event, Finished, GenerationStream, PhaseTime, PlanSummary, Usage};

/// A finished stream.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    /// All text.
    pub(super) text: String,
    /// All tokens, the end-of-sequence token included.
    pub(super) token_ids: Vec<u32>,
    /// Reason, counts and times.
    pub(super) finished: Finished,
}

/// An [`Outcome`] as it is printed by `--json`.
#[derive(Clone, Serialize, Debug)]
pub(super) struct Report {
    text: String,
    token_ids: Vec<u32>,
    finish_reason: &'static str,
    usage: Usage,
    speculation: SpeculationReport,
    timing: TimingReport,
}

#[derive(Clone, PartialEq, Serialize, Debug)]
struct SpeculationReport {
    drafts: usize,
    draft_tokens: usize,
    accepted_tokens: usize,
    drafted_per_position: Vec<usize>,
    accepted_per_position: Vec<usize>,
    estimated_speedup: Option<f64>,
    final_plan: Option<PlanReport>,
    /// Cycles by what drafted them: plans by name, and `ngram`.
    cycles: BTreeMap<String, usize>,
    /// Time of plain steps, by why they were plain.
    off_seconds: BTreeMap<&'static str, f64>,
}

#[derive(Clone, PartialEq, Serialize, Debug)]
struct PlanReport {
    skip_attention: Vec<u16>,
    skip_mlp: Vec<u16>,
    max_draft_tokens: usize,
    revision: u64,
}

#[derive(Clone, PartialEq, Serialize, Debug)]
struct TimingReport {
    queue_seconds: f64,
    time_to_first_token_seconds: f64,
    decode_seconds: f64,
    total_seconds: f64,
    /// Tokens after the first, by the time since the first; `None` for a single token.
    tokens_per_second: Option<f64>,
}

/// One line for people.
pub(super) struct Summary<'a>(pub(super) &'a Finished);

/// Reads a stream to its end and hands each piece of text to `on_text` as it comes. Blocks.
pub(super) fn collect(
    mut stream: GenerationStream,
    on_text: &mut dyn FnMut(&str) -> std::io::Result<()>,
) -> anyhow::Result<Outcome> {
    let mut text = String::new();
    let mut token_ids = Vec::new();
    while let Some(message) = stream.blocking_next() {
        match message? {
            Event::Started(_) => {}
            Event::Delta(delta) => {
                token_ids.extend(delta.tokens.iter().map(|token| token.id.0));
                if !delta.text.is_empty() {
                    on_text(&delta.text)?;
                    text.push_str(&delta.text);
                }
            }
            Event::Finished(finished) => {
                return Ok(Outcome { text, token_ids, finished: *finished });
            }
        }
    }
    Err(anyhow!("the engine ended the stream without a result"))
        .context("this is a defect; please report it")
}

// === impl Report ===

impl From<Outcome> for Report {
    fn from(outcome: Outcome) -> Self {
        let Outcome { text, token_ids, finished } = outcome;
        let tokens_per_second = tokens_per_second(&finished);
        let Finished { reason, usage, speculation, timing } = finished;
        Self {
            text,
            token_ids,
            finish_reason: reason.name(),
            usage,
            speculation: SpeculationReport {
                drafts: speculation.drafts,
                draft_tokens: speculation.draft_tokens,
                accepted_tokens: speculation.accepted_tokens,
                drafted_per_position: speculation.drafted_per_position,
                accepted_per_position: speculation.accepted_per_position,
                estimated_speedup: speculation.estimated_speedup,
                final_plan: speculation.final_plan.as_ref().map(PlanReport::from),
                cycles: speculation.arms.into_iter().map(|arm| (arm.name, arm.cycles)).collect(),
                off_seconds: off_seconds(&speculation.off),
            },
            timing: TimingReport {
                queue_seconds: timing.queue.as_secs_f64(),
                time_to_first_token_seconds: timing.time_to_first_token.as_secs_f64(),
                decode_seconds: timing.decode.as_secs_f64(),
                total_seconds: timing.total.as_secs_f64(),
                tokens_per_second,
            },
        }
    }
}

impl From<&PlanSummary> for PlanReport {
    fn from(plan: &PlanSummary) -> Self {
        Self {
            skip_attention: plan.skip_set.attention().iter().map(|layer| layer.0).collect(),
            skip_mlp: plan.skip_set.mlp().iter().map(|layer| layer.0).collect(),
            max_draft_tokens: plan.max_draft_tokens,
            revision: plan.revision,
        }
    }
}

// === impl Summary ===

impl fmt::Display for Summary<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Finished { usage, speculation, timing, .. } = self.0;
        write!(formatter, "{} tokens", usage.completion_tokens)?;
        if let Some(rate) = tokens_per_second(self.0) {
            write!(formatter, ", {rate:.1} a second")?;
        }
        write!(formatter, ", the first after {:.2} s", timing.time_to_first_token.as_secs_f64())?;
        if speculation.draft_tokens > 0 {
            let share =
                speculation.accepted_tokens as f64 / speculation.draft_tokens as f64 * 100.0;
            let (accepted, drafted) = (speculation.accepted_tokens, speculation.draft_tokens);
            write!(formatter, "; {accepted} of {drafted} drafted tokens accepted ({share:.0} %)")?;
            if let Some(speedup) = speculation.estimated_speedup {
                write!(formatter, ", speedup {speedup:.2}")?;
            }
        }
        let story = speculation.story();
        if !story.is_empty() {
            write!(formatter, " ({story})")?;
        }
        Ok(())
    }
}

fn off_seconds(off: &BTreeMap<OffReason, PhaseTime>) -> BTreeMap<&'static str, f64> {
    off.iter().map(|(reason, time)| (reason.name(), time.seconds)).collect()
}

fn tokens_per_second(finished: &Finished) -> Option<f64> {
    let tokens = finished.usage.completion_tokens.checked_sub(1).filter(|&tokens| tokens > 0)?;
    let seconds = finished.timing.decode.as_secs_f64();
    (seconds > 0.0).then(|| tokens as f64 / seconds)
}

#[cfg(test)]
pub(super) mod testing {
    use std::time::Duration;

    use super::*;
    use skipstone_engine::{ArmUse, FinishReason, SpeculationStats, Timing};

    /// A stream's end: 5 tokens in 2 s after the first, 3 of 4 drafted tokens accepted.
    pub(crate) fn finished() -> Finished {
        Finished {
            reason: FinishReason::Length,
            usage: Usage { prompt_tokens: 3, completion_tokens: 5 },
            speculation: SpeculationStats {
                drafts: 2,
                draft_tokens: 4,
                accepted_tokens: 3,
                drafted_per_position: vec![2, 2],
                accepted_per_position: vec![2, 1],
                estimated_speedup: Some(1.25),
                off: BTreeMap::from([(OffReason::NoGain, PhaseTime { steps: 1, seconds: 0.5 })]),
                arms: vec![ArmUse { name: "layers 2-5".to_owned(), cycles: 2 }],
                ..SpeculationStats::default()
            },
            timing: Timing {
                queue: Duration::from_millis(10),
                time_to_first_token: Duration::from_millis(250),
                decode: Duration::from_secs(2),
                total: Duration::from_millis(2260),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::testing::finished;
    use super::*;
    use skipstone_engine::{
        CancelFlag, CommittedToken, Delta, GenerationError, Started, StreamMessage,
    };
    use skipstone_model::TokenId;

    fn stream_of(messages: Vec<StreamMessage>) -> GenerationStream {
        let (sender, receiver) = mpsc::channel(messages.len().max(1));
        for message in messages {
            sender.try_send(message).unwrap();
        }
        GenerationStream::new(receiver, CancelFlag::default())
    }

    fn delta(text: &str, ids: &[u32]) -> StreamMessage {
        let token = |&id| CommittedToken {
            id: TokenId(id),
            logprob: None,
            top_logprobs: vec![],
            drafted: false,
        };
        let tokens = ids.iter().map(token).collect();
        Ok(Event::Delta(Delta { text: text.to_owned(), tokens, ..Delta::default() }))
    }

    #[test]
    fn text_and_tokens_are_joined_and_handed_on() {
        let started = Started { prompt_tokens: 3, plan: None };
        let stream = stream_of(vec![
            Ok(Event::Started(started)),
            delta("Hello", &[1, 2]),
            delta("", &[3]),
            delta(" you", &[4, 5]),
            Ok(Event::Finished(Box::new(finished()))),
        ]);
        let mut pieces = Vec::new();
        let outcome = collect(stream, &mut |piece| {
            pieces.push(piece.to_owned());
            Ok(())
        })
        .unwrap();
        assert_eq!(pieces, ["Hello", " you"]);
        assert_eq!(
            (outcome.text.as_str(), &outcome.token_ids[..]),
            ("Hello you", &[1, 2, 3, 4, 5][..])
        );
    }

    #[test]
    fn a_failed_stream_is_an_error_and_so_is_one_that_just_ends() {
        let error = collect(stream_of(vec![Err(GenerationError::ShuttingDown)]), &mut |_| Ok(()))
            .unwrap_err();
        assert!(error.to_string().contains("shutting down"), "{error:#}");
        assert!(collect(stream_of(vec![delta("a", &[1])]), &mut |_| Ok(())).is_err());
    }

    #[test]
    fn the_report_has_the_documented_fields() {
        let outcome = Outcome { text: "x".to_owned(), token_ids: vec![7], finished: finished() };
        let json = serde_json::to_value(Report::from(outcome)).unwrap();
        for (pointer, expected) in [
            ("/text", serde_json::json!("x")),
            ("/token_ids", serde_json::json!([7])),
            ("/finish_reason", serde_json::json!("length")),
            ("/usage", serde_json::json!({"prompt_tokens": 3, "completion_tokens": 5})),
            ("/speculation/drafts", serde_json::json!(2)),
            ("/speculation/draft_tokens", serde_json::json!(4)),
            ("/speculation/accepted_tokens", serde_json::json!(3)),
            ("/speculation/accepted_per_position", serde_json::json!([2, 1])),
            ("/speculation/drafted_per_position", serde_json::json!([2, 2])),
            ("/speculation/cycles", serde_json::json!({ "layers 2-5": 2 })),
            ("/speculation/off_seconds", serde_json::json!({ "no_gain": 0.5 })),
            ("/speculation/estimated_speedup", serde_json::json!(1.25)),
            ("/timing/time_to_first_token_seconds", serde_json::json!(0.25)),
            ("/timing/decode_seconds", serde_json::json!(2.0)),
            ("/timing/tokens_per_second", serde_json::json!(2.0)),
        ] {
            assert_eq!(json.pointer(pointer), Some(&expected), "{pointer} of {json}");
        }
    }

    #[test]
    fn the_summary_says_rate_acceptance_and_speedup() {
        assert_eq!(
            Summary(&finished()).to_string(),
            "5 tokens, 2.0 a second, the first after 0.25 s; 3 of 4 drafted tokens accepted (75 \
             %), speedup 1.25 \
             (layers 2-5 x 2, no_gain 0.50 s)"
        );
        let mut plain = finished();
        plain.usage.completion_tokens = 1;
        plain.speculation = skipstone_engine::SpeculationStats::default();
        assert_eq!(Summary(&plain).to_string(), "1 tokens, the first after 0.25 s");
    }
}
