//! `skipstone calibrate`: learns what a draft of a model may leave out.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, ensure};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;

use super::backend;
use super::options::{ConfigOptions, ModelOptions};
use super::profile::Table;
use skipstone_engine::adapt::Profile;
use skipstone_engine::calibrate::{
    ABOUT_TEXT, Calibration, CalibrationProgress, Seed, StandInCalibration, TOKENS_PER_PROMPT,
    prompts,
};
use skipstone_gguf::GgufFile;
use skipstone_model::text::{ChatMessage, EncodeOptions, Role, TextModel};
use skipstone_model::{Model, TokenId};

/// The prompts that the model's own text starts from: those of the end-to-end benchmark's sibling
/// set, shipped with the program.
const SEEDS: &str = include_str!("../../benches/data/prompts.jsonl");

/// Learn which sublayers a draft may skip, and bridges over them
///
/// The model writes text of its own; from that come the profile's plans, bridges and expectations.
/// An interrupted run goes on where it was.
#[derive(Args, Debug)]
pub(super) struct Calibrate {
    #[command(flatten)]
    model: ModelOptions,
    /// Tokens of text to learn from
    #[arg(long, value_name = "COUNT", default_value_t = 32_768)]
    tokens: usize,
    /// Where the profile goes [default: beside the model]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Also train a stand-in, on this many tokens of text; a profile that is there is kept and gets
    /// the stand-in
    #[arg(long, value_name = "TOKENS")]
    stand_in: Option<usize>,
    /// Tokens that the stand-in learns from: the text several times over [default: thrice]
    #[arg(long, value_name = "TOKENS", requires = "stand_in")]
    learn: Option<usize>,
    #[command(flatten)]
    config: ConfigOptions,
}

/// A line of the seeds.
#[derive(Deserialize)]
struct Line {
    prompt: String,
}

/// A bar on a terminal with the time left, a line for each stage elsewhere.
struct Bar(ProgressBar);

// === impl Calibrate ===

