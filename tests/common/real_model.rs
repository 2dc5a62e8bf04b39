//! The default model, loaded once for all tests of a file.

#![allow(clippy::unwrap_used, reason = "helpers of tests may assert by panicking, as tests do")]

use std::sync::{Arc, LazyLock};

use skipstone::gguf::GgufFile;
use skipstone::model::Model;
use skipstone::text::TextModel;

use super::model_path::model_path;
use super::tiny_model::Loaded;

pub static DEFAULT_MODEL: LazyLock<Loaded> = LazyLock::new(|| {
    let file = Arc::new(GgufFile::open(&model_path()).unwrap());
    let text = Arc::new(TextModel::from_gguf(&file).unwrap());
    Loaded { model: Arc::new(Model::load(file, threads(), &mut |_, _| {}).unwrap()), text }
});

/// All the machine's cores.
pub fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
