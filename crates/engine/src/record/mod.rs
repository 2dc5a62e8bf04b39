//! Thin functions through which the engine and the server write the metrics of the catalogue.
//!
//! Handles are made at the first call and kept, so a call is an atomic addition. Install a recorder
//! before the first call: [`is_in_use`] says whether it is too late.

pub mod catalogue;
mod indexed;
mod kinds;
pub mod labels;

use std::sync::OnceLock;

use metrics::{Counter, Gauge, Histogram};

use self::indexed::IndexedCounters;
pub use self::kinds::{DraftCycle, DraftSource, Phase};
use self::labels::{LAYERS, OTHER_POLICY, POSITIONS};
use crate::adapt::OffReason;
use crate::drafting::{POLICIES, SkipSet};

/// Counters of seconds count nanoseconds, since the recorder counts whole numbers; a page divides
/// by this.
pub const NANOSECONDS: f64 = 1e9;

/// Description of this process.
#[derive(Clone, Copy, Debug)]
pub struct BuildInfo<'a> {
    /// The name that the model is served under.
    pub model: &'a str,
    /// Instruction set that the kernels were chosen for.
    pub instruction_set: &'static str,
}

/// Handles to all metrics whose labels are known in advance.
#[derive(Debug)]
pub(super) struct Instruments {
    /// Instruments of each policy, in the order of the registry, and one for policies that are not
    /// in it.
    policies: Vec<PolicyInstruments>,
    drafted_at: IndexedCounters,
    accepted_at: IndexedCounters,
    draft_length: Histogram,
    /// A counter for each [`OffReason`], in its order.
    off: [SecondsCounter; OffReason::ALL.len()],
    plan_changes: Counter,
    engine_steps: Counter,
    attention_skipped: IndexedCounters,
    mlp_skipped: IndexedCounters,
    /// A counter for each [`Phase`], in its order.
    phases: [SecondsCounter; 4],
    plain_step: Gauge,
    time_to_first_token: Histogram,
    inter_token: Histogram,
    time_per_output_token: Histogram,
    queue_time: Histogram,
    request_latency: Histogram,
    prompt_tokens: Counter,
    generation_tokens: Counter,
    running: Gauge,
    waiting: Gauge,
    kv_usage: Gauge,
}

#[derive(Debug)]
struct PolicyInstruments {
    name: &'static str,
    /// Counters for each [`DraftSource`], in its order.
    drafts: [SourceCounters; 2],
    speedup: Histogram,
    acceptance: Histogram,
}

#[derive(Debug)]
struct SourceCounters {
    drafts: Counter,
    drafted: Counter,
    accepted: Counter,
}

/// A counter of seconds. The recorder counts whole numbers, so nanoseconds go in and the exporter's
/// page divides.
#[derive(Debug)]
struct SecondsCounter(Counter);

static INSTRUMENTS: OnceLock<Instruments> = OnceLock::new();

fn instruments() -> &'static Instruments {
    INSTRUMENTS.get_or_init(Instruments::new)
}

/// Whether a metric was written already, which binds the handles to the recorder of that moment.
pub fn is_in_use() -> bool {
    INSTRUMENTS.get().is_some()
}

/// Makes all handles, so that the page shows zeros instead of gaps before the first request.
pub fn start() {
    instruments();
}

/// Says what this process is, once it is known.
pub fn build_info(build: &BuildInfo<'_>) {
    let labels = [
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("model", build.model.to_owned()),
        ("instruction_set", build.instruction_set.to_owned()),
    ];
    metrics::gauge!(catalogue::BUILD_INFO.name, &labels).set(1.0);
}

/// Counts what one source drafted in a cycle of a policy's.
pub fn draft_cycle(policy: &str, cycle: &DraftCycle) {
    instruments().draft_cycle(policy, cycle);
}

/// Counts a cycle's whole chain, whoever drafted it: its length, and acceptance by position.
pub fn draft_chain(drafted: usize, accepted: usize) {
    instruments().draft_chain(drafted, accepted);
}

