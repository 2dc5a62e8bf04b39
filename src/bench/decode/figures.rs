//! Figures of one mode over some prompts, and how sure they are.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::Serialize;

use super::run::Measurement;
use crate::bench::median;
use skipstone_engine::{PhaseTime, PhaseTimes};

/// One mode over all prompts or those of a category. What can't be computed is `None`.
#[derive(Clone, PartialEq, Default, Serialize, Debug)]
pub struct Figures {
    /// Tokens after the first, by the time since the first.
    pub tokens_per_second: Option<f64>,
    /// The same against `off`.
    pub ratio_to_off: Option<f64>,
    /// Lower end of its 95 % interval.
    pub ratio_low: Option<f64>,
    /// Upper end.
    pub ratio_high: Option<f64>,
    /// Accepted / drafted tokens.
    pub acceptance: Option<f64>,
    /// Tokens committed by a pass of the whole model, plain step or verify.
    pub tokens_per_cycle: Option<f64>,
    /// Time of a draft step, in plain steps of `off`.
    pub draft_cost: Option<f64>,
    /// Time of a verify pass, in plain steps of `off`.
    pub verify_cost: Option<f64>,
    /// Share of the step time spent in draft steps.
    pub draft_share: Option<f64>,
    /// Share spent in verify passes.
    pub verify_share: Option<f64>,
    /// Share spent in plain steps.
    pub plain_share: Option<f64>,
}

/// A ratio of two speeds, with its 95 % interval over prompts.
#[derive(Clone, Copy, PartialEq, Serialize, Debug)]
pub struct Interval {
    /// Ratio of total tokens per total second.
    pub ratio: f64,
    /// Lower end.
    pub ratio_low: f64,
    /// Upper end.
    pub ratio_high: f64,
}

/// One prompt in one mode: the time of a repeat, and the sum of all counts.
#[derive(Clone, Debug)]
pub(super) struct PromptTotals {
    /// Tokens after the first, of one repeat.
    tokens: f64,
    /// Median over repeats that are equally long, else the mean, as of the tokens.
    seconds: f64,
    counts: Measurement,
}

/// Resamples of the prompts: enough for the ends of the interval to move by less than their own
/// rounding.
const RESAMPLES: usize = 2000;
const RESAMPLE_SEED: u64 = 0x626f_6f74;

// === impl PromptTotals ===

impl PromptTotals {
    /// Sums up the repeats of one prompt in one mode.
    pub(super) fn of<'a>(repeats: impl Iterator<Item = &'a Measurement> + Clone) -> Option<Self> {
        let mut counts = Measurement::nothing();
        for repeat in repeats.clone() {
            counts.tokens += repeat.tokens;
            counts.passes += repeat.passes;
            counts.drafted += repeat.drafted;
            counts.accepted += repeat.accepted;
            let phases = &mut counts.phases;
            add(&mut phases.draft, repeat.phases.draft);
            add(&mut phases.verify, repeat.phases.verify);
            add(&mut phases.plain, repeat.phases.plain);
        }
        let first = repeats.clone().next()?;
        let is_alike = repeats.clone().all(|repeat| repeat.tokens == first.tokens);
        let mut seconds: Vec<f64> = repeats.map(|repeat| repeat.seconds).collect();
        let count = seconds.len() as f64;
        let seconds =
            if is_alike { median(&mut seconds) } else { seconds.iter().sum::<f64>() / count };
        Some(Self { tokens: counts.tokens as f64 / count, seconds, counts })
    }
}

// === impl Figures ===

impl Figures {
    /// Figures of `mode` over some prompts, against `off` over the same.
    pub(super) fn of(mode: &[PromptTotals], off: Option<&[PromptTotals]>) -> Self {
        let interval = off.and_then(|off| Interval::between(mode, off));
        let sum = |field: fn(&Measurement) -> f64| {
            mode.iter().map(|totals| field(&totals.counts)).sum::<f64>()
        };
        let phase = |phase: fn(&PhaseTimes) -> PhaseTime| {
            let mut total = PhaseTime::default();
            mode.iter().for_each(|totals| add(&mut total, phase(&totals.counts.phases)));
            total
        };
        let (draft, verify, plain) = (phase(|p| p.draft), phase(|p| p.verify), phase(|p| p.plain));
        let seconds = draft.seconds + verify.seconds + plain.seconds;
        let plain_step = off.and_then(speed).map(|speed| 1.0 / speed);
        let in_plain_steps =
            |time: PhaseTime| Some(quotient(time.seconds, time.steps as f64)? / plain_step?);
        Self {
            tokens_per_second: speed(mode),
            ratio_to_off: interval.map(|interval| interval.ratio),
            ratio_low: interval.map(|interval| interval.ratio_low),
            ratio_high: interval.map(|interval| interval.ratio_high),
            acceptance: quotient(sum(|m| m.accepted as f64), sum(|m| m.drafted as f64)),
            tokens_per_cycle: quotient(sum(|m| m.tokens as f64), sum(|m| m.passes as f64)),
            draft_cost: in_plain_steps(draft),
            verify_cost: in_plain_steps(verify),
            draft_share: quotient(draft.seconds, seconds),
            verify_share: quotient(verify.seconds, seconds),
            plain_share: quotient(plain.seconds, seconds),
        }
    }
}

// === impl Interval ===

