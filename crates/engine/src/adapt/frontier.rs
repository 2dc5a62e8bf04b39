//! From a profile to plans that streams can bet on.

use std::sync::Arc;

use super::acceptance::BINS;
use super::knowledge::{PlanKnowledge, Seat};
use super::profile::{AcceptanceCount, Profile, ProfileBridge, ProfilePlan, ProfiledModel};
use crate::drafting::{DraftPlan, Gap, PlanError, runs};
use skipstone_kernels::PackError;
use skipstone_model::{Bridge, BridgeError, DraftVocabulary, Model, StandIn, StandInError};

/// Drafted tokens that the rule of thumb weighs against a bin's own counts.
const SMOOTHING: f64 = 8.0;

/// A reason why a profile gives no plans for a model.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum FrontierError {
    /// Its sizes are not the model's.
    #[error(
        "the {size} of the profile is {profiled}, that of the model {expected}; make a new one with `skipstone calibrate`"
    )]
    Size {
        /// Name of the size.
        size: &'static str,
        /// The profile's.
        profiled: usize,
        /// The model's.
        expected: usize,
    },
    /// A bridge can't be built.
    #[error("plan {plan:?} of the profile: {source}")]
    Bridge {
        /// The plan.
        plan: String,
        /// The bridge's fault.
        source: BridgeError,
    },
    /// Its gaps and bridges make no plan.
    #[error("plan {plan:?} of the profile: {source}")]
    Plan {
        /// The plan.
        plan: String,
        /// The plan's fault.
        source: PlanError,
    },
    /// The stand-in can't be built.
    #[error("the stand-in of the profile: {0}; make a new one with `skipstone calibrate`")]
    StandIn(#[from] StandInError),
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
) -> Result<Vec<Seat>, FrontierError> {
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
    let stand_in = match &profile.stand_in {
        Some(weights) => Some(Arc::new(StandIn::new(model, weights, threads)?)),
        None => None,
    };
    let build = |profiled: &ProfilePlan| {
        let plan = draft_plan(profiled, stand_in.as_ref(), model)?;
        let plan = match &vocabulary {
            Some(vocabulary) => plan.with_vocabulary(Arc::clone(vocabulary)),
            None => plan,
        };
        let knowledge = knowledge(profiled);
        Ok(Seat { name: profiled.name.clone(), plan: Arc::new(plan), knowledge })
    };
    plans.into_iter().map(build).collect()
}

fn draft_plan(
    profiled: &ProfilePlan,
    stand_in: Option<&Arc<StandIn>>,
    model: &Model,
) -> Result<DraftPlan, FrontierError> {
    let plan = || profiled.name.clone();
    let bridge = |ProfileBridge { first, end, weights }: &ProfileBridge| {
        let (span, hidden) = (*first..*end, model.config().hidden);
        Bridge::new(span, hidden, weights.bias.clone(), &weights.down, &weights.up)
            .map(Arc::new)
            .map_err(|source| FrontierError::Bridge { plan: plan(), source })
    };
    let bridges = profiled.bridges.iter().map(bridge).collect::<Result<Vec<_>, _>>()?;
    let is_skipped = |sublayer| profiled.skipped.contains(&sublayer);
    if let Some(wide) = bridges.iter().find(|bridge| !bridge.span().all(is_skipped)) {
        let (start, end) = (wide.span().start, wide.span().end);
        return Err(FrontierError::Plan { plan: plan(), source: PlanError::Filler { start, end } });
    }
    let bridged = |sublayer: &usize| bridges.iter().any(|bridge| bridge.span().contains(sublayer));
    let unbridged = profiled.skipped.iter().copied().filter(|sublayer| !bridged(sublayer));
    let empty = runs(unbridged).into_iter().map(|run| {
        let fits = |stand_in: &&Arc<StandIn>| profiled.has_stand_in && stand_in.span() == run;
        stand_in
            .filter(fits)
            .map_or_else(|| Gap::empty(run.clone()), |it| Gap::stand_in(Arc::clone(it)))
    });
    let mut gaps: Vec<Gap> = bridges.iter().cloned().map(Gap::bridged).chain(empty).collect();
    gaps.sort_by_key(|gap| gap.span.start);
    let built = DraftPlan::new(gaps, model.config().layers)
        .map_err(|source| FrontierError::Plan { plan: plan(), source })?;
    Ok(built.with_threshold(profiled.confidence_threshold))
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