/// Adds engine time, in seconds, of a plain step to the reason why it was one.
pub fn off_seconds(reason: OffReason, seconds: f64) {
    instruments().off[reason as usize].add(seconds);
}

/// Counts a change of plans.
pub fn plan_changed() {
    instruments().plan_changes.increment(1);
}

/// Counts a step of the batch.
pub fn engine_step() {
    instruments().engine_steps.increment(1);
}

/// Counts `steps` draft steps that ran with this skip set.
pub fn sublayers_skipped(skip_set: &SkipSet, steps: u64) {
    instruments().sublayers_skipped(skip_set, steps);
}

/// Adds engine time, in seconds, to a phase.
pub fn phase_seconds(phase: Phase, seconds: f64) {
    instruments().phase_seconds(phase, seconds);
}

/// Sets the measured time of one plain step, in seconds.
pub fn plain_step_seconds(seconds: f64) {
    instruments().plain_step.set(seconds);
}

/// Records the seconds from a submission to its first token.
pub fn time_to_first_token(seconds: f64) {
    instruments().time_to_first_token.record(seconds);
}

/// Records the seconds between two messages of a stream.
pub fn inter_token(seconds: f64) {
    instruments().inter_token.record(seconds);
}

/// Records a request's mean seconds per token after the first.
pub fn time_per_output_token(seconds: f64) {
    instruments().time_per_output_token.record(seconds);
}

/// Records the seconds from a submission to its first pass.
pub fn queue_time(seconds: f64) {
    instruments().queue_time.record(seconds);
}

/// Records the seconds from a submission to its end.
pub fn request_latency(seconds: f64) {
    instruments().request_latency.record(seconds);
}

/// Counts a generation that ended. The reason is a word of the program, never of a request.
pub fn request_finished(reason: &'static str) {
    metrics::counter!(catalogue::REQUEST_FINISHED.name, "reason" => reason).increment(1);
}

/// Counts an answered call of the generation service.
pub fn request(method: &'static str, code: &'static str) {
    metrics::counter!(catalogue::REQUESTS.name, "method" => method, "code" => code).increment(1);
}

/// Records a request's speedup over plain decoding, under its policy.
pub fn request_speedup(policy: &str, ratio: f64) {
    instruments().policy(policy).speedup.record(ratio);
}

/// Records a request's accepted share of its drafted tokens, 0 to 1, under its policy.
pub fn request_acceptance(policy: &str, share: f64) {
    instruments().policy(policy).acceptance.record(share);
}

/// Adds the token counts of a request that ended.
pub fn tokens(prompt: u64, generated: u64) {
    let instruments = instruments();
    instruments.prompt_tokens.increment(prompt);
    instruments.generation_tokens.increment(generated);
}

/// Sets the number of generations in the batch.
pub fn running(count: usize) {
    instruments().running.set(count as f64);
}

/// Sets the number of generations that wait.
pub fn waiting(count: usize) {
    instruments().waiting.set(count as f64);
}

/// Sets the leased share of the key/value cache, 0 to 1.
pub fn kv_usage(share: f64) {
    instruments().kv_usage.set(share);
}

// === impl Instruments ===

