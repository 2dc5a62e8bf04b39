//! The search of SWIFT for a skip set, as it was published.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::gaussian_process::GaussianProcess;
use crate::drafting::skip_set::SkipSet;
use skipstone_model::TokenId;
use skipstone_model::sublayer::sublayers;

/// Options that SWIFT leaves to its user; the defaults are those of its evaluation script for Llama
/// models.
#[derive(Clone, PartialEq, Debug)]
pub struct SwiftOptions {
    /// Share of the sublayers of all layers but the first and the last that is skipped, 0 to 1.
    pub skip_ratio: f64,
    /// Cycles between two search steps.
    pub search_interval: usize,
    /// Every how many search steps the Gaussian process chooses instead of chance.
    pub bayes_interval: usize,
    /// Search steps before the search ends for good.
    pub max_steps: usize,
    /// Search steps in a row without a better set before it ends for good.
    pub max_tolerance: usize,
    /// Matchness above which it ends for good, 0 to 1.
    pub max_score: f64,
    /// Tokens of the response that a candidate is scored on.
    pub window: usize,
    /// Tokens drafted in a cycle at most.
    pub max_draft_tokens: usize,
    /// A draft ends with the first token whose draft probability is below this. That token is kept,
    /// other than in a [`DraftPlan`](crate::drafting::DraftPlan).
    pub stop_threshold: f32,
    /// Equal seeds give equal searches.
    pub seed: u64,
}

/// The search of SWIFT (Xia et al. 2025, "SWIFT: On-the-Fly Self-Speculative Decoding for LLM
/// Inference Acceleration", arXiv 2410.06916, with details that only its code shows): draws skip
/// sets of a fixed size, every 25th by a Gaussian process's upper confidence bound, scores each by
/// `matchness` and keeps the best ever seen. One search is meant to serve all streams of a
/// process.
///
/// Its weaknesses are kept, because they are what it is compared for: the best score is never
/// measured again, though it may come from an easier text, and a search that ended never starts
/// again. Two things are cheaper than in the original, in its favour: the process remembers the
/// last 256 observations only, and fewer points are tried to maximise its bound.
#[derive(Clone, Debug)]
pub struct SwiftSearch {
    options: SwiftOptions,
    layer_count: usize,
    random: ChaCha8Rng,
    best: SkipSet,
    best_score: f64,
    candidate: Option<Trial>,
    points: Vec<Vec<f64>>,
    scores: Vec<f64>,
    steps: usize,
    /// Steps in a row without a better set.
    tolerated: usize,
    finished: bool,
}

/// A set that waits for its score.
#[derive(Clone, Debug)]
struct Trial {
    skip_set: SkipSet,
    /// The set as a point for the process: one coordinate for each sublayer that may be skipped,
    /// attention first.
    point: Vec<f64>,
}

/// Weight of the standard deviation in the upper confidence bound.
const KAPPA: f64 = 2.5;
/// Observations that the process is fitted to: a fit takes their number cubed, and must not outlast
/// the decoding it is to speed up.
const MOST_OBSERVATIONS: usize = 256;
/// Points at which the bound is looked at first, evenly from the cube.
const SAMPLES: usize = 2000;
/// The best of them, from which it is climbed.
const CLIMBS: usize = 4;
/// Tries of each climb.
const CLIMB_TRIES: usize = 200;

/// The share of tokens that a draft predicts: `drafted[i]` is the draft's most likely token after
/// the full model's `tokens[..=i]`, so it is compared with `tokens[i + 1]`. 0 for less than two
/// tokens.
///
/// SWIFT computes all of `drafted` in one pass over the first [`SwiftOptions::window`] + 1 tokens
/// of the response.
pub fn matchness(drafted: &[TokenId], tokens: &[TokenId]) -> f64 {
    let next = tokens.get(1..).unwrap_or_default();
    let compared = drafted.len().min(next.len());
    let matched = drafted.iter().zip(next).filter(|(drafted, token)| drafted == token).count();
    if compared == 0 { 0.0 } else { matched as f64 / compared as f64 }
}

// === impl SwiftOptions ===

impl Default for SwiftOptions {
    fn default() -> Self {
        Self {
            skip_ratio: 0.45,
            search_interval: 1,
            bayes_interval: 25,
            max_steps: 1000,
            max_tolerance: 300,
            max_score: 0.93,
            window: 50,
            max_draft_tokens: 25,
            stop_threshold: 0.8,
            seed: 1,
        }
    }
}

// === impl SwiftSearch ===

impl SwiftSearch {
    /// A search for a model of `layer_count` layers. It starts from every second layer, attention
    /// and MLP both, of which no score is known.
    pub fn new(layer_count: usize, options: SwiftOptions) -> Self {
        let odd: Vec<u32> = (1..layer_count.saturating_sub(1) as u32).step_by(2).collect();
        let mut search = Self {
            random: ChaCha8Rng::seed_from_u64(options.seed),
            best: set(&odd, &odd, layer_count),
            options,
            layer_count,
            best_score: 0.0,
            candidate: None,
            points: Vec::new(),
            scores: Vec::new(),
            steps: 0,
            tolerated: 0,
            finished: false,
        };
        search.finished = search.skipped_sublayers() == 0;
        search
    }

