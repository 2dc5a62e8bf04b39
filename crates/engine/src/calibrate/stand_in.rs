//! The stand-in: much text, written by many lanes at once with its last states kept; the training;
//! and what the result is worth as a draft.

use std::collections::VecDeque;
use std::fs;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::candidate::Candidate;
use super::corpus::{self, Sequence};
use super::evaluate::{CHAIN, Evaluator};
use super::partial::keep;
use super::selection::{self, Selection};
use super::{CalibrationError, CalibrationProgress};
use crate::adapt::{FillerKind, Profile};
use crate::cost::CostModel;
use skipstone_model::sampling::{
    RandomStream, Sampler, SamplingParams, SamplingSettings, TokenHistory,
};
use skipstone_model::{
    LogitsWanted, Model, PageLease, PagePool, RowGroup, RowInput, Runner, RunnerOptions, StandIn,
    TokenId,
};
use skipstone_training::{Example, Schedule, Shape, States, StatesWriter, Target, Training};

/// Sequences written at once: beyond, a row costs as much as it would alone.
const LANES: usize = 32;

/// Tokens written for one prompt at most.
const MAX_NEW_TOKENS: usize = 320;

/// Prompt tokens that a pass reads at most: more would make those that write wait.
const MAX_READ: usize = 96;

/// Temperatures, in turn. Half of the text is greedy, as most of what is served is.
const TEMPERATURES: [f32; 4] = [0.0, 0.5, 0.0, 0.8];

/// One sequence in this many, a greedy one, is held back.
const HOLD_BACK: usize = 32;

/// Tokens written between two savings.
const UNSAVED: usize = 20_000;

/// Tokens of held-back text that drafts are judged on at most.
const JUDGED_TOKENS: usize = 16_384;

/// The draft vocabulary that is trained: this many tokens of those most written, at most.
const VOCABULARY: usize = 4096;

/// Tokens of an earlier output that a prompt is about: at least, and at most.
const QUOTED: (usize, usize) = (60, 360);

/// A stand-in to be trained, for a model that has a profile.
#[derive(Clone, Debug)]
pub struct StandInCalibration {
    /// Prompts to start from, of as many kinds as possible; taken in turn.
    pub seeds: Vec<Seed>,
    /// Tokens that end an output.
    pub ends: Vec<TokenId>,
    /// Tokens of text to write, prompts included.
    pub text: usize,
    /// Tokens to learn from: those of the text's outputs, several times over.
    pub learn: usize,
    /// The highest learning rate.
    pub rate: f64,
    /// Its layers, one or two.
    pub layers: usize,
    /// Width of its MLPs; `None` is the model's.
    pub mlp_width: Option<usize>,
    /// Threads.
    pub threads: usize,
    /// Files of unfinished work begin so.
    pub partial: PathBuf,
}

/// A prompt to start from.
#[derive(Clone, Debug)]
pub enum Seed {
    /// As it is.
    Prompt(Vec<TokenId>),
    /// About a part of what the model wrote earlier, which comes between these.
    About(Vec<TokenId>, Vec<TokenId>),
}

/// The text so far.
#[derive(Serialize, Deserialize)]
struct Text {
    fingerprint: String,
    sequences: Vec<Sequence>,
}

/// A sequence that is being written.
struct Lane<'a> {
    lease: &'a PageLease,
    sequence: Sequence,
    /// Tokens that have gone through the model, and their last states.
    states: Vec<f32>,
    fed: usize,
    sampler: Sampler,
}

// === impl StandInCalibration ===

