//! One request's way from logits to tokens, the same for drafts, verified tokens and bonus tokens.

use super::acceptance::{Proposal, Verdict, decide};
use super::distribution::Distribution;
use super::filters::{Scale, Workspace, keeps_all, release};
use super::history::TokenHistory;
use super::logits::{SamplingError, first_at, peak};
use super::params::SamplingParams;
use super::processors::{adjust, changes_logits};
use super::random::{RandomStream, uniform};
use crate::TokenId;

/// Chooses tokens for one request. Holds no state but space to work in: the same arguments give the
/// same token, whatever was asked before.
#[derive(Clone, Debug)]
pub struct Sampler {
    params: SamplingParams,
    adjusted: Vec<f32>,
    workspace: Workspace,
}

// === impl Sampler ===

impl Sampler {
    /// A sampler with a request's settings.
    pub fn new(params: SamplingParams) -> Self {
        Self { params, adjusted: Vec::new(), workspace: Workspace::default() }
    }

    /// Whether the best token is always taken, so that no random number matters.
    pub fn is_greedy(&self) -> bool {
        self.params.settings().temperature == 0.0
    }

    /// Whether the token with the highest logit is always taken, as the model gave it: nothing is
    /// drawn, penalised or biased.
    pub fn takes_peak(&self) -> bool {
        self.is_greedy() && !changes_logits(self.params.settings())
    }

    /// The distribution of the next token, from a row of logits `[vocabulary]` and the tokens
    /// before it.
    ///
    /// # Errors
    /// A row with NaN or +inf or without a finite entry; the stream can't go on.
    pub fn distribution(
        &mut self,
        logits: &[f32],
        history: &TokenHistory,
    ) -> Result<Distribution, SamplingError> {
        let distribution = self.process(logits, history);
        release(&mut self.adjusted);
        self.workspace.release();
        distribution
    }

    fn process(
        &mut self,
        logits: &[f32],
        history: &TokenHistory,
    ) -> Result<Distribution, SamplingError> {
        let settings = self.params.settings();
        let mut logits = logits;
        let mut highest = peak(logits)?;
        if adjust(logits, settings, history, &mut self.adjusted) {
            logits = &self.adjusted;
            highest = peak(logits)?;
        }
        let no_token = SamplingError::NoFiniteLogit { entries: logits.len() };
        let token = |entry: usize| TokenId(entry as u32);
        if settings.temperature == 0.0 {
            return first_at(logits, highest)
                .map(|best| Distribution::one_hot(token(best)))
                .ok_or(no_token);
        }
        let scale = Scale { peak: highest, temperature: settings.temperature };
        if keeps_all(settings, logits.len()) {
            let mut weights = logits.to_vec();
            scale.weigh(&mut weights);
            return Distribution::dense(weights).ok_or(no_token);
        }
        let survivors = self.workspace.filter(logits, scale, settings).iter();
        let weighted =
            survivors.map(|survivor| (token(survivor.entry as usize), f64::from(survivor.weight)));
        Distribution::from_weights(weighted).ok_or(no_token)
    }

    /// Draws a token with the random number of `stream` at `counter`: the token's position in its
    /// stream.
    pub fn draw(&self, distribution: &Distribution, stream: RandomStream, counter: u64) -> TokenId {
        if let Some(token) = distribution.only() {
            return token;
        }
        distribution.quantile(uniform(self.params.settings().seed, stream, counter))
    }

    /// Accepts or replaces the token drafted for the position `counter`. `target` is the full
    /// model's distribution there, given all tokens before it, those drafted and already accepted
    /// included.
    pub fn verify(&self, target: &Distribution, proposal: &Proposal<'_>, counter: u64) -> Verdict {
        let seed = self.params.settings().seed;
        if let Some(token) = target.only() {
            return if token == proposal.token {
                Verdict::Accepted
            } else {
                Verdict::Replaced(token)
            };
        }
        let accept = uniform(seed, RandomStream::Accept, counter);
        decide(target, proposal, accept, || uniform(seed, RandomStream::Resample, counter))
    }
}

#[cfg(test)]
mod tests {
    use super::super::params::SamplingSettings;
    use super::*;

    fn sampler(change: impl FnOnce(&mut SamplingSettings)) -> Sampler {
        let mut settings = SamplingSettings::default();
        change(&mut settings);
        Sampler::new(SamplingParams::new(settings, 8).unwrap())
    }

    fn greedy_token(sampler: &mut Sampler, logits: &[f32], history: &TokenHistory) -> u32 {
        let distribution = sampler.distribution(logits, history).unwrap();
        assert_eq!((distribution.len(), distribution.top().1), (1, 1.0));
        distribution.top().0.0
    }