impl Instruments {
    pub(super) fn new() -> Self {
        use metrics::{counter, gauge, histogram};
        Self {
            policies: POLICIES
                .iter()
                .map(|entry| entry.name)
                .chain([OTHER_POLICY])
                .map(PolicyInstruments::new)
                .collect(),
            drafted_at: IndexedCounters::new(
                POSITIONS,
                |position| counter!(catalogue::NUM_DRAFT_TOKENS_PER_POS.name, "position" => position.to_string()),
            ),
            draft_length: histogram!(catalogue::DRAFT_LENGTH.name),
            off: OffReason::ALL.map(|reason| {
                SecondsCounter(counter!(catalogue::OFF_SECONDS.name, "reason" => reason.name()))
            }),
            plan_changes: counter!(catalogue::PLAN_CHANGES.name),
            engine_steps: counter!(catalogue::ENGINE_STEPS.name),
            accepted_at: IndexedCounters::new(
                POSITIONS,
                |position| counter!(catalogue::NUM_ACCEPTED_TOKENS_PER_POS.name, "position" => position.to_string()),
            ),
            attention_skipped: IndexedCounters::new(LAYERS, |layer| {
                skip_counter(layer, "attention")
            }),
            mlp_skipped: IndexedCounters::new(LAYERS, |layer| skip_counter(layer, "mlp")),
            phases: [Phase::Draft, Phase::Verify, Phase::Plain, Phase::Prefill]
                .map(|phase| SecondsCounter(counter!(phase.metric().name))),
            plain_step: gauge!(catalogue::PLAIN_STEP_SECONDS.name),
            time_to_first_token: histogram!(catalogue::TIME_TO_FIRST_TOKEN.name),
            inter_token: histogram!(catalogue::INTER_TOKEN_LATENCY.name),
            time_per_output_token: histogram!(catalogue::TIME_PER_OUTPUT_TOKEN.name),
            queue_time: histogram!(catalogue::REQUEST_QUEUE_TIME.name),
            request_latency: histogram!(catalogue::REQUEST_LATENCY.name),
            prompt_tokens: counter!(catalogue::PROMPT_TOKENS.name),
            generation_tokens: counter!(catalogue::GENERATION_TOKENS.name),
            running: gauge!(catalogue::REQUESTS_RUNNING.name),
            waiting: gauge!(catalogue::REQUESTS_WAITING.name),
            kv_usage: gauge!(catalogue::KV_CACHE_USAGE.name),
        }
    }

    /// Those of a policy; the last are for all that are not in the registry.
    fn policy(&self, name: &str) -> &PolicyInstruments {
        let last = self.policies.len() - 1;
        let index = self.policies.iter().position(|policy| policy.name == name);
        &self.policies[index.unwrap_or(last)]
    }

    pub(super) fn draft_cycle(&self, policy: &str, cycle: &DraftCycle) {
        if cycle.drafted == 0 {
            return;
        }
        let counters = &self.policy(policy).drafts[cycle.source as usize];
        counters.drafts.increment(1);
        counters.drafted.increment(cycle.drafted as u64);
        counters.accepted.increment(cycle.accepted as u64);
    }

    pub(super) fn draft_chain(&self, drafted: usize, accepted: usize) {
        self.draft_length.record(drafted as f64);
        for position in 0..drafted.min(POSITIONS) {
            self.drafted_at.add(position, 1);
        }
        for position in 0..accepted.min(POSITIONS) {
            self.accepted_at.add(position, 1);
        }
    }

    pub(super) fn sublayers_skipped(&self, skip_set: &SkipSet, steps: u64) {
        for layer in skip_set.attention() {
            self.attention_skipped.add(layer.0.into(), steps);
        }
        for layer in skip_set.mlp() {
            self.mlp_skipped.add(layer.0.into(), steps);
        }
    }

    fn phase_seconds(&self, phase: Phase, seconds: f64) {
        self.phases[phase as usize].add(seconds);
    }
}

fn skip_counter(layer: usize, kind: &'static str) -> Counter {
    metrics::counter!(catalogue::SUBLAYER_SKIPPED.name, "layer" => layer.to_string(), "kind" => kind)
}

// === impl PolicyInstruments ===

impl PolicyInstruments {
    fn new(name: &'static str) -> Self {
        let histogram = |of| metrics::histogram!(of, "policy" => name);
        Self {
            name,
            drafts: DraftSource::ALL.map(|source| SourceCounters::new(source, name)),
            speedup: histogram(catalogue::SPEEDUP.name),
            acceptance: histogram(catalogue::REQUEST_ACCEPTANCE.name),
        }
    }
}

// === impl SourceCounters ===

impl SourceCounters {
    fn new(source: DraftSource, policy: &'static str) -> Self {
        let counter =
            |name| metrics::counter!(name, "source" => source.label(), "policy" => policy);
        Self {
            drafts: counter(catalogue::NUM_DRAFTS.name),
            drafted: counter(catalogue::NUM_DRAFT_TOKENS.name),
            accepted: counter(catalogue::NUM_ACCEPTED_TOKENS.name),
        }
    }
}

