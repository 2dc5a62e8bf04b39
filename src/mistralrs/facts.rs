//! Facts that the service states about a model, read from the model's own files.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use hf_hub::{Cache, Repo};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::config::ModelSource;
use skipstone_gguf::{GgufError, GgufFile, MetadataError};
use skipstone_model::text::{TextError, TextModel};

/// Facts that the service states about a model, and its tokenizer.
pub(super) struct Facts {
    pub(super) text: TextModel,
    pub(super) architecture: String,
    pub(super) fingerprint: String,
    pub(super) weight_types: Vec<String>,
}

/// A reason why a model can't be described.
#[derive(Debug, thiserror::Error)]
pub enum FactsError {
    /// The GGUF file can't be read.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The GGUF file does not name its architecture.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// Positions are scaled in a way that mistral.rs leaves out.
    #[error(
        "the file scales positions ({0}), which mistral.rs ignores in GGUF files: the text would \
         be wrong; name a folder with safetensors"
    )]
    Scaled(String),
    /// The tokenizer can't be used.
    #[error(transparent)]
    Text(#[from] TextError),
    /// A file of the folder can't be read.
    #[error("can't read {}: {reason}; download it again from the model's source", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// The hub's cache has not what was downloaded.
    #[error(
        "{0} is not in the hub's cache, though mistral.rs loaded it; name its folder with --model"
    )]
    NotCached(String),
}

// === impl Facts ===

impl Facts {
    /// Reads the facts; of the hub's repositories those in its cache.
    pub(super) fn of(source: &ModelSource) -> Result<Self, FactsError> {
        match source {
            ModelSource::File(path) => Self::of_file(path),
            ModelSource::Folder(path) => Self::of_folder(path),
            ModelSource::Hub(name) => Self::of_folder(&cached(name)?),
        }
    }

    fn of_file(path: &Path) -> Result<Self, FactsError> {
        let file = GgufFile::open(path)?;
        let metadata = file.manifest().metadata();
        let architecture = metadata.require_string("general.architecture")?.to_owned();
        let scaling =
            metadata.string(&format!("{architecture}.rope.scaling.type"))?.unwrap_or("none");
        if scaling != "none" {
            return Err(FactsError::Scaled(format!(
                "{architecture}.rope.scaling.type is {scaling}"
            )));
        }
        if file.manifest().tensor("rope_freqs.weight").is_some() {
            return Err(FactsError::Scaled("it has rope_freqs.weight".to_owned()));
        }
        Ok(Self {
            text: TextModel::from_gguf(&file)?,
            architecture,
            fingerprint: file.fingerprint(),
            weight_types: file.manifest().weight_types(),
        })
    }

    fn of_folder(folder: &Path) -> Result<Self, FactsError> {
        let path = folder.join("config.json");
        let refuse = |reason: String| FactsError::File { path: path.clone(), reason };
        let contents = fs::read(&path).map_err(|error| refuse(error.to_string()))?;
        let config: Value =
            serde_json::from_slice(&contents).map_err(|error| refuse(error.to_string()))?;
        let text =
            |keys: &[&str]| keys.iter().find_map(|key| config[*key].as_str()).map(str::to_owned);
        let mut hash = Sha256::new();
        hash.update(&contents);
        for (name, bytes) in weights(folder).map_err(|error| refuse(error.to_string()))? {
            hash.update(format!("{name} {bytes}\n"));
        }
        Ok(Self {
            text: TextModel::from_folder(folder)?,
            architecture: text(&["model_type"]).unwrap_or_else(|| "unknown".to_owned()),
            fingerprint: hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect(),
            weight_types: text(&["torch_dtype", "dtype"]).into_iter().collect(),
        })
    }
}

/// Names and lengths of the weight files, in order.
fn weights(folder: &Path) -> io::Result<Vec<(String, u64)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            // Through links: the hub's cache is made of them.
            let bytes = fs::metadata(&path)?.len();
            found
                .push((path.file_name().unwrap_or_default().to_string_lossy().into_owned(), bytes));
        }
    }
    found.sort();
    Ok(found)
}

/// The folder of a repository in the cache that mistral.rs downloads into.
fn cached(name: &str) -> Result<PathBuf, FactsError> {
    let cache = mistralrs_core::hf_hub_cache_dir().map_or_else(Cache::from_env, Cache::new);
    let config = cache.repo(Repo::model(name.to_owned())).get("config.json");
    config
        .and_then(|path| path.parent().map(Path::to_path_buf))
        .ok_or_else(|| FactsError::NotCached(name.to_owned()))
}
