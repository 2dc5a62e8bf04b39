//! `skipstone bench passes`: how well the engine prices its passes.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, ensure};
use clap::Args;

use super::super::load_progress::LoadBar;
use super::super::model_cache;
use super::super::options::flags;
use super::super::runtime::start_logged;
use super::measurement::MeasurementOptions;
use super::modes::{self, KnownMode};
use super::prompt_set;
use crate::bench::PassesBench;
use crate::bench::decode::DecodeMode;
use skipstone_engine::cost::CostModel;

/// Run many streams at once and compare what each pass took with what the engine predicted
///
/// Everything that the engine says of speedup, and every bet, comes from the price of a pass: so
/// the price must be right for any mix of prompts, drafts and verifies. Prompts are decoded
/// greedily in every mode in turn, several streams at a time.
#[derive(Args, Debug)]
pub(super) struct Passes {
    #[command(flatten)]
    measurement: MeasurementOptions,
    /// Streams at a time
    #[arg(long, value_name = "COUNT", default_value_t = 4)]
    streams: usize,
    /// Modes of the streams, as a list; see `skipstone bench decode --help`
    #[arg(long, value_delimiter = ',', value_parser = modes::mode, default_value = "off,adaptive,bridged")]
    modes: Vec<KnownMode>,
    /// Keep the passes in this file, one JSON object a line
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

// === impl Passes ===

impl Passes {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        ensure!(self.streams > 0, "--streams must be at least 1");
        let MeasurementOptions { model, config, prompts, limit, max_new_tokens, json, .. } =
            &self.measurement;
        let streams = Some(self.streams.to_string());
        let mut given = flags([("bench passes", "engine.max_streams", streams)]);
        given.extend(model.flags());
        let configuration = config.load(given)?;
        let settings = configuration.settings();
        let path = model_cache::resolve(&settings.model)?;
        let folder = tempfile::tempdir()?;
        let log = self.out.clone().unwrap_or_else(|| folder.path().join("passes"));
        let runtime = start_logged(settings, &path, &LoadBar::new(), &log)
            .with_context(|| format!("can't start with --out {}", log.display()))?;
        let mode = |mode: &KnownMode| DecodeMode {
            name: mode.name.to_owned(),
            speculation: mode.speculation.clone(),
        };
        let bench = PassesBench {
            prompts: prompt_set::load(prompts, *limit, &runtime, *max_new_tokens)?,
            modes: self.modes.iter().map(mode).collect(),
            streams: self.streams,
            max_new_tokens: *max_new_tokens,
        };
        bench.run(&*runtime.engine)?;
        // The engine's end completes the file.
        drop(runtime);
        let (mut costs, passes) = CostModel::recorded(&log)?;
        let errors = costs.replay(&passes);
        let mut stdout = io::stdout().lock();
        if *json {
            writeln!(stdout, "{}", serde_json::to_string(&errors)?)?;
        } else {
            writeln!(
                stdout,
                "{} passes; predicted against taken: off by {:.1} % in the median, {:.1} % at the \
                 95th percentile",
                errors.passes,
                100.0 * errors.median,
                100.0 * errors.p95
            )?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
