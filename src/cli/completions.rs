//! `skipstone completions`: a completion script for a shell.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Args, CommandFactory};

use super::CommandLine;

/// Print a completion script for a shell
#[derive(Args, Debug)]
pub(super) struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

// === impl Completions ===

impl Completions {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        // Into memory first: the generator panics where it can't write.
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut CommandLine::command(), "skipstone", &mut script);
        io::stdout().write_all(&script)?;
        Ok(ExitCode::SUCCESS)
    }
}
