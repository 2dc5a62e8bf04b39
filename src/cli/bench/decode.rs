//! `skipstone bench decode`: how fast the modes decode the same prompts, side by side.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};

use super::super::backend;
use super::super::load_progress::LoadBar;
use super::super::model_cache;
use super::super::options::flags;
use super::super::runtime::{Runtime, load, start_variants};
use super::ablation;
use super::decode_table::{print_table, print_worth};
use super::measurement::MeasurementOptions;
use super::modes::{self, KnownMode};
use super::prompt_set;
use crate::bench::decode::{DecodeBench, DecodeMode, DecodeReport, draw, write_csv};
use crate::bench::{DecodePeer, Peer};

/// Time whole streams in several modes: what speculation is worth
///
/// Decodes every prompt in every mode in turn, in shuffled order and one stream at a time, through
/// the engine as a client would. Counts the time after the first token. Greedy, all modes must give
/// the same tokens. Ratios are of total tokens per total second, with 95 % bootstrap intervals over
/// prompts.
#[derive(Args, Debug)]
#[command(after_help = modes::help())]
pub(super) struct Decode {
    #[command(flatten)]
    measurement: MeasurementOptions,
    /// Modes to compare, as a list; see below
    #[arg(long, value_name = "MODES", value_delimiter = ',', default_value = "off,unified,adaptive", value_parser = modes::mode)]
    modes: Vec<KnownMode>,
    /// Decode each prompt so often in each mode; medians count
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    repeats: usize,
    /// Sampling temperature; 0 decodes greedily. Above, each repeat has a seed of its own, and
    /// tokens are not compared
    #[arg(long, value_name = "NUMBER", default_value_t = 0.0)]
    temperature: f32,
    /// Switch one mechanism off in one further adaptive mode each, over an engine of its own
    #[arg(long, value_name = "MECHANISMS", value_delimiter = ',', hide = true)]
    without: Vec<String>,
    /// Let a peer decode the same prompts in turn with our own engine
    #[arg(long, value_name = "NAME")]
    peer: Option<DecodePeerName>,
    /// The Python interpreter that has llama.cpp
    #[arg(long, value_name = "PATH", default_value = "python3", env = "SKIPSTONE_PYTHON")]
    python: String,
    /// Draw the ratios as an SVG picture
    #[arg(long, value_name = "FILE")]
    chart: Option<PathBuf>,
}

/// An engine to compare with.
#[derive(Clone, Copy, ValueEnum, Debug)]
enum DecodePeerName {
    /// llama.cpp through an installed llama-cpp-python
    LlamaCpp,
    /// mistral.rs, in binaries built with it
    #[value(name = "mistralrs")]
    MistralRs,
}

// === impl Decode ===

impl Decode {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        ensure!(
            self.measurement.max_new_tokens > 1,
            "--max-new-tokens must be at least 2: the first token is not timed"
        );
        ensure!(self.repeats > 0, "--repeats must be at least 1");
        ensure!(
            self.temperature == 0.0 || self.peer.is_none(),
            "peers decode greedily: leave out --peer, or --temperature {}",
            self.temperature
        );
        for (index, mode) in self.modes.iter().enumerate() {
            let first = self.modes.iter().position(|other| other.name == mode.name);
            ensure!(first == Some(index), "--modes names {} twice", mode.name);
        }
        let mut given = flags([("bench decode", "engine.max_streams", Some("1".to_owned()))]);
        given.extend(self.measurement.model.flags());
        let configuration = self.measurement.config.load(given)?;
        let settings = configuration.settings();
        let path = model_cache::resolve(&settings.model)?;
        let threads = settings.engine.thread_count().get();
        let variants = ablation::variants(&self.without)?;
        let (runtime, engines) = match variants.is_empty() {
            true => (load(settings, &LoadBar::new())?, Vec::new()),
            false => start_variants(settings, &path, &LoadBar::new(), &variants)?,
        };
        ensure!(
            runtime.can_draft || self.modes.iter().all(|mode| mode.name == "off"),
            "only the native engine drafts; set engine.backend to native, or --modes to off"
        );
        let mut bench = self.bench(&runtime)?;
        bench.modes.extend(variants.iter().map(ablation::Variant::mode));
        let router = ablation::Router::new(Arc::clone(&runtime.engine), &variants, engines);
        let mut peer: Option<Box<dyn DecodePeer>> = match self.peer {
            Some(DecodePeerName::LlamaCpp) => {
                Some(Box::new(Peer::llama_cpp(&self.python, &path, threads, bench.capacity())?))
            }
            Some(DecodePeerName::MistralRs) => Some(backend::mistralrs_peer(&path, threads)?),
            None => None,
        };
        let bar = turn_bar(bench.turns(peer.is_some()));
        let run = bench.run(&router, peer.as_deref_mut(), &mut || bar.inc(1))?;
        bar.finish_and_clear();
        let model =
            path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let report = DecodeReport::new(&bench, &run, model, threads);
        if let Some(csv) = &self.measurement.csv {
            write_csv(csv, &bench, &run)
                .with_context(|| format!("can't write {}", csv.display()))?;
        }
        if let Some(chart) = &self.chart {
            draw(&report, chart)?;
        }
        let mut stdout = io::stdout().lock();
        if self.measurement.json {
            writeln!(stdout, "{}", serde_json::to_string(&report)?)?;
        } else {
            print_table(&mut stdout, &report)?;
            print_worth(
                &mut stdout,
                &DecodeReport::worth(&bench, &run, "adaptive", ablation::WITHOUT),
            )?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn bench(&self, runtime: &Runtime) -> anyhow::Result<DecodeBench> {
        let mode = |mode: &KnownMode| DecodeMode {
            name: mode.name.to_owned(),
            speculation: mode.speculation.clone(),
        };
        Ok(DecodeBench {
            modes: self.modes.iter().map(mode).collect(),
            prompts: prompt_set::load(
                &self.measurement.prompts,
                self.measurement.limit,
                runtime,
                self.measurement.max_new_tokens,
            )?,
            max_new_tokens: self.measurement.max_new_tokens,
            repeats: self.repeats,
            temperature: self.temperature,
        })
    }
}

fn turn_bar(turns: usize) -> ProgressBar {
    // indicatif draws nothing unless stderr is a terminal.
    let bar = ProgressBar::new(turns as u64);
    if let Ok(style) =
        ProgressStyle::with_template("decoding [{bar:30}] {pos} of {len}, {eta} left")
    {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}
