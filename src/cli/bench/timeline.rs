//! `skipstone bench timeline`: where in a stream drafting pays.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, ensure};
use clap::Args;

use super::super::load_progress::LoadBar;
use super::super::options::flags;
use super::super::runtime::load;
use super::measurement::MeasurementOptions;
use super::prompt_set;
use crate::bench::{TimelineBench, Window};

/// Characters of a window's text that the table shows.
const EXCERPT: usize = 32;

/// Follow streams through their outputs: what drafts, and what it is worth, window by window
///
/// Each prompt is decoded plainly and adaptively in turn, greedily and one stream at a time. A
/// prompt that asks for several kinds of text shows how the stream's bets follow.
#[derive(Args, Debug)]
pub(super) struct Timeline {
    #[command(flatten)]
    measurement: MeasurementOptions,
    /// Tokens of a window
    #[arg(long, value_name = "TOKENS", default_value_t = 32)]
    window: usize,
    /// Decode each prompt so often each way; medians of the rates count
    #[arg(long, value_name = "COUNT", default_value_t = 3)]
    repeats: usize,
}

// === impl Timeline ===

impl Timeline {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        ensure!(self.window > 1, "--window must be at least 2");
        ensure!(self.repeats > 0, "--repeats must be at least 1");
        let MeasurementOptions { model, config, prompts, limit, max_new_tokens, csv, json } =
            &self.measurement;
        let mut given = flags([("bench timeline", "engine.max_streams", Some("1".to_owned()))]);
        given.extend(model.flags());
        let configuration = config.load(given)?;
        let runtime = load(configuration.settings(), &LoadBar::new())?;
        ensure!(runtime.can_draft, "only the native engine drafts; set engine.backend to native");
        let mut results = Vec::new();
        for prompt in prompt_set::load(prompts, *limit, &runtime, *max_new_tokens)? {
            let id = prompt.id.clone();
            let bench = TimelineBench {
                prompt,
                max_new_tokens: *max_new_tokens,
                window: self.window,
                repeats: self.repeats,
            };
            results.push((id, bench.run(&*runtime.engine)?));
        }
        if let Some(path) = csv {
            write_csv(path, &results).with_context(|| format!("can't write {}", path.display()))?;
        }
        let mut stdout = io::stdout().lock();
        if *json {
            let results: serde_json::Map<String, serde_json::Value> = results
                .iter()
                .map(|(id, windows)| Ok((id.clone(), serde_json::to_value(windows)?)))
                .collect::<serde_json::Result<_>>()?;
            writeln!(stdout, "{}", serde_json::Value::Object(results))?;
            return Ok(ExitCode::SUCCESS);
        }
        for (id, windows) in &results {
            print_table(&mut stdout, id, windows)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn print_table(out: &mut impl Write, id: &str, windows: &[Window]) -> io::Result<()> {
    writeln!(out, "prompt {id}: tokens a second, and cycles by what drafted")?;
    writeln!(
        out,
        "{:>6} {:>8} {:>9} {:>6} {:>7} {:>6} {:>6} {:<18} text",
        "token", "off", "adaptive", "ratio", "accept", "plain", "ngram", "plans"
    )?;
    for window in windows {
        let accepted = match window.drafted {
            0 => "-".to_owned(),
            drafted => format!("{:.2}", window.accepted as f64 / drafted as f64),
        };
        let excerpt: String =
            window.text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        writeln!(
            out,
            "{:>6} {:>8.1} {:>9.1} {:>6.2} {:>7} {:>6} {:>6} {:<18} {}",
            window.first,
            window.off_tokens_per_second,
            window.adaptive_tokens_per_second,
            window.ratio,
            accepted,
            window.plain,
            window.ngram,
            plans(window),
            excerpt.chars().take(EXCERPT).collect::<String>(),
        )?;
    }
    Ok(())
}

/// Cycles of each plan that drafted, as in `0 x 12, 2 x 3`.
fn plans(window: &Window) -> String {
    let used = window.plans.iter().enumerate().filter(|&(_, &cycles)| cycles > 0);
    used.map(|(plan, cycles)| format!("{plan} x {cycles}")).collect::<Vec<_>>().join(", ")
}

fn write_csv(path: &std::path::Path, results: &[(String, Vec<Window>)]) -> anyhow::Result<()> {
    let mut writer = csv::Writer::from_path(path)?;
    writer.write_record([
        "prompt",
        "first",
        "off_tokens_per_second",
        "adaptive_tokens_per_second",
        "ratio",
        "drafted",
        "accepted",
        "plain",
        "ngram",
        "plans",
        "text",
    ])?;
    for (id, windows) in results {
        for window in windows {
            writer.write_record([
                id.clone(),
                window.first.to_string(),
                format!("{:.1}", window.off_tokens_per_second),
                format!("{:.1}", window.adaptive_tokens_per_second),
                format!("{:.3}", window.ratio),
                window.drafted.to_string(),
                window.accepted.to_string(),
                window.plain.to_string(),
                window.ngram.to_string(),
                plans(window),
                window.text.clone(),
            ])?;
        }
    }
    Ok(writer.flush()?)
}
