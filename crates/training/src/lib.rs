//! Training of stand-ins ([`skipstone_model::StandIn`]) on a CPU.
//!
//! The model has written text of its own, and its last states on it are kept in a file
//! ([`States`]). A stand-in learns to predict the distribution that follows each of them, from the
//! token there and the state before (after EAGLE, Li et al. 2024); and since a chain of drafts
//! feeds on its own predictions, so does the training, some steps deep.

#![forbid(unsafe_code)]

mod block;
mod closed_form;
mod optimizer;
mod states;
mod target;
mod train;

pub use states::{States, StatesWriter};
pub use target::{Shape, Target};
pub use train::{Example, Progress, Schedule, Trained, Training};

/// A reason why training fails.
#[derive(Debug, thiserror::Error)]
pub enum TrainingError {
    /// A tensor could not be computed: a defect, or too little memory.
    #[error("training failed: {0}")]
    Tensor(#[from] candle_core::Error),
    /// The file of states or a checkpoint can't be read or written.
    #[error("can't use {path}: {source}")]
    File {
        /// The file.
        path: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// The warm start has no solution.
    #[error("the states of the text can't be fitted: they are not finite")]
    Singular,
    /// There is too little text.
    #[error("there is too little text to train on: {0} sequences; raise --tokens")]
    TooLittleText(usize),
}