impl StandInCalibration {
    /// Trains a stand-in and adds it to the model's profile, if it is any good as a draft. Takes
    /// from half an hour to many hours; goes on where it was interrupted.
    ///
    /// # Errors
    /// If there is too little text, or unfinished work can't be kept.
    pub fn run(
        &self,
        model: &Arc<Model>,
        mut profile: Profile,
        progress: &dyn CalibrationProgress,
    ) -> Result<Profile, CalibrationError> {
        let config = model.config();
        let fingerprint = &profile.model.fingerprint;
        let text = self.write_text(model, fingerprint, progress)?;
        let order = corpus::vocabulary_order(&text.sequences);
        let vocabulary: Vec<TokenId> = order.iter().copied().take(VOCABULARY).collect();
        let states = States::open(&self.file("states"), config.hidden)?;
        let (mut examples, mut held_back) = (Vec::new(), Vec::new());
        let mut first_row = 0;
        for Sequence { prompt, tokens, held_back: is_held_back } in &text.sequences {
            let example = Example { tokens, prompt: *prompt, first_row };
            first_row += tokens.len() - 1;
            if *is_held_back { &mut held_back } else { &mut examples }.push(example);
        }
        let mlp_width = self.mlp_width.unwrap_or(config.feed_forward);
        let training = Training {
            target: Target::new(model, vocabulary)?,
            shape: Shape { layers: self.layers, mlp_width },
            states: &states,
            examples,
            held_back,
            schedule: Schedule { tokens: self.learn, rate: self.rate, ..Schedule::default() },
            threads: self.threads,
            checkpoint: Some(self.file("training")),
        };
        progress.stage("training", self.learn);
        let trained = training.run(&mut |now| {
            progress.done(now.seen.min(self.learn));
            if let Some(acceptance) = &now.acceptance {
                progress.trained(now.seen, now.loss, acceptance);
            }
            ControlFlow::Continue(())
        })?;
        progress.trained(trained.seen, f64::NAN, &trained.acceptance);
        drop(training);
        let stand_in = Arc::new(StandIn::new(model, &trained.weights, self.threads)?);
        let name = format!("stand-in of {} layers", stand_in.layers());
        let candidate = Candidate::by_stand_in(name, stand_in, config.layers)?;
        let judged = self.judge(model, &text, &order, candidate, progress)?;
        profile.plans.retain(|plan| !plan.has_stand_in);
        profile.stand_in = (!judged.plans.is_empty()).then_some(trained.weights);
        profile.plans.extend(judged.plans);
        profile.plans.sort_by(|a, b| a.cost.total_cmp(&b.cost));
        profile.measurements.retain(|measured| measured.kind != FillerKind::StandIn);
        profile.measurements.extend(judged.measurements);
        (profile.tokens, profile.vocabulary_order) = (text.tokens().max(profile.tokens), order);
        Ok(profile)
    }

    /// Forgets the kept work; for when the profile is safe.
    pub fn clean_up(&self) {
        for part in ["text", "states", "training"] {
            // What is left behind is only in the way.
            let _ = fs::remove_file(self.file(part));
        }
    }

    fn file(&self, part: &str) -> PathBuf {
        let mut name = self.partial.clone().into_os_string();
        name.push(".");
        name.push(part);
        name.into()
    }

    /// What the stand-in is worth: chains on held-back text, and its cost.
    fn judge(
        &self,
        model: &Arc<Model>,
        text: &Text,
        order: &[TokenId],
        candidate: Candidate,
        progress: &dyn CalibrationProgress,
    ) -> Result<selection::Selected, CalibrationError> {
        let mut left = JUDGED_TOKENS;
        let held_back: Vec<&Sequence> = text
            .sequences
            .iter()
            .filter(|sequence| sequence.held_back)
            .take_while(|sequence| {
                let fits = sequence.tokens.len() <= left;
                left = left.saturating_sub(sequence.tokens.len());
                fits
            })
            .collect();
        let config = model.config();
        let starts = Evaluator::starts(&held_back, config.sublayers() * config.hidden);
        let pages =
            Evaluator::pages(&held_back, &starts) + PagePool::pages_for(selection::COST_POSITIONS);
        let options = RunnerOptions {
            pages,
            threads: self.threads,
            stand_in_layers: self.layers,
            ..RunnerOptions::default()
        };
        let mut runner = Runner::with_options(Arc::clone(model), options);
        let pool = PagePool::new(pages);
        let evaluator = Evaluator::new(&mut runner, &pool, &held_back, &starts, progress)?;
        if let Some(stand_in) = candidate.plan.stand_in() {
            evaluator.write_keys(&mut runner, &held_back, stand_in, progress);
        }
        let costs = CostModel::measure(&mut runner, &pool, CHAIN + 1, None);
        let selection =
            Selection { evaluator: &evaluator, costs: &costs, model, order, threads: self.threads };
        selection.choose(&mut runner, &pool, vec![candidate], progress)
    }

