//! `skipstone profile`: what a profile holds.

mod picture;
mod table;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

pub(super) use self::table::Table;
use skipstone_engine::adapt::Profile as ModelProfile;

/// Look at what calibration learned
#[derive(Args, Debug)]
pub(super) struct Profile {
    #[command(subcommand)]
    command: ProfileCommand,
}

#[derive(Subcommand, Debug)]
enum ProfileCommand {
    /// Print the frontier of plans, and draw it
    Show {
        /// The profile
        #[arg(value_name = "PROFILE")]
        profile: PathBuf,
        /// Draw cost against acceptance into this SVG file
        #[arg(long, value_name = "FILE")]
        svg: Option<PathBuf>,
    },
}

// === impl Profile ===

impl Profile {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let ProfileCommand::Show { profile, svg } = self.command;
        let profile = ModelProfile::read(&profile)?;
        write!(io::stdout().lock(), "{}", Table(&profile))?;
        if let Some(svg) = svg {
            picture::draw(&profile, &svg)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
