//! Calibration: the model writes its own text, and from its hidden states on it we learn what a
//! draft may leave out.
//!
//! The way: `corpus` writes the text, `evaluate` measures how good a candidate draft is on
//! held-back positions, `trace` sums up what runs of sublayers do, `search` chooses candidates, and
//! `selection` keeps those that pay. Each stage can be shown to a person who waits, and the results
//! of the costly ones are kept in files (`partial`, `kept_moments`), so that an interrupted
//! calibration goes on.

#![forbid(unsafe_code)]

mod candidate;
mod corpus;
mod evaluate;
mod kept_moments;
mod partial;
mod prompts;
mod search;
mod selection;
mod stand_in;
#[cfg(test)]
mod tests;
mod trace;

use std::path::PathBuf;
use std::sync::Arc;

use self::corpus::Sequence;
use self::evaluate::{CHAIN, Evaluator};
use self::kept_moments::KeptMoments;
use self::partial::Partial;
pub use self::prompts::{ABOUT_TEXT, TOKENS_PER_PROMPT, prompts};
pub use self::stand_in::{Seed, StandInCalibration};
use crate::adapt::{BridgeFitError, Profile, ProfileError, ProfiledModel};
use crate::cost::CostModel;
use crate::drafting::PlanError;
use skipstone_model::{BridgeError, Model, PagePool, Runner, StandInError, TokenId};
use skipstone_training::TrainingError;

/// Inputs of a calibration.
#[derive(Clone, Debug)]
pub struct Calibration {
    /// The model's name, for people.
    pub name: String,
    /// [`skipstone_gguf::GgufFile::fingerprint`] of the model.
    pub fingerprint: String,
    /// Prompts to start from, tokenised.
    pub seeds: Vec<Vec<TokenId>>,
    /// Tokens that end an output.
    pub ends: Vec<TokenId>,
    /// Tokens of text to write, prompts included.
    pub tokens: usize,
    /// Threads.
    pub threads: usize,
    /// The file of finished work, until the profile is complete.
    pub partial: PathBuf,
}

/// Hears what calibration is busy with.
pub trait CalibrationProgress {
    /// A stage of `total` units of work began.
    fn stage(&self, what: &str, total: usize);
    /// The first `units` units of the stage are done.
    fn done(&self, units: usize);
    /// A training was judged: the tokens learned from, the mean loss on them, and acceptance on
    /// held-back text by position in the chain, each given that all before were accepted.
    fn trained(&self, _seen: usize, _loss: f64, _acceptance: &[f64]) {}
}

