//! The verify slope: what a pass over r rows costs against a plain step. Whether drafting can pay
//! at all is decided here.
//!
//! Two engines alternate, so that both see the same machine. So that neither sees the other, the
//! threads of one are left time to go to sleep before the other's turn, and each turn is an untimed
//! pass, which wakes threads and fills caches, and then the timed one.

use std::time::Duration;

use serde::Serialize;

use super::median;
use super::peer::{Peer, PeerError};
use skipstone_engine::EngineOptions;
use skipstone_engine::cost::Way;
use skipstone_kernels::PAGE_POSITIONS;
use skipstone_model::{LogitsWanted, PagePool, Runner};

/// The passes to measure.
#[derive(Clone, Debug)]
pub struct RowsBench {
    /// Row counts; the first need not be 1, but v is relative to 1 row, which is always measured.
    pub rows: Vec<usize>,
    /// Positions before the rows.
    pub context: usize,
    /// Tokens of the prefill that is timed; 0 for none.
    pub prefill: usize,
    /// Measurements of each row count; medians are reported.
    pub repeats: usize,
}

/// Times of one engine.
#[derive(Clone, Serialize, Debug)]
pub struct RowCurve {
    /// Name of the engine.
    pub name: String,
    /// One point for each row count.
    pub rows: Vec<RowPoint>,
    /// Tokens a second of the timed prefill.
    pub prefill_tokens_per_second: Option<f64>,
}

/// One row count.
#[derive(Clone, Copy, Serialize, Debug)]
pub struct RowPoint {
    /// Rows of the pass.
    pub rows: usize,
    /// Median seconds of a pass.
    pub seconds_median: f64,
    /// The same against one row.
    pub v: f64,
    /// Weight bytes of the file's matrices over the time: how near the pass is to the memory's
    /// speed.
    pub gigabytes_per_second: f64,
}

/// The whole result.
#[derive(Clone, Serialize, Debug)]
pub struct RowReport {
    /// The model's file name.
    pub model: String,
    /// Bytes of the model's file.
    pub model_bytes: u64,
    /// Time to load it and pack the weights, in seconds.
    pub load_seconds: f64,
    /// The most memory this process held until the model was loaded (keys, values and scratch come
    /// later and depend on what is run), and the same over the file's size; `None` where the system
    /// does not say.
    pub peak_resident_bytes: Option<u64>,
    /// See above.
    pub peak_resident_ratio: Option<f64>,
    /// Threads of each engine.
    pub threads: usize,
    /// Median cost of a job for these threads that has no work, from fork to join, in microseconds.
    pub fork_join_microseconds: f64,
    /// Positions before the rows.
    pub context: usize,
    /// Instruction set of our kernels.
    pub instruction_set: String,
    /// Ours.
    #[serde(flatten)]
    pub ours: RowCurve,
    /// The peer's.
    pub peer: Option<RowCurve>,
}

// === impl RowsBench ===

impl RowsBench {
    /// Positions that one engine needs.
    pub fn capacity(&self) -> usize {
        let most = self.rows.iter().copied().max().unwrap_or(1);
        (self.context + most).max(self.prefill).next_multiple_of(PAGE_POSITIONS)
    }

