//! From flags and settings to the requests of `generate` and `chat`.

use std::hash::{BuildHasher, RandomState};

use anyhow::{Context, bail, ensure};
use clap::Args;

use super::options::{ConfigOptions, ModelOptions, SamplingOptions, SpeculationOptions};
use super::runtime::Runtime;
use crate::config::{Configuration, Flag, Settings, SpeculationSettings};
use skipstone_engine::drafting::{PolicyRequest, SkipSet, SkipSetError, policy};
use skipstone_engine::{OutputOptions, Speculation, StopCriteria, ValidRequest};
use skipstone_model::TokenId;
use skipstone_model::sampling::SamplingParams;

/// Flags that `generate` and `chat` share.
#[derive(Args, Clone, Default, Debug)]
pub(super) struct GenerationOptions {
    #[command(flatten)]
    config: ConfigOptions,
    #[command(flatten)]
    model: ModelOptions,
    /// Stop after this many tokens [default: server.max_new_tokens_default, or what the context
    /// leaves]
    #[arg(long, value_name = "COUNT")]
    max_new_tokens: Option<usize>,
    /// Stop at this text; may be given several times
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Go on after the model's own end-of-sequence token
    #[arg(long)]
    ignore_eos: bool,
    /// Print JSON instead of streaming text
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    sampling: SamplingOptions,
    /// Makes sampling repeatable [default: another one each time]
    #[arg(long, value_name = "NUMBER", help_heading = "Sampling")]
    seed: Option<u64>,
    #[command(flatten)]
    speculation: SpeculationOptions,
}

/// The sizes that a request is checked against.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ModelShape {
    /// Transformer layers.
    pub(super) layer_count: usize,
    /// Tokens of the vocabulary.
    pub(super) vocabulary: usize,
    /// Longest prompt plus output, in tokens.
    pub(super) context_length: usize,
}

/// Everything about a request but its prompt.
#[derive(Clone, Debug)]
pub(super) struct RequestTemplate {
    shape: ModelShape,
    sampling: SamplingParams,
    stop: StopCriteria,
    speculation: Speculation,
    /// Whether the caller named `max_new_tokens`: then it is kept or refused, never cut.
    length_is_exact: bool,
}

/// Drafting that the settings ask for, checked against a model of `layer_count` layers.
pub(super) fn speculation_of(
    settings: &SpeculationSettings,
    layer_count: usize,
) -> Result<Speculation, SkipSetError> {
    // Only `off` is no policy: the settings were checked.
    let Some(policy) = policy(&settings.policy) else { return Ok(Speculation::Off) };
    let skip_set = SkipSet::new(&settings.skip_attention, &settings.skip_mlp, layer_count)?;
    let skip_set = Some(skip_set).filter(|set| policy.takes_skip_set && !set.is_empty());
    let max_draft_tokens = Some(settings.max_draft_tokens);
    let request = PolicyRequest { skip_set, max_draft_tokens, ..PolicyRequest::new(policy) };
    Ok(Speculation::Draft(request))
}

// === impl GenerationOptions ===

impl GenerationOptions {
    /// The settings for an engine that runs `streams` requests at once.
    pub(super) fn configuration(&self, streams: usize) -> anyhow::Result<Configuration> {
        let mut flags =
            vec![Flag::new("engine.max_streams", streams.to_string(), "the flag --concurrency")];
        flags.extend(self.model.flags());
        flags.extend(self.sampling.flags());
        flags.extend(self.speculation.flags());
        self.config.load(flags)
    }

    /// Checks what does not depend on the prompt.
    pub(super) fn template(
        &self,
        settings: &Settings,
        shape: ModelShape,
    ) -> anyhow::Result<RequestTemplate> {
        let seed = self.seed.unwrap_or_else(random_seed);
        if let Some(0) = self.max_new_tokens {
            bail!("--max-new-tokens is 0; at least one token must be generated");
        }
        if self.stop.iter().any(String::is_empty) {
            bail!("--stop is empty, which would stop at once; name a text");
        }
        Ok(RequestTemplate {
            shape,
            sampling: SamplingParams::new(settings.sampling.with_seed(seed), shape.vocabulary)?,
            stop: StopCriteria {
                max_new_tokens: self
                    .max_new_tokens
                    .unwrap_or(settings.server.max_new_tokens_default),
                min_new_tokens: 0,
                stop_strings: self.stop.clone(),
                stop_token_ids: Vec::new(),
                include_stop_string: false,
                ignore_end_of_sequence: self.ignore_eos,
            },
            speculation: speculation_of(&settings.speculation, shape.layer_count)
                .context("the skip lists of the settings don't fit this model")?,
            length_is_exact: self.max_new_tokens.is_some(),
        })
    }
}

// === impl ModelShape ===

impl From<&Runtime> for ModelShape {
    fn from(runtime: &Runtime) -> Self {
        let &Runtime { layer_count, vocabulary, context_length, .. } = runtime;
        Self { layer_count, vocabulary, context_length }
    }
}

// === impl RequestTemplate ===

