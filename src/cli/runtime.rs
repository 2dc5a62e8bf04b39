//! The one place where the command line meets the model, the engine and the server.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, ensure};

use super::backend;
use super::bench::Variant;
use super::load_progress::LoadProgress;
use super::model_cache;
use super::profile_source;
use super::request::speculation_of;
use crate::bench::Machine;
use crate::config::{EngineSettings, KvCachePrecision, ServerSettings, Settings};
use crate::control::ServerInfo;
use crate::server::{self, Limits, Listeners, ServedModel, ServerOptions};
use crate::telemetry::{Readiness, Tracing};
use skipstone_engine::adapt::Mechanisms;
use skipstone_engine::drafting::{SkipSet, unified};
use skipstone_engine::{
    CostFile, Engine, EngineOptions, GenerationStream, Observer, Submit, ValidRequest,
};
use skipstone_gguf::GgufFile;
use skipstone_kernels::{Isa, KvPrecision, PAGE_POSITIONS};
use skipstone_model::text::{ChatMessage, EncodeOptions, TextModel};
use skipstone_model::{Model, ModelConfig, TokenId};

/// A loaded model with its engine. Dropping it stops the engine.
pub struct Runtime {
    /// Tokenizer and chat template.
    pub text: Arc<TextModel>,
    /// The engine that takes requests.
    pub engine: Arc<dyn Submit>,
    /// Observer of what becomes of them.
    pub observer: Observer,
    /// Facts about the model and the engine.
    pub info: Arc<ServerInfo>,
    /// The name the model is served under.
    pub name: String,
    /// Transformer layers; twice as many sublayers.
    pub layer_count: usize,
    /// Tokens of the vocabulary.
    pub vocabulary: usize,
    /// Longest prompt plus output, in tokens.
    pub context_length: usize,
    /// Whether the backend can draft.
    pub can_draft: bool,
}

/// Loads the model that the settings name and starts its engine. Takes seconds; blocks.
pub fn load(settings: &Settings, progress: &dyn LoadProgress) -> anyhow::Result<Runtime> {
    backend::load(settings, progress)
}

/// Serves on `listeners` until `shutdown` completes and the drain is over.
pub(super) async fn serve_grpc(
    runtime: &Runtime,
    settings: &Settings,
    listeners: Listeners,
    telemetry: (Readiness, Tracing),
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let (readiness, tracing) = telemetry;
    let model = ServedModel {
        name: runtime.name.clone(),
        text: Arc::clone(&runtime.text),
        layer_count: runtime.layer_count,
        vocabulary: runtime.vocabulary,
        context_length: runtime.context_length,
        can_draft: runtime.can_draft,
    };
    let options = ServerOptions {
        limits: limits_of(&settings.server),
        default_speculation: speculation_of(&settings.speculation, runtime.layer_count)
            .context("the skip lists of the settings don't fit this model")?,
        // The seed is each request's own.
        default_sampling: settings.sampling.with_seed(0),
        reflection: settings.server.serves_reflection(),
        readiness,
        tracing,
    };
    server::serve(listeners, model, Arc::clone(&runtime.engine), options, shutdown).await?;
    Ok(())
}

/// The limits that have settings; the others keep their documented values.
fn limits_of(server: &ServerSettings) -> Limits {
    Limits {
        max_new_tokens_default: server.max_new_tokens_default,
        max_prompt_bytes: server.max_prompt_bytes,
        max_stop_strings: server.max_stop_strings,
        max_stop_string_bytes: server.max_stop_string_bytes,
        max_top_logprobs: server.max_top_logprobs,
        max_streams_per_connection: server.max_streams_per_connection,
        max_message_bytes: server.max_message_bytes,
        max_header_list_bytes: server.max_header_list_bytes,
        stream_window_bytes: server.stream_window_bytes,
        withdrawal_grace: server.withdrawal_grace(),
        drain: server.drain_timeout(),
        ..Limits::default()
    }
}

/// Loads the model of a GGUF file and starts the native engine.
pub(super) fn start_native(
    settings: &Settings,
    path: &Path,
    progress: &dyn LoadProgress,
) -> anyhow::Result<Runtime> {
    let name = model_cache::served_name(&settings.model, path);
    progress.stage(&format!("reading {}", path.display()));
    start(settings, path, name, progress).with_context(|| format!("can't load {}", path.display()))
}

/// The native engine of the settings, which writes each pass to a file.
pub(super) fn start_logged(
    settings: &Settings,
    path: &Path,
    progress: &dyn LoadProgress,
    pass_log: &Path,
) -> anyhow::Result<Runtime> {
    let name = model_cache::served_name(&settings.model, path);
    let mut prepared = prepare(settings, path, name, progress)?;
    prepared.options.pass_log = Some(pass_log.to_owned());
    prepared.start()
}

