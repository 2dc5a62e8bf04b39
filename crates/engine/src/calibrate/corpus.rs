//! The text to learn from: the model's own, continued from seed prompts, greedily first and then by
//! sampling.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Calibration, CalibrationError};
use skipstone_model::sampling::{
    RandomStream, Sampler, SamplingParams, SamplingSettings, TokenHistory,
};
use skipstone_model::{
    LogitsWanted, Model, PageLease, PagePool, RowGroup, RowInput, Runner, TokenId,
};

/// Sequences written at once: rows that share each read of the weights.
const LANES: usize = 16;

/// Tokens written for one prompt at most: many short texts teach more than a few long ones.
const MAX_NEW_TOKENS: usize = 256;

/// Tokens of a prompt at most.
const MAX_PROMPT: usize = 512;

/// Tokens of a sequence at most.
pub(super) const MAX_SEQUENCE: usize = MAX_PROMPT + MAX_NEW_TOKENS;

/// Temperature after the first, greedy, round over the prompts.
const TEMPERATURE: f32 = 0.7;

/// Prompts are taken in strides, so that kinds of prompts that lie together are mixed from the
/// start.
const STRIDE: usize = 5;

/// One prompt in this many is held back: nothing is fitted to what follows from it.
const HOLD_BACK: usize = 4;

/// A prompt and what the model wrote after it.
#[derive(Clone, Serialize, Deserialize, Debug)]
pub(super) struct Sequence {
    /// Tokens of the prompt.
    pub(super) prompt: usize,
    /// All tokens.
    pub(super) tokens: Vec<TokenId>,
    /// Whether it is for judging, not for fitting.
    pub(super) held_back: bool,
}

/// Writes sequences.
pub(super) struct Writer<'a> {
    calibration: &'a Calibration,
    runner: Runner,
    lanes: Vec<PageLease>,
    seeds: Vec<&'a [TokenId]>,
}

struct Lane<'a> {
    pages: &'a [u32],
    sequence: Sequence,
    /// Tokens that have gone through the model.
    fed: usize,
    sampler: Sampler,
    open: bool,
}

/// Tokens by how often they were written, ties by id; unseen ones are left out.
pub(super) fn vocabulary_order(sequences: &[Sequence]) -> Vec<TokenId> {
    let mut counts: HashMap<TokenId, usize> = HashMap::new();
    for sequence in sequences.iter().filter(|sequence| !sequence.held_back) {
        for &token in sequence.tokens.iter().skip(sequence.prompt) {
            *counts.entry(token).or_default() += 1;
        }
    }
    let mut order: Vec<(TokenId, usize)> = counts.into_iter().collect();
    order.sort_unstable_by_key(|&(token, count)| (std::cmp::Reverse(count), token));
    order.into_iter().map(|(token, _)| token).collect()
}

// === impl Writer ===

impl<'a> Writer<'a> {
    pub(super) fn new(
        model: &Arc<Model>,
        calibration: &'a Calibration,
    ) -> Result<Self, CalibrationError> {
        let longest = MAX_PROMPT.min(model.config().context_length.saturating_sub(MAX_NEW_TOKENS));
        let seeds: Vec<&[TokenId]> = calibration
            .seeds
            .iter()
            .map(Vec::as_slice)
            .filter(|seed| !seed.is_empty() && seed.len() <= longest)
            .collect();
        if seeds.len() < HOLD_BACK {
            let message = format!(
                "only {} seed prompts fit into {longest} tokens; {HOLD_BACK} are needed",
                seeds.len()
            );
            return Err(CalibrationError::TooLittleText(message));
        }
        let pool = PagePool::new(LANES * PagePool::pages_for(MAX_SEQUENCE));
        let lanes = (0..LANES).filter_map(|_| pool.lease(MAX_SEQUENCE)).collect();
        let runner = Runner::new(Arc::clone(model), pool.total(), calibration.threads);
        Ok(Self { calibration, runner, lanes, seeds })
    }

    /// Writes the sequences from number `first` on, as many as there are lanes.
    pub(super) fn next(&mut self, first: usize) -> Result<Vec<Sequence>, CalibrationError> {
        let vocabulary = self.runner.model().config().vocabulary;
        let mut lanes = Vec::with_capacity(self.lanes.len());
        for (index, lease) in self.lanes.iter().enumerate() {
            let number = first + index;
            let (round, place) = (number / self.seeds.len(), number % self.seeds.len());
            let temperature = if round == 0 { 0.0 } else { TEMPERATURE };
            let settings = SamplingSettings {
                temperature,
                seed: number as u64,
                ..SamplingSettings::default()
            };
            let stride = if self.seeds.len().is_multiple_of(STRIDE) { 1 } else { STRIDE };
            let seed = self.seeds[place * stride % self.seeds.len()];
            let held_back = place % HOLD_BACK == HOLD_BACK - 1;
            lanes.push(Lane {
                pages: lease.pages(),
                sequence: Sequence { prompt: seed.len(), tokens: seed.to_vec(), held_back },
                fed: 0,
                sampler: Sampler::new(SamplingParams::new(settings, vocabulary)?),
                open: true,
            });
        }
        while lanes.iter().any(|lane| lane.open) {
            let open: Vec<usize> = (0..lanes.len()).filter(|&index| lanes[index].open).collect();
            let rows: Vec<Vec<RowInput<'_>>> = open
                .iter()
                .map(|&index| {
                    lanes[index].sequence.tokens[lanes[index].fed..]
                        .iter()
                        .map(|&token| RowInput::Token(token))
                        .collect()
                })
                .collect();
            let groups: Vec<RowGroup<'_>> = open
                .iter()
                .zip(&rows)
                .map(|(&index, rows)| RowGroup {
                    logits: LogitsWanted::Last,
                    ..RowGroup::new(lanes[index].pages, lanes[index].fed, rows)
                })
                .collect();
            let output = self.runner.run(&groups);
            drop(groups);
            drop(rows);
            for (group, &index) in open.iter().enumerate() {
                lanes[index].push(output.logits(group, 0), &self.calibration.ends)?;
            }
        }
        Ok(lanes.into_iter().map(|lane| lane.sequence).collect())
    }
}

// === impl Lane ===

impl Lane<'_> {
    fn push(&mut self, logits: &[f32], ends: &[TokenId]) -> Result<(), CalibrationError> {
        let distribution = self.sampler.distribution(logits, &TokenHistory::default())?;
        let position = self.sequence.tokens.len();
        let token = self.sampler.draw(&distribution, RandomStream::Target, position as u64);
        self.fed = position;
        self.sequence.tokens.push(token);
        self.open = !ends.contains(&token) && position + 1 < self.sequence.prompt + MAX_NEW_TOKENS;
        Ok(())
    }
}
