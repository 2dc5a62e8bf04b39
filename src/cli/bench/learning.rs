//! `skipstone bench learning`: how acceptance rises while the service serves.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, ensure};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::super::load_progress::LoadBar;
use super::super::options::flags;
use super::super::runtime::load;
use super::measurement::MeasurementOptions;
use super::prompt_set;
use crate::bench::LearningBench;
use crate::telemetry::{self, LogFormat};

/// Serve traffic and watch acceptance on other prompts: what learning bridges is worth
///
/// Acceptance is that of the first drafted token, each plan in turn, on greedy continuations that
/// teach the engine nothing; the ratio is their speed over that of plain ones, which take turns
/// with them. In between, sampled continuations of the traffic are served as a client would ask for
/// them.
#[derive(Args, Debug)]
pub(super) struct Learning {
    #[command(flatten)]
    measurement: MeasurementOptions,
    /// The prompts to serve, in the same format; none should be among those to measure on
    #[arg(long, value_name = "FILE")]
    traffic: PathBuf,
    /// Tokens to serve, prompts included
    #[arg(long, value_name = "COUNT", default_value_t = 50_000)]
    tokens: usize,
    /// Measurements after the first
    #[arg(long, value_name = "COUNT", default_value_t = 5)]
    checkpoints: usize,
    /// Plans of the profile that are bet on and measured, the best first
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    plans: usize,
    /// Also try runs of layers next to those that the plans skip. A plan that drafts faster may be
    /// right less often
    #[arg(long)]
    search: bool,
    /// Learn nothing: what the same traffic does to acceptance without learning
    #[arg(long)]
    without: bool,
}

// === impl Learning ===

impl Learning {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        ensure!(self.checkpoints > 0, "--checkpoints must be at least 1");
        let mut given = flags([
            ("bench learning", "engine.max_streams", Some("4".to_owned())),
            ("bench learning", "speculation.learn_bridges", Some((!self.without).to_string())),
            (
                "--search",
                "speculation.search_plans",
                Some((self.search && !self.without).to_string()),
            ),
            ("--plans", "speculation.max_plans", Some(self.plans.to_string())),
        ]);
        given.extend(self.measurement.model.flags());
        let configuration = self.measurement.config.load(given)?;
        telemetry::init_logging(
            "skipstone::engine=info,skipstone::engine::stream=warn",
            LogFormat::Text,
        )?;
        let runtime = load(configuration.settings(), &LoadBar::new())?;
        let bench = LearningBench {
            prompts: prompt_set::load(
                &self.measurement.prompts,
                self.measurement.limit,
                &runtime,
                self.measurement.max_new_tokens,
            )?,
            traffic: prompt_set::load(
                &self.traffic,
                None,
                &runtime,
                self.measurement.max_new_tokens,
            )?,
            tokens: self.tokens,
            checkpoints: self.checkpoints,
            max_new_tokens: self.measurement.max_new_tokens,
        };
        let bar = ProgressBar::new(self.tokens as u64);
        if let Ok(style) =
            ProgressStyle::with_template("serving [{bar:30}] {pos} of {len} tokens, {eta} left")
        {
            bar.set_style(style.progress_chars("=> "));
        }
        let points = bench.run(&*runtime.engine, &mut |served| bar.set_position(served as u64))?;
        bar.finish_and_clear();
        if let Some(path) = &self.measurement.csv {
            let write = || -> csv::Result<()> {
                let mut writer = csv::Writer::from_path(path)?;
                points.iter().try_for_each(|point| writer.serialize(point))?;
                Ok(writer.flush()?)
            };
            write().with_context(|| format!("can't write {}", path.display()))?;
        }
        let mut stdout = io::stdout().lock();
        if self.measurement.json {
            writeln!(stdout, "{}", serde_json::to_string(&points)?)?;
            return Ok(ExitCode::SUCCESS);
        }
        writeln!(
            stdout,
            "{:>14} {:>8} {:>8} {:>10} {:>6}",
            "tokens served", "drafted", "accepted", "acceptance", "ratio"
        )?;
        for point in &points {
            writeln!(
                stdout,
                "{:>14} {:>8} {:>8} {:>10.3} {:>6.2}",
                point.served_tokens,
                point.drafted,
                point.accepted,
                point.acceptance,
                point.ratio_to_off
            )?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