/// The native engine of the settings, and further ones over the same weights, each a variant: to
/// measure what a mechanism is worth.
pub(super) fn start_variants(
    settings: &Settings,
    path: &Path,
    progress: &dyn LoadProgress,
    variants: &[Variant],
) -> anyhow::Result<(Runtime, Vec<Arc<dyn Submit>>)> {
    let name = model_cache::served_name(&settings.model, path);
    let prepared = prepare(settings, path, name, progress)?;
    let engines = variants
        .iter()
        .map(|variant| {
            let mut options = prepared.options.clone();
            variant.apply(&mut options);
            let (model, text) = (Arc::clone(&prepared.model), Arc::clone(&prepared.text));
            Ok(Arc::new(Engine::start(model, text, options)?) as Arc<dyn Submit>)
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    Ok((prepared.start()?, engines))
}

fn start(
    settings: &Settings,
    path: &Path,
    name: String,
    progress: &dyn LoadProgress,
) -> anyhow::Result<Runtime> {
    let prepared = prepare(settings, path, name, progress)?;
    progress.stage("starting the engine");
    prepared.start()
}

/// A loaded model, and how its engine is set up.
struct Prepared {
    model: Arc<Model>,
    text: Arc<TextModel>,
    options: EngineOptions,
    info: ServerInfo,
}

fn prepare(
    settings: &Settings,
    path: &Path,
    name: String,
    progress: &dyn LoadProgress,
) -> anyhow::Result<Prepared> {
    let file = Arc::new(GgufFile::open(path)?);
    // Before the tokenizer: what kind of model it is says more than what kind of tokenizer it has.
    ModelConfig::from_manifest(file.manifest())?;
    let text = Arc::new(TextModel::from_gguf(&file)?);
    let fingerprint = file.fingerprint();
    let weight_types = file.manifest().weight_types();
    let threads = settings.engine.thread_count().get();
    progress.stage(&format!("preparing the weights on {threads} threads"));
    let model =
        Arc::new(Model::load(file, threads, &mut |done, total| progress.bytes(done, total))?);
    let (layer_count, vocabulary) = (model.config().layers, model.config().vocabulary);
    let context_length = context_length(settings, model.config().context_length)?;
    let mut options = engine_options(settings, &model, context_length)?;
    let profile = settings.speculation.profile.as_deref();
    options.frontier = profile_source::plans(profile, path, &fingerprint, &model, threads)?;
    options.frontier.truncate(settings.speculation.max_plans);
    let machine = Machine::this();
    options.cost_file =
        model_cache::state_folder(settings.engine.state_folder.as_deref()).map(|folder| {
            let isa = Isa::detect().name();
            let (streams, precision) = (options.max_streams, options.kv_precision);
            CostFile::new(
                &folder,
                format!(
                    "{fingerprint}, {machine}, {threads} threads, {streams} streams, {isa}, \
                {precision:?}"
                ),
            )
        });
    let info = ServerInfo {
        model: name,
        fingerprint,
        architecture: model.config().architecture.clone(),
        weight_types,
        layers: layer_count,
        context_length,
        vocabulary,
        backend: "native",
        instruction_set: Isa::detect().name(),
        threads,
        max_streams: options.max_streams,
        kv_cache_tokens: options.kv_cache_tokens,
        started: Instant::now(),
    };
    Ok(Prepared { model, text, options, info })
}

impl Prepared {
    fn start(self) -> anyhow::Result<Runtime> {
        let Self { model, text, options, mut info } = self;
        let engine = Arc::new(Engine::start(model, Arc::clone(&text), options)?);
        info.started = Instant::now();
        Ok(Runtime {
            text,
            observer: engine.observer(),
            engine,
            name: info.model.clone(),
            layer_count: info.layers,
            vocabulary: info.vocabulary,
            context_length: info.context_length,
            info: Arc::new(info),
            can_draft: true,
        })
    }
}

/// Longest prompt plus output, in tokens. Positions beyond the trained ones yield nonsense, so they
/// are refused.
pub(super) fn context_length(settings: &Settings, trained: usize) -> anyhow::Result<usize> {
    let context_length = settings.model.context_length(trained);
    ensure!(
        context_length <= trained,
        "model.context_length is {context_length}, but the model was trained for {trained} \
         tokens; set at most that"
    );
    Ok(context_length)
}

fn engine_options(
    settings: &Settings,
    model: &Model,
    context_length: usize,
) -> anyhow::Result<EngineOptions> {
    let Settings { engine, speculation, .. } = settings;
    let weights = model.weights();
    let skip_set =
        SkipSet::new(&speculation.skip_attention, &speculation.skip_mlp, model.config().layers)
            .context("the skip lists of the settings don't fit this model")?;
    let default_skip_set = if skip_set.is_empty() {
        let sublayers = model.config().sublayers();
        let bytes: Vec<usize> = (0..sublayers).map(|index| weights.sublayer_bytes(index)).collect();
        unified(&bytes, weights.head_bytes(), speculation.target_speedup as f32)
    } else {
        skip_set
    };
    Ok(EngineOptions {
        threads: engine.thread_count().get(),
        max_streams: engine.max_streams,
        max_waiting: engine.max_waiting,
        prefill_tokens_per_step: engine.prefill_tokens_per_step,
        stall_timeout: engine.stall_timeout(),
        event_buffer: engine.event_buffer,
        kv_cache_tokens: kv_cache_tokens(engine, context_length)?,
        kv_precision: kv_precision(engine),
        default_skip_set,
        target_speedup: speculation.target_speedup as f32,
        frontier: Vec::new(),
        mechanisms: Mechanisms::default(),
        cost_file: None,
        pass_log: None,
        max_draft_tokens: speculation.max_draft_tokens,
        confidence_threshold: speculation.confidence_threshold as f32,
    })
}

/// Precision that the kernels store keys and values in.
pub(super) fn kv_precision(engine: &EngineSettings) -> KvPrecision {
    match engine.kv_cache_precision {
        KvCachePrecision::F16 => KvPrecision::F16,
        KvCachePrecision::F32 => KvPrecision::F32,
    }
}

/// Positions of the cache. A stream leases its whole context and the longest draft at once, in
/// whole pages; a cache that can't hold one such stream would leave it waiting for ever.
fn kv_cache_tokens(engine: &EngineSettings, context_length: usize) -> anyhow::Result<usize> {
    let one_stream =
        (context_length + Limits::default().max_draft_tokens).next_multiple_of(PAGE_POSITIONS);
    let tokens = engine.kv_cache_tokens(one_stream);
    ensure!(
        tokens >= one_stream,
        "engine.kv_cache_tokens is {tokens}, but one stream of {context_length} tokens needs \
         {one_stream}; \
         raise it, or lower model.context_length"
    );
    Ok(tokens)
}

// === impl Runtime ===

impl Runtime {
    /// Tokenises a raw prompt. Special tokens are added as the model wants them, but not read from
    /// the text.
    pub fn encode_text(&self, text: &str) -> anyhow::Result<Vec<TokenId>> {
        let options = EncodeOptions { add_special: true, parse_special: false };
        Ok(self.text.encode(text, options)?)
    }

    /// Renders a chat with the model's own template, ready for the assistant's turn, and tokenises
    /// it.
    pub fn encode_chat(&self, messages: &[ChatMessage]) -> anyhow::Result<Vec<TokenId>> {
        Ok(self.text.encode_chat(messages, true)?)
    }

    /// Starts a request.
    pub fn submit(&self, request: ValidRequest) -> anyhow::Result<GenerationStream> {
        Ok(self.engine.submit(request)?)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;
    use crate::config::{Flag, Layers};

    /// The documented defaults are stated twice, in `config/default.toml` and in `server`; they
    /// must agree.
    #[test]
    fn the_built_in_settings_are_the_server_s_defaults() {
        let configuration = Layers::default().load().unwrap();
        assert_eq!(limits_of(&configuration.settings().server), Limits::default());
    }

    #[test]
    fn a_cache_holds_at_least_one_stream() {
        let mut engine = Layers::default().load().unwrap().settings().engine.clone();
        let one_stream = kv_cache_tokens(&engine, 1000).unwrap() / engine.max_streams;
        assert!(one_stream >= 1016 && one_stream.is_multiple_of(PAGE_POSITIONS), "{one_stream}");
        engine.kv_cache_tokens = NonZeroUsize::new(one_stream);
        assert_eq!(kv_cache_tokens(&engine, 1000).unwrap(), one_stream);
        engine.kv_cache_tokens = NonZeroUsize::new(one_stream - 1);
        let error = kv_cache_tokens(&engine, 1000).unwrap_err().to_string();
        assert!(error.contains(&format!("needs {one_stream}")), "{error}");
    }

    #[test]
    fn a_context_beyond_the_trained_one_is_refused() {
        let mut settings = Layers::default().load().unwrap().settings().clone();
        assert_eq!(context_length(&settings, 2048).unwrap(), 2048);
        settings.model.context_length = NonZeroUsize::new(2049);
        let error = context_length(&settings, 2048).unwrap_err().to_string();
        assert!(error.contains("is 2049") && error.contains("trained for 2048"), "{error}");
    }

    #[test]
    fn every_limit_follows_its_setting() {
        let changes = [
            ("server.max_new_tokens_default", "3"),
            ("server.max_prompt_bytes", "5000"),
            ("server.max_stop_strings", "6"),
            ("server.max_stop_string_bytes", "7"),
            ("server.max_top_logprobs", "8"),
            ("server.max_streams_per_connection", "10"),
            ("server.max_message_bytes", "6000"),
            ("server.max_header_list_bytes", "2048"),
            ("server.stream_window_bytes", "70000"),
            ("server.withdrawal_grace_seconds", "11"),
            ("server.drain_seconds", "12"),
        ];
        let base = Layers::default().load().unwrap();
        let before = limits_of(&base.settings().server);
        let without_effect: Vec<&str> = changes
            .into_iter()
            .filter(|(key, value)| {
                let flags = vec![Flag::new(*key, *value, "the test")];
                let changed = Layers { flags, ..Layers::default() }.load().unwrap();
                limits_of(&changed.settings().server) == before
            })
            .map(|(key, _)| key)
            .collect();
        assert!(without_effect.is_empty(), "{without_effect:?}");
    }
}
