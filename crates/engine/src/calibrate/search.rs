//! Choice of candidates: relevance of each sublayer, runs around what it suggests, bridges of
//! several ranks over the best of them.

use std::collections::HashMap;
use std::ops::Range;

use super::candidate::Candidate;
use super::evaluate::{CHAIN, Chain, Evaluator};
use super::trace::Spans;
use super::{CalibrationError, CalibrationProgress};
use crate::adapt::{BridgeFit, BridgeWeights, Moments};
use crate::drafting::{run_name, runs};
use skipstone_model::sublayer::{self, SublayerKind, kind_of, of_layers};
use skipstone_model::{ModelConfig, Runner};

/// Lengths of runs, as shares of the inner layers.
const LENGTHS: [f64; 7] = [0.14, 0.21, 0.28, 0.36, 0.43, 0.5, 0.57];

/// Runs of each length that are tried before climbing.
const TRIES: usize = 4;

/// Steps to a better neighbour at most.
const CLIMBS: usize = 3;

/// Ranks of bridges.
const RANKS: [usize; 4] = [16, 64, 128, 256];

/// Ranks of the bridges of a plan that has several.
const SHAPE_RANKS: [usize; 2] = [64, 128];

/// Bridges of such a plan at most: each has moments of its own.
const SHAPE_BRIDGES: usize = 8;

/// Tokens that its bridges are fitted to, and the ridge for this many.
const SHAPE_TOKENS: usize = 4096;
const SHAPE_RIDGE: f64 = 0.1;

/// The rank that ridges are compared at.
const RIDGE_RANK: usize = 64;

/// Ridges; see [`BridgeFit::new`].
const RIDGES: [f64; 4] = [1.0, 0.3, 0.1, 0.03];

/// The sublayers that a candidate skips, where they are not one run of layers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Shape {
    Attention,
    Mlp,
    TwoRuns,
    /// The least relevant sublayers, wherever they lie.
    Scattered,
}

/// State that the search needs at every turn.
struct Search<'a, 'b> {
    spans: Spans<'a>,
    evaluator: &'b Evaluator,
    relevance: &'b [Option<f32>],
    biases: HashMap<Range<usize>, BridgeWeights>,
    config: ModelConfig,
}

/// For each inner sublayer, how often the full model's best token stays the best without it.
pub(super) fn relevance(
    runner: &mut Runner,
    evaluator: &Evaluator,
    progress: &dyn CalibrationProgress,
) -> Result<Vec<Option<f32>>, CalibrationError> {
    let config = runner.model().config().clone();
    let sublayers = config.sublayers();
    let inner = of_layers(1..runner.model().config().layers.saturating_sub(1));
    let starts = evaluator.rough();
    progress.stage("relevance of each sublayer", inner.len());
    let mut relevance = vec![None; sublayers];
    for sublayer in inner {
        let run = sublayer..sublayer + 1;
        let candidate = Candidate::new(String::new(), vec![run], &config, |_| None)?;
        let chains = evaluator.evaluate(runner, &candidate, &starts)?;
        let agreed: usize =
            chains.iter().flat_map(|chain| &chain.steps).filter(|step| step.agrees).count();
        relevance[sublayer] = Some(agreed as f32 / (chains.len() * CHAIN).max(1) as f32);
        progress.done(sublayer - 1);
    }
    Ok(relevance)
}

/// Searches for candidates that deserve a closer look.
pub(super) fn candidates(
    spans: Spans<'_>,
    evaluator: &Evaluator,
    relevance: &[Option<f32>],
    progress: &dyn CalibrationProgress,
) -> Result<Vec<Candidate>, CalibrationError> {
    let config = spans.runner.model().config().clone();
    let mut search = Search { spans, evaluator, relevance, biases: HashMap::new(), config };
    search.learn_biases(progress)?;
    let best = search.best_runs(progress)?;
    let shapes = search.other_shapes(&best)?;
    let mut found: Vec<Candidate> = search.bridged_shapes(shapes, progress)?;
    for run in &best {
        let name = run_name(run);
        let config = &search.config;
        let identity =
            Candidate::new(format!("{name}, identity"), vec![run.clone()], config, |_| None);
        found.push(identity?);
        found.push(search.biased(format!("{name}, bias"), vec![run.clone()])?);
    }
    let moments = search.spans.moments(&best, usize::MAX, progress)?;
    let bridged: Vec<(&Range<usize>, &Moments)> = best.iter().zip(&moments).collect();
    if let Some(&middle) = bridged.get(bridged.len() / 2) {
        let ridge = search.ridge(middle, progress)?;
        progress.stage("bridges", bridged.len());
        for (index, (run, moments)) in bridged.into_iter().enumerate() {
            let fit = BridgeFit::new(moments, ridge)?;
            let ranks = RANKS.iter().filter(|&&rank| rank <= moments.hidden() / 2);
            for &rank in ranks {
                found.push(over_run(run, &fit, rank, &search.config)?);
            }
            progress.done(index + 1);
        }
    }
    Ok(found)
}

