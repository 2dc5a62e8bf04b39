//! `skipstone metrics`: the metrics that a service exports.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Args;

use crate::telemetry::metrics_markdown;

/// Print the metrics that a service exports, as Markdown
#[derive(Args, Debug)]
pub(super) struct Metrics {}

// === impl Metrics ===

impl Metrics {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        io::stdout().write_all(metrics_markdown().as_bytes())?;
        Ok(ExitCode::SUCCESS)
    }
}