    /// Writes text until there is enough.
    fn write_text(
        &self,
        model: &Arc<Model>,
        fingerprint: &str,
        progress: &dyn CalibrationProgress,
    ) -> Result<Text, CalibrationError> {
        let path = self.file("text");
        let kept =
            fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Text>(&bytes).ok());
        let fresh = || Text { fingerprint: fingerprint.to_owned(), sequences: Vec::new() };
        let mut text = kept.filter(|kept| kept.fingerprint == fingerprint).unwrap_or_else(fresh);
        let hidden = model.config().hidden;
        let mut states = StatesWriter::resume(&self.file("states"), hidden, text.rows())?;
        progress.stage("the model writes text", self.text);
        if text.tokens() >= self.text {
            return Ok(text);
        }
        let longest = model.config().context_length.saturating_sub(MAX_NEW_TOKENS);
        let seeds: Vec<&Seed> =
            self.seeds.iter().filter(|seed| (1..longest).contains(&seed.most())).collect();
        let Some(most) = seeds.iter().map(|seed| seed.most()).max() else {
            let message = format!("no seed prompt fits into {longest} tokens");
            return Err(CalibrationError::TooLittleText(message));
        };
        let room = most + MAX_NEW_TOKENS;
        let pool = PagePool::new(LANES * PagePool::pages_for(room));
        let leases: Vec<PageLease> = (0..LANES).filter_map(|_| pool.lease(room)).collect();
        let mut runner = Runner::new(Arc::clone(model), pool.total(), self.threads);
        let vocabulary = model.config().vocabulary;
        let mut free: VecDeque<&PageLease> = leases.iter().collect();
        let mut lanes: Vec<Lane<'_>> = Vec::with_capacity(LANES);
        let mut number = text.sequences.len();
        let (mut tokens, mut unsaved) = (text.tokens(), 0);
        while tokens < self.text || !lanes.is_empty() {
            while tokens < self.text
                && let Some(lease) = free.pop_front()
            {
                let settings = SamplingSettings {
                    temperature: TEMPERATURES[number % TEMPERATURES.len()],
                    seed: number as u64,
                    ..SamplingSettings::default()
                };
                let prompt = seeds[number % seeds.len()].prompt(number, &text.sequences);
                tokens += prompt.len();
                let sequence = Sequence {
                    prompt: prompt.len(),
                    tokens: prompt,
                    held_back: number.is_multiple_of(HOLD_BACK),
                };
                let sampler = Sampler::new(SamplingParams::new(settings, vocabulary)?);
                lanes.push(Lane { lease, sequence, states: Vec::new(), fed: 0, sampler });
                number += 1;
            }
            tokens += step(&mut runner, &mut lanes)?;
            progress.done(tokens.min(self.text));
            for place in (0..lanes.len()).rev() {
                if !lanes[place].is_done(&self.ends) {
                    continue;
                }
                let lane = lanes.swap_remove(place);
                free.push_back(lane.lease);
                states.append(&lane.states)?;
                unsaved += lane.sequence.tokens.len();
                text.sequences.push(lane.sequence);
            }
            if unsaved > UNSAVED || lanes.is_empty() {
                states.flush()?;
                keep(&path, serde_json::to_vec(&text).map_err(std::io::Error::from))?;
                unsaved = 0;
            }
        }
        Ok(text)
    }
}

