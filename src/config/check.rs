//! The ranges of the settings. Each limit is stated here once; `config/default.toml` repeats it for
//! readers.

use std::fmt::Display;
use std::ops::RangeInclusive;

use super::error::ConfigError;
use super::settings::Settings;
use crate::telemetry::parse_filter;
use skipstone_engine::drafting::POLICIES;
use skipstone_model::sampling::SamplingParams;

/// The policy of a server that drafts nothing.
const OFF: &str = "off";

/// Collects what is out of range, under the name of the layer that set it.
struct Checker<'a> {
    origin_of: &'a dyn Fn(&str) -> String,
    errors: Vec<ConfigError>,
}

/// Everything in `settings` that is out of range.
pub(super) fn check(settings: &Settings, origin_of: &dyn Fn(&str) -> String) -> Vec<ConfigError> {
    let mut checker = Checker { origin_of, errors: Vec::new() };
    let Settings {
        model,
        engine,
        speculation,
        server,
        openai,
        metrics,
        control: _,
        tracing,
        log,
        sampling,
    } = settings;

    if let Some(context_length) = model.context_length {
        checker.range("model.context_length", context_length.get(), 16..=1 << 20);
    }
    if let Some(threads) = engine.threads {
        checker.range("engine.threads", threads.get(), 1..=1024);
    }
    checker.range("engine.max_streams", engine.max_streams, 1..=256);
    checker.range("engine.max_waiting", engine.max_waiting, 0..=65_536);
    checker.range("engine.prefill_tokens_per_step", engine.prefill_tokens_per_step, 1..=8192);
    checker.range("engine.stall_timeout_seconds", engine.stall_timeout_seconds, 1..=3600);
    if let Some(tokens) = engine.kv_cache_tokens {
        checker.range("engine.kv_cache_tokens", tokens.get(), 16..=1 << 30);
    }
    checker.range("engine.event_buffer", engine.event_buffer, 1..=4096);

    checker.range("speculation.max_draft_tokens", speculation.max_draft_tokens, 1..=16);
    let known = [OFF].into_iter().chain(POLICIES.iter().map(|entry| entry.name));
    checker.that(
        known.clone().any(|name| name == speculation.policy),
        "speculation.policy",
        &speculation.policy,
        &format!("one of {}", known.collect::<Vec<_>>().join(", ")),
    );
    checker.range("speculation.max_plans", speculation.max_plans, 1..=16);
    checker.range("speculation.target_speedup", speculation.target_speedup, 1.0..=4.0);
    checker.that(
        (0.0..1.0).contains(&speculation.confidence_threshold),
        "speculation.confidence_threshold",
        speculation.confidence_threshold,
        "at least 0 and below 1",
    );

    checker.range("server.max_new_tokens_default", server.max_new_tokens_default, 1..=1 << 20);
    checker.range("server.max_message_bytes", server.max_message_bytes, 1024..=1 << 30);
    checker.range("server.max_prompt_bytes", server.max_prompt_bytes, 1..=1 << 30);
    checker.range("server.max_stop_strings", server.max_stop_strings, 0..=1024);
    checker.range("server.max_stop_string_bytes", server.max_stop_string_bytes, 1..=65_536);
    checker.range("server.max_top_logprobs", server.max_top_logprobs, 0..=100);
    checker.range(
        "server.max_streams_per_connection",
        server.max_streams_per_connection,
        1..=65_536,
    );
    checker.range("server.max_header_list_bytes", server.max_header_list_bytes, 1024..=1 << 20);
    // Below HTTP/2's own default of 65,535 bytes a window only adds round trips; above 2^31-1 it is
    // not allowed.
    checker.range("server.stream_window_bytes", server.stream_window_bytes, 65_535..=(1 << 31) - 1);
    checker.range("server.withdrawal_grace_seconds", server.withdrawal_grace_seconds, 0..=600);
    checker.range("server.drain_seconds", server.drain_seconds, 0..=3600);

    let mut taken = vec![("server.listen", server.listen)];
    for (key, enabled, listen) in [
        ("openai.listen", openai.enabled, openai.listen),
        ("metrics.listen", metrics.enabled, metrics.listen),
    ] {
        if !enabled {
            continue;
        }
        if let Some((other, _)) =
            taken.iter().find(|(_, address)| *address == listen && listen.port() != 0)
        {
            checker.that(false, key, listen, &format!("another address than {other}, or port 0"));
        }
        taken.push((key, listen));
    }
    checker.range("tracing.sample_ratio", tracing.sample_ratio, 0.0..=1.0);
    if let Some(endpoint) = &tracing.otlp_endpoint {
        let allowed = "the http:// address of an OTLP collector that speaks gRPC, such as \"http://127.0.0.1:4317\"";
        checker.that(
            endpoint.starts_with("http://"),
            "tracing.otlp_endpoint",
            format_args!("{endpoint:?}"),
            allowed,
        );
    }
    checker.that(
        parse_filter(&log.level).is_ok(),
        "log.level",
        format_args!("{:?}", log.level),
        "a level (error, warn, info, debug, trace, off) or a filter such as \"info,skipstone::engine=debug\"",
    );

    // The sampler knows its own ranges. No vocabulary is at hand, and none is needed without a
    // bias.
    for fault in SamplingParams::faults(&sampling.with_seed(0), usize::MAX) {
        let key = format!("sampling.{}", fault.field);
        checker.errors.push(ConfigError::Invalid {
            origin: origin_of(&key),
            key,
            problem: fault.message,
        });
    }
    checker.errors
}

