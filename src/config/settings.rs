//! The validated settings, one struct a section. `config/default.toml` says what each key means.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::backend::{Backend, Device};
use super::ports::{ControlSettings, MetricsSettings, OpenAiSettings, ServerSettings};
use super::values::{empty_is_unset, zero_is_unset};
use crate::telemetry::LogFormat;
use skipstone_model::sampling::SamplingSettings;

/// All settings. Made by [`Layers::load`](super::Layers::load), which checks every range.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Settings {
    /// `[model]`
    pub model: ModelSettings,
    /// `[engine]`
    pub engine: EngineSettings,
    /// `[speculation]`
    pub speculation: SpeculationSettings,
    /// `[server]`
    pub server: ServerSettings,
    /// `[openai]`
    pub openai: OpenAiSettings,
    /// `[metrics]`
    pub metrics: MetricsSettings,
    /// `[control]`
    pub control: ControlSettings,
    /// `[tracing]`
    pub tracing: TracingSettings,
    /// `[log]`
    pub log: LogSettings,
    /// `[sampling]`
    pub sampling: SamplingDefaults,
}

/// The model, and how much context it has.
#[derive(Clone, PartialEq, Debug, Deserialize)]
pub struct ModelSettings {
    /// The GGUF file, a folder with safetensors, or the name of a repository on the hub; `None`:
    /// the default model of the cache folder.
    #[serde(deserialize_with = "empty_is_unset")]
    pub path: Option<PathBuf>,
    /// The served name; `None`: the file's name without its suffix.
    #[serde(deserialize_with = "empty_is_unset")]
    pub name: Option<String>,
    /// Longest prompt plus output in tokens; `None`: the model's own, at most
    /// [`ModelSettings::CONTEXT_CAP`].
    #[serde(deserialize_with = "zero_is_unset")]
    pub context_length: Option<NonZeroUsize>,
}

/// The engine thread and its memory.
#[derive(Clone, PartialEq, Debug, Deserialize)]
pub struct EngineSettings {
    /// Backend that runs the model.
    pub backend: Backend,
    /// Device that it computes on.
    pub device: Device,
    /// Threads that compute; `None`: every available core.
    #[serde(deserialize_with = "zero_is_unset")]
    pub threads: Option<NonZeroUsize>,
    /// Streams that run at once.
    pub max_streams: usize,
    /// Requests that may wait.
    pub max_waiting: usize,
    /// Prompt tokens that one step may process.
    pub prefill_tokens_per_step: usize,
    /// Seconds that a reader may take nothing before its stream is cancelled.
    pub stall_timeout_seconds: u64,
    /// Positions of the key-value cache; `None`: `max_streams` times the context length.
    #[serde(deserialize_with = "zero_is_unset")]
    pub kv_cache_tokens: Option<NonZeroUsize>,
    /// Precision that keys and values are stored in.
    pub kv_cache_precision: KvCachePrecision,
    /// Messages held for a slow reader.
    pub event_buffer: usize,
    /// For what is kept between runs; `None`: the user's state folder.
    #[serde(deserialize_with = "empty_is_unset")]
    pub state_folder: Option<PathBuf>,
}

/// Precision that keys and values are stored in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KvCachePrecision {
    /// Two bytes a number.
    F16,
    /// Four bytes a number.
    F32,
}

/// The server's way to draft unless a request says otherwise.
#[derive(Clone, PartialEq, Debug, Deserialize)]
pub struct SpeculationSettings {
    /// Policy that decides what is drafted; `off` for none.
    pub policy: String,
    /// Cap on the draft length.
    pub max_draft_tokens: usize,
    /// Target of the evenly spaced plan: plain step / draft step.
    pub target_speedup: f64,
    /// Layers whose attention a static draft skips; checked against the model when it is loaded.
    pub skip_attention: Vec<u32>,
    /// Layers whose MLP a static draft skips; checked against the model when it is loaded.
    pub skip_mlp: Vec<u32>,
    /// Draft probability below which a static draft stops; 0: never.
    pub confidence_threshold: f64,
    /// The profile to draft by; `None`: the one beside the model file, else the built-in one of the
    /// default model.
    #[serde(deserialize_with = "empty_is_unset")]
    pub profile: Option<PathBuf>,
    /// Plans of the profile that adaptive streams bet on, at most.
    pub max_plans: usize,
}

/// The spans of requests.
#[derive(Clone, PartialEq, Debug, Deserialize)]
pub struct TracingSettings {
    /// The OTLP collector; `None`: no spans.
    #[serde(deserialize_with = "empty_is_unset")]
    pub otlp_endpoint: Option<String>,
    /// The share of requests that are traced, 0 to 1.
    pub sample_ratio: f64,
}

