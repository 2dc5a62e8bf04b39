//! What is learned: when to fold, the bridges that stand in for skipped sublayers, and the profile
//! that keeps it all.

#![forbid(unsafe_code)]

mod acceptance;
mod bet;
mod bridge_fit;
mod controller;
mod costs;
mod counts;
mod fold;
mod frontier;
mod knowledge;
mod learned;
mod mechanisms;
mod moments;
mod profile;
mod profile_check;
mod profile_file;
pub mod store;

#[cfg(test)]
pub(crate) use acceptance::testing::is_accepted;
pub use acceptance::{BINS, confidence_bin};
pub use bet::{Allowed, Bet, Chain, Match, Odds, OffReason};
pub use bridge_fit::{BridgeFit, BridgeFitError, BridgeWeights};
pub use controller::Controller;
pub use costs::{Costs, MAX_ROWS, cost_without_context};
pub use counts::{Counts, MAX_JUDGED};
pub use fold::{Bank, Fold};
pub use frontier::{FrontierError, frontier};
pub use knowledge::{FrontierPlan, Knowledge, PlanKnowledge, StreamOffsets, ngram_bin};
pub use learned::{Learned, MAX_PLANS, NGRAM_BINS};
pub use mechanisms::{MECHANISMS, Mechanisms};
pub use moments::{LEFT_OUT, Moments, MomentsShapeError};
pub use profile::{
    AcceptanceCount, AcceptancePrior, BridgeKind, Measurement, Profile, ProfileBridge,
    ProfileError, ProfilePlan, ProfiledModel,
};