impl RequestTemplate {
    /// A request for this prompt.
    pub(super) fn build(&self, id: String, prompt: Vec<TokenId>) -> anyhow::Result<ValidRequest> {
        let ModelShape { vocabulary, context_length, .. } = self.shape;
        ensure!(!prompt.is_empty(), "the prompt is empty; at least one token is needed");
        if let Some(token) = prompt.iter().find(|token| token.index() >= vocabulary) {
            bail!(
                "token {token} of the prompt is not in the vocabulary, which ends at {}",
                vocabulary - 1
            );
        }
        let mut stop = self.stop.clone();
        let room = context_length.saturating_sub(prompt.len());
        if room == 0 || (self.length_is_exact && stop.max_new_tokens > room) {
            let wanted = if self.length_is_exact { stop.max_new_tokens } else { 1 };
            bail!(
                "{} prompt tokens and {wanted} new ones don't fit the context of {context_length}; \
                 shorten the prompt, ask for fewer, or raise --context-length",
                prompt.len()
            );
        }
        stop.max_new_tokens = stop.max_new_tokens.min(room);
        Ok(ValidRequest {
            id,
            prompt,
            sampling: self.sampling.clone(),
            stop,
            output: OutputOptions::default(),
            speculation: self.speculation.clone(),
            deadline: None,
        })
    }
}

/// A number that differs from call to call: the standard library keys its hasher by the system's
/// random numbers.
fn random_seed() -> u64 {
    RandomState::new().hash_one(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: ModelShape = ModelShape { layer_count: 8, vocabulary: 100, context_length: 32 };

    fn template(options: &GenerationOptions) -> anyhow::Result<RequestTemplate> {
        let configuration = options.configuration(1)?;
        options.template(configuration.settings(), SHAPE)
    }

    fn prompt(length: u32) -> Vec<TokenId> {
        (0..length).map(TokenId).collect()
    }

    #[test]
    fn the_default_length_is_cut_to_the_context_and_an_asked_one_is_not() {
        let default = template(&GenerationOptions::default()).unwrap();
        assert_eq!(default.build("a".to_owned(), prompt(30)).unwrap().stop.max_new_tokens, 2);
        assert!(default.build("a".to_owned(), prompt(32)).is_err());

        let asked = template(&GenerationOptions {
            max_new_tokens: Some(3),
            ..GenerationOptions::default()
        })
        .unwrap();
        assert_eq!(asked.build("a".to_owned(), prompt(29)).unwrap().stop.max_new_tokens, 3);
        let error = asked.build("a".to_owned(), prompt(30)).unwrap_err().to_string();
        assert!(
            error.contains("30 prompt tokens and 3 new ones don't fit the context of 32"),
            "{error}"
        );
    }

    #[test]
    fn prompts_that_the_engine_must_not_see_are_refused() {
        let template = template(&GenerationOptions::default()).unwrap();
        let error = template.build("a".to_owned(), vec![]).unwrap_err().to_string();
        assert!(error.contains("prompt is empty"), "{error}");
        let error = template.build("a".to_owned(), vec![TokenId(100)]).unwrap_err().to_string();
        assert!(error.contains("token 100") && error.contains("ends at 99"), "{error}");
        assert!(template.build("a".to_owned(), vec![TokenId(99)]).is_ok());
    }

    #[test]
    fn senseless_stops_are_refused() {
        let zero = GenerationOptions { max_new_tokens: Some(0), ..GenerationOptions::default() };
        assert!(template(&zero).is_err());
        let empty = GenerationOptions { stop: vec![String::new()], ..GenerationOptions::default() };
        assert!(template(&empty).is_err());
    }

    #[test]
    fn a_policy_becomes_speculation() {
        let settings = |policy: &str, skip_mlp: &[u32]| SpeculationSettings {
            policy: policy.to_owned(),
            max_draft_tokens: 5,
            target_speedup: 1.5,
            skip_attention: vec![],
            skip_mlp: skip_mlp.to_vec(),
            confidence_threshold: 0.0,
            profile: None,
            max_plans: 8,
        };
        let found = |policy: &str, skip_mlp: &[u32]| {
            speculation_of(&settings(policy, skip_mlp), 8).map(|speculation| match speculation {
                Speculation::Off => ("off", None, None),
                Speculation::Draft(PolicyRequest {
                    policy, skip_set, max_draft_tokens, ..
                }) => (policy.name, skip_set, max_draft_tokens),
            })
        };
        let skip_set = SkipSet::new(&[], &[3], 8).unwrap();
        assert_eq!(found("off", &[3]), Ok(("off", None, None)));
        assert_eq!(found("adaptive", &[3]), Ok(("adaptive", None, Some(5))));
        assert_eq!(found("static", &[]), Ok(("static", None, Some(5))));
        assert_eq!(found("static", &[3]), Ok(("static", Some(skip_set), Some(5))));
        assert!(found("static", &[8]).is_err());
    }

    #[test]
    fn seeds_differ() {
        assert_ne!(random_seed(), random_seed());
    }
}
