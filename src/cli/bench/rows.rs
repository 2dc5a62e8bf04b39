//! `skipstone bench rows`: what a pass over r rows costs against one row.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};

use super::super::backend;
use super::super::options::{ConfigOptions, ModelOptions};
use super::super::runtime::kv_precision;
use crate::bench::{
    Machine, Peer, RowCurve, RowRecord, RowReport, RowsBench, append_csv, fork_join_seconds,
    peak_resident_bytes, today,
};
use skipstone_gguf::GgufFile;
use skipstone_kernels::Isa;
use skipstone_model::{Model, PagePool, Runner, RunnerOptions};

/// Time passes over several rows: the verify slope
///
/// With a peer, the engines take turns in one run, on as many threads each. A turn is an untimed
/// pass, which wakes the threads and fills the caches, and then the timed one; before it, the other
/// engine's threads get 20 ms to go to sleep. Medians are reported.
#[derive(Args, Debug)]
pub(super) struct Rows {
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    config: ConfigOptions,
    /// Row counts
    #[arg(long, value_name = "COUNTS", value_delimiter = ',', default_value = "1,2,3,4,6,8,12,16")]
    rows: Vec<usize>,
    /// Positions before the rows
    #[arg(long, value_name = "TOKENS", default_value_t = 256)]
    context: usize,
    /// Also time the prefill of this many tokens
    #[arg(long, value_name = "TOKENS", default_value_t = 0)]
    prefill: usize,
    /// Measurements of each row count
    #[arg(long, value_name = "COUNT", default_value_t = 15)]
    repeats: usize,
    /// Measure a peer in turn with our own engine
    #[arg(long, value_name = "NAME")]
    peer: Option<PeerName>,
    /// The Python interpreter that has the peer
    #[arg(long, value_name = "PATH", default_value = "python3", env = "SKIPSTONE_PYTHON")]
    python: String,
    /// Run our kernels on this instruction set [default: the best of this CPU]
    #[arg(long, value_name = "NAME", value_parser = instruction_set)]
    instruction_set: Option<Isa>,
    /// Append the results to this CSV file
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// An engine to compare with.
#[derive(Clone, Copy, ValueEnum, Debug)]
enum PeerName {
    /// llama.cpp through an installed llama-cpp-python
    LlamaCpp,
}

// === impl Rows ===

impl Rows {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let configuration = self.config.load(self.model.flags())?;
        let settings = configuration.settings();
        let path = backend::native_file(settings)?;
        let bench = RowsBench {
            rows: self.rows,
            context: self.context,
            prefill: self.prefill,
            repeats: self.repeats,
        };
        ensure!(
            bench.rows.iter().all(|rows| (1..=512).contains(rows)),
            "--rows takes counts from 1 to 512"
        );
        ensure!(
            bench.context > 0 && bench.repeats > 0,
            "--context and --repeats must be at least 1"
        );
        let threads = settings.engine.thread_count().get();
        let isa = self.instruction_set.unwrap_or_else(Isa::detect);
        let fork_join_microseconds = fork_join_seconds(threads) * 1e6;
        let started = Instant::now();
        let model =
            Arc::new(Model::load(Arc::new(GgufFile::open(&path)?), threads, &mut |_, _| {})?);
        let load_seconds = started.elapsed().as_secs_f64();
        let peak_resident_bytes = peak_resident_bytes();
        let pages = PagePool::pages_for(bench.capacity());
        let kv_precision = kv_precision(&settings.engine);
        let options = RunnerOptions { pages, threads, isa, kv_precision, stand_in_layers: 0 };
        let mut runner = Runner::with_options(model, options);
        let mut peer = match self.peer {
            Some(PeerName::LlamaCpp) => {
                Some(Peer::llama_cpp(&self.python, &path, threads, bench.capacity())?)
            }
            None => None,
        };
        let (ours, peer) = bench.run(&mut runner, peer.as_mut())?;
        let model_bytes = fs::metadata(&path)?.len();
        let report = RowReport {
            model: path
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default(),
            model_bytes,
            load_seconds,
            peak_resident_bytes,
            peak_resident_ratio: peak_resident_bytes.map(|peak| peak as f64 / model_bytes as f64),
            threads,
            fork_join_microseconds,
            context: bench.context,
            instruction_set: isa.name().to_owned(),
            ours,
            peer,
        };
        if let Some(csv) = &self.csv {
            append_csv(csv, &RowRecord::all(&report, &Machine::this(), &today()))
                .with_context(|| format!("can't write {}", csv.display()))?;
        }
        let mut stdout = io::stdout().lock();
        if self.json {
            writeln!(stdout, "{}", serde_json::to_string(&report)?)?;
        } else {
            print_table(&mut stdout, &report)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The instruction set that is called `name`.
fn instruction_set(name: &str) -> Result<Isa, String> {
    let available = Isa::available();
    available.iter().copied().find(|isa| isa.name() == name).ok_or_else(|| {
        let names: Vec<&str> = available.iter().map(|isa| isa.name()).collect();
        format!("this CPU has {}", names.join(", "))
    })
}

fn print_table(out: &mut impl Write, report: &RowReport) -> io::Result<()> {
    let RowReport { model, threads, context, instruction_set, ours, peer, .. } = report;
    writeln!(out, "{model}, {threads} threads, context {context}, {instruction_set}")?;
    let (gigabytes, load) = (report.model_bytes as f64 / 1e9, report.load_seconds);
    write!(out, "file {gigabytes:.2} GB, loaded in {load:.2} s")?;
    if let (Some(peak), Some(ratio)) = (report.peak_resident_bytes, report.peak_resident_ratio) {
        write!(out, " with at most {:.2} GB of memory ({ratio:.2} x the file)", peak as f64 / 1e9)?;
    }
    writeln!(out, ", fork-join {:.2} us", report.fork_join_microseconds)?;
    write!(out, "{:>5} {:>10} {:>6} {:>6}", "rows", "ms", "v", "GB/s")?;
    if let Some(peer) = peer {
        write!(out, "  | {:>10} {:>6}  ours / theirs   {}", "ms", "v", peer.name)?;
    }
    writeln!(out)?;
    for (index, point) in ours.rows.iter().enumerate() {
        let (milliseconds, gigabytes) = (point.seconds_median * 1e3, point.gigabytes_per_second);
        write!(out, "{:>5} {milliseconds:>10.2} {:>6.2} {gigabytes:>6.1}", point.rows, point.v)?;
        if let Some(theirs) = peer.as_ref().map(|peer| peer.rows[index]) {
            let ratio = point.seconds_median / theirs.seconds_median;
            write!(
                out,
                "  | {:>10.2} {:>6.2}  {ratio:>5.2}",
                theirs.seconds_median * 1e3,
                theirs.v
            )?;
        }
        writeln!(out)?;
    }
    let prefill = |curve: &RowCurve| curve.prefill_tokens_per_second;
    if let Some(speed) = prefill(ours) {
        write!(out, "prefill {speed:.0} tokens/s")?;
        if let Some(theirs) = peer.as_ref().and_then(prefill) {
            write!(out, ", the peer {theirs:.0} tokens/s: {:.2} times as fast", speed / theirs)?;
        }
        writeln!(out)?;
    }
    Ok(())
}
