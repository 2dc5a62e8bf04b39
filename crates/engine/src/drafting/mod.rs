//! How a stream drafts: which sublayers it skips, how far it goes, when it stops.

#![forbid(unsafe_code)]

mod gaussian_process;
mod ngram;
mod plan;
mod run_search;
mod skip_set;
mod swift;
mod unified;

pub use ngram::NgramProposer;
pub use plan::{DraftPlan, PlanError, PlanIdentity, run_name};
pub use run_search::RunSearch;
pub use skip_set::{SkipSet, SkipSetError};
pub use swift::{SwiftOptions, SwiftSearch, matchness};
pub use unified::unified;