/// The candidate with a bridge of this rank over a run.
fn over_run(
    run: &Range<usize>,
    fit: &BridgeFit,
    rank: usize,
    config: &ModelConfig,
) -> Result<Candidate, CalibrationError> {
    let bridge = fit.bridge(rank);
    let name = format!("{}, rank {}", run_name(run), bridge.rank());
    Candidate::new(name, vec![run.clone()], config, |_| Some(bridge.clone()))
}

/// Committed tokens of a cycle that drafts whole chains, on average.
fn score(chains: &[Chain]) -> f64 {
    let lengths: usize = chains.iter().map(Chain::length).sum();
    lengths as f64 / chains.len().max(1) as f64
}

// === impl Search ===

impl Search<'_, '_> {
    /// The sublayers between the first layer and the last.
    fn inner(&self) -> Range<usize> {
        of_layers(1..self.config.layers.saturating_sub(1))
    }

    /// Lengths of runs in layers.
    fn lengths(&self) -> Vec<usize> {
        let inner = self.config.layers.saturating_sub(2);
        let mut lengths: Vec<usize> = LENGTHS
            .iter()
            .map(|share| (share * inner as f64).round() as usize)
            .filter(|&length| length > 0)
            .collect();
        lengths.dedup();
        lengths
    }

    /// All runs of `length` layers, as sublayers.
    fn runs_of(&self, length: usize) -> Vec<Range<usize>> {
        let last = (self.config.layers - 1).saturating_sub(length);
        (1..=last).map(|first| of_layers(first..first + length)).collect()
    }

    /// Summed losses of skipping these sublayers one at a time: a rough guide.
    fn loss(&self, sublayers: impl Iterator<Item = usize>) -> f32 {
        sublayers.map(|sublayer| 1.0 - self.relevance[sublayer].unwrap_or(0.0)).sum()
    }

    fn learn_biases(&mut self, progress: &dyn CalibrationProgress) -> Result<(), CalibrationError> {
        let mut spans: Vec<Range<usize>> =
            self.lengths().into_iter().flat_map(|length| self.runs_of(length)).collect();
        spans.extend(self.inner().map(|sublayer| sublayer..sublayer + 1));
        for count in self.relevance_counts() {
            spans.extend(runs(self.least_relevant(count)));
        }
        spans.sort_unstable_by_key(|span| (span.start, span.end));
        spans.dedup();
        let biases = self.spans.biases(&spans, progress)?;
        self.biases = spans.into_iter().zip(biases).collect();
        Ok(())
    }

    /// The best run of each length with a bias bridge: those that lose least by relevance, then
    /// uphill.
    fn best_runs(
        &mut self,
        progress: &dyn CalibrationProgress,
    ) -> Result<Vec<Range<usize>>, CalibrationError> {
        let lengths = self.lengths();
        progress.stage("runs of layers", lengths.len());
        let mut best = Vec::with_capacity(lengths.len());
        for (index, &length) in lengths.iter().enumerate() {
            let mut all = self.runs_of(length);
            all.sort_by(|a, b| self.loss(a.clone()).total_cmp(&self.loss(b.clone())));
            let mut scores: HashMap<usize, f64> = HashMap::new();
            for run in all.iter().take(TRIES) {
                let found = self.rough_score(run)?;
                scores.insert(run.start, found);
            }
            for _ in 0..CLIMBS {
                let Some(top) = top(&scores) else { break };
                let layer = sublayer::layer_of(top);
                for first in [layer.saturating_sub(1), layer + 1] {
                    let run = of_layers(first..first + length);
                    let start = run.start;
                    if all.contains(&run) && !scores.contains_key(&start) {
                        let found = self.rough_score(&run)?;
                        scores.insert(start, found);
                    }
                }
            }
            best.extend(top(&scores).map(|start| start..start + sublayer::sublayers(length)));
            progress.done(index + 1);
        }
        Ok(best)
    }

    fn rough_score(&mut self, run: &Range<usize>) -> Result<f64, CalibrationError> {
        let candidate = self.biased(String::new(), vec![run.clone()])?;
        Ok(score(&self.evaluator.evaluate(
            self.spans.runner,
            &candidate,
            &self.evaluator.rough(),
        )?))
    }

    fn biased(&self, name: String, runs: Vec<Range<usize>>) -> Result<Candidate, CalibrationError> {
        Candidate::new(name, runs, &self.config, |run| self.biases.get(run).cloned())
    }

    /// Counts of the least relevant sublayers to skip, where they lie apart.
    fn relevance_counts(&self) -> [usize; 2] {
        let inner = self.inner().len();
        [inner / 3, inner / 2]
    }

    fn least_relevant(&self, count: usize) -> Vec<usize> {
        let mut sublayers: Vec<usize> = self.inner().collect();
        sublayers.sort_by(|&a, &b| self.loss(a..a + 1).total_cmp(&self.loss(b..b + 1)));
        sublayers.truncate(count);
        sublayers
    }

