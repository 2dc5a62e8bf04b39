//! The rule that bets, what it knows, and the profile: bridges and priors that calibration found.

#![forbid(unsafe_code)]

mod acceptance;
mod bet;
mod bridge_fit;
mod controller;
mod costs;
mod counts;
mod frontier;
mod knowledge;
mod mechanisms;
mod moments;
mod profile;
mod profile_check;
mod profile_file;

#[cfg(test)]
pub(crate) use acceptance::testing::is_accepted;
pub use acceptance::{BINS, confidence_bin};
pub use bet::{Allowed, Bet, Chain, Match, Odds, OffReason};
pub use bridge_fit::{BridgeFit, BridgeFitError, BridgeWeights};
pub use controller::Controller;
pub use costs::{Costs, MAX_ROWS};
pub use frontier::{FrontierError, frontier};
pub use knowledge::{Knowledge, NGRAM_BINS, PlanKnowledge, Seat, StreamOffsets, ngram_bin};
pub use mechanisms::{MECHANISMS, Mechanisms};
pub use moments::{LEFT_OUT, Moments, MomentsShapeError};
pub use profile::{
    AcceptanceCount, AcceptancePrior, FillerKind, Measurement, Profile, ProfileBridge,
    ProfileError, ProfilePlan, ProfiledModel,
};