/// Contents and format of the log.
#[derive(Clone, PartialEq, Debug, Deserialize)]
pub struct LogSettings {
    /// A `tracing` filter: a level, or directives for parts of the program.
    pub level: String,
    /// For people or for collectors.
    pub format: LogFormat,
}

/// Sampling where a request leaves a value unset.
#[derive(Clone, Copy, PartialEq, Debug, Deserialize)]
pub struct SamplingDefaults {
    /// 0 is greedy.
    pub temperature: f32,
    /// 0 keeps all.
    pub top_k: u32,
    /// 1 keeps all.
    pub top_p: f32,
    /// 0 keeps all.
    pub min_p: f32,
    /// 1 has no effect.
    pub repetition_penalty: f32,
    /// 0 has no effect.
    pub presence_penalty: f32,
    /// 0 has no effect.
    pub frequency_penalty: f32,
}

// === impl ModelSettings ===

impl ModelSettings {
    /// Context length where none is set, in tokens: a model trained for 128k would otherwise
    /// reserve gigabytes of cache.
    pub const CONTEXT_CAP: usize = 8192;

    /// The context length in tokens for a model that was trained for `trained` of them.
    pub fn context_length(&self, trained: usize) -> usize {
        self.context_length.map_or(trained.min(Self::CONTEXT_CAP), NonZeroUsize::get)
    }
}

// === impl EngineSettings ===

impl EngineSettings {
    /// Threads that compute: as set, else as many as the affinity mask and the cgroup quota allow.
    pub fn thread_count(&self) -> NonZeroUsize {
        self.threads
            .or_else(|| std::thread::available_parallelism().ok())
            .unwrap_or(NonZeroUsize::MIN)
    }

    /// Time that a reader may take nothing before its stream is cancelled.
    pub fn stall_timeout(&self) -> Duration {
        Duration::from_secs(self.stall_timeout_seconds)
    }

    /// Positions of the key-value cache for streams of `one_stream` positions each.
    pub fn kv_cache_tokens(&self, one_stream: usize) -> usize {
        self.kv_cache_tokens.map_or(self.max_streams.saturating_mul(one_stream), NonZeroUsize::get)
    }
}

// === impl Settings ===

impl Settings {
    /// Whether control is served: to those on the same machine, or to those with a token, unless
    /// the setting says otherwise.
    pub fn serves_control(&self) -> bool {
        self.control
            .serve
            .decide(self.metrics.listen.ip().is_loopback() || self.control.token_file.is_some())
    }
}

// === impl SamplingDefaults ===

impl SamplingDefaults {
    /// The defaults as the sampler takes them: no bias, and this seed.
    pub fn with_seed(&self, seed: u64) -> SamplingSettings {
        SamplingSettings {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            logit_bias: Vec::new(),
            seed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Layers, Switch};

    #[test]
    fn zero_means_the_natural_size() {
        let mut settings = Layers::default().load().unwrap().settings().clone();
        assert_eq!(settings.model.context_length(2048), 2048);
        assert_eq!(settings.model.context_length(131_072), ModelSettings::CONTEXT_CAP);
        settings.model.context_length = NonZeroUsize::new(512);
        assert_eq!(settings.model.context_length(2048), 512);
        assert_eq!(settings.engine.kv_cache_tokens(512), 8 * 512);
        settings.engine.kv_cache_tokens = NonZeroUsize::new(1000);
        assert_eq!(settings.engine.kv_cache_tokens(512), 1000);
        settings.engine.threads = NonZeroUsize::new(3);
        assert_eq!(settings.engine.thread_count().get(), 3);
    }

    #[test]
    fn control_is_for_the_same_machine_or_for_a_token() {
        let mut settings = Layers::default().load().unwrap().settings().clone();
        for (listen, serve, token, served) in [
            ("127.0.0.1:1", Switch::Auto, false, true),
            ("0.0.0.0:1", Switch::Auto, false, false),
            ("0.0.0.0:1", Switch::Auto, true, true),
            ("0.0.0.0:1", Switch::On, false, true),
            ("127.0.0.1:1", Switch::Off, true, false),
        ] {
            settings.metrics.listen = listen.parse().unwrap();
            settings.control = ControlSettings { serve, token_file: token.then(|| "token".into()) };
            assert_eq!(settings.serves_control(), served, "{listen} {:?}", settings.control);
        }
    }
}
