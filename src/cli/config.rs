//! `skipstone config`: checks the settings, or prints them with where each came from.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::options::ConfigOptions;

/// Check the settings, or print them
#[derive(Args, Debug)]
pub(super) struct Config {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Say OK, or everything that is wrong
    Check(ConfigOptions),
    /// Print every setting as TOML, each with the layer that set it
    Print(ConfigOptions),
}

// === impl Config ===

impl Config {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let mut stdout = io::stdout().lock();
        match self.action {
            Action::Check(options) => {
                options.load(Vec::new())?;
                writeln!(stdout, "OK")?;
            }
            Action::Print(options) => write!(stdout, "{}", options.load(Vec::new())?)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}
