//! The engine: one thread that owns the model and the batch.
//!
//! Callers submit a [`ValidRequest`] through [`Submit`] and read a [`GenerationStream`]. The thread
//! admits requests into a running batch, asks each stream for its next piece of work (a prefill
//! chunk, a plain step, a draft step or a verify), runs all of them in one pass and lets each
//! stream commit what the full model confirmed. Nothing here is async, and no stream waits for
//! another's reader.

#![forbid(unsafe_code)]

mod account;
mod activity;
pub mod adapt;
mod batch;
mod betting;
mod board;
pub mod calibrate;
pub mod cost;
mod cycle;
mod drafter;
pub mod drafting;
mod event;
mod handle;
mod lab;
mod options;
mod outbox;
mod output_text;
mod predictor;
mod queue;
pub mod record;
mod request;
mod serial;
mod step;
mod stream;
mod thread;
mod worker;

pub use activity::{Activity, BridgeActivity, Ending, PlanActivity, StreamActivity, Totals};
pub use betting::Betting;
pub use board::Observer;
pub use cost::CostFile;
pub use event::{
    ArmUse, CommittedToken, Delta, DraftedBy, Event, FinishReason, Finished, GenerationError,
    PhaseTime, PhaseTimes, PlanSummary, SpeculationStats, Started, Timing, Usage,
};
pub use handle::{CancelFlag, GenerationStream, StreamMessage, Submit, SubmitError};
pub use lab::Lab;
pub use options::EngineOptions;
pub use predictor::{Prediction, Predictor};
pub use request::{OutputOptions, Speculation, StopCriteria, ValidRequest, is_due};
pub use serial::SerialOptions;
pub use thread::Engine;
