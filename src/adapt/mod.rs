//! What is learned while serving.

#![forbid(unsafe_code)]

mod acceptance;
mod controller;
mod fold;
mod knowledge;

pub use acceptance::{BINS, confidence_bin};
pub use controller::{Allowed, Bet, Controller, Costs, MAX_ROWS, Match};
pub use fold::Fold;
pub use knowledge::{FrontierPlan, Knowledge, PlanKnowledge, StreamTallies, ngram_bin};