// === impl SecondsCounter ===

impl SecondsCounter {
    fn add(&self, seconds: f64) {
        // The cast saturates: a negative time or NaN, which only a faulty clock could give, counts
        // as none.
        self.0.increment((seconds * NANOSECONDS) as u64);
    }
}

/// A page of its own for a test, apart from the recorder of the process.
#[cfg(test)]
mod testing {
    pub(super) fn render(record: impl FnOnce()) -> String {
        let builder = metrics_exporter_prometheus::PrometheusBuilder::new();
        // Without bounds a histogram would be shown as a summary.
        let recorder = builder.set_buckets(&[1.0]).unwrap().build_recorder();
        metrics::with_local_recorder(&recorder, record);
        recorder.handle().render()
    }
}

#[cfg(test)]
mod tests {
    use super::testing::render;
    use super::*;

    #[test]
    fn counts_cycles_by_source_and_position() {
        let page = render(|| {
            let instruments = Instruments::new();
            instruments.draft_cycle(
                "static",
                &DraftCycle { source: DraftSource::LayerSkip, drafted: 4, accepted: 2 },
            );
            instruments.draft_cycle(
                "static",
                &DraftCycle { source: DraftSource::LayerSkip, drafted: 3, accepted: 1 },
            );
            instruments.draft_cycle(
                "static",
                &DraftCycle { source: DraftSource::Ngram, drafted: 0, accepted: 0 },
            );
            instruments.draft_chain(4, 2);
            instruments.draft_chain(3, 1);
        });
        for line in [
            r#"skipstone_spec_decode_num_drafts_total{source="layer_skip",policy="static"} 2"#,
            r#"skipstone_spec_decode_num_drafts_total{source="ngram",policy="static"} 0"#,
            r#"skipstone_spec_decode_num_draft_tokens_total{source="layer_skip",policy="static"} 7"#,
            r#"skipstone_spec_decode_num_accepted_tokens_total{source="layer_skip",policy="static"} 3"#,
            r#"skipstone_spec_decode_num_draft_tokens_per_pos_total{position="2"} 2"#,
            r#"skipstone_spec_decode_num_draft_tokens_per_pos_total{position="3"} 1"#,
            r#"skipstone_spec_decode_num_accepted_tokens_per_pos_total{position="0"} 2"#,
            r#"skipstone_spec_decode_num_accepted_tokens_per_pos_total{position="1"} 1"#,
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is missing in:\n{page}");
        }
        assert!(!page.contains(r#"accepted_tokens_per_pos_total{position="2""#), "{page}");
    }

    #[test]
    fn counts_skipped_sublayers_by_layer_and_kind() {
        let page = render(|| {
            let instruments = Instruments::new();
            let skip_set = SkipSet::new(&[2, 3], &[1], 6).unwrap();
            instruments.sublayers_skipped(&skip_set, 5);
            instruments.sublayers_skipped(&skip_set, 2);
        });
        for line in [
            r#"skipstone_spec_decode_sublayer_skipped_total{layer="3",kind="attention"} 7"#,
            r#"skipstone_spec_decode_sublayer_skipped_total{layer="1",kind="attention"} 0"#,
            r#"skipstone_spec_decode_sublayer_skipped_total{layer="1",kind="mlp"} 7"#,
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is missing in:\n{page}");
        }
    }

    #[test]
    fn counts_seconds_with_their_fractions() {
        let page = render(|| {
            let instruments = Instruments::new();
            instruments.phase_seconds(Phase::Verify, 0.25);
            instruments.phase_seconds(Phase::Verify, 1.5);
            instruments.phase_seconds(Phase::Verify, f64::NAN);
            instruments.phase_seconds(Phase::Draft, -1.0);
        });
        assert!(
            page.contains("\nskipstone_spec_decode_verify_seconds_total 1750000000\n"),
            "{page}"
        );
        assert!(page.contains("\nskipstone_spec_decode_draft_seconds_total 0\n"), "{page}");
    }
}
