//! `skipstone bench rows`: what a pass over r rows costs against one row.

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::ensure;
use clap::{Args, ValueEnum};

use super::super::model_cache;
use super::super::options::{ConfigOptions, ModelOptions};
use crate::bench::{Peer, RowCurve, RowReport, RowsBench};
use crate::gguf::GgufFile;
use crate::kernels::Isa;
use crate::model::{Model, PagePool, Runner};

/// Time passes over several rows: the verify slope
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
    /// Print JSON
    #[arg(long)]
    json: bool,
}

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
        let path = model_cache::resolve(&settings.model)?;
        let bench = RowsBench {
            rows: self.rows,
            context: self.context,
            prefill: self.prefill,
            repeats: self.repeats,
        };
        ensure!(bench.rows.iter().all(|rows| (1..=512).contains(rows)), "--rows takes counts from 1 to 512");
        ensure!(bench.context > 0 && bench.repeats > 0, "--context and --repeats must be at least 1");
        let threads = settings.engine.thread_count().get();
        let model = Arc::new(Model::load(Arc::new(GgufFile::open(&path)?), threads, &mut |_, _| {})?);
        let mut runner = Runner::new(model, PagePool::pages_for(bench.capacity()), threads);
        let mut peer = match self.peer {
            Some(PeerName::LlamaCpp) => {
                Some(Peer::llama_cpp(&self.python, &path, threads, bench.capacity())?)
            }
            None => None,
        };
        let (ours, peer) = bench.run(&mut runner, peer.as_mut())?;
        let report = RowReport {
            model: path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
            threads,
            context: bench.context,
            instruction_set: Isa::detect().name().to_owned(),
            ours,
            peer,
        };
        let mut stdout = io::stdout().lock();
        if self.json {
            writeln!(stdout, "{}", serde_json::to_string(&report)?)?;
        } else {
            print_table(&mut stdout, &report)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn print_table(out: &mut impl Write, report: &RowReport) -> io::Result<()> {
    let RowReport { model, threads, context, instruction_set, ours, peer } = report;
    writeln!(out, "{model}, {threads} threads, context {context}, {instruction_set}")?;
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
            write!(out, "  | {:>10.2} {:>6.2}  {ratio:>5.2}", theirs.seconds_median * 1e3, theirs.v)?;
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
