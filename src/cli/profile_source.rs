//! Source of a model's profile, and the plans that it gives.

use std::path::{Path, PathBuf};

use skipstone_engine::adapt::{self, Profile, Seat};
use skipstone_model::Model;

/// Profiles that ship with the program.
const BUILT_IN: [&[u8]; 1] = [include_bytes!("../../profiles/smollm2-135m-instruct-q4_1.profile")];

/// Path at which calibration puts the profile of the model at `model`, and where it is looked for.
pub(super) fn beside(model: &Path) -> PathBuf {
    model.with_extension("profile")
}

/// The plans of the profile of `model`, loaded from `path`, the best first: of the profile that the
/// settings name, or of the one beside the model, or of a built-in one. None without a profile.
///
/// # Errors
/// If the settings name one that can't be used. A bad one beside the model costs speed only, so it
/// is logged and ignored.
pub(super) fn plans(
    setting: Option<&Path>,
    path: &Path,
    fingerprint: &str,
    model: &Model,
    threads: usize,
) -> anyhow::Result<Vec<Seat>> {
    let build = |profile: &Profile| -> anyhow::Result<Vec<Seat>> {
        profile.check_model(fingerprint)?;
        Ok(adapt::frontier(profile, model, threads)?)
    };
    let read = |path: &Path| build(&Profile::read(path)?);
    if let Some(path) = setting {
        return read(path);
    }
    let path = beside(path);
    if path.exists() {
        match read(&path) {
            Ok(plans) => return Ok(plans),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the profile beside the model is \
                    ignored");
            }
        }
    }
    let built_in = BUILT_IN.iter().filter_map(|bytes| Profile::from_bytes(bytes).ok());
    Ok(built_in.filter_map(|profile| build(&profile).ok()).next().unwrap_or_default())
}