    /// Options that the search leaves to its user.
    pub fn options(&self) -> &SwiftOptions {
        &self.options
    }

    /// The set to draft with.
    pub fn best(&self) -> &SkipSet {
        &self.best
    }

    /// The best matchness seen so far; 0 before the first.
    pub fn best_score(&self) -> f64 {
        self.best_score
    }

    /// Sets scored so far.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// Whether the search has ended for good.
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// The set to score next, the same until [`SwiftSearch::observe`] is told its score; `None`
    /// when the search has ended.
    pub fn propose(&mut self) -> Option<&SkipSet> {
        if self.finished {
            return None;
        }
        if self.candidate.is_none() {
            let is_bayes = (self.steps + 1).is_multiple_of(self.options.bayes_interval.max(1));
            let by_process = if is_bayes { self.most_promising() } else { None };
            let point = by_process.unwrap_or_else(|| self.random_point());
            self.candidate = Some(Trial { skip_set: self.skip_set_of(&point), point });
        }
        self.candidate.as_ref().map(|candidate| &candidate.skip_set)
    }

    /// Takes in the `matchness` of the set proposed last; does nothing if there is none.
    pub fn observe(&mut self, score: f64) {
        let Some(candidate) = self.candidate.take() else { return };
        self.points.push(candidate.point);
        self.scores.push(score);
        if self.points.len() > MOST_OBSERVATIONS {
            self.points.remove(0);
            self.scores.remove(0);
        }
        if score > self.best_score {
            self.best = candidate.skip_set;
            self.best_score = score;
            self.tolerated = 0;
            self.finished |= score > self.options.max_score;
        } else {
            self.tolerated += 1;
        }
        self.steps += 1;
        self.finished |=
            self.tolerated > self.options.max_tolerance || self.steps > self.options.max_steps;
    }

    /// Sublayers that may be skipped.
    fn dimensions(&self) -> usize {
        sublayers(self.layer_count.saturating_sub(2))
    }

    /// Sublayers that a candidate skips.
    fn skipped_sublayers(&self) -> usize {
        ((self.dimensions() as f64 * self.options.skip_ratio) as usize).min(self.dimensions())
    }

    /// Any set of the right size, each as likely: a corner of the cube.
    fn random_point(&mut self) -> Vec<f64> {
        let dimensions = self.dimensions();
        let mut order: Vec<usize> = (0..dimensions).collect();
        let mut point = vec![0.0; dimensions];
        for place in 0..self.skipped_sublayers() {
            let other = place + (self.uniform() * (dimensions - place) as f64) as usize;
            order.swap(place, other.min(dimensions - 1));
            point[order[place]] = 1.0;
        }
        point
    }

    /// The point of the highest upper confidence bound, as far as a bounded effort finds it.
    fn most_promising(&mut self) -> Option<Vec<f64>> {
        let (points, scores) = (self.points.clone(), self.scores.clone());
        let process = GaussianProcess::fit(&points, &scores)?;
        let bound = |point: &[f64]| {
            let (mean, deviation) = process.predict(point);
            mean + KAPPA * deviation
        };
        let dimensions = self.dimensions();
        let mut tried: Vec<(f64, Vec<f64>)> = (0..SAMPLES)
            .map(|_| {
                let point: Vec<f64> = (0..dimensions).map(|_| self.uniform()).collect();
                (bound(&point), point)
            })
            .collect();
        tried.sort_by(|(left, _), (right, _)| right.total_cmp(left));
        tried.truncate(CLIMBS);
        for (height, point) in &mut tried {
            for _ in 0..CLIMB_TRIES {
                let mut next = point.clone();
                // One coordinate in eight, anew.
                for coordinate in &mut next {
                    if self.uniform() < 0.125 {
                        *coordinate = self.uniform();
                    }
                }
                let reached = bound(&next);
                if reached > *height {
                    (*height, *point) = (reached, next);
                }
            }
        }
        tried
            .into_iter()
            .max_by(|(left, _), (right, _)| left.total_cmp(right))
            .map(|(_, point)| point)
    }

    /// The set whose sublayers have the largest coordinates.
    fn skip_set_of(&self, point: &[f64]) -> SkipSet {
        let mut order: Vec<usize> = (0..point.len()).collect();
        order.sort_by(|&left, &right| point[right].total_cmp(&point[left]));
        order.truncate(self.skipped_sublayers());
        let inner = point.len() / 2;
        let (attention, mlp): (Vec<usize>, Vec<usize>) =
            order.into_iter().partition(|&index| index < inner);
        let layers = |indices: Vec<usize>| -> Vec<u32> {
            indices.into_iter().map(|index| (index % inner + 1) as u32).collect()
        };
        set(&layers(attention), &layers(mlp), self.layer_count)
    }

