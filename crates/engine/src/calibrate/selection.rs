//! From candidates to plans: settings by replay, the frontier of cost and acceptance, priors.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::candidate::Candidate;
use super::evaluate::{CHAIN, Chain, Evaluator};
use super::{CalibrationError, CalibrationProgress};
use crate::adapt::{
    AcceptanceCount, AcceptancePrior, BINS, Costs, FillerKind, Measurement, ProfileBridge,
    ProfilePlan, confidence_bin,
};
use crate::cost::{Company, CostModel, DraftShape, Way, median, time};
use crate::drafting::DraftPlan;
use skipstone_model::{DraftHead, DraftVocabulary, LogitsWanted, Model, PagePool, Runner, TokenId};

/// Draft vocabularies that are tried, as parts of the whole: 1/16 to all of it.
const VOCABULARY_PARTS: [usize; 5] = [16, 8, 4, 2, 1];

/// Thresholds of confidence that are tried.
const THRESHOLDS: [f32; 9] = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8];

/// Plans of a profile at most: each has bridges to store, and a controller to try it.
const MAX_PLANS: usize = 8;

/// Plans that skip the same sublayers at most: bridges of several ranks over one run are close
/// relatives.
const MAX_OF_SKIP_SET: usize = 2;

/// Acceptance that a costlier plan must add: differences below are noise.
const LEAST_GAIN: f64 = 0.01;

/// A plan that accepts less than this is of no use at any cost: drafts would have to be free.
const LEAST_ACCEPTANCE: f64 = 0.25;

/// Context that costs are stated for, in positions.
const COST_CONTEXT: usize = 256;

/// Measurements of a plan's cost; the median counts.
const COST_ROUNDS: usize = 25;

/// Positions that measuring costs needs.
pub(super) const COST_POSITIONS: usize = COST_CONTEXT + CHAIN + 1;

/// Inputs to the choice of plans.
pub(super) struct Selection<'a> {
    pub(super) evaluator: &'a Evaluator,
    pub(super) costs: &'a CostModel,
    pub(super) model: &'a Model,
    pub(super) order: &'a [TokenId],
    pub(super) threads: usize,
}

/// The plans that are kept, and all that was measured.
pub(super) struct Selected {
    pub(super) plans: Vec<ProfilePlan>,
    pub(super) measurements: Vec<Measurement>,
}

/// A candidate with its chains at [`Evaluator::choosing`] starts.
struct Tried {
    candidate: Candidate,
    chains: Vec<Chain>,
}

/// Settings for drafting with a candidate.
#[derive(Clone, Copy, Debug)]
struct Settings {
    /// The vocabulary is the whole / this.
    part: usize,
    vocabulary: usize,
    threshold: f32,
    limit: usize,
}

struct Ranked<'a> {
    tried: &'a Tried,
    settings: Settings,
    cost: f64,
    acceptance: f64,
    /// Estimated.
    speedup: f64,
}

/// Whether a plan accepts enough more than the cheaper ones that were kept, of which the best
/// accepts `most`. Takes it in if so.
fn accepts_more(acceptance: f64, most: &mut f64) -> bool {
    let is_kept = acceptance >= *most + LEAST_GAIN;
    if is_kept {
        *most = acceptance;
    }
    is_kept
}

// === impl Selection ===

