//! The checks of single fields: what to choose from, when to stop, what to report, how to draft.

use super::limits::Limits;
use super::serve::{ServedModel, ServerOptions};
use super::violation::Violations;
use super::wire;
use skipstone_engine::drafting::{
    POLICIES, PolicyEntry, PolicyRequest, SkipSet, SkipSetError, policy,
};
use skipstone_engine::{OutputOptions, Speculation, StopCriteria};
use skipstone_model::TokenId;
use skipstone_model::sampling::{SamplingParams, SamplingSettings};

/// Sampling: the request's values over the server's defaults. `seed` is for requests that bring
/// none.
pub(super) fn sampling(
    sent: Option<wire::SamplingParams>,
    options: &ServerOptions,
    vocabulary: usize,
    seed: u64,
    violations: &mut Violations,
) -> Option<SamplingParams> {
    let sent = sent.unwrap_or_default();
    let default = &options.default_sampling;
    let settings = SamplingSettings {
        temperature: sent.temperature.unwrap_or(default.temperature),
        top_k: sent.top_k.unwrap_or(default.top_k),
        top_p: sent.top_p.unwrap_or(default.top_p),
        min_p: sent.min_p.unwrap_or(default.min_p),
        repetition_penalty: sent.repetition_penalty.unwrap_or(default.repetition_penalty),
        presence_penalty: sent.presence_penalty.unwrap_or(default.presence_penalty),
        frequency_penalty: sent.frequency_penalty.unwrap_or(default.frequency_penalty),
        logit_bias: sent
            .logit_bias
            .into_iter()
            .map(|(token, bias)| (TokenId(token), bias))
            .collect(),
        seed: sent.seed.unwrap_or(seed),
    };
    for fault in SamplingParams::faults(&settings, vocabulary) {
        violations.add(format!("spec.sampling.{}", fault.field), fault.to_string());
    }
    SamplingParams::new(settings, vocabulary).ok()
}

/// Stops. `max_new_tokens` stays 0 where the request names none: it depends on the prompt.
pub(super) fn stop(
    sent: Option<wire::StopCriteria>,
    limits: &Limits,
    vocabulary: usize,
    violations: &mut Violations,
) -> StopCriteria {
    let sent = sent.unwrap_or_default();
    let (min, max) = (sent.min_new_tokens.unwrap_or(0), sent.max_new_tokens);
    if max == Some(0) {
        violations.add(
            "spec.stop.max_new_tokens",
            "max_new_tokens is 0; ask for at least 1, or call Tokenize to count a prompt",
        );
    }
    let ceiling = max.map_or(limits.max_new_tokens_default, |max| max as usize);
    if min as usize > ceiling {
        violations.add(
            "spec.stop.min_new_tokens",
            format!("min_new_tokens is {min}, above max_new_tokens, which is {ceiling}; lower the one or raise the other"),
        );
    }
    stop_strings(&sent.stop_strings, limits, violations);
    stop_tokens(&sent.stop_token_ids, limits, vocabulary, violations);
    StopCriteria {
        max_new_tokens: max.unwrap_or(0) as usize,
        min_new_tokens: min as usize,
        stop_strings: sent.stop_strings,
        stop_token_ids: sent.stop_token_ids.into_iter().map(TokenId).collect(),
        include_stop_string: sent.include_stop_string,
        ignore_end_of_sequence: sent.ignore_end_of_sequence,
    }
}

fn stop_strings(strings: &[String], limits: &Limits, violations: &mut Violations) {
    let (count, most) = (strings.len(), limits.max_stop_strings);
    if count > most {
        violations.add(
            "spec.stop.stop_strings",
            format!("there are {count} stop strings, at most {most} are allowed"),
        );
    }
    let most = limits.max_stop_string_bytes;
    for (place, string) in strings.iter().enumerate() {
        let bytes = string.len();
        if bytes == 0 || bytes > most {
            violations.add(
                format!("spec.stop.stop_strings[{place}]"),
                format!("the stop string has {bytes} bytes; use 1 to {most}"),
            );
        }
    }
}

fn stop_tokens(ids: &[u32], limits: &Limits, vocabulary: usize, violations: &mut Violations) {
    let (count, most) = (ids.len(), limits.max_stop_token_ids);
    if count > most {
        violations.add(
            "spec.stop.stop_token_ids",
            format!("there are {count} stop tokens, at most {most} are allowed"),
        );
        return;
    }
    for (place, id) in ids.iter().enumerate().filter(|(_, id)| TokenId(**id).index() >= vocabulary)
    {
        violations.add(
            format!("spec.stop.stop_token_ids[{place}]"),
            format!(
                "the token {id} does not exist; the vocabulary has the tokens below {vocabulary}"
            ),
        );
    }
}

