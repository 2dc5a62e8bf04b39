//! Finished work of an interrupted calibration.

use std::fs;
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::CalibrationError;
use super::corpus::Sequence;

/// Changes whenever old files would mislead, those of moments included.
pub(super) const VERSION: u32 = 2;

/// Finished work, but for moments (see [`super::kept_moments`]).
#[derive(Serialize, Deserialize)]
pub(super) struct Partial {
    version: u32,
    fingerprint: String,
    wanted: usize,
    pub(super) sequences: Vec<Sequence>,
    pub(super) relevance: Option<Vec<Option<f32>>>,
}

// === impl Partial ===

impl Partial {
    /// The work that `path` holds for the same model and size, or a fresh start.
    pub(super) fn resume(path: &Path, fingerprint: &str, wanted: usize) -> Self {
        let kept =
            fs::read(path).ok().and_then(|bytes| serde_json::from_slice::<Self>(&bytes).ok());
        let same = |kept: &Self| {
            kept.version == VERSION && kept.fingerprint == fingerprint && kept.wanted == wanted
        };
        kept.filter(same).unwrap_or_else(|| Self {
            version: VERSION,
            fingerprint: fingerprint.to_owned(),
            wanted,
            sequences: Vec::new(),
            relevance: None,
        })
    }

    /// Tokens written, prompts included.
    pub(super) fn tokens(&self) -> usize {
        self.sequences.iter().map(|sequence| sequence.tokens.len()).sum()
    }

    /// Replaces the file in one step.
    pub(super) fn save(&self, path: &Path) -> Result<(), CalibrationError> {
        keep(path, serde_json::to_vec(self).map_err(std::io::Error::from))
    }
}

/// Writes finished work, if it could be put into bytes: the whole file or none.
pub(super) fn keep(path: &Path, bytes: std::io::Result<Vec<u8>>) -> Result<(), CalibrationError> {
    let failed = |source| CalibrationError::Partial { path: path.display().to_string(), source };
    let mut file = tempfile::NamedTempFile::new_in(folder_of(path)).map_err(failed)?;
    file.write_all(&bytes.map_err(failed)?).map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

/// The folder that `path` lies in.
pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