    /// Shapes other than one run, each with bias bridges, and of what kind.
    fn other_shapes(
        &self,
        best: &[Range<usize>],
    ) -> Result<Vec<(Shape, Candidate)>, CalibrationError> {
        let mut found = Vec::new();
        for length in self.lengths().into_iter().step_by(2) {
            for (shape, name, kind) in [
                (Shape::Attention, "attention", SublayerKind::Attention),
                (Shape::Mlp, "MLP", SublayerKind::Mlp),
            ] {
                let of = |run: &Range<usize>| -> Vec<usize> {
                    run.clone().filter(|&sublayer| kind_of(sublayer) == kind).collect()
                };
                let all = self.runs_of(length);
                let least = all.iter().min_by(|a, b| {
                    self.loss(of(a).into_iter()).total_cmp(&self.loss(of(b).into_iter()))
                });
                if let Some(run) = least {
                    let name = format!("{name} of {}, bias", run_name(run));
                    found.push((shape, self.biased(name, runs(of(run)))?));
                }
            }
        }
        for count in self.relevance_counts() {
            let name = format!("{count} least relevant sublayers, bias");
            found.push((Shape::Scattered, self.biased(name, runs(self.least_relevant(count)))?));
        }
        // A second run beside a best one, with a layer between them.
        let short = self.lengths().first().map(|&length| self.runs_of(length)).unwrap_or_default();
        for run in best.iter().take(4) {
            let layer = sublayer::sublayers(1);
            let apart = |other: &&Range<usize>| {
                other.end + layer <= run.start || run.end + layer <= other.start
            };
            let second = short
                .iter()
                .filter(apart)
                .min_by(|a, b| self.loss((*a).clone()).total_cmp(&self.loss((*b).clone())));
            if let Some(second) = second {
                let mut both = vec![run.clone(), second.clone()];
                both.sort_unstable_by_key(|run| run.start);
                let name = both.iter().map(run_name).collect::<Vec<_>>().join(" and ");
                found.push((Shape::TwoRuns, self.biased(format!("{name}, bias"), both)?));
            }
        }
        Ok(found)
    }

    /// Of each kind of shape the one that does best with bias bridges, also with bridges of several
    /// ranks; and those with too many runs for that.
    fn bridged_shapes(
        &mut self,
        shapes: Vec<(Shape, Candidate)>,
        progress: &dyn CalibrationProgress,
    ) -> Result<Vec<Candidate>, CalibrationError> {
        progress.stage("other shapes", shapes.len());
        let mut found = Vec::new();
        let mut best: Vec<(Shape, f64, Candidate)> = Vec::new();
        for (index, (kind, candidate)) in shapes.into_iter().enumerate() {
            progress.done(index + 1);
            if candidate.plan.gaps().len() > SHAPE_BRIDGES {
                found.push(candidate);
                continue;
            }
            let starts = self.evaluator.rough();
            let reached =
                score(&self.evaluator.evaluate(self.spans.runner, &candidate, &starts)?);
            match best.iter_mut().find(|(other, ..)| *other == kind) {
                Some(most) if reached > most.1 => *most = (kind, reached, candidate),
                Some(_) => {}
                None => best.push((kind, reached, candidate)),
            }
        }
        // One at a time: moments take much memory.
        for (_, _, shape) in best {
            let runs = shape.runs();
            let moments = self.spans.moments(&runs, SHAPE_TOKENS, progress)?;
            progress.stage("bridges of another shape", runs.len());
            let mut fits = HashMap::with_capacity(runs.len());
            for (index, (run, moments)) in runs.iter().zip(moments).enumerate() {
                fits.insert(run.clone(), BridgeFit::new(&moments, SHAPE_RIDGE)?);
                progress.done(index + 1);
            }
            let most = self.config.hidden / 2;
            for rank in SHAPE_RANKS.into_iter().filter(|&rank| rank <= most) {
                let name = shape.name.replace(", bias", &format!(", rank {rank}"));
                let bridge = |run: &Range<usize>| fits.get(run).map(|fit| fit.bridge(rank));
                found.push(Candidate::new(name, runs.clone(), &self.config, bridge)?);
            }
            found.push(shape);
        }
        Ok(found)
    }

    /// The ridge that does best. It depends on how much text there is more than on the run, so one
    /// run stands for all.
    fn ridge(
        &mut self,
        (run, moments): (&Range<usize>, &Moments),
        progress: &dyn CalibrationProgress,
    ) -> Result<f64, CalibrationError> {
        progress.stage("ridge", RIDGES.len());
        let starts = self.evaluator.choosing();
        let mut best = (0.0, RIDGES[0]);
        for (index, ridge) in RIDGES.into_iter().enumerate() {
            let fit = BridgeFit::new(moments, ridge)?;
            let candidate = over_run(run, &fit, RIDGE_RANK, &self.config)?;
            let found = score(&self.evaluator.evaluate(self.spans.runner, &candidate, &starts)?);
            if found > best.0 {
                best = (found, ridge);
            }
            progress.done(index + 1);
        }
        Ok(best.1)
    }
}

/// The key with the highest score, the lowest among equals.
fn top(scores: &HashMap<usize, f64>) -> Option<usize> {
    scores.iter().max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(a.0))).map(|(&start, _)| start)
}
