//! From a profile to plans that streams can bet on.

use std::sync::Arc;

use super::acceptance::BINS;
use super::knowledge::{FrontierPlan, PlanKnowledge};
use super::profile::{AcceptanceCount, Profile, ProfileBridge, ProfilePlan, ProfiledModel};
use crate::drafting::{DraftPlan, PlanError, SkipSet, SkipSetError};
use skipstone_kernels::PackError;
use skipstone_model::{Bridge, BridgeError, DraftVocabulary, Model};

/// Drafted tokens that the rule of thumb weighs against a bin's own counts.
const SMOOTHING: f64 = 8.0;

/// Why a profile gives no plans for a model.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum FrontierError {
    /// Its sizes are not the model's.
    #[error(
        "the {size} of the profile is {profiled}, that of the model {expected}; make a new one with `skipstone calibrate`"
    )]
    Size {
        /// Which size.
        size: &'static str,
        /// The profile's.
        profiled: usize,
        /// The model's.
        expected: usize,
    },
    /// It skips what can't be skipped.
    #[error("plan {plan:?} of the profile: {source}")]
    SkipSet {
        /// The plan.
        plan: String,
        /// What is wrong.
        source: SkipSetError,
    },
    /// A bridge can't be built.
    #[error("plan {plan:?} of the profile: {source}")]
    Bridge {
        /// The plan.
        plan: String,
        /// What is wrong.
        source: BridgeError,
    },
    /// A bridge doesn't fit its skip set.
    #[error("plan {plan:?} of the profile: {source}")]
    Plan {
        /// The plan.
        plan: String,
        /// What is wrong.
        source: PlanError,
    },
    /// The draft vocabulary can't be packed.
    #[error("the draft vocabulary of the profile: {0}")]
    Vocabulary(#[from] PackError),
}

/// Builds the plans of `profile`, which belongs to `model`, the best first. All share the draft
/// vocabulary of the best plan.
///
/// # Errors
/// If the profile or a plan doesn't fit the model.
pub fn frontier(
    profile: &Profile,
    model: &Model,
    threads: usize,
) -> Result<Vec<FrontierPlan>, FrontierError> {
    let (ProfiledModel { layers, hidden, vocabulary, .. }, config) =
        (&profile.model, model.config());
    for (size, profiled, expected) in [
        ("number of layers", *layers, config.layers),
        ("hidden size", *hidden, config.hidden),
        ("vocabulary size", *vocabulary, config.vocabulary),
    ] {
        if profiled != expected {
            return Err(FrontierError::Size { size, profiled, expected });
        }
    }
    let mut plans: Vec<&ProfilePlan> = profile.plans.iter().collect();
    plans.sort_by(|a, b| b.speedup.total_cmp(&a.speedup));
    let vocabulary = match plans.first() {
        Some(best) if best.draft_vocabulary < model.config().vocabulary => {
            let tokens = profile.draft_vocabulary(best.draft_vocabulary);
            Some(Arc::new(DraftVocabulary::new(model, &tokens, threads)?))
        }
        _ => None,
    };
    let build = |profiled: &ProfilePlan| {
        let plan = draft_plan(profiled, model)?;
        let plan = match &vocabulary {
            Some(vocabulary) => plan.with_vocabulary(Arc::clone(vocabulary)),
            None => plan,
        };
        let knowledge = knowledge(profiled);
        Ok(FrontierPlan {
            name: profiled.name.clone(),
            plan: Arc::new(plan),
            profile_tokens: profile.tokens,
            knowledge,
        })
    };
    plans.into_iter().map(build).collect()
}

fn draft_plan(profiled: &ProfilePlan, model: &Model) -> Result<DraftPlan, FrontierError> {
    let plan = || profiled.name.clone();
    let layers = |parity: usize| -> Vec<u32> {
        profiled
            .skipped
            .iter()
            .filter(|&&index| index % 2 == parity)
            .map(|&index| (index / 2) as u32)
            .collect()
    };
    let skip_set = SkipSet::new(&layers(0), &layers(1), model.config().layers)
        .map_err(|source| FrontierError::SkipSet { plan: plan(), source })?;
    let bridge = |ProfileBridge { first, end, weights }: &ProfileBridge| {
        let (span, hidden) = (*first..*end, model.config().hidden);
        Bridge::new(span, hidden, weights.bias.clone(), &weights.down, &weights.up)
            .map(Arc::new)
            .map_err(|source| FrontierError::Bridge { plan: plan(), source })
    };
    let bridges = profiled.bridges.iter().map(bridge).collect::<Result<_, _>>()?;
    DraftPlan::new(skip_set, profiled.confidence_threshold)
        .with_bridges(bridges)
        .map_err(|source| FrontierError::Plan { plan: plan(), source })
}

fn knowledge(profiled: &ProfilePlan) -> PlanKnowledge {
    let counts = |bin: usize| profiled.prior.confidence.get(bin).copied().unwrap_or_default();
    // A sure draft is right about as often as it is sure.
    let expected = |bin: usize| (bin as f64 + 0.5) / BINS as f64;
    let acceptance = std::array::from_fn(|bin| {
        let AcceptanceCount { drafted, accepted } = counts(bin);
        (accepted + SMOOTHING * expected(bin)) / (drafted + SMOOTHING)
    });
    let confidences = std::array::from_fn(|bin| counts(bin).drafted + 1.0);
    PlanKnowledge::new(profiled.cost, acceptance, confidences)
}
