//! Filters: the entries of a row that survive top-k, top-p and min-p, without sorting the
//! vocabulary.

use std::cmp::Ordering;

use super::params::SamplingSettings;
use skipstone_kernels::{Isa, softmax_weights};

/// Probabilities this close, in relation to each other, count as equal where a filter compares
/// them: weights are exact to 3e-7 and settings to half a unit of `f32`, so a token that the
/// caller's decimals put exactly on the border is kept.
const RESOLUTION: f64 = 1e-6;
/// Below this many candidates sorting beats dividing.
const SORTED_AT: usize = 32;
/// Room for top-k candidates beyond k, so that they are pruned rarely.
const SPARE_CANDIDATES: usize = 1024;

/// Bytes of one buffer that a stream keeps from token to token. A row of 150,000 takes 4 MB, once
/// for each of many streams if it were kept, and next to nothing to allocate beside a pass of the
/// model.
const KEPT_BYTES: usize = 1 << 16;

/// An entry of a row that may be chosen.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Candidate {
    /// Its place in the row.
    pub(super) entry: u32,
    /// Its logit, penalties and bias included.
    pub(super) logit: f32,
    /// Weight in proportion to its probability; 1 for the highest logit.
    pub(super) weight: f32,
}

/// Conversion of a row's logits to weights: e^((logit - peak) / temperature), from 0 to 1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    /// The highest logit of the row, finite.
    pub(super) peak: f32,
    /// Above 0.
    pub(super) temperature: f32,
}

/// Space that is used again for each row.
#[derive(Clone, Default, Debug)]
pub(super) struct Workspace {
    weights: Vec<f32>,
    candidates: Vec<Candidate>,
    division: Vec<Candidate>,
}

/// Frees a buffer that is too large to keep.
pub(super) fn release<T>(buffer: &mut Vec<T>) {
    if buffer.capacity() * size_of::<T>() > KEPT_BYTES {
        *buffer = Vec::new();
    }
}

// === impl Scale ===

impl Scale {
    /// Replaces logits by their weights, of which none is above the peak, nor NaN; returns their
    /// sum.
    pub(super) fn weigh(self, logits: &mut [f32]) -> f64 {
        softmax_weights(Isa::detect(), logits, self.peak, self.temperature)
    }
}

/// Whether the settings leave every token that can be chosen at all.
pub(super) fn keeps_all(settings: &SamplingSettings, entries: usize) -> bool {
    let top_k = settings.top_k as usize;
    !(1..entries).contains(&top_k) && settings.top_p >= 1.0 && settings.min_p <= 0.0
}

// === impl Candidate ===

impl Candidate {
    /// Best first, the lower entry first among equals.
    fn rank(&self, other: &Self) -> Ordering {
        // Not `total_cmp`: it would set 0 above -0, which are equal to the argmax.
        let by_logit = other.logit.partial_cmp(&self.logit).unwrap_or(Ordering::Equal);
        by_logit.then(self.entry.cmp(&other.entry))
    }
}

// === impl Workspace ===

impl Workspace {
    /// The survivors of a row in ascending order of their entries. All have a weight above 0 and
    /// the peak is among them. `row` has no NaN, and `scale` has its peak and the temperature.
    pub(super) fn filter(
        &mut self,
        row: &[f32],
        scale: Scale,
        settings: &SamplingSettings,
    ) -> &[Candidate] {
        let top_p = f64::from(settings.top_p);
        let least =
            (f64::from(settings.min_p) * (1.0 - RESOLUTION)).max(f64::from(f32::MIN_POSITIVE));
        let top_k = settings.top_k as usize;
        let total = if (1..row.len()).contains(&top_k) {
            self.keep_best(row, scale, top_k);
            self.candidates.iter().map(|candidate| f64::from(candidate.weight)).sum()
        } else {
            self.weights.clear();
            self.weights.extend_from_slice(row);
            let total = scale.weigh(&mut self.weights);
            // All that is below 1/n of what top-p may cut off has together less than that, so the
            // border is above it; half of it leaves room for rounding. Where min-p cuts more, top-p
            // need not look below it.
            let tail =
                if top_p < 1.0 { 0.5 * (1.0 - top_p) * total / row.len() as f64 } else { 0.0 };
            self.keep_heavy(row, least.max(tail) as f32);
            total
        };
        if top_p < 1.0 {
            self.keep_nucleus(top_p * total * (1.0 - RESOLUTION));
        }
        self.candidates.retain(|candidate| f64::from(candidate.weight) >= least);
        &self.candidates
    }

