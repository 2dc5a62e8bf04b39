//! Every metric of the process: name, kind, unit, labels, buckets, help.
//!
//! Names end in their base unit, counters in `_total`. The `spec_decode_num_*` counters follow the
//! names that other serving engines export, so that dashboards port by changing the prefix. Rates
//! and percentages belong into queries.

use metrics::Unit;

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// The whole name, as on the page.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// Unit of its values; `None` for plain ratios.
    pub unit: Option<Unit>,
    /// Names of its labels. Their values are few and known: see `record`.
    pub labels: &'static [&'static str],
    /// Description of what it counts, in a sentence.
    pub help: &'static str,
}

/// Kind of a metric: how its values combine.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Kind {
    /// Only rises.
    Counter,
    /// The latest value.
    Gauge,
    /// Counts by upper bound; the bounds ascend.
    Histogram(&'static [f64]),
}

/// From a millisecond (short prompts of a small model) to minutes (a long queue), seconds.
const WAIT_BUCKETS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0,
];

/// Gaps between messages or tokens, seconds: fine below 100 ms, where readers notice a factor of
/// two.
const GAP_BUCKETS: &[f64] = &[
    0.001, 0.002, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2,
    0.4, 0.8, 1.6, 5.0,
];

/// Whole requests, seconds: up to the longest deadline that is usual.
const REQUEST_BUCKETS: &[f64] =
    &[0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0];

/// Fine around 1, where drafting turns from a gain into a loss.
const SPEEDUP_BUCKETS: &[f64] = &[
    0.25, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2, 1.3, 1.4, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0,
    6.0,
];

/// Every length up to eight, then wider: long drafts result from n-gram matches only.
const LENGTH_BUCKETS: &[f64] =
    &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 12.0, 16.0, 24.0, 32.0];

/// Tenths, finer at the top, where longer drafts begin to pay.
const SHARE_BUCKETS: &[f64] =
    &[0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0];

/// Writes each row once: as a constant for the recorder, and into the table for the exporter and
/// the tests.
macro_rules! catalogue {
    ($($constant:ident = $kind:expr, $unit:expr, $name:literal, $labels:expr, $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $constant: Metric = Metric {
                name: concat!("skipstone_", $name), kind: $kind, unit: $unit, labels: &$labels, help: $help,
            };
        )*

        /// All metrics.
        pub const ALL: &[Metric] = &[$($constant),*];
    };
}

use Kind::{Counter, Gauge, Histogram};

const COUNT: Option<Unit> = Some(Unit::Count);
const SECONDS: Option<Unit> = Some(Unit::Seconds);

