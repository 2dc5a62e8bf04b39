//! Where a model's profile comes from.

use std::path::{Path, PathBuf};

use crate::adapt::Profile;

/// Profiles that ship with the program.
const BUILT_IN: [&[u8]; 1] = [include_bytes!("../../profiles/smollm2-135m-instruct-q4_1.profile")];

/// Where calibration puts the profile of the model at `model`, and where it is looked for.
pub(super) fn beside(model: &Path) -> PathBuf {
    model.with_extension("profile")
}

/// The profile of the model at `model`: the one that the settings name, or the one beside the model, or a built-in one.
///
/// # Errors
/// If the settings name one that can't be used. A bad one beside the model costs speed only, so it is logged and ignored.
pub(super) fn of_model(
    setting: Option<&Path>,
    model: &Path,
    fingerprint: &str,
) -> anyhow::Result<Option<Profile>> {
    let read = |path: &Path| {
        let profile = Profile::read(path)?;
        profile.check_model(fingerprint).map(|()| profile)
    };
    if let Some(path) = setting {
        return Ok(Some(read(path)?));
    }
    let path = beside(model);
    if path.exists() {
        match read(&path) {
            Ok(profile) => return Ok(Some(profile)),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the profile beside the model is ignored");
            }
        }
    }
    let built_in = BUILT_IN.iter().filter_map(|bytes| Profile::from_bytes(bytes).ok());
    Ok(built_in.into_iter().find(|profile| profile.check_model(fingerprint).is_ok()))
}