impl Interval {
    /// Speed of `ours` over that of `theirs`, on the same prompts. The interval is the percentile
    /// bootstrap over prompts (Efron and Tibshirani, "An Introduction to the Bootstrap", chapter
    /// 13): both sides of a prompt are drawn together.
    pub(super) fn between(ours: &[PromptTotals], theirs: &[PromptTotals]) -> Option<Self> {
        let pairs: Vec<(&PromptTotals, &PromptTotals)> = ours.iter().zip(theirs).collect();
        let ratio = ratio_of(pairs.iter().copied())?;
        let mut random = ChaCha8Rng::seed_from_u64(RESAMPLE_SEED);
        let mut resampled: Vec<f64> = (0..RESAMPLES)
            .filter_map(|_| {
                ratio_of(
                    (0..pairs.len())
                        .map(|_| pairs[(random.next_u64() % pairs.len() as u64) as usize]),
                )
            })
            .collect();
        resampled.sort_by(f64::total_cmp);
        let percentile = |share: f64| {
            resampled
                .get((share * (resampled.len().saturating_sub(1)) as f64).round() as usize)
                .copied()
        };
        Some(Self { ratio, ratio_low: percentile(0.025)?, ratio_high: percentile(0.975)? })
    }
}

/// Ratio of the speeds of both sides; each is total tokens by total seconds.
fn ratio_of<'a>(pairs: impl Iterator<Item = (&'a PromptTotals, &'a PromptTotals)>) -> Option<f64> {
    let mut sums = [0.0; 4];
    for (ours, theirs) in pairs {
        for (sum, value) in
            sums.iter_mut().zip([ours.tokens, ours.seconds, theirs.tokens, theirs.seconds])
        {
            *sum += value;
        }
    }
    let [our_tokens, our_seconds, their_tokens, their_seconds] = sums;
    quotient(quotient(our_tokens, our_seconds)?, quotient(their_tokens, their_seconds)?)
}

fn add(sum: &mut PhaseTime, time: PhaseTime) {
    sum.steps += time.steps;
    sum.seconds += time.seconds;
}

fn speed(totals: &[PromptTotals]) -> Option<f64> {
    let sum = |field: fn(&PromptTotals) -> f64| totals.iter().map(field).sum::<f64>();
    quotient(sum(|totals| totals.tokens), sum(|totals| totals.seconds))
}

fn quotient(left: f64, right: f64) -> Option<f64> {
    (right > 0.0).then(|| left / right)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(tokens: usize, seconds: &[f64]) -> PromptTotals {
        let repeats: Vec<Measurement> = seconds
            .iter()
            .map(|&seconds| Measurement {
                tokens,
                seconds,
                passes: tokens / 2,
                drafted: tokens,
                accepted: tokens / 2,
                phases: PhaseTimes {
                    draft: PhaseTime { steps: tokens, seconds: seconds / 2.0 },
                    verify: PhaseTime { steps: tokens / 4, seconds: seconds / 4.0 },
                    plain: PhaseTime { steps: tokens / 4, seconds: seconds / 4.0 },
                    ..PhaseTimes::default()
                },
                ..Measurement::nothing()
            })
            .collect();
        PromptTotals::of(repeats.iter()).unwrap()
    }

    #[test]
    fn figures_are_quotients_of_sums() {
        let mode = [totals(40, &[1.0, 9.0, 2.0]), totals(80, &[2.0, 2.0, 2.0])];
        let off = [totals(40, &[4.0]), totals(80, &[8.0])];
        let figures = Figures::of(&mode, Some(&off));
        for (name, found, expected) in [
            ("tokens per second", figures.tokens_per_second, 30.0),
            ("ratio", figures.ratio_to_off, 3.0),
            ("acceptance", figures.acceptance, 0.5),
            ("tokens per cycle", figures.tokens_per_cycle, 2.0),
            // 9 of 18 s for 360 draft steps, 4.5 s for 90 verifies; a plain step takes 0.1 s.
            ("draft cost", figures.draft_cost, 0.25),
            ("verify cost", figures.verify_cost, 0.5),
            ("draft share", figures.draft_share, 0.5),
            ("verify share", figures.verify_share, 0.25),
            ("plain share", figures.plain_share, 0.25),
        ] {
            assert!(
                found.is_some_and(|found| (found - expected).abs() < 1e-9),
                "{name}: {found:?}"
            );
        }
    }

    #[test]
    fn an_interval_holds_the_ratio_and_grows_with_the_spread() {
        let theirs: Vec<PromptTotals> = (0..12).map(|_| totals(10, &[2.0])).collect();
        let width = |spread: f64| {
            let ours: Vec<PromptTotals> = (0..12)
                .map(|index| totals(10, &[1.0 + spread * (f64::from(index) / 11.0 - 0.5)]))
                .collect();
            let Interval { ratio, ratio_low, ratio_high } =
                Interval::between(&ours, &theirs).unwrap();
            assert!((ratio - 2.0).abs() < 1e-9, "{spread}: {ratio}");
            assert!(
                ratio_low <= ratio && ratio <= ratio_high,
                "{spread}: {ratio_low} {ratio_high}"
            );
            ratio_high - ratio_low
        };
        let widths = [width(0.0), width(0.2), width(1.0)];
        assert!(
            widths[0] < 1e-9 && widths[0] < widths[1] && 2.0 * widths[1] < widths[2],
            "{widths:?}"
        );
    }

    #[test]
    fn what_took_no_time_has_no_speed() {
        let nothing = [totals(0, &[0.0])];
        let figures = Figures::of(&nothing, Some(&nothing));
        assert_eq!(figures, Figures::default());
        assert_eq!(Figures::of(&[], None), Figures::default());
    }
}