    /// Gives back what a long row took.
    pub(super) fn release(&mut self) {
        release(&mut self.weights);
        release(&mut self.candidates);
        release(&mut self.division);
    }

    /// The `count` best entries, fewer if others are -inf; `count` is at least 1. One pass: what is
    /// not above the worst of `count` entries already seen is passed over.
    fn keep_best(&mut self, row: &[f32], scale: Scale, count: usize) {
        let candidates = &mut self.candidates;
        let prune = |candidates: &mut Vec<Candidate>| {
            candidates.select_nth_unstable_by(count - 1, Candidate::rank);
            candidates.truncate(count);
            candidates[count - 1].logit
        };
        candidates.clear();
        let mut floor = f32::NEG_INFINITY;
        for (entry, &logit) in row.iter().enumerate() {
            if logit > floor {
                candidates.push(Candidate { entry: entry as u32, logit, weight: 0.0 });
                if candidates.len() == count + SPARE_CANDIDATES {
                    floor = prune(candidates);
                }
            }
        }
        if candidates.len() > count {
            prune(candidates);
        }
        self.weights.clear();
        self.weights.extend(candidates.iter().map(|candidate| candidate.logit));
        scale.weigh(&mut self.weights);
        for (candidate, &weight) in candidates.iter_mut().zip(&self.weights) {
            candidate.weight = weight;
        }
        candidates.sort_unstable_by_key(|candidate| candidate.entry);
    }

    /// The entries whose weight, already filled in, is at least `least`.
    fn keep_heavy(&mut self, row: &[f32], least: f32) {
        let kept =
            row.iter().zip(&self.weights).enumerate().filter(|&(_, (_, &weight))| weight >= least);
        self.candidates.clear();
        self.candidates.extend(kept.map(|(entry, (&logit, &weight))| Candidate {
            entry: entry as u32,
            logit,
            weight,
        }));
    }