catalogue! {
    BUILD_INFO = Gauge, COUNT, "build_info", ["version", "model", "instruction_set"],
        "What this process is; always 1.";
    REQUESTS = Counter, COUNT, "requests_total", ["method", "code"],
        "Calls that reached a handler, over gRPC or HTTP, by method and gRPC status code.";
    REQUEST_FINISHED = Counter, COUNT, "request_finished_total", ["reason"],
        "Generations that ended, by reason.";
    REQUESTS_RUNNING = Gauge, COUNT, "requests_running", [],
        "Generations in the batch now.";
    REQUESTS_WAITING = Gauge, COUNT, "requests_waiting", [],
        "Generations that wait for a place in the batch now.";
    ENGINE_STEPS = Counter, COUNT, "engine_steps_total", [],
        "Steps of the running batch; it stands still while requests run only if the engine is stuck.";
    KV_CACHE_USAGE = Gauge, None, "kv_cache_usage_ratio", [],
        "Leased share of the key/value cache pages, 0 to 1.";

    TIME_TO_FIRST_TOKEN = Histogram(WAIT_BUCKETS), SECONDS, "time_to_first_token_seconds", [],
        "Time from submission to the first committed token.";
    INTER_TOKEN_LATENCY = Histogram(GAP_BUCKETS), SECONDS, "inter_token_latency_seconds", [],
        "Time between two messages of one stream; a message carries all tokens that a step committed.";
    TIME_PER_OUTPUT_TOKEN = Histogram(GAP_BUCKETS), SECONDS, "time_per_output_token_seconds", [],
        "Mean time per token after the first, one sample a request.";
    REQUEST_LATENCY = Histogram(REQUEST_BUCKETS), SECONDS, "e2e_request_latency_seconds", [],
        "Time from submission to the end of a generation.";
    REQUEST_QUEUE_TIME = Histogram(WAIT_BUCKETS), SECONDS, "request_queue_time_seconds", [],
        "Time from submission to the first pass of a generation.";

    PROMPT_TOKENS = Counter, COUNT, "prompt_tokens_total", [],
        "Prompt tokens of generations that ended.";
    GENERATION_TOKENS = Counter, COUNT, "generation_tokens_total", [],
        "Tokens committed by generations that ended.";
    PREFILL_SECONDS = Counter, SECONDS, "prefill_seconds_total", [],
        "Engine time spent on prompts.";
    PLAIN_DECODE_SECONDS = Counter, SECONDS, "plain_decode_seconds_total", [],
        "Engine time spent on plain decoding.";

    NUM_DRAFTS = Counter, COUNT, "spec_decode_num_drafts_total", ["source", "policy"],
        "Cycles that drafted at least one token.";
    NUM_DRAFT_TOKENS = Counter, COUNT, "spec_decode_num_draft_tokens_total", ["source", "policy"],
        "Tokens drafted.";
    NUM_ACCEPTED_TOKENS = Counter, COUNT, "spec_decode_num_accepted_tokens_total", ["source", "policy"],
        "Drafted tokens that the full model accepted.";
    NUM_DRAFT_TOKENS_PER_POS = Counter, COUNT, "spec_decode_num_draft_tokens_per_pos_total", ["position"],
        "Drafted tokens by their position in the draft, counted from 0.";
    NUM_ACCEPTED_TOKENS_PER_POS = Counter, COUNT, "spec_decode_num_accepted_tokens_per_pos_total", ["position"],
        "Accepted tokens by their position in the draft, counted from 0.";
    DRAFT_SECONDS = Counter, SECONDS, "spec_decode_draft_seconds_total", [],
        "Engine time spent on draft steps.";
    VERIFY_SECONDS = Counter, SECONDS, "spec_decode_verify_seconds_total", [],
        "Engine time spent on verify passes.";
    OFF_SECONDS = Counter, SECONDS, "spec_decode_off_seconds_total", ["reason"],
        "Engine time spent on plain decoding, by why nothing was drafted.";
    DRAFT_LENGTH = Histogram(LENGTH_BUCKETS), COUNT, "spec_decode_draft_length", [],
        "Tokens drafted in a cycle, one sample a cycle that committed tokens.";
    PLAN_CHANGES = Counter, COUNT, "spec_decode_plan_changes_total", [],
        "Changes of draft plans: a stream drafts by another one than before.";
    PLAIN_STEP_SECONDS = Gauge, SECONDS, "spec_decode_plain_step_seconds", [],
        "Measured time of one plain step: the baseline of every speedup.";
    SPEEDUP = Histogram(SPEEDUP_BUCKETS), None, "spec_decode_speedup_ratio", ["policy"],
        "Committed tokens x plain-step time / time spent, one sample a request that drafted.";
    REQUEST_ACCEPTANCE = Histogram(SHARE_BUCKETS), None, "spec_decode_request_acceptance_ratio", ["policy"],
        "Accepted / drafted tokens, one sample a request that drafted.";
    SUBLAYER_SKIPPED = Counter, COUNT, "spec_decode_sublayer_skipped_total", ["layer", "kind"],
        "Draft steps that skipped the sublayer.";
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_follow_the_conventions() {
        let mut names = HashSet::new();
        let mut faults = Vec::new();
        for metric in ALL {
            let name = metric.name;
            let valid = name
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
            let counter = metric.kind == Counter;
            let seconds = name.trim_end_matches("_total").ends_with("_seconds");
            for (holds, fault) in [
                (names.insert(name), "is listed twice"),
                (valid && name.starts_with("skipstone_"), "has a wrong prefix or character"),
                (
                    counter == name.ends_with("_total"),
                    "is a counter without _total, or has it and is none",
                ),
                (
                    seconds == (metric.unit == Some(Unit::Seconds)),
                    "measures seconds and is not named so, or vice versa",
                ),
                (metric.unit.is_some() || name.ends_with("_ratio"), "has no unit and is no ratio"),
                (metric.help.ends_with('.'), "has no sentence of help"),
            ] {
                if !holds {
                    faults.push(format!("{name} {fault}"));
                }
            }
        }
        assert!(faults.is_empty(), "{faults:#?}");
    }

    #[test]
    fn buckets_ascend() {
        for metric in ALL {
            if let Histogram(buckets) = metric.kind {
                assert!(buckets.len() >= 8, "{} has few buckets", metric.name);
                assert!(
                    buckets.windows(2).all(|pair| pair[0] < pair[1]),
                    "{}: {buckets:?}",
                    metric.name
                );
            }
        }
    }
}
