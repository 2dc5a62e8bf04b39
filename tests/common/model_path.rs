//! Path of the default model, for tests.

#![allow(clippy::expect_used, reason = "helpers of tests may assert by panicking, as tests do")]

use std::path::PathBuf;

/// `SKIPSTONE_TEST_MODEL`, or the file that `scripts/fetch-model` puts into the user's cache
/// folder.
pub fn model_path() -> PathBuf {
    let path = std::env::var_os("SKIPSTONE_TEST_MODEL").map_or_else(cached, PathBuf::from);
    assert!(
        path.is_file(),
        "the test model {} is missing: run scripts/fetch-model",
        path.display()
    );
    path
}

fn cached() -> PathBuf {
    let absolute =
        |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .expect("HOME is set");
    cache.join("skipstone/models/SmolLM2-135M-Instruct.Q4_1.gguf")
}