    /// Evenly from [0, 1).
    fn uniform(&mut self) -> f64 {
        (self.random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Inner layers only, each once: valid by construction; the empty set is the harmless answer to a
/// bug here.
fn set(attention: &[u32], mlp: &[u32], layer_count: usize) -> SkipSet {
    SkipSet::new(attention, mlp, layer_count).unwrap_or_else(|_| SkipSet::empty(layer_count))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYERS: usize = 14;

    fn options() -> SwiftOptions {
        SwiftOptions { max_score: 1.0, ..SwiftOptions::default() }
    }

    fn skipped(skip_set: &SkipSet) -> usize {
        skip_set.attention().len() + skip_set.mlp().len()
    }

    /// Best score after `steps` steps, where the score is the share of the skipped sublayers that
    /// is in the planted set.
    fn best_after(steps: usize, bayes_interval: usize, seed: u64) -> f64 {
        let mut search =
            SwiftSearch::new(LAYERS, SwiftOptions { bayes_interval, seed, ..options() });
        let planted = |index: &usize| matches!(index / 2, 3..=8);
        for _ in 0..steps {
            let Some(candidate) = search.propose() else { break };
            let hits = (0..sublayers(LAYERS))
                .filter(|&index| candidate.skips(index))
                .filter(planted)
                .count();
            let score = hits as f64 / skipped(candidate) as f64;
            search.observe(score);
        }
        search.best_score()
    }

    #[test]
    fn the_process_finds_a_planted_set_better_than_chance() {
        let never = usize::MAX;
        let mean = |bayes_interval| -> f64 {
            (0..6).map(|seed| best_after(60, bayes_interval, seed)).sum::<f64>() / 6.0
        };
        let (chance, process) = (mean(never), mean(3));
        assert!(process > chance + 0.03, "by chance {chance}, with the process {process}");
    }

    #[test]
    fn candidates_skip_the_asked_share_of_the_inner_sublayers() {
        for (layers, ratio, expected) in
            [(30, 0.45, 25), (40, 0.45, 34), (28, 0.2, 10), (4, 1.0, 4), (3, 0.5, 1)]
        {
            let options = SwiftOptions { skip_ratio: ratio, bayes_interval: 2, ..options() };
            let mut search = SwiftSearch::new(layers, options);
            for step in 0..4 {
                let size = search.propose().map(skipped);
                assert_eq!(size, Some(expected), "{layers} layers, ratio {ratio}, step {step}");
                search.observe(0.1);
            }
        }
        for layers in [0, 1, 2] {
            assert_eq!(SwiftSearch::new(layers, options()).propose(), None, "{layers} layers");
        }
    }

    #[test]
    fn it_starts_from_every_second_layer_and_adopts_what_is_better() {
        let mut search = SwiftSearch::new(8, options());
        let start = SkipSet::new(&[1, 3, 5], &[1, 3, 5], 8).unwrap();
        assert_eq!(search.best(), &start);
        search.observe(0.9);
        assert_eq!((search.best(), search.steps()), (&start, 0), "nothing was proposed");
        let first = search.propose().unwrap().clone();
        assert_eq!(search.propose(), Some(&first), "the same until it is scored");
        search.observe(0.5);
        assert_eq!((search.best(), search.best_score()), (&first, 0.5));
        search.propose();
        search.observe(0.5);
        assert_eq!(search.best(), &first, "an equal score is not better");
    }

    #[test]
    fn it_ends_for_good() {
        type Change = fn(&mut SwiftOptions);
        for (name, change, scores, expected) in [
            ("a score above the aim", (|o| o.max_score = 0.9) as Change, &[0.5, 0.9, 0.95][..], 3),
            ("nothing better for long", |o| o.max_tolerance = 2, &[0.5, 0.4, 0.5, 0.1], 4),
            ("too many steps", |o| o.max_steps = 2, &[0.1, 0.2, 0.3], 3),
        ] {
            let mut options = options();
            change(&mut options);
            let mut search = SwiftSearch::new(8, options);
            for (step, &score) in scores.iter().enumerate() {
                assert!(search.propose().is_some(), "{name}: ended before step {step}");
                search.observe(score);
            }
            assert!(search.is_finished() && search.propose().is_none(), "{name}");
            assert_eq!(search.steps(), expected, "{name}");
        }
    }

    #[test]
    fn matchness_compares_with_the_next_token() {
        let ids = |ids: &[u32]| ids.iter().copied().map(TokenId).collect::<Vec<_>>();
        for (drafted, tokens, expected) in [
            (&[2, 3, 4][..], &[1, 2, 3, 4][..], 1.0),
            (&[2, 9, 4, 5], &[1, 2, 3, 4], 2.0 / 3.0),
            (&[1, 2, 3], &[1, 2, 3, 4], 0.0),
            (&[1], &[1], 0.0),
            (&[], &[], 0.0),
        ] {
            assert_eq!(matchness(&ids(drafted), &ids(tokens)), expected, "{drafted:?} {tokens:?}");
        }
    }
}
