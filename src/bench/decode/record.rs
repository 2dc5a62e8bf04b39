//! Every measurement as a line of CSV, for whoever wants to sum up otherwise.

use std::path::Path;

use serde::Serialize;

use super::run::{DecodeBench, DecodeRun};

/// A line of the file: one stream.
#[derive(Clone, PartialEq, Serialize, Debug)]
pub struct DecodeRecord<'a> {
    /// The prompt's name.
    pub prompt: &'a str,
    /// Its category.
    pub category: &'a str,
    /// The mode, or `peer`.
    pub mode: &'a str,
    /// From 0.
    pub repeat: usize,
    /// Tokens after the first.
    pub tokens: usize,
    /// Seconds between the first token and the last.
    pub seconds: f64,
    /// Passes of the whole model after the first token.
    pub passes: usize,
    /// Tokens drafted.
    pub drafted: usize,
    /// Of these, accepted.
    pub accepted: usize,
    /// Draft steps.
    pub draft_steps: usize,
    /// Verify passes.
    pub verify_steps: usize,
    /// Plain steps.
    pub plain_steps: usize,
    /// Seconds in draft steps.
    pub draft_seconds: f64,
    /// Seconds in verify passes.
    pub verify_seconds: f64,
    /// Seconds in plain steps.
    pub plain_seconds: f64,
    /// The engine's own estimate of its speedup over plain decoding.
    pub estimated_speedup: Option<f64>,
}

// === impl DecodeRecord ===

impl<'a> DecodeRecord<'a> {
    /// The lines of a run of `bench`, in the order of the turns.
    pub fn all(bench: &'a DecodeBench, run: &'a DecodeRun) -> impl Iterator<Item = Self> {
        run.measurements.iter().filter_map(|measured| {
            let prompt = bench.prompts.get(measured.prompt)?;
            Some(Self {
                prompt: &prompt.id,
                category: &prompt.category,
                mode: bench.modes.get(measured.mode).map_or("peer", |mode| &mode.name),
                repeat: measured.repeat,
                tokens: measured.tokens,
                seconds: measured.seconds,
                passes: measured.passes,
                drafted: measured.drafted,
                accepted: measured.accepted,
                draft_steps: measured.phases.draft.steps,
                verify_steps: measured.phases.verify.steps,
                plain_steps: measured.phases.plain.steps,
                draft_seconds: measured.phases.draft.seconds,
                verify_seconds: measured.phases.verify.seconds,
                plain_seconds: measured.phases.plain.seconds,
                estimated_speedup: measured.estimated_speedup,
            })
        })
    }
}

/// Writes a run of `bench` to a CSV file at `path`, in place of what is there.
///
/// # Errors
/// If the file can't be written.
pub fn write_csv(path: &Path, bench: &DecodeBench, run: &DecodeRun) -> csv::Result<()> {
    let mut writer = csv::Writer::from_path(path)?;
    DecodeRecord::all(bench, run).try_for_each(|record| writer.serialize(record))?;
    Ok(writer.flush()?)
}