/// Options for what to report; each option brings those that it needs.
pub(super) fn output(
    sent: Option<wire::OutputOptions>,
    limits: &Limits,
    violations: &mut Violations,
) -> OutputOptions {
    let sent = sent.unwrap_or_default();
    let (top_logprobs, most) = (sent.top_logprobs as usize, limits.max_top_logprobs);
    if top_logprobs > most {
        violations.add(
            "spec.output.top_logprobs",
            format!("top_logprobs is {top_logprobs}, at most {most} are allowed (server.max_top_logprobs)"),
        );
    }
    let logprobs = sent.logprobs || top_logprobs > 0;
    OutputOptions { tokens: sent.tokens || logprobs, logprobs, top_logprobs }
}

/// The way to draft: the request's wishes over the server's default.
pub(super) fn speculation(
    sent: Option<wire::SpeculationParams>,
    options: &ServerOptions,
    model: &ServedModel,
    violations: &mut Violations,
) -> Speculation {
    let sent = sent.unwrap_or_default();
    let most = options.limits.max_draft_tokens;
    let cap = sent.max_draft_tokens.map(|cap| cap as usize);
    if let Some(cap) = cap.filter(|cap| !(1..=most).contains(cap)) {
        violations.add(
            "spec.speculation.max_draft_tokens",
            format!("max_draft_tokens is {cap}; use 1 to {most}, or SPECULATION_MODE_OFF to draft nothing"),
        );
    }
    let Ok(mode) = wire::SpeculationMode::try_from(sent.mode) else {
        violations.add(
            "spec.speculation.mode",
            format!(
                "the mode {} is none; use SPECULATION_MODE_OFF, _STATIC or _ADAPTIVE, or leave it unset",
                sent.mode
            ),
        );
        return Speculation::Off;
    };
    let named = named_policy(mode, &sent.policy, violations);
    let default = &options.default_speculation;
    let by_default = match default {
        Speculation::Draft(request) => Some(request.policy),
        Speculation::Off => None,
    };
    let policy = match mode {
        wire::SpeculationMode::Off => None,
        _ => named.or(by_default),
    };
    if sent.skip_set.is_some() && !named.is_some_and(|policy| policy.takes_skip_set) {
        violations.add(
            "spec.speculation.skip_set",
            format!("a skip set needs SPECULATION_MODE_STATIC, the mode is {}", mode.as_str_name()),
        );
    }
    if !model.can_draft {
        // Adaptive drafting may come to nothing; whoever names another policy wants that one.
        if let Some(policy) = named.filter(|_| mode != wire::SpeculationMode::Adaptive) {
            violations.add(
                if sent.policy.is_empty() { "spec.speculation.mode" } else { "spec.speculation.policy" },
                format!("the policy {} is asked for ({}), but this replica's backend can't draft; use SPECULATION_MODE_OFF or _ADAPTIVE, leave it unset, or ask a replica with the native backend", policy.name, mode.as_str_name()),
            );
        }
        return Speculation::Off;
    }
    let skip_set = sent.skip_set.and_then(|sent| skip_set(&sent, model.layer_count, violations));
    let Some(policy) = policy else { return Speculation::Off };
    let mut request = match default {
        Speculation::Draft(default) if default.policy == policy => default.clone(),
        _ => PolicyRequest::new(policy),
    };
    request.max_draft_tokens = cap.or(request.max_draft_tokens);
    request.skip_set = skip_set.or(request.skip_set);
    Speculation::Draft(request)
}

/// The policy that a request names, by its mode or by its name.
fn named_policy(
    mode: wire::SpeculationMode,
    name: &str,
    violations: &mut Violations,
) -> Option<&'static PolicyEntry> {
    let by_mode = match mode {
        wire::SpeculationMode::Unspecified | wire::SpeculationMode::Off => "",
        wire::SpeculationMode::Static => "static",
        wire::SpeculationMode::Adaptive => "adaptive",
    };
    if name.is_empty() {
        return policy(by_mode);
    }
    if mode != wire::SpeculationMode::Unspecified {
        violations.add(
            "spec.speculation.policy",
            format!("the policy is {name:?} and the mode {}; set one of them", mode.as_str_name()),
        );
    }
    let found = policy(name);
    if found.is_none() {
        let known = POLICIES.iter().map(|entry| entry.name).collect::<Vec<_>>().join(", ");
        let shown: String = name.chars().take(64).collect();
        violations.add(
            "spec.speculation.policy",
            format!("there is no policy {shown:?}; use one of {known}, or leave it empty"),
        );
    }
    found
}

fn skip_set(
    sent: &wire::SkipSet,
    layer_count: usize,
    violations: &mut Violations,
) -> Option<SkipSet> {
    if sent.attention_layers.is_empty() && sent.mlp_layers.is_empty() {
        violations.add(
            "spec.speculation.skip_set",
            "the skip set names no layer, so a draft would cost as much as the model; name some, or leave it unset",
        );
        return None;
    }
    match SkipSet::new(&sent.attention_layers, &sent.mlp_layers, layer_count) {
        Ok(set) => Some(set),
        Err(error) => {
            let (SkipSetError::OutOfRange { kind, .. }
            | SkipSetError::FirstLayer { kind, .. }
            | SkipSetError::Duplicate { kind, .. }) = &error;
            violations.add(format!("spec.speculation.skip_set.{kind}_layers"), error.to_string());
            None
        }
    }
}
