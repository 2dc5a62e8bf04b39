//! A file from a model hub, through the hub's own cache, so that other programs share the download.

use std::env;
use std::fs::File;
use std::path::Path;

use anyhow::Context;
use hf_hub::api::sync::ApiBuilder;
use hf_hub::{Cache, Repo, RepoType};

use super::arrival::Arrival;
use super::progress::Progress;
use super::reference::HubFile;

/// Copies the file out of the hub's cache into a temporary file of `folder`, after downloading it
/// if need be.
///
/// `HF_ENDPOINT` names another hub, `HF_HOME` another cache, `HF_TOKEN` who asks.
pub(super) fn fetch(wanted: &HubFile, folder: &Path) -> anyhow::Result<Arrival> {
    let HubFile { repository, file, revision } = wanted;
    let repo = Repo::with_revision(repository.clone(), RepoType::Model, revision.clone());
    let path = match Cache::from_env().repo(repo.clone()).get(file) {
        Some(path) => path,
        None => {
            let mut builder = ApiBuilder::from_env();
            if let Ok(token) = env::var("HF_TOKEN") {
                builder = builder.with_token(Some(token));
            }
            let api = builder.build().context("can't reach the model hub")?;
            api.repo(repo).download_with_progress(file, Progress::new(None)).with_context(|| {
                format!("can't download {file} of {repository} at revision {revision}")
            })?
        }
    };
    let mut arrival = Arrival::new(folder)?;
    arrival.fill(File::open(&path).with_context(|| format!("can't read {}", path.display()))?)?;
    Ok(arrival)
}
