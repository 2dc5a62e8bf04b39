//! A request's settings for choosing tokens, and the check that they make sense.

use std::fmt::Display;
use std::ops::RangeBounds;

use crate::TokenId;

/// Most entries of a logit bias.
const MAX_BIASED_TOKENS: usize = 1024;
/// Largest bias either way: the range of OpenAI's API, where 100 is as good as a ban or a command.
const MAX_BIAS: f32 = 100.0;

/// A request's wishes, unchecked. The default is greedy and leaves the logits as they are.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingSettings {
    /// Divides the logits; 0 is greedy. 0 to 100.
    pub temperature: f32,
    /// Keep this many of the best tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the fewest of the best tokens that have this share of the probability. Above 0, to 1.
    pub top_p: f32,
    /// Keep tokens at least this likely, relative to the best. 0 to below 1.
    pub min_p: f32,
    /// Weakens tokens of the prompt and the output; 1 is neutral. 0.01 to 100.
    pub repetition_penalty: f32,
    /// Taken once from the logit of each token of the output. -100 to 100.
    pub presence_penalty: f32,
    /// Taken from a token's logit each time that the output has it. -100 to 100.
    pub frequency_penalty: f32,
    /// Added to the logits of these tokens, each named once. -100 to 100, at most 1024 tokens.
    pub logit_bias: Vec<(TokenId, f32)>,
    /// Equal seeds give equal random numbers.
    pub seed: u64,
}

/// Settings that have been checked against a model's vocabulary.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    settings: SamplingSettings,
}

/// A setting that is out of its range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {message}")]
pub struct InvalidSampling {
    /// The setting, by its field name.
    pub field: &'static str,
    /// The fault, and what would be right.
    pub message: String,
}

// === impl SamplingSettings ===

impl Default for SamplingSettings {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: 0,
        }
    }
}

// === impl SamplingParams ===

impl SamplingParams {
    /// Checks `settings` for a model with `vocabulary` tokens.
    ///
    /// # Errors
    /// Names the first setting that is out of its range; see [`SamplingParams::faults`] for all.
    pub fn new(mut settings: SamplingSettings, vocabulary: usize) -> Result<Self, InvalidSampling> {
        match Self::faults(&settings, vocabulary).into_iter().next() {
            Some(fault) => Err(fault),
            None => {
                settings.logit_bias.sort_unstable_by_key(|&(token, _)| token);
                Ok(Self { settings })
            }
        }
    }

    /// Every setting that is out of its range, for a model with `vocabulary` tokens; NaN is in no
    /// range.
    pub fn faults(settings: &SamplingSettings, vocabulary: usize) -> Vec<InvalidSampling> {
        let penalty = "from -100 to 100; 0 is neutral";
        let checks = [
            check("temperature", settings.temperature, 0.0..=100.0, "from 0 (greedy) to 100"),
            check("top_p", settings.top_p, f32::MIN_POSITIVE..=1.0, "above 0, up to 1 (off)"),
            check("min_p", settings.min_p, 0.0..1.0, "from 0 (off) to below 1"),
            // The lower end keeps any sane logit divided by it finite.
            check(
                "repetition_penalty",
                settings.repetition_penalty,
                0.01..=100.0,
                "from 0.01 to 100; 1 is neutral",
            ),
            check("presence_penalty", settings.presence_penalty, -100.0..=100.0, penalty),
            check("frequency_penalty", settings.frequency_penalty, -100.0..=100.0, penalty),
            check_bias(&settings.logit_bias, vocabulary),
        ];
        checks.into_iter().filter_map(Result::err).collect()
    }

    /// The checked settings; the logit bias is in the order of the ids.
    pub fn settings(&self) -> &SamplingSettings {
        &self.settings
    }
}

fn invalid(field: &'static str, message: String) -> InvalidSampling {
    InvalidSampling { field, message }
}

fn check<T: Display + PartialOrd>(
    field: &'static str,
    value: T,
    range: impl RangeBounds<T>,
    remedy: &str,
) -> Result<(), InvalidSampling> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(invalid(field, format!("is {value}; it must be {remedy}")))
}

