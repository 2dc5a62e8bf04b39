//! How a stream drafts: which sublayers it skips, how far it goes, when it stops.

#![forbid(unsafe_code)]

mod ngram;
mod plan;
mod skip_set;
mod unified;

pub use ngram::NgramProposer;
pub use plan::{DraftPlan, PlanError};
pub use skip_set::{SkipSet, SkipSetError};
pub use unified::unified;
