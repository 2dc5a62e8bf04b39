//! `skipstone bench decode`: how fast the modes decode the same prompts, side by side.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, ensure};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::super::load_progress::LoadBar;
use super::super::model_cache;
use super::super::options::{ConfigOptions, ModelOptions, flags};
use super::super::prompts::{PromptRecord, read_prompts};
use super::super::runtime::{Runtime, load};
use super::decode_table::print_table;
use super::modes::{self, KnownMode};
use super::rows::PeerName;
use crate::bench::Peer;
use crate::bench::decode::{DecodeBench, DecodeMode, DecodePrompt, DecodeReport, draw, write_csv};
use crate::text::{ChatMessage, Role};

/// Time whole streams in several modes: what speculation is worth
///
/// Decodes every prompt in every mode in turn, in shuffled order, greedily and one stream at a time, through the engine as a client would.
/// Counts the time after the first token. All modes must give the same tokens. Ratios are of total tokens per total
/// second, with 95 % bootstrap intervals over prompts.
#[derive(Args, Debug)]
#[command(after_help = modes::help())]
pub(super) struct Decode {
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    config: ConfigOptions,
    /// The prompts: one JSON object a line, with id, prompt and perhaps category
    #[arg(long, value_name = "FILE")]
    prompts: PathBuf,
    /// Modes to compare, as a list; see below
    #[arg(long, value_name = "MODES", value_delimiter = ',', default_value = "off,unified,adaptive", value_parser = modes::mode)]
    modes: Vec<&'static KnownMode>,
    /// Generate at most this many tokens for each prompt; end-of-sequence may come before
    #[arg(long, value_name = "COUNT", default_value_t = 128)]
    max_new_tokens: usize,
    /// Decode each prompt so often in each mode; medians count
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    repeats: usize,
    /// Take only so many prompts of each category
    #[arg(long, value_name = "COUNT")]
    limit: Option<usize>,
    /// Let a peer decode the same prompts in turn with our own engine
    #[arg(long, value_name = "NAME")]
    peer: Option<PeerName>,
    /// The Python interpreter that has the peer
    #[arg(long, value_name = "PATH", default_value = "python3", env = "SKIPSTONE_PYTHON")]
    python: String,
    /// Draw the ratios as an SVG picture
    #[arg(long, value_name = "FILE")]
    chart: Option<PathBuf>,
    /// Write each measurement to this CSV file
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What a prompt without a category is counted under.
const NO_CATEGORY: &str = "other";

// === impl Decode ===

impl Decode {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        ensure!(self.max_new_tokens > 1, "--max-new-tokens must be at least 2: the first token is not timed");
        ensure!(self.repeats > 0, "--repeats must be at least 1");
        for (index, mode) in self.modes.iter().enumerate() {
            let first = self.modes.iter().position(|other| other.name == mode.name);
            ensure!(first == Some(index), "--modes names {} twice", mode.name);
        }
        let mut records = read_prompts(&self.prompts)?;
        if let Some(limit) = self.limit {
            records = first_of_each(records, limit);
            ensure!(!records.is_empty(), "--limit 0 leaves no prompts");
        }
        let mut given = flags([("bench decode", "engine.max_streams", Some("1".to_owned()))]);
        given.extend(self.model.flags());
        let configuration = self.config.load(given)?;
        let settings = configuration.settings();
        let path = model_cache::resolve(&settings.model)?;
        let threads = settings.engine.thread_count().get();
        let runtime = load(settings, &LoadBar::new())?;
        let bench = self.bench(&runtime, &records)?;
        let mut peer = match self.peer {
            Some(PeerName::LlamaCpp) => {
                Some(Peer::llama_cpp(&self.python, &path, threads, bench.capacity())?)
            }
            None => None,
        };
        let bar = turn_bar(bench.turns(peer.is_some()));
        let run = bench.run(&*runtime.engine, peer.as_mut(), &mut || bar.inc(1))?;
        bar.finish_and_clear();
        let model = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let report = DecodeReport::new(&bench, &run, model, threads);
        if let Some(csv) = &self.csv {
            write_csv(csv, &bench, &run).with_context(|| format!("can't write {}", csv.display()))?;
        }
        if let Some(chart) = &self.chart {
            draw(&report, chart)?;
        }
        let mut stdout = io::stdout().lock();
        if self.json {
            writeln!(stdout, "{}", serde_json::to_string(&report)?)?;
        } else {
            print_table(&mut stdout, &report)?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn bench(&self, runtime: &Runtime, records: &[PromptRecord]) -> anyhow::Result<DecodeBench> {
        let prompt = |record: &PromptRecord| {
            let id = record.id.as_str().map_or_else(|| record.id.to_string(), str::to_owned);
            let tokens = runtime.encode_chat(&[ChatMessage::new(Role::User, record.prompt.as_str())])?;
            ensure!(
                tokens.len() + self.max_new_tokens <= runtime.context_length,
                "prompt {id}: {} tokens and {} new ones don't fit the context of {}",
                tokens.len(),
                self.max_new_tokens,
                runtime.context_length
            );
            let category = record.category.clone().unwrap_or_else(|| NO_CATEGORY.to_owned());
            Ok(DecodePrompt { id, category, tokens })
        };
        let mode =
            |mode: &&KnownMode| DecodeMode { name: mode.name.to_owned(), speculation: (mode.speculation)() };
        Ok(DecodeBench {
            modes: self.modes.iter().map(mode).collect(),
            prompts: records.iter().map(prompt).collect::<anyhow::Result<_>>()?,
            max_new_tokens: self.max_new_tokens,
            repeats: self.repeats,
        })
    }
}

/// The first `limit` prompts of each category, in their order.
fn first_of_each(records: Vec<PromptRecord>, limit: usize) -> Vec<PromptRecord> {
    let mut kept: Vec<PromptRecord> = Vec::new();
    for record in records {
        if kept.iter().filter(|other| other.category == record.category).count() < limit {
            kept.push(record);
        }
    }
    kept
}

fn turn_bar(turns: usize) -> ProgressBar {
    // indicatif draws nothing unless stderr is a terminal.
    let bar = ProgressBar::new(turns as u64);
    if let Ok(style) = ProgressStyle::with_template("decoding [{bar:30}] {pos} of {len}, {eta} left") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_keeps_the_first_prompts_of_each_category() {
        let record = |(id, category): (u32, &str)| PromptRecord {
            id: id.into(),
            category: (!category.is_empty()).then(|| category.to_owned()),
            prompt: String::new(),
        };
        let records =
            || [(1, "a"), (2, "b"), (3, "a"), (4, ""), (5, "a"), (6, ""), (7, "")].map(record).to_vec();
        for (limit, expected) in
            [(0, &[][..]), (1, &[1, 2, 4]), (2, &[1, 2, 3, 4, 6]), (9, &[1, 2, 3, 4, 5, 6, 7])]
        {
            let kept: Vec<u64> =
                first_of_each(records(), limit).iter().filter_map(|record| record.id.as_u64()).collect();
            assert_eq!(kept, expected, "limit {limit}");
        }
    }
}
