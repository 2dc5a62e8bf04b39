//! `skipstone bench`: measurements with a peer in the same run.

mod ablation;
mod decode;
mod decode_table;
mod measurement;
mod modes;
mod passes;
mod prompt_set;
mod rows;
mod timeline;

pub(super) use ablation::Variant;

use std::process::ExitCode;

use clap::{Args, Subcommand};

/// Measure this machine and model, side by side with a peer
#[derive(Args, Debug)]
pub(super) struct Bench {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Subcommand, Debug)]
enum BenchCommand {
    Rows(Box<rows::Rows>),
    Decode(Box<decode::Decode>),
    Timeline(Box<timeline::Timeline>),
    Passes(Box<passes::Passes>),
}

// === impl Bench ===

impl Bench {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            BenchCommand::Rows(command) => command.run(),
            BenchCommand::Decode(command) => command.run(),
            BenchCommand::Timeline(command) => command.run(),
            BenchCommand::Passes(command) => command.run(),
        }
    }
}
