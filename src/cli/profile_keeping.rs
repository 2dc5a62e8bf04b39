//! Which store keeps what streams learn, by the settings.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, ensure};

use super::model_cache;
use crate::config::{ProfileSettings, ProfileStoreKind, Settings};
use skipstone_engine::adapt::store::{
    EmbeddedStore, MemoryStore, ProfileStore, SharedStore, SharedStoreOptions, StoreError,
};
use skipstone_engine::{ProfileOptions, Profiles};

/// The file of the embedded store, in the state folder.
const FILE: &str = "learned.redb";

/// A shared record that nobody changed for so many half-lives counts a thousandth, and is
/// forgotten.
const RETENTION_HALF_LIVES: u32 = 10;

/// Longest password that is read, in bytes.
const MAX_PASSWORD: usize = 4096;

/// Opens the store and starts to keep profiles of the model with this fingerprint. A store that
/// can't be opened is no reason not to serve: profiles are kept in memory then, and a warning says
/// why. A setting that can't be right is an error.
pub(super) fn start(settings: &Settings, fingerprint: &str) -> anyhow::Result<Profiles> {
    let ProfileSettings { store, max_records, .. } = &settings.profiles;
    let store: Box<dyn ProfileStore> = match store {
        ProfileStoreKind::Memory => Box::new(MemoryStore::new(*max_records)),
        ProfileStoreKind::Redb => embedded(settings),
        ProfileStoreKind::Redis => Box::new(SharedStore::new(&shared(&settings.profiles)?)?),
    };
    let options = ProfileOptions {
        model: Arc::from(fingerprint),
        half_life: settings.profiles.half_life(),
        write_back: settings.profiles.write_back(),
    };
    Ok(Profiles::start(store, options)?)
}

fn embedded(settings: &Settings) -> Box<dyn ProfileStore> {
    let max_records = settings.profiles.max_records;
    let opened = match model_cache::state_folder(settings.engine.state_folder.as_deref()) {
        Some(folder) => EmbeddedStore::open(&folder.join(FILE), max_records),
        None => Err(StoreError::Open {
            place: FILE.to_owned(),
            reason: "neither XDG_STATE_HOME nor HOME is an absolute path".to_owned(),
            remedy: "name a folder with engine.state_folder",
        }),
    };
    match opened {
        Ok(store) => Box::new(store),
        Err(error) => {
            tracing::warn!("{error}; until then what is learned ends with the process");
            Box::new(MemoryStore::new(max_records))
        }
    }
}

fn shared(settings: &ProfileSettings) -> anyhow::Result<SharedStoreOptions> {
    let read = |path: &PathBuf| -> anyhow::Result<String> {
        let password = fs::read_to_string(path).with_context(|| {
            format!("can't read the password in {}; see profiles.password_file", path.display())
        })?;
        let password = password.trim_end_matches(['\r', '\n']).to_owned();
        ensure!(
            (1..=MAX_PASSWORD).contains(&password.len()),
            "the password in {} has {} bytes; put one of 1 to {MAX_PASSWORD} there, or clear profiles.password_file",
            path.display(),
            password.len()
        );
        Ok(password)
    };
    Ok(SharedStoreOptions {
        url: settings.url.clone(),
        password: settings.password_file.as_ref().map(read).transpose()?,
        retention: settings.half_life().saturating_mul(RETENTION_HALF_LIVES),
    })
}
