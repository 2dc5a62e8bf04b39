//! Flags that the measurements on prompts share.

use std::path::PathBuf;

use clap::Args;

use super::super::options::{ConfigOptions, ModelOptions};

/// The model, the prompts to measure on, and what becomes of the result.
#[derive(Args, Debug)]
pub(super) struct MeasurementOptions {
    #[command(flatten)]
    pub(super) model: ModelOptions,
    #[command(flatten)]
    pub(super) config: ConfigOptions,
    /// The prompts to measure on: one JSON object a line, with id, prompt and perhaps category
    #[arg(long, value_name = "FILE")]
    pub(super) prompts: PathBuf,
    /// Take only this many prompts of each category
    #[arg(long, value_name = "COUNT")]
    pub(super) limit: Option<usize>,
    /// Generate at most this many tokens for each prompt; end-of-sequence may come before
    #[arg(long, value_name = "COUNT", default_value_t = 128)]
    pub(super) max_new_tokens: usize,
    /// Write each measurement to this CSV file
    #[arg(long, value_name = "FILE")]
    pub(super) csv: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}
