//! Loads a model with the loader of mistral.rs that fits where it is.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use mistralrs_core::{
    AutoLoaderBuilder, DefaultSchedulerMethod, DeviceMapMetadata, DeviceMapSetting,
    EmbeddingSpecificConfig, GGUFLoaderBuilder, GGUFSpecificConfig, Loader, MistralRs,
    MistralRsBuilder, ModelCategory, ModelDType, MultimodalSpecificConfig, NormalSpecificConfig,
    Pipeline, SchedulerConfig, TokenSource,
};
use tokio::sync::Mutex;

use super::device;
use super::facts::{Facts, FactsError};
use super::predictor::MistralRsPredictor;
use crate::config::{Device, ModelSource};
use skipstone_model::text::TextModel;

/// The model to load, and where to compute.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions<'a> {
    /// Source of the model.
    pub source: &'a ModelSource,
    /// Device to compute on.
    pub device: Device,
    /// Threads that compute. They are the process's own: the first model that is loaded settles
    /// their number.
    pub threads: usize,
}

/// A model that is ready.
pub struct Loaded {
    /// Runs it.
    pub predictor: MistralRsPredictor,
    /// Its tokenizer and chat template.
    pub text: Arc<TextModel>,
    /// Its architecture.
    pub architecture: String,
    /// Its fingerprint.
    pub fingerprint: String,
    /// Types of its weights.
    pub weight_types: Vec<String>,
    /// Its layers.
    pub layers: usize,
    /// Tokens that it was trained for.
    pub context_length: usize,
}

/// A reason why a model can't be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The binary has no code for the device.
    #[error(
        "engine.device is {device}, but this binary was built without it; build with --features \
         {feature}, or set it to cpu"
    )]
    DeviceNotBuilt {
        /// The device.
        device: Device,
        /// The feature that brings it.
        feature: &'static str,
    },
    /// The device can't be opened.
    #[error("can't use the device {device}: {reason}; name another with engine.device")]
    Device {
        /// The device.
        device: Device,
        /// The driver's error.
        reason: String,
    },
    /// The hub did not give the model.
    #[error(
        "mistral.rs can't get {source_name}: {reason}; check the name and the network, or \
         download the repository and name its folder with --model"
    )]
    Hub {
        /// The repository.
        source_name: String,
        /// The error from mistral.rs.
        reason: String,
    },
    /// The files are not to mistral.rs's liking.
    #[error(
        "mistral.rs can't load {source_name}: {reason}; docs/backends.md names the architectures \
         it runs"
    )]
    Model {
        /// The file or folder.
        source_name: String,
        /// The error from mistral.rs.
        reason: String,
    },
    /// The model makes something other than text.
    #[error("{source_name} is no model that continues text; choose another")]
    NotText {
        /// The file, folder or repository.
        source_name: String,
    },
    /// The facts that the service needs about the model can't be found.
    #[error(transparent)]
    Facts(#[from] FactsError),
    /// The system refused a thread.
    #[error("mistral.rs can't start: {0}")]
    Start(#[from] io::Error),
}

type SharedPipeline = Arc<Mutex<dyn Pipeline + Send + Sync>>;

/// Loads the model. Takes seconds to minutes; blocks. A model of the hub is downloaded first,
/// unless it is in the hub's cache.
///
/// # Errors
/// See [`LoadError`].
pub fn load(options: &LoadOptions<'_>) -> Result<Loaded, LoadError> {
    let LoadOptions { source, device, threads } = *options;
    if rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().is_err() {
        let running = rayon::current_num_threads();
        if running != threads {
            tracing::warn!(
                threads,
                running,
                "the threads of mistral.rs were started before; their number stays"
            );
        }
    }
    // What can't be described is refused before it is loaded. A repository of the hub is here only
    // after.
    let known = match source {
        ModelSource::File(_) | ModelSource::Folder(_) => Some(Facts::of(source)?),
        ModelSource::Hub(_) => None,
    };
    let pipeline = pipeline(source, device)?;
    let facts = known.map_or_else(|| Facts::of(source), Ok)?;
    let (layers, context_length) = {
        let pipeline = pipeline.blocking_lock();
        if !matches!(pipeline.category(), ModelCategory::Text | ModelCategory::Multimodal { .. }) {
            return Err(LoadError::NotText { source_name: source.to_string() });
        }
        let metadata = pipeline.get_metadata();
        (metadata.num_hidden_layers, metadata.max_seq_len)
    };
    let predictor = MistralRsPredictor::new(start(pipeline)?, facts.text.vocabulary_size());
    Ok(Loaded {
        predictor,
        text: Arc::new(facts.text),
        architecture: facts.architecture,
        fingerprint: facts.fingerprint,
        weight_types: facts.weight_types,
        layers,
        context_length,
    })
}

fn pipeline(source: &ModelSource, device: Device) -> Result<SharedPipeline, LoadError> {
    let opened = device::open(device)?;
    // What is missing on the CPU is multiplying bf16, which "auto" would take from the files.
    let dtype = if device == Device::Cpu { ModelDType::F32 } else { ModelDType::Auto };
    let (loader, token) = loader(source);
    let load = || {
        let device_map = DeviceMapSetting::Map(DeviceMapMetadata::dummy());
        loader.load_model_from_hf(None, token, &dtype, &opened, true, device_map, None, None)
    };
    // The loaders unwrap much of what they find in files.
    let reason = match catch_unwind(AssertUnwindSafe(load)) {
        Ok(Ok(pipeline)) => return Ok(pipeline),
        Ok(Err(error)) => format!("{error:#}"),
        Err(panic) => message(&*panic),
    };
    let source_name = source.to_string();
    Err(match source {
        ModelSource::Hub(_) => LoadError::Hub { source_name, reason },
        _ => LoadError::Model { source_name, reason },
    })
}

fn loader(source: &ModelSource) -> (Box<dyn Loader>, TokenSource) {
    match source {
        ModelSource::File(path) => {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            let folder = folder.unwrap_or_else(|| Path::new(".")).to_string_lossy().into_owned();
            let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let config = GGUFSpecificConfig::default();
            let builder =
                GGUFLoaderBuilder::new(None, None, folder, vec![file], config, false, None);
            (builder.build(), TokenSource::None)
        }
        ModelSource::Folder(path) => {
            (folder_loader(path.to_string_lossy().into_owned()), TokenSource::None)
        }
        // HF_TOKEN, or what the hub's own tools keep.
        ModelSource::Hub(name) => (folder_loader(name.clone()), TokenSource::CacheToken),
    }
}

fn folder_loader(model_id: String) -> Box<dyn Loader> {
    let builder = AutoLoaderBuilder::new(
        NormalSpecificConfig::default(),
        MultimodalSpecificConfig::default(),
        EmbeddingSpecificConfig::default(),
        None,
        None,
        model_id,
        false,
        None,
    );
    builder.build()
}

fn start(pipeline: SharedPipeline) -> io::Result<Arc<MistralRs>> {
    let method = DefaultSchedulerMethod::Fixed(std::num::NonZeroUsize::MIN);
    let builder =
        MistralRsBuilder::new(pipeline, SchedulerConfig::DefaultScheduler { method }, false, None)
            .with_no_prefix_cache(true)
            // What ends a sequence is our engine's to say.
            .with_disable_eos_stop(true);
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    Ok(runtime.block_on(builder.build()))
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("it panicked").to_owned()
}
