//! From what the engine shows to wire messages.

use std::time::Duration;

use super::service::ServerInfo;
use crate::server::wire;
use skipstone_engine::{
    Activity, PhaseTimes, PlanActivity, Speculation, SpeculationStats, StreamActivity, Totals,
};

/// Reply that says what is served.
pub(super) fn server(info: &ServerInfo, is_ready: bool) -> wire::GetServerResponse {
    wire::GetServerResponse {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_seconds: info.started.elapsed().as_secs_f64(),
        is_ready,
        model: Some(wire::ModelInfo {
            name: info.model.clone(),
            fingerprint: info.fingerprint.clone(),
            architecture: info.architecture.clone(),
            weight_types: info.weight_types.clone(),
            layers: count(info.layers),
            context_length: count(info.context_length),
            vocabulary: count(info.vocabulary),
        }),
        instruction_set: info.instruction_set.to_owned(),
        threads: count(info.threads),
        max_streams: count(info.max_streams),
        kv_cache_tokens: info.kv_cache_tokens as u64,
        backend: info.backend.to_owned(),
    }
}

/// Reply that says what the engine is doing.
pub(super) fn activity(activity: &Activity) -> wire::GetActivityResponse {
    wire::GetActivityResponse {
        running: activity.running.iter().map(stream).collect(),
        finished: activity.finished.iter().map(|ended| stream(ended)).collect(),
        waiting: count(activity.waiting),
        totals: Some(totals(&activity.totals)),
        plain_step_seconds: activity.plain_step_seconds,
        kv_cache_usage: activity.kv_cache_usage,
    }
}

/// Counts on the wire have 32 bits where more than 4 billion are beyond belief.
pub(super) fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn stream(stream: &StreamActivity) -> wire::StreamActivity {
    let state = match (stream.ending, stream.committed_tokens) {
        (Some(_), _) => wire::StreamState::Finished,
        (None, 0) => wire::StreamState::Prefill,
        (None, _) => wire::StreamState::Decode,
    };
    let timing = &stream.timing;
    wire::StreamActivity {
        request_id: stream.request_id.clone(),
        state: state.into(),
        policy: policy(&stream.speculation).to_owned(),
        prompt_tokens: count(stream.prompt_tokens),
        prefilled_tokens: count(stream.prefilled_tokens),
        committed_tokens: count(stream.committed_tokens),
        max_new_tokens: count(stream.max_new_tokens),
        plan: stream.plan.as_ref().map(plan),
        account: Some(account(&stream.stats)),
        total_seconds: timing.total.as_secs_f64(),
        queue_seconds: timing.queue.as_secs_f64(),
        first_token_seconds: (timing.time_to_first_token > Duration::ZERO)
            .then_some(timing.time_to_first_token.as_secs_f64()),
        finish_reason: stream.ending.map_or("", |ending| ending.reason).to_owned(),
        ended_seconds_ago: stream.ending.map(|ending| ending.age().as_secs_f64()),
    }
}

fn policy(speculation: &Speculation) -> &'static str {
    match speculation {
        Speculation::Off => "off",
        Speculation::Draft(request) => request.policy.name,
    }
}

fn plan(plan: &PlanActivity) -> wire::PlanActivity {
    let bridges = plan.bridges.iter().map(|bridge| wire::BridgeSpan {
        first_sublayer: count(bridge.first_sublayer),
        last_sublayer: count(bridge.last_sublayer),
        rank: count(bridge.rank),
    });
    wire::PlanActivity {
        name: plan.name.clone(),
        skip_set: Some((&plan.skip_set).into()),
        bridges: bridges.collect(),
        max_draft_tokens: count(plan.max_draft_tokens),
        draft_vocabulary: plan.draft_vocabulary.map_or(0, count),
        revision: plan.revision,
        stand_in_layers: count(plan.stand_in_layers),
    }
}

fn totals(totals: &Totals) -> wire::ActivityTotals {
    wire::ActivityTotals {
        finished: totals
            .finished
            .iter()
            .map(|(reason, count)| ((*reason).to_owned(), *count as u64))
            .collect(),
        prompt_tokens: totals.prompt_tokens as u64,
        committed_tokens: totals.committed_tokens as u64,
        account: Some(account(&totals.stats)),
    }
}

fn account(stats: &SpeculationStats) -> wire::DecodingAccount {
    let arms = stats
        .arms
        .iter()
        .map(|arm| wire::DraftArm { name: arm.name.clone(), cycles: count(arm.cycles) });
    let off = stats.off.iter().map(|(reason, time)| (reason.name().to_owned(), time.seconds));
    wire::DecodingAccount {
        drafts: stats.drafts as u64,
        draft_tokens: stats.draft_tokens as u64,
        accepted_tokens: stats.accepted_tokens as u64,
        drafted_per_position: counts(&stats.drafted_per_position),
        accepted_per_position: counts(&stats.accepted_per_position),
        draft_steps: stats.phases.draft.steps as u64,
        skipped_per_sublayer: counts(&stats.skipped_per_sublayer),
        phases: Some(phases(&stats.phases)),
        off_seconds: off.collect(),
        plain_equivalent_seconds: stats.plain_seconds,
        spent_seconds: stats.spent_seconds,
        estimated_speedup: stats.estimated_speedup,
        arms: arms.collect(),
    }
}

fn phases(phases: &PhaseTimes) -> wire::PhaseSeconds {
    wire::PhaseSeconds {
        prefill: phases.prefill.seconds,
        draft: phases.draft.seconds,
        verify: phases.verify.seconds,
        plain: phases.plain.seconds,
    }
}

fn counts(numbers: &[usize]) -> Vec<u64> {
    numbers.iter().map(|&number| number as u64).collect()
}
