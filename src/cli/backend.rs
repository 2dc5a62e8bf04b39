//! Choice of the backend that runs the model, and what is said when none can.

use std::path::{Path, PathBuf};

use anyhow::bail;

use super::load_progress::LoadProgress;
use super::model_cache;
use super::runtime::{Runtime, start_native};
use crate::bench::DecodePeer;
use crate::config::{Backend, Device, ModelSettings, ModelSource, Settings};
use skipstone_model::{ModelError, SUPPORTED_ARCHITECTURES};

/// Whether this binary has the second backend.
pub(super) const HAS_MISTRALRS: bool = cfg!(feature = "mistralrs");

/// Source of the model that the settings name.
pub(super) fn source_of(settings: &ModelSettings) -> anyhow::Result<ModelSource> {
    match settings.path.as_deref().map(ModelSource::of) {
        Some(source @ (ModelSource::Folder(_) | ModelSource::Hub(_))) => Ok(source),
        Some(ModelSource::File(_)) | None => Ok(ModelSource::File(model_cache::resolve(settings)?)),
    }
}

/// Loads the model with the backend that the settings ask for.
pub(super) fn load(settings: &Settings, progress: &dyn LoadProgress) -> anyhow::Result<Runtime> {
    let source = source_of(&settings.model)?;
    let device = settings.engine.device;
    match (settings.engine.backend, &source) {
        (Backend::Native, _) if device != Device::Cpu => bail!(
            "engine.device is {device}, but the native engine computes on the CPU; set it to cpu, \
             or engine.backend to mistralrs"
        ),
        (Backend::Native, ModelSource::File(path)) => start_native(settings, path, progress),
        (Backend::Native, _) => {
            bail!(
                "the native engine reads GGUF files, and {source} is none; {}",
                remedy("name a GGUF file")
            )
        }
        (Backend::Auto, ModelSource::File(path)) if device == Device::Cpu => {
            match start_native(settings, path, progress) {
                Err(error)
                    if error
                        .downcast_ref::<ModelError>()
                        .is_some_and(ModelError::is_unsupported) =>
                {
                    if HAS_MISTRALRS {
                        progress.stage(&format!("{error:#}: mistral.rs takes over"));
                        return start_mistralrs(settings, &source, progress);
                    }
                    let supported = SUPPORTED_ARCHITECTURES.join(", ");
                    Err(error.context(remedy(&format!(
                        "choose a model of the architectures {supported}"
                    ))))
                }
                started => started,
            }
        }
        (Backend::Auto, _) if !HAS_MISTRALRS && device != Device::Cpu => {
            bail!("engine.device is {device}; {}", remedy("set it to cpu"))
        }
        (Backend::Auto, _) if !HAS_MISTRALRS => {
            bail!(
                "the native engine reads GGUF files, and {source} is none; {}",
                remedy("name a GGUF file")
            )
        }
        (Backend::MistralRs, _) if !HAS_MISTRALRS => {
            bail!("engine.backend is mistralrs; {}", remedy("set it to native"))
        }
        (Backend::Auto | Backend::MistralRs, _) => start_mistralrs(settings, &source, progress),
    }
}

/// The model's file, for commands that only the native engine can run.
pub(super) fn native_file(settings: &Settings) -> anyhow::Result<PathBuf> {
    let Settings { engine, model, .. } = settings;
    if engine.backend == Backend::MistralRs {
        bail!(
            "engine.backend is mistralrs, but this command runs on the native engine; set it to native or auto"
        );
    }
    if engine.device != Device::Cpu {
        bail!(
            "engine.device is {}, but this command runs on the CPU; set it to cpu",
            engine.device
        );
    }
    match source_of(model)? {
        ModelSource::File(path) => Ok(path),
        source => bail!("this command reads GGUF files, and {source} is none; name a GGUF file"),
    }
}

/// Both ways out for whoever wants what the native engine has not.
fn remedy(other: &str) -> String {
    if HAS_MISTRALRS {
        format!("{other}, or set engine.backend to mistralrs")
    } else {
        format!("{other}, or build Skipstone with --features mistralrs (docs/backends.md)")
    }
}

#[cfg(not(feature = "mistralrs"))]
fn start_mistralrs(_: &Settings, _: &ModelSource, _: &dyn LoadProgress) -> anyhow::Result<Runtime> {
    bail!("{}", remedy("set engine.backend to native"))
}