impl Calibrate {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        ensure!(self.tokens >= 1024, "--tokens is {}; less than 1024 teach nothing", self.tokens);
        let configuration = self.config.load(self.model.flags())?;
        let settings = configuration.settings();
        let path = backend::native_file(settings)?;
        let out = self.out.unwrap_or_else(|| path.with_extension("profile"));
        let threads = settings.engine.thread_count().get();
        let file = Arc::new(GgufFile::open(&path)?);
        let text = TextModel::from_gguf(&file)?;
        let mut partial = out.clone().into_os_string();
        partial.push(".partial");
        let calibration = Calibration {
            name: path
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default(),
            fingerprint: file.fingerprint(),
            seeds: seeds(&text)?,
            ends: text.end_of_sequence().to_vec(),
            tokens: self.tokens,
            threads,
            partial: partial.into(),
        };
        let bar = Bar::new();
        bar.stage("loading the model", 100);
        let model = Model::load(file, threads, &mut |done, total| {
            bar.done((100 * done / total.max(1)) as usize)
        })?;
        let model = Arc::new(model);
        let there = match self.stand_in {
            Some(_) => Profile::read(&out).ok(),
            None => None,
        };
        let there = there.filter(|there| there.check_model(&calibration.fingerprint).is_ok());
        let mut profile = match there {
            Some(there) => there,
            None => {
                let profile = calibration.run(&model, &bar)?;
                profile.write(&out)?;
                calibration.clean_up();
                profile
            }
        };
        if let Some(tokens) = self.stand_in {
            let training = StandInCalibration {
                seeds: many_seeds(&text, tokens / TOKENS_PER_PROMPT + 1)?,
                ends: calibration.ends.clone(),
                text: tokens,
                learn: self.learn.unwrap_or(3 * tokens),
                rate: 1.5e-3,
                layers: 1,
                mlp_width: None,
                threads,
                partial: calibration.partial.clone(),
            };
            profile = training.run(&model, profile, &bar)?;
            profile.write(&out)?;
            training.clean_up();
        }
        drop(bar);
        let mut stdout = io::stdout().lock();
        write!(stdout, "{}", Table(&profile))?;
        writeln!(stdout, "\nwritten to {}", out.display())?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The seeds as prompts for the model.
fn seeds(text: &TextModel) -> anyhow::Result<Vec<Vec<TokenId>>> {
    let seeds = SEEDS.lines().filter(|line| !line.trim().is_empty()).map(|line| {
        let Line { prompt } = serde_json::from_str(line)?;
        Ok(prompt)
    });
    let seeds: Vec<String> =
        seeds.collect::<anyhow::Result<_>>().context("the seed prompts can't be read")?;
    encoded(text, seeds)
}

/// About `count` seeds of many kinds: short requests, the built-in seeds, and requests about what
/// the model wrote before.
fn many_seeds(text: &TextModel, count: usize) -> anyhow::Result<Vec<Seed>> {
    let about: Vec<Seed> =
        ABOUT_TEXT.iter().map(|request| about(text, request)).collect::<anyhow::Result<_>>()?;
    let shipped = seeds(text)?;
    let requests = encoded(text, prompts(count))?.into_iter();
    let mixed = requests.enumerate().flat_map(|(index, request)| {
        let also = match index % 4 {
            1 => Some(about[index / 4 % about.len()].clone()),
            3 => Some(Seed::Prompt(shipped[index / 4 % shipped.len()].clone())),
            _ => None,
        };
        [Some(Seed::Prompt(request)), also].into_iter().flatten()
    });
    Ok(mixed.take(count).collect())
}

/// A request about a text: what comes before the text, and what after.
fn about(text: &TextModel, request: &str) -> anyhow::Result<Seed> {
    let with = |inner: &str| encoded(text, vec![format!("{request}\n\n{inner}")]);
    let (one, other) = (with("Zebra")?.remove(0), with("42")?.remove(0));
    let alike = |pairs: &mut dyn Iterator<Item = (&TokenId, &TokenId)>| {
        pairs.take_while(|(one, other)| one == other).count()
    };
    let before = alike(&mut one.iter().zip(&other));
    let after = alike(&mut one[before..].iter().rev().zip(other[before..].iter().rev()));
    Ok(Seed::About(one[..before].to_vec(), one[one.len() - after..].to_vec()))
}

/// Prompts as the model wants them: chats where it has a template.
fn encoded(text: &TextModel, prompts: Vec<String>) -> anyhow::Result<Vec<Vec<TokenId>>> {
    let encode = |prompt: String| {
        Ok(match text.has_chat_template() {
            true => text.encode_chat(&[ChatMessage { role: Role::User, content: prompt }], true)?,
            false => {
                text.encode(&prompt, EncodeOptions { add_special: true, parse_special: false })?
            }
        })
    };
    prompts.into_iter().map(encode).collect()
}

// === impl Bar ===

impl Bar {
    fn new() -> Self {
        let bar = ProgressBar::new(0);
        // A template that can't be read costs the looks of the bar only.
        if let Ok(style) =
            ProgressStyle::with_template("{msg} [{bar:30}] {pos} of {len}, {eta} left")
        {
            bar.set_style(style.progress_chars("=> "));
        }
        Self(bar)
    }
}

impl CalibrationProgress for Bar {
    fn stage(&self, what: &str, total: usize) {
        tracing::info!("{what}");
        if self.0.is_hidden() {
            // Not `eprintln`, which panics where nobody reads.
            let _ = writeln!(io::stderr(), "{what}");
        }
        self.0.reset();
        self.0.set_message(what.to_owned());
        self.0.set_length(total as u64);
    }

    fn done(&self, units: usize) {
        self.0.set_position(units as u64);
    }

    fn trained(&self, seen: usize, loss: f64, acceptance: &[f64]) {
        let rates: Vec<String> = acceptance.iter().map(|rate| format!("{rate:.3}")).collect();
        let line = format!("{seen} tokens, loss {loss:.3}, acceptance {}", rates.join(" "));
        tracing::info!("{line}");
        if self.0.is_hidden() {
            let _ = writeln!(io::stderr(), "{line}");
        } else {
            self.0.println(line);
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