impl Selection<'_> {
    /// Settles each candidate's settings, keeps the frontier, and measures what it costs.
    pub(super) fn choose(
        &self,
        runner: &mut Runner,
        pool: &PagePool,
        candidates: Vec<Candidate>,
        progress: &dyn CalibrationProgress,
    ) -> Result<Selected, CalibrationError> {
        let places = self.places(runner.model().config().vocabulary);
        let tries = self.look(runner, candidates, &places, progress)?;
        let rank = |parts: &[usize]| -> Vec<Ranked<'_>> {
            tries.iter().map(|tried| self.rank(tried, parts, &places)).collect()
        };
        // All plans share one draft vocabulary, since each has to be packed: the one that suits the
        // best bet.
        let best =
            rank(&VOCABULARY_PARTS).into_iter().max_by(|a, b| a.speedup.total_cmp(&b.speedup));
        let part = best.map_or(1, |best| best.settings.part);
        let mut ranked = rank(&[part]);
        let measurements = ranked
            .iter()
            .map(|ranked| Measurement {
                name: ranked.tried.candidate.name.clone(),
                kind: ranked.tried.candidate.kind(),
                cost: ranked.cost,
                acceptance: ranked.acceptance,
            })
            .collect();
        ranked
            .sort_by(|a, b| a.cost.total_cmp(&b.cost).then(b.acceptance.total_cmp(&a.acceptance)));
        let mut most = LEAST_ACCEPTANCE;
        ranked.retain(|candidate| accepts_more(candidate.acceptance, &mut most));
        let mut kept = ranked;
        // The best bets, back in the order of cost.
        kept.sort_by(|a, b| b.speedup.total_cmp(&a.speedup));
        let mut relatives: HashMap<Vec<usize>, usize> = HashMap::new();
        kept.retain(|ranked| {
            let count = relatives.entry(ranked.tried.candidate.skipped()).or_default();
            *count += 1;
            *count <= MAX_OF_SKIP_SET
        });
        kept.truncate(MAX_PLANS);
        kept.sort_by(|a, b| a.cost.total_cmp(&b.cost));
        progress.stage("acceptance and cost of the plans", kept.len());
        let mut plans = Vec::with_capacity(kept.len());
        for ranked in kept {
            plans.push(self.plan(runner, pool, &ranked, &places)?);
            progress.done(plans.len());
        }
        // What was estimated may have looked better than it is.
        plans.sort_by(|a, b| a.cost.total_cmp(&b.cost));
        let mut most = 0.0;
        plans.retain(|plan| accepts_more(plan.acceptance(), &mut most));
        Ok(Selected { plans, measurements })
    }

    /// Looks at all candidates at a few starts, and closely at the half that replays best there
    /// (successive halving: Jamieson and Talwalkar, 2016) and at those without bridges, which the
    /// others are compared with. Returns these.
    fn look(
        &self,
        runner: &mut Runner,
        candidates: Vec<Candidate>,
        places: &[usize],
        progress: &dyn CalibrationProgress,
    ) -> Result<Vec<Tried>, CalibrationError> {
        progress.stage("a first look at the candidates", candidates.len());
        let rough = self.evaluator.rough();
        let mut tries: Vec<(f64, Tried)> = Vec::with_capacity(candidates.len());
        for candidate in candidates {
            let chains = self.evaluator.evaluate(runner, &candidate, &rough)?;
            let tried = Tried { candidate, chains };
            tries.push((self.rank(&tried, &VOCABULARY_PARTS, places).speedup, tried));
            progress.done(tries.len());
        }
        tries.sort_by(|a, b| b.0.total_cmp(&a.0));
        let half = tries.len().div_ceil(2);
        let is_close = |(place, tried): &(usize, Tried)| {
            *place < half || tried.candidate.kind() == FillerKind::Identity
        };
        let close = tries.into_iter().map(|(_, tried)| tried).enumerate().filter(is_close);
        let mut tries: Vec<Tried> = close.map(|(_, tried)| tried).collect();
        let rest: Vec<usize> = self
            .evaluator
            .choosing()
            .into_iter()
            .filter(|start| rough.binary_search(start).is_err())
            .collect();
        progress.stage("acceptance on held-back text", tries.len());
        for (index, tried) in tries.iter_mut().enumerate() {
            tried.chains.append(&mut self.evaluator.evaluate(runner, &tried.candidate, &rest)?);
            debug_assert_eq!(tried.chains.len(), self.evaluator.choosing().len());
            progress.done(index + 1);
        }
        Ok(tries)
    }

    /// The place of each token in the draft vocabulary's order.
    fn places(&self, vocabulary: usize) -> Vec<usize> {
        let mut places = vec![usize::MAX; vocabulary];
        let mut next = 0;
        for token in self.order.iter().copied().chain((0..vocabulary as u32).map(TokenId)) {
            if let Some(place) = places.get_mut(token.index()).filter(|place| **place == usize::MAX)
            {
                *place = next;
                next += 1;
            }
        }
        places
    }

    /// The settings that replay best.
    fn rank<'o>(&self, tried: &'o Tried, parts: &[usize], places: &[usize]) -> Ranked<'o> {
        let mut best: Option<Ranked<'o>> = None;
        let shape = DraftShape::of(&tried.candidate.plan, self.model);
        let costs = self.costs.costs(COST_CONTEXT, Company::default());
        for &part in parts {
            let vocabulary = places.len().div_ceil(part);
            let draft = DraftShape { vocabulary: 1.0 / part as f64, ..shape.clone() };
            let cost = self.costs.draft(&draft, COST_CONTEXT);
            for threshold in THRESHOLDS {
                for limit in 1..=CHAIN {
                    let settings = Settings { part, vocabulary, threshold, limit };
                    let speedup = self.replay(&tried.chains, settings, (cost, &costs), places);
                    if best.as_ref().is_none_or(|best| speedup > best.speedup) {
                        best = Some(Ranked { tried, settings, cost, acceptance: 0.0, speedup });
                    }
                }
            }
        }
        let mut best = best.unwrap_or(Ranked {
            tried,
            settings: Settings { part: 1, vocabulary: places.len(), threshold: 0.0, limit: 1 },
            cost: 1.0,
            acceptance: 0.0,
            speedup: 0.0,
        });
        best.acceptance = self.prior(&tried.chains, best.settings.vocabulary, places).1;
        best
    }

    /// Tokens committed for the time of plain steps, if each start were a cycle.
    fn replay(
        &self,
        chains: &[Chain],
        settings: Settings,
        (cost, costs): (f64, &Costs),
        places: &[usize],
    ) -> f64 {
        let (mut committed, mut spent) = (0.0, 0.0);
        for chain in chains {
            let (mut drafted, mut accepted, mut alive) = (0, 0, true);
            // What a draft makes of its own mistake isn't known: it is taken to be as sure as it
            // was of that.
            let mut mistaken = None;
            for step in &chain.steps[..settings.limit] {
                spent += cost;
                if mistaken.unwrap_or(step.confidence) < settings.threshold {
                    break;
                }
                drafted += 1;
                if !step.agrees {
                    mistaken.get_or_insert(step.confidence);
                }
                alive &=
                    step.agrees && (step.seen || places[step.target.index()] < settings.vocabulary);
                accepted += usize::from(alive);
            }
            committed += 1.0 + accepted as f64;
            spent += costs.rows[drafted + 1];
        }
        if spent > 0.0 { committed / spent } else { 0.0 }
    }

    /// Counts by position and confidence, each as long as all before were accepted, and the share
    /// accepted of all.
    fn prior(
        &self,
        chains: &[Chain],
        vocabulary: usize,
        places: &[usize],
    ) -> (AcceptancePrior, f64) {
        let mut prior = AcceptancePrior {
            positions: vec![AcceptanceCount::default(); CHAIN],
            confidence: vec![AcceptanceCount::default(); BINS],
        };
        let mut all = AcceptanceCount::default();
        for chain in chains {
            for (position, step) in chain.steps.iter().enumerate() {
                let accepted =
                    step.agrees && (step.seen || places[step.target.index()] < vocabulary);
                prior.positions[position].observe(accepted);
                prior.confidence[confidence_bin(step.confidence)].observe(accepted);
                all.observe(accepted);
                if !accepted {
                    break;
                }
            }
        }
        (prior, all.rate())
    }

    fn plan(
        &self,
        runner: &mut Runner,
        pool: &PagePool,
        ranked: &Ranked<'_>,
        places: &[usize],
    ) -> Result<ProfilePlan, CalibrationError> {
        let Candidate { name, plan, weights } = &ranked.tried.candidate;
        let Settings { vocabulary, threshold, limit, .. } = ranked.settings;
        let tokens = (0..places.len() as u32)
            .map(TokenId)
            .filter(|token| places[token.index()] < vocabulary);
        let model = Arc::clone(runner.model());
        let head = match vocabulary < places.len() {
            true => Some(DraftVocabulary::new(&model, &tokens.collect::<Vec<_>>(), self.threads)?),
            false => None,
        };
        let cost = measure_cost(runner, pool, plan, head.as_ref())?;
        let costs = self.costs.costs(COST_CONTEXT, Company::default());
        // What chose the plan flatters it.
        let judging =
            &self.evaluator.evaluate(runner, &ranked.tried.candidate, &self.evaluator.judging())?;
        let bridges = plan.bridges().iter().zip(weights).map(|(bridge, weights)| {
            let Range { start: first, end } = bridge.span();
            ProfileBridge { first, end, weights: weights.clone() }
        });
        Ok(ProfilePlan {
            name: name.clone(),
            skipped: ranked.tried.candidate.skipped(),
            bridges: bridges.collect(),
            has_stand_in: plan.stand_in().is_some(),
            draft_vocabulary: vocabulary,
            max_draft_tokens: limit,
            confidence_threshold: threshold,
            cost,
            speedup: self.replay(judging, ranked.settings, (cost, &costs), places),
            prior: self.prior(judging, vocabulary, places).0,
        })
    }
}

/// The measured cost of a draft step in plain steps, which are made in turn with it.
fn measure_cost(
    runner: &mut Runner,
    pool: &PagePool,
    plan: &DraftPlan,
    vocabulary: Option<&DraftVocabulary>,
) -> Result<f64, CalibrationError> {
    let lease = pool.lease(COST_POSITIONS).ok_or(CalibrationError::Pages)?;
    let plain = Way::whole(COST_CONTEXT, 1);
    let head = |vocabulary| LogitsWanted::Draft(DraftHead { vocabulary, extra_tiles: &[] });
    let draft = Way {
        skip: Some(plan.mask()),
        bridges: plan.bridges(),
        stand_in: plan.stand_in_part(),
        logits: vocabulary.map_or(LogitsWanted::All, head),
        ..plain
    };
    let seconds = time(runner, &lease, &[plain, draft], COST_ROUNDS);
    Ok(median(&seconds[1]) / median(&seconds[0]))
}