fn check_bias(bias: &[(TokenId, f32)], vocabulary: usize) -> Result<(), InvalidSampling> {
    let count = bias.len();
    if count > MAX_BIASED_TOKENS {
        return Err(invalid(
            "logit_bias",
            format!("has {count} entries; at most {MAX_BIASED_TOKENS} are allowed"),
        ));
    }
    for &(token, value) in bias {
        if token.index() >= vocabulary {
            let message = format!("names token {token}; the model has tokens below {vocabulary}");
            return Err(invalid("logit_bias", message));
        }
        if !(-MAX_BIAS..=MAX_BIAS).contains(&value) {
            let message =
                format!("of token {token} is {value}; it must be from -{MAX_BIAS} to {MAX_BIAS}");
            return Err(invalid("logit_bias", message));
        }
    }
    let mut tokens: Vec<TokenId> = bias.iter().map(|&(token, _)| token).collect();
    tokens.sort_unstable();
    match tokens.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => {
            Err(invalid("logit_bias", format!("names token {} twice; name it once", pair[0])))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(change: impl FnOnce(&mut SamplingSettings)) -> Result<SamplingParams, InvalidSampling> {
        let mut settings = SamplingSettings::default();
        change(&mut settings);
        SamplingParams::new(settings, 10)
    }

    #[test]
    fn the_default_and_every_end_of_a_range_are_valid() {
        assert_eq!(SamplingSettings::default().temperature, 0.0, "the default is greedy");
        let mut failures = Vec::new();
        let mut case = |name: &str, change: fn(&mut SamplingSettings)| {
            if let Err(error) = with(change) {
                failures.push(format!("{name}: {error}"));
            }
        };
        case("default", |_| ());
        case("negative zero", |s| s.temperature = -0.0);
        case("temperature 100", |s| s.temperature = 100.0);
        case("top_p 1e-9", |s| s.top_p = 1e-9);
        case("min_p .999", |s| s.min_p = 0.999);
        case("repetition .01", |s| s.repetition_penalty = 0.01);
        case("penalties", |s| (s.presence_penalty, s.frequency_penalty) = (-100.0, 100.0));
        case("bias", |s| s.logit_bias = vec![(TokenId(9), -100.0), (TokenId(0), 100.0)]);
        case("top_k beyond the vocabulary", |s| s.top_k = u32::MAX);
        assert!(failures.is_empty(), "{failures:#?}");
    }

    #[test]
    fn what_is_out_of_range_is_refused_by_name_and_value() {
        let mut failures = Vec::new();
        let mut case =
            |field: &str, value: &str, change: &dyn Fn(&mut SamplingSettings)| match with(change) {
                Err(error) if error.field == field && error.message.contains(value) => {}
                other => failures.push(format!("{field} {value}: {other:?}")),
            };
        for (value, name) in
            [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "-inf"), (101.0, "101")]
        {
            case("temperature", name, &|s| s.temperature = value);
            case("top_p", name, &|s| s.top_p = value);
            case("min_p", name, &|s| s.min_p = value);
            case("repetition_penalty", name, &|s| s.repetition_penalty = value);
            case("presence_penalty", name, &|s| s.presence_penalty = value);
            case("frequency_penalty", name, &|s| s.frequency_penalty = value);
            case("logit_bias", name, &|s| s.logit_bias = vec![(TokenId(1), value)]);
        }
        case("temperature", "-0.1", &|s| s.temperature = -0.1);
        case("top_p", "is 0;", &|s| s.top_p = 0.0);
        case("top_p", "1.01", &|s| s.top_p = 1.01);
        case("min_p", "is 1;", &|s| s.min_p = 1.0);
        case("min_p", "-0.1", &|s| s.min_p = -0.1);
        case("repetition_penalty", "is 0;", &|s| s.repetition_penalty = 0.0);
        case("logit_bias", "token 10;", &|s| s.logit_bias = vec![(TokenId(10), 1.0)]);
        case("logit_bias", "token 3 twice", &|s| s.logit_bias = vec![(TokenId(3), 1.0); 2]);
        case("logit_bias", "1025", &|s| s.logit_bias = vec![(TokenId(3), 1.0); 1025]);
        assert!(failures.is_empty(), "{failures:#?}");
    }
}