#[cfg(feature = "mistralrs")]
fn start_mistralrs(
    settings: &Settings,
    source: &ModelSource,
    progress: &dyn LoadProgress,
) -> anyhow::Result<Runtime> {
    use std::sync::Arc;
    use std::time::Instant;

    use super::runtime::context_length;
    use crate::control::ServerInfo;
    use crate::mistralrs::{LoadOptions, load};
    use skipstone_engine::{Engine, SerialOptions};

    anyhow::ensure!(
        ["off", "adaptive"].contains(&settings.speculation.policy.as_str()),
        "speculation.policy is {}, but mistral.rs can't draft; set it to off or adaptive, or choose a model that the native engine runs",
        settings.speculation.policy
    );
    let engine = &settings.engine;
    progress.stage(&format!("loading {source} with mistral.rs on {}", engine.device));
    let threads = engine.thread_count().get();
    let loaded = load(&LoadOptions { source, device: engine.device, threads })?;
    let context_length = context_length(settings, loaded.context_length)?;
    let name = match source {
        ModelSource::File(path) | ModelSource::Folder(path) => {
            model_cache::served_name(&settings.model, path)
        }
        ModelSource::Hub(id) => settings.model.name.clone().unwrap_or_else(|| id.clone()),
    };
    let vocabulary = loaded.text.vocabulary_size();
    let options = SerialOptions {
        max_waiting: engine.max_waiting,
        stall_timeout: engine.stall_timeout(),
        event_buffer: engine.event_buffer,
        context_length,
    };
    let running =
        Arc::new(Engine::serial(Box::new(loaded.predictor), Arc::clone(&loaded.text), options)?);
    let info = ServerInfo {
        model: name.clone(),
        fingerprint: loaded.fingerprint,
        architecture: loaded.architecture,
        weight_types: loaded.weight_types,
        layers: loaded.layers,
        context_length,
        vocabulary,
        backend: "mistralrs",
        instruction_set: "",
        threads,
        max_streams: 1,
        kv_cache_tokens: context_length,
        started: Instant::now(),
    };
    Ok(Runtime {
        text: loaded.text,
        observer: running.observer(),
        engine: running,
        info: Arc::new(info),
        name,
        layer_count: loaded.layers,
        vocabulary,
        context_length,
        can_draft: false,
    })
}

/// mistral.rs as a peer of our own engine.
#[cfg(not(feature = "mistralrs"))]
pub(super) fn mistralrs_peer(_: &Path, _: usize) -> anyhow::Result<Box<dyn DecodePeer>> {
    bail!(
        "the peer mistralrs is not in this binary; build Skipstone with --features mistralrs (docs/backends.md)"
    )
}

/// mistral.rs as a peer of our own engine.
#[cfg(feature = "mistralrs")]
pub(super) fn mistralrs_peer(model: &Path, threads: usize) -> anyhow::Result<Box<dyn DecodePeer>> {
    let source = ModelSource::File(model.to_owned());
    Ok(Box::new(crate::mistralrs::MistralRsPeer::load(&source, threads)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::load_progress::LoadBar;
    use crate::config::{Configuration, Flag, Layers};
    use skipstone_gguf::GgufBuilder;

    fn settings_of(changes: &[(&str, &str)]) -> Configuration {
        let flags =
            changes.iter().map(|(key, value)| Flag::new(*key, *value, "the test")).collect();
        Layers { flags, ..Layers::default() }.load().unwrap()
    }

    /// Error of loading with these settings.
    fn error_of(changes: &[(&str, &str)]) -> String {
        let loaded = load(settings_of(changes).settings(), &LoadBar::new());
        format!("{:#}", loaded.map(|_| ()).unwrap_err())
    }

    #[test]
    fn commands_of_the_native_engine_refuse_what_it_can_not_run() {
        for (changes, says) in [
            (
                [("model.path", "m.gguf"), ("engine.backend", "mistralrs")],
                "engine.backend is mistralrs",
            ),
            ([("model.path", "m.gguf"), ("engine.device", "cuda:1")], "engine.device is cuda:1"),
            ([("model.path", "owner/name"), ("engine.backend", "native")], "owner/name"),
        ] {
            let error = native_file(settings_of(&changes).settings()).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn what_can_not_run_is_refused_with_the_ways_out() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("m.gguf");
        std::fs::write(
            &file,
            GgufBuilder::new().metadata("general.architecture", "falcon").build(),
        )
        .unwrap();
        let (folder, file) = (folder.path().to_str().unwrap(), file.to_str().unwrap());
        let other =
            if HAS_MISTRALRS { "engine.backend to mistralrs" } else { "--features mistralrs" };
        let mut wrong = Vec::new();
        let mut case = |name: &str, changes: &[(&str, &str)], says: &[&str]| {
            let error = error_of(changes);
            if !says.iter().all(|part| error.contains(part)) {
                wrong.push(format!("{name}: {error}"));
            }
        };
        let (path, backend, device) = ("model.path", "engine.backend", "engine.device");
        case(
            "architecture, native",
            &[(path, file), (backend, "native")],
            &["falcon", "llama, qwen2"],
        );
        case("folder, native", &[(path, folder), (backend, "native")], &[folder, "GGUF", other]);
        case(
            "device, native",
            &[(path, file), (backend, "native"), (device, "cuda:1")],
            &["cuda:1", "cpu"],
        );
        if HAS_MISTRALRS {
            case("architecture", &[(path, file)], &["mistral.rs can't load", "docs/backends.md"]);
        } else {
            case("architecture", &[(path, file)], &["falcon", "llama, qwen2", other]);
            case("folder", &[(path, folder)], &[folder, other]);
            case("repository", &[(path, "owner/name")], &["owner/name", other]);
            case("device", &[(path, file), (device, "metal")], &["metal", other]);
            case(
                "not built",
                &[(path, file), (backend, "mistralrs")],
                &["mistralrs", other, "native"],
            );
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}