    /// The fewest of the best candidates that together weigh at least `target`, or all.
    ///
    /// Divides the candidates at the median and goes on in the half with the border: linear in
    /// their number.
    fn keep_nucleus(&mut self, target: f64) {
        let weigh = |part: &[Candidate]| {
            part.iter().map(|candidate| f64::from(candidate.weight)).sum::<f64>()
        };
        self.division.clone_from(&self.candidates);
        let mut rest = self.division.as_mut_slice();
        let mut above = 0.0;
        while rest.len() > SORTED_AT {
            let half = rest.len() / 2;
            rest.select_nth_unstable_by(half, Candidate::rank);
            let (better, worse) = rest.split_at_mut(half);
            let weight = weigh(better);
            if above + weight >= target {
                rest = better;
            } else {
                above += weight;
                rest = worse;
            }
        }
        rest.sort_unstable_by(Candidate::rank);
        let border = rest.iter().find(|candidate| {
            above += f64::from(candidate.weight);
            above >= target
        });
        if let Some(border) = border {
            self.candidates.retain(|candidate| candidate.rank(border) != Ordering::Greater);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::random::{RandomStream, uniform};
    use super::*;

    fn survivors(row: &[f32], settings: &SamplingSettings) -> Vec<Candidate> {
        let peak = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let scale = Scale { peak, temperature: settings.temperature };
        Workspace::default().filter(row, scale, settings).to_vec()
    }

    fn settings(top_k: u32, top_p: f32, min_p: f32) -> SamplingSettings {
        SamplingSettings { temperature: 1.0, top_k, top_p, min_p, ..Default::default() }
    }

    #[test]
    fn hand_computed_cases() {
        // Probabilities .4 .3 .2 .1, out of order.
        let tenths: Vec<f32> = [2.0_f32, 4.0, 1.0, 3.0].iter().map(|share| share.ln()).collect();
        let level = vec![0.0; 10];
        let masked = [1.0, f32::NEG_INFINITY, 1.0, 0.0];
        let zeros = [-0.0, 0.0, -1.0];
        let mut failures = Vec::new();
        let mut case =
            |name: &str, row: &[f32], (top_k, top_p, min_p): (u32, f32, f32), expected: &[u32]| {
                let found = survivors(row, &settings(top_k, top_p, min_p));
                let entries: Vec<u32> = found.iter().map(|candidate| candidate.entry).collect();
                if entries != expected {
                    failures.push(format!("{name}: {entries:?}, not {expected:?}"));
                }
            };
        case("off", &tenths, (0, 1.0, 0.0), &[0, 1, 2, 3]);
        case("top-k", &tenths, (2, 1.0, 0.0), &[1, 3]);
        case("top-k of all", &tenths, (4, 1.0, 0.0), &[0, 1, 2, 3]);
        case("top-k of more than all", &tenths, (9, 1.0, 0.0), &[0, 1, 2, 3]);
        case("top-k: the lowest ids among equals", &level, (3, 1.0, 0.0), &[0, 1, 2]);
        case("top-k does not revive what is banned", &masked, (3, 1.0, 0.0), &[0, 2, 3]);
        case("top-k: zeros of both signs are equal", &zeros, (1, 1.0, 0.0), &[0]);
        case("top-p: reached exactly", &tenths, (0, 0.7, 0.0), &[1, 3]);
        case("top-p: the token that crosses stays", &tenths, (0, 0.71, 0.0), &[0, 1, 3]);
        case("top-p: at least one", &tenths, (0, 1e-6, 0.0), &[1]);
        case("top-p: decimals, 6 of 10 equals", &level, (0, 0.6, 0.0), &[0, 1, 2, 3, 4, 5]);
        // Of .4 .3 .2, the first two have 7/9 = .78: enough for .75. Of all four they have .7: not
        // enough.
        case("top-p speaks of what top-k left", &tenths, (3, 0.75, 0.0), &[1, 3]);
        case("top-p without top-k", &tenths, (0, 0.75, 0.0), &[0, 1, 3]);
        case("min-p: on the border", &tenths, (0, 1.0, 0.5), &[0, 1, 3]);
        case("min-p", &tenths, (0, 1.0, 0.51), &[1, 3]);
        case(
            "min-p never takes the best",
            &level,
            (0, 1.0, 0.999),
            &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
        );
        // Were min-p first, .4 and .3 would be all, and .4 alone 4/7 = .57 of it: enough for .55.
        case("min-p comes after top-p", &tenths, (0, 0.55, 0.6), &[1, 3]);
        case("too unlikely for a float", &[0.0, -100.0, -80.0], (0, 1.0, 0.0), &[0, 2]);
        case(
            "too unlikely for a float, with top-k",
            &[0.0, -100.0, -80.0, -1.0],
            (3, 1.0, 0.0),
            &[0, 2, 3],
        );
        assert!(failures.is_empty(), "{failures:#?}");
    }

    /// Says what is wrong with the survivors of `row`, judged by the definition with every entry
    /// sorted, in `f64`.
    fn fault(row: &[f32], settings: &SamplingSettings, survivors: &[Candidate]) -> Option<String> {
        const TOLERANCE: f64 = 3.0 * RESOLUTION;
        let mut order: Vec<usize> =
            (0..row.len()).filter(|&entry| row[entry] > f32::NEG_INFINITY).collect();
        order.sort_by(|&a, &b| row[b].total_cmp(&row[a]).then(a.cmp(&b)));
        if settings.top_k > 0 {
            order.truncate(settings.top_k as usize);
        }
        let peak = f64::from(row[order[0]]);
        let weight =
            |entry: usize| ((f64::from(row[entry]) - peak) / f64::from(settings.temperature)).exp();
        let total: f64 = order.iter().map(|&entry| weight(entry)).sum();
        let (top_p, min_p) = (f64::from(settings.top_p), f64::from(settings.min_p));
        let mut before = 0.0;
        for (place, &entry) in order.iter().enumerate() {
            let (this, share) = (weight(entry), before / total);
            let kept = survivors.iter().any(|survivor| survivor.entry as usize == entry);
            if kept && (share > top_p + TOLERANCE || this < min_p - TOLERANCE) {
                return Some(format!(
                    "entry {entry} in place {place} is kept: {share} before it, weight {this}"
                ));
            }
            if !kept && share < top_p - TOLERANCE && this > min_p + TOLERANCE && this > 1e-37 {
                return Some(format!(
                    "entry {entry} in place {place} is lost: {share} before it, weight {this}"
                ));
            }
            before += this;
        }
        let ascending = survivors.windows(2).all(|pair| pair[0].entry < pair[1].entry);
        let known = survivors.iter().all(|survivor| order.contains(&(survivor.entry as usize)));
        (!ascending || !known)
            .then(|| "the survivors are out of order, or not of the row".to_owned())
    }

    #[test]
    fn the_judge_sees_one_survivor_too_few_and_one_too_many() {
        let row: Vec<f32> = (0..50).map(|entry| ((entry * 17) % 50) as f32 * 0.1).collect();
        for settings in [
            settings(20, 1.0, 0.0),
            settings(0, 0.8, 0.0),
            settings(0, 1.0, 0.1),
            settings(30, 0.9, 0.2),
        ] {
            let all = survivors(&row, &SamplingSettings { temperature: 1.0, ..Default::default() });
            let found = survivors(&row, &settings);
            assert_eq!(fault(&row, &settings, &found), None);
            for place in 0..found.len() {
                let mut fewer = found.clone();
                fewer.remove(place);
                assert!(fault(&row, &settings, &fewer).is_some(), "without {place}: {settings:?}");
            }
            for extra in all.iter().filter(|extra| !found.contains(extra)) {
                let mut more = found.clone();
                more.push(*extra);
                more.sort_unstable_by_key(|candidate| candidate.entry);
                assert!(fault(&row, &settings, &more).is_some(), "with {extra:?}: {settings:?}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
        #[test]
        fn the_shortcuts_give_what_sorting_gives(
            seed in any::<u64>(),
            length in 1_usize..3000,
            levels in prop_oneof![Just(3.0_f64), Just(40.0), Just(1e6)],
            temperature in prop_oneof![Just(0.05_f32), Just(1.0), Just(7.0)],
            top_k in prop_oneof![Just(0_u32), 1_u32..8, 1_u32..3000],
            top_p in prop_oneof![Just(1.0_f32), 0.01_f32..1.0],
            min_p in prop_oneof![Just(0.0_f32), 0.0_f32..0.99],
        ) {
            let mut row: Vec<f32> = (0..length as u64)
                .map(|entry| uniform(seed, RandomStream::Target, entry))
                .map(|number| ((number * levels).floor() / levels * 20.0 - 3.0) as f32)
                .collect();
            for banned in (1..length).step_by(7) {
                row[banned] = f32::NEG_INFINITY;
            }
            let settings = SamplingSettings { temperature, ..settings(top_k, top_p, min_p) };
            let found = survivors(&row, &settings);
            prop_assert_eq!(fault(&row, &settings, &found), None);
        }
    }
}