/// One pass over all lanes; returns the tokens written.
fn step(runner: &mut Runner, lanes: &mut [Lane<'_>]) -> Result<usize, CalibrationError> {
    let sublayers = [runner.model().config().sublayers()];
    let mut budget = MAX_READ;
    let rows: Vec<Vec<RowInput<'_>>> = lanes
        .iter()
        .map(|lane| {
            let unread = &lane.sequence.tokens[lane.fed..];
            let count = if unread.len() > 1 { unread.len().min(budget) } else { 1 };
            budget -= if unread.len() > 1 { count } else { 0 };
            unread[..count].iter().map(|&token| RowInput::Token(token)).collect()
        })
        .collect();
    let taking: Vec<usize> = (0..lanes.len()).filter(|&place| !rows[place].is_empty()).collect();
    let groups: Vec<RowGroup<'_>> = taking
        .iter()
        .map(|&place| RowGroup {
            logits: LogitsWanted::Last,
            save_before: &sublayers,
            ..RowGroup::new(lanes[place].lease.pages(), lanes[place].fed, &rows[place])
        })
        .collect();
    let output = runner.run(&groups);
    drop(groups);
    let mut written = 0;
    for (group, &place) in taking.iter().enumerate() {
        let (lane, count) = (&mut lanes[place], rows[place].len());
        (0..count).for_each(|row| lane.states.extend_from_slice(output.saved(group, 0, row)));
        lane.fed += count;
        if lane.fed == lane.sequence.tokens.len() {
            let distribution =
                lane.sampler.distribution(output.logits(group, 0), &TokenHistory::default())?;
            let token = lane.sampler.draw(&distribution, RandomStream::Target, lane.fed as u64);
            lane.sequence.tokens.push(token);
            written += 1;
        }
    }
    Ok(written)
}

// === impl Lane ===

impl Lane<'_> {
    fn is_done(&self, ends: &[TokenId]) -> bool {
        let Sequence { prompt, tokens, .. } = &self.sequence;
        let said = tokens.len() - prompt;
        let ended = tokens.last().is_some_and(|last| said > 0 && ends.contains(last));
        ended || said >= MAX_NEW_TOKENS
    }
}

// === impl Seed ===

impl Seed {
    /// Tokens of its prompts at most.
    fn most(&self) -> usize {
        match self {
            Self::Prompt(tokens) => tokens.len(),
            Self::About(before, after) => before.len() + QUOTED.1 + after.len(),
        }
    }

    /// The prompt of sequence `number`, after these.
    fn prompt(&self, number: usize, written: &[Sequence]) -> Vec<TokenId> {
        let (before, after) = match self {
            Self::Prompt(tokens) => return tokens.clone(),
            Self::About(before, after) => (before, after),
        };
        // Any will do, as long as it is always the same one.
        let dice = number.wrapping_mul(2_654_435_761) >> 7;
        let quoted = written.get(dice % written.len().max(1)).map_or(&[][..], |sequence| {
            // The last token may end an output.
            &sequence.tokens[sequence.prompt..sequence.tokens.len() - 1]
        });
        let length = QUOTED.0 + (dice >> 9) % (QUOTED.1 - QUOTED.0);
        let quoted = &quoted[..quoted.len().min(length)];
        [before, quoted, after].concat()
    }
}

// === impl Text ===

impl Text {
    /// Tokens, prompts included.
    fn tokens(&self) -> usize {
        self.sequences.iter().map(|sequence| sequence.tokens.len()).sum()
    }

    /// Rows of states: the last token of each sequence has none.
    fn rows(&self) -> usize {
        self.sequences.iter().map(|sequence| sequence.tokens.len() - 1).sum()
    }
}