    #[test]
    fn greedy_takes_the_best_after_penalties_and_bias() {
        let logits = [1.0, 3.0, 2.5, 3.0, -1.0, 0.0, 0.0, 0.0];
        let mut history = TokenHistory::new(&[TokenId(1)]);
        history.push(TokenId(3));
        let mut failures = Vec::new();
        let mut case = |name: &str, expected: u32, change: fn(&mut SamplingSettings)| {
            let found = greedy_token(&mut sampler(change), &logits, &history);
            if found != expected {
                failures.push(format!("{name}: {found}, not {expected}"));
            }
        };
        case("the lowest id wins a tie", 1, |_| ());
        case("repetition: prompt and output", 2, |s| s.repetition_penalty = 1.5);
        case("presence: output alone", 1, |s| s.presence_penalty = 1.0);
        case("a negative penalty rewards", 3, |s| s.frequency_penalty = -0.1);
        case("bias commands", 4, |s| s.logit_bias = vec![(TokenId(4), 100.0)]);
        case("bias bans", 3, |s| s.logit_bias = vec![(TokenId(1), -100.0)]);
        case("filters and seed change nothing", 1, |s| {
            (s.top_k, s.top_p, s.min_p, s.seed) = (2, 0.1, 0.9, 5)
        });
        assert!(failures.is_empty(), "{failures:#?}");
    }

    #[test]
    fn probabilities_are_those_of_the_formula() {
        let logits = [1.0_f32, 3.0, 2.5, f32::NEG_INFINITY, -1.0, 0.0, 0.3, 2.0];
        for temperature in [0.3_f32, 1.0, 1.5, 100.0] {
            let mut sampler = sampler(|s| s.temperature = temperature);
            assert!(!sampler.is_greedy());
            let found = sampler.distribution(&logits, &TokenHistory::default()).unwrap();
            let weights = logits.map(|logit| f64::from(logit / temperature).exp());
            let total: f64 = weights.iter().sum();
            assert_eq!(found.len(), 7);
            for (token, weight) in weights.iter().enumerate() {
                let probability = found.probability_of(TokenId(token as u32));
                assert!(
                    (probability - weight / total).abs() < 1e-6,
                    "{token} at {temperature}: {probability}"
                );
            }
        }
    }

    #[test]
    fn broken_rows_are_errors_and_never_tokens() {
        let nan = SamplingError::NotANumber { entry: 1 };
        let infinite = SamplingError::PositiveInfinity { entry: 1 };
        let nothing = SamplingError::NoFiniteLogit { entries: 2 };
        let banned = f32::NEG_INFINITY;
        let rows = [
            ([0.0, f32::NAN], &nan),
            ([0.0, f32::INFINITY], &infinite),
            ([banned, banned], &nothing),
        ];
        let seen = TokenHistory::new(&[TokenId(1)]);
        for temperature in [0.0, 1.0] {
            for penalty in [1.0, 1.3] {
                let mut sampler = sampler(|s| {
                    (s.temperature, s.repetition_penalty, s.top_k, s.top_p, s.min_p) =
                        (temperature, penalty, 1, 0.9, 0.1);
                });
                for (row, error) in &rows {
                    assert_eq!(sampler.distribution(row, &seen).as_ref(), Err(*error));
                }
                let empty = Err(SamplingError::NoFiniteLogit { entries: 0 });
                assert_eq!(sampler.distribution(&[], &seen), empty);
            }
            let mut sampler =
                sampler(|s| (s.temperature, s.repetition_penalty) = (temperature, 0.01));
            let overflow = sampler.distribution(&[0.0, 1e38], &seen);
            assert_eq!(overflow, Err(infinite.clone()), "what a penalty makes infinite");
        }
    }

    #[test]
    fn a_filter_that_leaves_all_gives_what_no_filter_gives() {
        let mut logits: Vec<f32> =
            (0..3000).map(|token| ((token * 7919) % 1000) as f32 / 100.0).collect();
        logits.iter_mut().step_by(7).for_each(|logit| *logit = f32::NEG_INFINITY);
        let of = |min_p| {
            let settings =
                SamplingSettings { temperature: 0.8, min_p, ..SamplingSettings::default() };
            let mut sampler = Sampler::new(SamplingParams::new(settings, logits.len()).unwrap());
            sampler.distribution(&logits, &TokenHistory::default()).unwrap()
        };
        let (dense, filtered) = (of(0.0), of(1e-30));
        assert_eq!((dense.len(), dense.top()), (filtered.len(), filtered.top()));
        let alike = |(one, other): ((TokenId, f64), (TokenId, f64))| {
            one.0 == other.0 && (one.1 - other.1).abs() < 1e-12
        };
        assert!(dense.iter().zip(filtered.iter()).all(alike));
        for share in (0..1000).map(|step| f64::from(step) / 1000.0) {
            assert_eq!(dense.quantile(share), filtered.quantile(share), "share {share}");
        }
    }

    #[test]
    fn draws_repeat_by_seed_and_counter_whatever_came_before() {
        let logits: Vec<f32> = (0..8).map(|token| token as f32 * 0.1).collect();
        let run = |seed: u64, order: &mut dyn Iterator<Item = u64>| {
            let mut sampler = sampler(|s| (s.temperature, s.seed) = (1.0, seed));
            let distribution = sampler.distribution(&logits, &TokenHistory::default()).unwrap();
            let mut drawn: Vec<_> = order
                .map(|counter| {
                    (counter, sampler.draw(&distribution, RandomStream::Target, counter))
                })
                .collect();
            drawn.sort_unstable();
            drawn
        };
        assert_eq!(run(1, &mut (0..64)), run(1, &mut (0..64).rev()));
        assert_ne!(run(1, &mut (0..64)), run(2, &mut (0..64)));
    }
}