    /// Measures `runner`, which has [`RowsBench::capacity`] positions, and the peer in turn. Each
    /// time is that of a second pass in a row.
    ///
    /// # Errors
    /// If the peer fails.
    pub fn run(
        &self,
        runner: &mut Runner,
        mut peer: Option<&mut Peer>,
    ) -> Result<(RowCurve, Option<RowCurve>), PeerError> {
        let mut counts = self.rows.clone();
        if !counts.contains(&1) {
            counts.insert(0, 1);
        }
        let mut ours = Times::new(counts.len());
        let mut theirs = Times::new(counts.len());
        let pages: Vec<u32> = (0..PagePool::pages_for(self.capacity()) as u32).collect();
        if self.prefill > 0 {
            for _ in 0..self.repeats.div_ceil(4) {
                rest(&peer);
                pass(runner, &pages, 0, 1, LogitsWanted::None);
                ours.prefill.push(prefill(runner, &pages, self.prefill));
                rest(&peer);
                if let Some(peer) = peer.as_deref_mut() {
                    theirs.prefill.push(peer.context(self.prefill)?);
                }
            }
        }
        prefill(runner, &pages, self.context);
        if let Some(peer) = peer.as_deref_mut() {
            peer.context(self.context)?;
        }
        // The first round warms both up and is not counted.
        for round in 0..=self.repeats {
            for (index, &count) in counts.iter().enumerate() {
                rest(&peer);
                pass(runner, &pages, self.context, count, LogitsWanted::All);
                let seconds = pass(runner, &pages, self.context, count, LogitsWanted::All);
                rest(&peer);
                let peer_seconds = peer.as_deref_mut().map(|peer| peer.rows(count)).transpose()?;
                if round > 0 {
                    ours.rows[index].push(seconds);
                    theirs.rows[index].extend(peer_seconds);
                }
            }
        }
        let bytes = runner.model().weights().bytes() as f64;
        let ours = ours.curve("skipstone".to_owned(), &counts, self.prefill, bytes);
        let theirs =
            peer.map(|peer| theirs.curve(peer.name().to_owned(), &counts, self.prefill, bytes));
        Ok((ours, theirs))
    }
}

struct Times {
    rows: Vec<Vec<f64>>,
    prefill: Vec<f64>,
}

impl Times {
    fn new(counts: usize) -> Self {
        Self { rows: vec![Vec::new(); counts], prefill: Vec::new() }
    }

    fn curve(mut self, name: String, counts: &[usize], prefill: usize, bytes: f64) -> RowCurve {
        let medians: Vec<f64> = self.rows.iter_mut().map(|times| median(times)).collect();
        let one =
            counts.iter().position(|&count| count == 1).map_or(f64::NAN, |index| medians[index]);
        let points = counts.iter().zip(&medians).map(|(&rows, &seconds)| RowPoint {
            rows,
            seconds_median: seconds,
            v: seconds / one,
            gigabytes_per_second: bytes / seconds / 1e9,
        });
        let prefill_seconds = (!self.prefill.is_empty()).then(|| median(&mut self.prefill));
        RowCurve {
            name,
            rows: points.collect(),
            prefill_tokens_per_second: prefill_seconds.map(|seconds| prefill as f64 / seconds),
        }
    }
}

/// Time that an engine rests while the other has its turn: the threads of GNU OpenMP, which
/// llama.cpp uses, spin for some milliseconds after a pass, ours for less. (Telling them not to
/// spin would be unfair: it triples llama.cpp's plain step.)
const REST: Duration = Duration::from_millis(20);

/// Waits until the threads of the engine that had its turn sleep.
fn rest(peer: &Option<&mut Peer>) {
    if peer.is_some() {
        std::thread::sleep(REST);
    }
}

/// Tokens of a prefill pass: what the server runs in one step.
const PREFILL_CHUNK: usize = EngineOptions::PREFILL_TOKENS_PER_STEP;

fn prefill(runner: &mut Runner, pages: &[u32], tokens: usize) -> f64 {
    let chunks = (0..tokens).step_by(PREFILL_CHUNK);
    chunks
        .map(|start| {
            let count = PREFILL_CHUNK.min(tokens - start);
            let last = start + count == tokens;
            let logits = if last { LogitsWanted::Last } else { LogitsWanted::None };
            pass(runner, pages, start, count, logits)
        })
        .sum()
}

fn pass(
    runner: &mut Runner,
    pages: &[u32],
    position: usize,
    count: usize,
    logits: LogitsWanted<'_>,
) -> f64 {
    Way { logits, ..Way::whole(position, count) }.run(runner, pages)
}
