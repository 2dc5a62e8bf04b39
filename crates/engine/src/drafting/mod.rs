//! Drafting of a stream: which sublayers it skips, how far it goes, when it stops.
//!
//! [`DraftPolicy`] is the seam, [`POLICIES`] the registry, `policies/` has one file a policy.

mod ngram;
mod plan;
mod policies;
mod policy;
mod registry;
mod skip_set;

pub use ngram::NgramProposer;
pub use plan::{DraftPlan, Filler, Gap, PlanError, run_name, runs};
pub use policies::swift::{SwiftOptions, SwiftSearch};
pub use policies::unified::unified;
pub use policy::{
    Begin, Context, DraftPolicy, DraftStep, FinishedCycle, Next, Origin, PolicyRequest,
    PromptStates, Proposal, Setup, SharedStates,
};
pub use registry::{POLICIES, PolicyEntry, policy};
pub use skip_set::{SkipSet, SkipSetError};