/// A reason why a calibration fails.
#[derive(Debug, thiserror::Error)]
pub enum CalibrationError {
    /// The model's vocabulary or context is too small for any text.
    #[error("{0}")]
    TooLittleText(String),
    /// Sampling failed: the model computes nonsense.
    #[error("the model's output can't be sampled: {0}")]
    Sampling(#[from] skipstone_model::sampling::SamplingError),
    /// A setting of the sampler was refused.
    #[error("the sampler refused its setting: {0}")]
    Settings(#[from] skipstone_model::sampling::InvalidSampling),
    /// A fit failed.
    #[error(transparent)]
    Fit(#[from] BridgeFitError),
    /// A fitted bridge can't be run.
    #[error(transparent)]
    Bridge(#[from] BridgeError),
    /// The skipped sublayers make no plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The head's rows can't be packed.
    #[error("the draft vocabulary can't be packed: {0}")]
    Pack(#[from] skipstone_kernels::PackError),
    /// The profile that came out is not valid.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// The training failed.
    #[error(transparent)]
    Training(#[from] TrainingError),
    /// The trained stand-in can't be run.
    #[error(transparent)]
    StandIn(#[from] StandInError),
    /// Finished work can't be kept.
    #[error("can't write {path}: {source}; name another --out")]
    Partial {
        /// The file.
        path: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// The cache has too few pages: a defect.
    #[error("the cache has too few pages; this is a defect, please report it")]
    Pages,
}

// === impl Calibration ===

impl Calibration {
    /// Calibrates `model`. Takes minutes to an hour.
    ///
    /// # Errors
    /// If there is too little text, or finished work can't be written.
    pub fn run(
        &self,
        model: &Arc<Model>,
        progress: &dyn CalibrationProgress,
    ) -> Result<Profile, CalibrationError> {
        let config = model.config();
        let mut partial = Partial::resume(&self.partial, &self.fingerprint, self.tokens);
        self.write_corpus(model, &mut partial, progress)?;
        let (held_back, fitted): (Vec<&Sequence>, Vec<&Sequence>) =
            partial.sequences.iter().partition(|sequence| sequence.held_back);
        let starts = Evaluator::starts(&held_back, config.sublayers() * config.hidden);
        if starts.len() < 8 || fitted.is_empty() {
            return Err(CalibrationError::TooLittleText(format!(
                "the model wrote too little text to learn from: {} positions to judge by; raise --tokens",
                starts.len()
            )));
        }
        let pages = Evaluator::pages(&held_back, &starts)
            + PagePool::pages_for(corpus::MAX_SEQUENCE)
            + PagePool::pages_for(selection::COST_POSITIONS);
        let mut runner = Runner::new(Arc::clone(model), pages, self.threads);
        let pool = PagePool::new(pages);
        let evaluator = Evaluator::new(&mut runner, &pool, &held_back, &starts, progress)?;
        let costs = CostModel::measure(&mut runner, &pool, CHAIN + 1, None);
        let order = corpus::vocabulary_order(&partial.sequences);
        let relevance = match partial.relevance.clone() {
            Some(relevance) => relevance,
            None => search::relevance(&mut runner, &evaluator, progress)?,
        };
        partial.relevance = Some(relevance.clone());
        partial.save(&self.partial)?;
        let kept = self.kept_moments();
        let spans =
            trace::Spans { runner: &mut runner, pool: &pool, sequences: &fitted, kept: &kept };
        let candidates = search::candidates(spans, &evaluator, &relevance, progress)?;
        let selection = selection::Selection {
            evaluator: &evaluator,
            costs: &costs,
            model,
            order: &order,
            threads: self.threads,
        };
        let selected = selection.choose(&mut runner, &pool, candidates, progress)?;
        Ok(Profile {
            model: ProfiledModel {
                name: self.name.clone(),
                fingerprint: self.fingerprint.clone(),
                layers: config.layers,
                hidden: config.hidden,
                vocabulary: config.vocabulary,
            },
            tokens: partial.tokens(),
            relevance,
            plans: selected.plans,
            stand_in: None,
            measurements: selected.measurements,
            vocabulary_order: order,
        })
    }

    /// Forgets the kept work; for when the profile is safe.
    pub fn clean_up(&self) {
        // What is left behind is only in the way.
        let _ = std::fs::remove_file(&self.partial);
        self.kept_moments().remove();
    }

    fn kept_moments(&self) -> KeptMoments {
        KeptMoments::beside(&self.partial, &self.fingerprint, self.tokens)
    }

    fn write_corpus(
        &self,
        model: &Arc<Model>,
        partial: &mut Partial,
        progress: &dyn CalibrationProgress,
    ) -> Result<(), CalibrationError> {
        progress.stage("the model writes text", self.tokens);
        progress.done(partial.tokens());
        let mut writer = corpus::Writer::new(model, self)?;
        let mut unsaved = 0;
        while partial.tokens() < self.tokens {
            let written = writer.next(partial.sequences.len())?;
            unsaved += written.iter().map(|sequence| sequence.tokens.len()).sum::<usize>();
            partial.sequences.extend(written);
            progress.done(partial.tokens().min(self.tokens));
            if unsaved >= 1024 {
                partial.save(&self.partial)?;
                unsaved = 0;
            }
        }
        partial.save(&self.partial)
    }
}
