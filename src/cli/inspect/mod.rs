//! `skipstone inspect`: what a model file holds, and where its bytes are.

mod packing;
mod survey;
mod table;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use self::survey::Survey;
use self::table::Table;
use super::model_cache;
use super::options::ConfigOptions;
use crate::config::Flag;
use skipstone_gguf::GgufFile;

/// Print what a model file holds: architecture, sublayers, bytes by part, packed form
#[derive(Args, Debug)]
pub(super) struct Inspect {
    /// Model file (GGUF); without it, the default model if `skipstone fetch` has fetched it
    #[arg(long, value_name = "PATH")]
    model: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigOptions,
}

// === impl Inspect ===

impl Inspect {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let path = self.model.map(|path| path.to_string_lossy().into_owned());
        let flag = path.map(|path| Flag::new("model.path", path, "the flag --model"));
        let configuration = self.config.load(flag.into_iter().collect())?;
        let file = GgufFile::open(&model_cache::resolve(&configuration.settings().model)?)?;
        let survey = Survey::of(file.path(), file.manifest());
        let mut stdout = io::stdout().lock();
        if self.json {
            writeln!(stdout, "{}", serde_json::to_string_pretty(&survey)?)?;
        } else {
            write!(stdout, "{}", Table(&survey))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