// === impl Checker ===

impl Checker<'_> {
    fn range<T: PartialOrd + Display>(&mut self, key: &str, value: T, allowed: RangeInclusive<T>) {
        let text = format!("{} to {}", allowed.start(), allowed.end());
        self.that(allowed.contains(&value), key, value, &text);
    }

    fn that(&mut self, holds: bool, key: &str, value: impl Display, allowed: &str) {
        if !holds {
            self.errors.push(ConfigError::NotAllowed {
                key: key.to_owned(),
                value: value.to_string(),
                origin: (self.origin_of)(key),
                allowed: allowed.to_owned(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Flag, Layers};

    #[test]
    fn every_limit_holds_at_its_edges() {
        let mut failures = Vec::new();
        for (key, allowed, refused) in [
            ("model.context_length", &["0", "16", "1048576"][..], &["15", "1048577"][..]),
            ("engine.threads", &["0", "1024"], &["1025"]),
            ("engine.max_streams", &["1", "256"], &["0", "257"]),
            ("engine.max_waiting", &["0", "65536"], &["65537"]),
            ("engine.prefill_tokens_per_step", &["1", "8192"], &["0", "8193"]),
            ("engine.stall_timeout_seconds", &["1", "3600"], &["0", "3601"]),
            ("engine.kv_cache_tokens", &["0", "16"], &["15"]),
            ("engine.event_buffer", &["1", "4096"], &["0", "4097"]),
            ("speculation.max_draft_tokens", &["1", "16"], &["0", "17"]),
            ("speculation.max_plans", &["1", "16"], &["0", "17"]),
            ("speculation.target_speedup", &["1", "4.0"], &["0.99", "4.01", "nan"]),
            ("speculation.confidence_threshold", &["0", "0.99"], &["1.0", "-0.1"]),
            ("server.max_new_tokens_default", &["1", "1048576"], &["0", "1048577"]),
            ("server.max_message_bytes", &["1024", "1073741824"], &["1023", "1073741825"]),
            ("server.max_prompt_bytes", &["1", "1073741824"], &["0", "1073741825"]),
            ("server.max_stop_strings", &["0", "1024"], &["1025"]),
            ("server.max_stop_string_bytes", &["1", "65536"], &["0", "65537"]),
            ("server.max_top_logprobs", &["0", "100"], &["101"]),
            ("server.max_streams_per_connection", &["1", "65536"], &["0", "65537"]),
            ("server.max_header_list_bytes", &["1024", "1048576"], &["1023", "1048577"]),
            ("server.stream_window_bytes", &["65535", "2147483647"], &["65534", "2147483648"]),
            ("server.withdrawal_grace_seconds", &["0", "600"], &["601"]),
            ("server.drain_seconds", &["0", "3600"], &["3601"]),
            ("metrics.listen", &["127.0.0.1:0", "[::1]:9090"], &["127.0.0.1:50051"]),
            ("openai.listen", &["127.0.0.1:50051", "0.0.0.0:8080"], &["localhost:80"]),
            ("tracing.sample_ratio", &["0", "1.0"], &["-0.1", "1.1", "nan"]),
            (
                "tracing.otlp_endpoint",
                &["", "http://127.0.0.1:4317"],
                &["127.0.0.1:4317", "https://collector:4317"],
            ),
            (
                "log.level",
                &["warn", "info,skipstone::engine=debug", "off"],
                &["", "loud=very", "inof"],
            ),
            ("sampling.temperature", &["0", "100"], &["-0.1", "100.1", "inf"]),
            ("sampling.top_p", &["0.01", "1"], &["0", "1.01", "-1"]),
            ("sampling.min_p", &["0", "0.99"], &["1", "-0.01"]),
            ("sampling.repetition_penalty", &["0.5", "100"], &["0", "100.1"]),
            ("sampling.presence_penalty", &["-100", "2.5"], &["-100.1", "101"]),
            ("sampling.frequency_penalty", &["-100", "2.5"], &["-100.1", "101"]),
        ] {
            let load = |value: &str| {
                let flags = vec![Flag::new(key, value, "the flag --set")];
                Layers { flags, ..Layers::default() }.load()
            };
            for value in allowed {
                if let Err(error) = load(value) {
                    failures.push(format!("{key} = {value} is refused: {error}"));
                }
            }
            for value in refused {
                match load(value) {
                    Ok(_) => failures.push(format!("{key} = {value} is taken")),
                    Err(error) if error.to_string().contains(key) => {}
                    Err(error) => failures
                        .push(format!("{key} = {value}: the error names another key: {error}")),
                }
            }
        }
        assert!(failures.is_empty(), "{}", failures.join("\n"));
    }
}
