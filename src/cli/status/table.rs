//! Report of a replica, as a table for people.

use std::fmt;

use super::Told;
use crate::server::wire;
use skipstone_model::sublayer::sublayers;

/// Prints the report of a replica.
pub(super) struct Table<'a>(pub(super) &'a Told);

/// A time in the two largest units that it has.
struct Span(f64);

/// A ratio, or a dash where there is none.
struct Ratio(Option<f64>);

// === impl Table ===

impl fmt::Display for Table<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Told { server, activity } = self.0;
        write_server(formatter, server)?;
        let takes = if server.is_ready {
            "takes requests"
        } else {
            "takes no new requests: it starts or drains"
        };
        writeln!(
            formatter,
            "{takes}; {} of {} streams run, {} wait; {:.0} % of the key/value cache of {} tokens \
             is leased",
            activity.running.len(),
            server.max_streams,
            activity.waiting,
            100.0 * activity.kv_cache_usage,
            server.kv_cache_tokens,
        )?;
        if let Some(totals) = &activity.totals {
            write_totals(formatter, totals, activity.plain_step_seconds)?;
        }
        if activity.running.is_empty() {
            return Ok(());
        }
        writeln!(
            formatter,
            "\n{:<24} {:<8} {:>12} {:>10} {:>8} {:>9}  plan",
            "stream", "state", "tokens", "acceptance", "speedup", "time"
        )?;
        let sublayers = server.model.as_ref().map_or(0, |model| sublayers(model.layers as usize));
        activity.running.iter().try_for_each(|stream| write_stream(formatter, stream, sublayers))
    }
}

fn write_server(
    formatter: &mut fmt::Formatter<'_>,
    server: &wire::GetServerResponse,
) -> fmt::Result {
    if let Some(model) = &server.model {
        let short = model.fingerprint.get(..12).unwrap_or(&model.fingerprint);
        writeln!(
            formatter,
            "{} ({}, {} layers, {}), fingerprint {short}, context {} tokens",
            model.name,
            model.architecture,
            model.layers,
            model.weight_types.join(" and "),
            model.context_length
        )?;
    }
    writeln!(
        formatter,
        "skipstone {}, {} threads, {}, up {}",
        server.version,
        server.threads,
        server.instruction_set,
        Span(server.uptime_seconds)
    )
}

fn write_totals(
    formatter: &mut fmt::Formatter<'_>,
    totals: &wire::ActivityTotals,
    plain_step_seconds: f64,
) -> fmt::Result {
    let mut ended: Vec<_> =
        totals.finished.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    ended.sort();
    let ended = if ended.is_empty() { "none".to_owned() } else { ended.join(", ") };
    writeln!(formatter, "streams ended: {ended}; tokens generated: {}", totals.committed_tokens)?;
    let Some(account) = &totals.account else { return Ok(()) };
    writeln!(
        formatter,
        "speedup {} against a plain step of {:.2} ms; acceptance {} ({} of {} drafted tokens)",
        Ratio(account.estimated_speedup),
        1e3 * plain_step_seconds,
        Ratio(acceptance(account)),
        account.accepted_tokens,
        account.draft_tokens
    )?;
    let Some(phases) = &account.phases else { return Ok(()) };
    let whole = phases.prefill + phases.draft + phases.verify + phases.plain;
    let percent = |seconds: f64| if whole > 0.0 { 100.0 * seconds / whole } else { 0.0 };
    writeln!(
        formatter,
        "time of the engine: prompts {:.0} %, drafts {:.0} %, verification {:.0} %, plain steps \
         {:.0} %",
        percent(phases.prefill),
        percent(phases.draft),
        percent(phases.verify),
        percent(phases.plain)
    )
}

fn write_stream(
    formatter: &mut fmt::Formatter<'_>,
    stream: &wire::StreamActivity,
    sublayers: usize,
) -> fmt::Result {
    let state = match stream.state() {
        wire::StreamState::Prefill => "prompt",
        wire::StreamState::Decode => "decodes",
        wire::StreamState::Finished | wire::StreamState::Unspecified => "ended",
    };
    let account = stream.account.clone().unwrap_or_default();
    let plan =
        stream.plan.as_ref().map_or_else(|| "off".to_owned(), |plan| plan_text(plan, sublayers));
    writeln!(
        formatter,
        "{:<24} {state:<8} {:>12} {:>10} {:>8} {:>9}  {plan}",
        stream.request_id,
        format!("{}/{}", stream.committed_tokens, stream.max_new_tokens),
        Ratio(acceptance(&account)).to_string(),
        Ratio(account.estimated_speedup).to_string(),
        Span(stream.total_seconds).to_string(),
    )
}

/// Its name, and how much of the model it leaves out.
fn plan_text(plan: &wire::PlanActivity, sublayers: usize) -> String {
    let skipped =
        plan.skip_set.as_ref().map_or(0, |set| set.attention_layers.len() + set.mlp_layers.len());
    format!("{}, skips {skipped} of {sublayers} sublayers", plan.name)
}

fn acceptance(account: &wire::DecodingAccount) -> Option<f64> {
    (account.draft_tokens > 0).then(|| account.accepted_tokens as f64 / account.draft_tokens as f64)
}

// === impl Span ===

impl fmt::Display for Span {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.max(0.0);
        let whole = seconds as u64;
        match whole {
            0..60 => write!(formatter, "{seconds:.1} s"),
            60..3600 => write!(formatter, "{} min {} s", whole / 60, whole % 60),
            3600..86_400 => write!(formatter, "{} h {} min", whole / 3600, whole / 60 % 60),
            _ => write!(formatter, "{} d {} h", whole / 86_400, whole / 3600 % 24),
        }
    }
}

// === impl Ratio ===

impl fmt::Display for Ratio {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(ratio) => write!(formatter, "{ratio:.2}"),
            None => formatter.write_str("-"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_two_units() {
        for (seconds, told) in [
            (0.0, "0.0 s"),
            (59.94, "59.9 s"),
            (61.0, "1 min 1 s"),
            (3_600.0 * 3.0 + 120.0, "3 h 2 min"),
            (86_400.0 * 2.0 + 3_600.0, "2 d 1 h"),
        ] {
            assert_eq!(Span(seconds).to_string(), told, "{seconds}");
        }
    }

    #[test]
    fn a_replica_that_has_done_nothing_yet_shows_no_ratios() {
        let activity = wire::GetActivityResponse {
            totals: Some(wire::ActivityTotals {
                account: Some(wire::DecodingAccount {
                    phases: Some(wire::PhaseSeconds::default()),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let told = Told { server: wire::GetServerResponse::default(), activity };
        let table = Table(&told).to_string();
        for part in [
            "streams ended: none",
            "speedup - against",
            "acceptance - (0 of 0",
            "prompts 0 %",
            "starts or drains",
        ] {
            assert!(table.contains(part), "{part:?} is not in\n{table}");
        }
        assert!(!table.contains("NaN"), "{table}");
    }
}
