//! Speculative sampling commits what the full model alone would: by enumeration of the acceptance
//! rule, and by counting the output of whole draft-verify cycles. Faults that other systems shipped
//! are built in and must show.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests may assert too")]

use skipstone::model::TokenId;
use skipstone::sampling::{
    Distribution, Proposal, ProposalDistribution, RandomStream, Sampler, SamplingParams,
    SamplingSettings, TokenHistory, Verdict, acceptance_probability, residual, uniform,
};

/// Enough to see a total variation of 0.005 in a handful of cells with a probability above .98.
const TRIALS: u64 = 131_072;
/// The quantile of the normal distribution at 1 - 1e-4.
const NORMAL_QUANTILE: f64 = 3.719;

/// Pearson's statistic over its critical value at alpha = 1e-4: above 1 the counts don't follow the
/// probabilities. Cells with less than 5 expected counts are one cell; a count where nothing is
/// expected is infinitely far off.
fn deviation(expected: &[f64], counts: &[u64]) -> f64 {
    let trials: u64 = counts.iter().sum();
    let (mut statistic, mut cells) = (0.0, 0);
    let mut small = (0.0, 0.0);
    for (&share, &count) in expected.iter().zip(counts) {
        let (mean, count) = (share * trials as f64, count as f64);
        if mean == 0.0 && count > 0.0 {
            return f64::INFINITY;
        } else if mean < 5.0 {
            small = (small.0 + mean, small.1 + count);
        } else {
            statistic += (count - mean).powi(2) / mean;
            cells += 1;
        }
    }
    if small.0 > 0.0 {
        statistic += (small.1 - small.0).powi(2) / small.0;
        cells += 1;
    }
    // Wilson and Hilferty: the cube root of a chi-square is nearly normal.
    let freedom = f64::from(cells - 1);
    let spread = 2.0 / (9.0 * freedom);
    statistic / (freedom * (1.0 - spread + NORMAL_QUANTILE * spread.sqrt()).powi(3))
}

fn of(weights: &[f64]) -> Distribution {
    let weighted =
        weights.iter().enumerate().map(|(token, &weight)| (TokenId(token as u32), weight));
    Distribution::from_weights(weighted).unwrap()
}

fn sampler(settings: SamplingSettings) -> Sampler {
    Sampler::new(SamplingParams::new(settings, 64).unwrap())
}

/// Random weights of one of several kinds: any, with zeros, in ties, one token alone, far apart.
fn random_weights(case: u64, stream: RandomStream, vocabulary: usize) -> Vec<f64> {
    let number = |index: usize| uniform(77, stream, case * 64 + index as u64);
    let kind = (number(63) * 5.0) as usize;
    let alone = (number(62) * vocabulary as f64) as usize;
    let weight = |index: usize| match kind {
        0 => number(index) + 1e-9,
        1 => (number(index) - 0.5).max(0.0),
        2 => (number(index) * 4.0).floor(),
        3 => 0.0,
        _ => (-40.0 * number(index)).exp(),
    };
    (0..vocabulary).map(|index| if index == alone { 1.0 } else { weight(index) }).collect()
}

/// Distribution of the token committed at one position, summed over every draft: accepted drafts
/// and replacements.
fn committed(
    target: &Distribution,
    proposals: &[(f64, Proposal<'_>)],
    vocabulary: usize,
) -> Vec<f64> {
    let mut committed = vec![0.0; vocabulary];
    for (share, proposal) in proposals {
        let accepted = acceptance_probability(target, proposal);
        committed[proposal.token.index()] += share * accepted;
        if accepted < 1.0 {
            for (token, replaced) in
                residual(target, proposal).expect("a rejection needs a replacement").iter()
            {
                committed[token.index()] += share * (1.0 - accepted) * replaced;
            }
        }
    }
    committed
}

#[test]
fn the_rule_commits_the_target_for_ten_thousand_pairs() {
    let mut worst = (0.0, 0);
    let mut check =
        |case: u64, target: &Distribution, proposals: &[(f64, Proposal<'_>)], vocabulary: usize| {
            let committed = committed(target, proposals, vocabulary);
            let distance = |(token, share): (usize, f64)| {
                (share - target.probability_of(TokenId(token as u32))).abs()
            };
            let variation = committed.into_iter().enumerate().map(distance).sum::<f64>() / 2.0;
            if variation > worst.0 {
                worst = (variation, case);
            }
        };
    for case in 0..10_000 {
        let vocabulary = 2 + (case % 40) as usize;
        let mut target = of(&random_weights(case, RandomStream::Target, vocabulary));
        let mut draft = of(&random_weights(case, RandomStream::Draft, vocabulary));
        if case % 2 == 1 {
            // The same through the processors: 32-bit logits, masks, cut tails.
            let top_k = (case % 7) as u32;
            let min_p = if case % 3 == 0 { 0.1 } else { 0.0 };
            let filters = match case % 4 {
                1 => SamplingSettings { top_k, top_p: 0.95, min_p, ..Default::default() },
                _ => SamplingSettings::default(),
            };
            let settings = SamplingSettings { temperature: 0.9, ..filters };
            let mut sampler = sampler(settings);
            let mut processed = |raw: &Distribution| {
                let logit = |token| raw.probability_of(TokenId(token as u32)).ln() as f32;
                let logits: Vec<f32> = (0..vocabulary).map(logit).collect();
                sampler.distribution(&logits, &TokenHistory::default()).unwrap()
            };
            (target, draft) = (processed(&target), processed(&draft));
        }
        let distribution = ProposalDistribution::Sampled(&draft);
        let sampled: Vec<_> =
            draft.iter().map(|(token, share)| (share, Proposal { token, distribution })).collect();
        check(case, &target, &sampled, vocabulary);
        let token = TokenId((case % vocabulary as u64) as u32);
        let deterministic = Proposal { token, distribution: ProposalDistribution::Deterministic };
        check(case, &target, &[(1.0, deterministic)], vocabulary);
    }
    assert!(worst.0 < 1e-9, "total variation {} in case {}", worst.0, worst.1);
}

/// Counts what `verify` commits for one position. `drawn` is what the drafts really come from.
fn verified(
    target: &Distribution,
    drawn: &Distribution,
    claimed: &Distribution,
    stream: RandomStream,
) -> Vec<u64> {
    let sampler = sampler(SamplingSettings { temperature: 1.0, seed: 5, ..Default::default() });
    let mut counts = vec![0; 8];
    for counter in 0..TRIALS {
        let token = sampler.draw(drawn, stream, counter);
        let proposal = Proposal { token, distribution: ProposalDistribution::Sampled(claimed) };
        let committed = match sampler.verify(target, &proposal, counter) {
            Verdict::Accepted => token,
            Verdict::Replaced(other) => other,
        };
        counts[committed.index()] += 1;
    }
    counts
}

#[test]
fn verified_tokens_follow_the_target_and_two_faults_show() {
    let target = of(&[0.6, 0.1, 0.1, 0.05, 0.05, 0.04, 0.03, 0.03]);
    let draft = of(&[0.3, 0.2, 0.1, 0.1, 0.1, 0.1, 0.0, 0.1]);
    let expected: Vec<f64> = (0..8).map(|token| target.probability_of(TokenId(token))).collect();
    let right = deviation(&expected, &verified(&target, &draft, &draft, RandomStream::Draft));
    assert!(right < 1.0, "verify is off: {right}");
    let one_stream = deviation(&expected, &verified(&target, &draft, &draft, RandomStream::Accept));
    assert!(one_stream > 1.0, "one stream for draft and acceptance goes unseen: {one_stream}");
    let flatter = of(&[0.27, 0.2, 0.1, 0.11, 0.11, 0.1, 0.01, 0.1]);
    let other_draft =
        deviation(&expected, &verified(&target, &draft, &flatter, RandomStream::Draft));
    assert!(
        other_draft > 1.0,
        "a draft that isn't the one sampled from goes unseen: {other_draft}"
    );
}

const VOCABULARY: usize = 5;
const LENGTH: usize = 3;

/// A fault of the cycle, each shipped by some system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    None,
    /// The draft reports its raw softmax as q.
    UnprocessedDraft,
    /// The draft takes its best token and reports a distribution as q.
    BestTokenAsSample,
    /// Draft and acceptance share their random numbers.
    OneStream,
    /// The verify compares with the raw softmax.
    UnprocessedVerify,
    /// The token after the last accepted one is drawn from the raw softmax.
    UnprocessedBonus,
    /// The penalties of the verify don't know the drafted tokens before.
    StaleHistory,
    /// Drafted tokens that turn out unlikely are not verified.
    DroppedByOwnProbability,
}

/// Two models whose next token depends on the last: the full one, and a draft that is somewhat like
/// it.
struct Cycles {
    sampler: Sampler,
    raw: Sampler,
    draft_length: usize,
    fault: Fault,
}

impl Cycles {
    fn new(settings: &SamplingSettings, draft_length: usize, fault: Fault) -> Self {
        let raw = SamplingSettings { temperature: 1.0, seed: settings.seed, ..Default::default() };
        Self { sampler: sampler(settings.clone()), raw: sampler(raw), draft_length, fault }
    }

    fn logits(last: TokenId, draft: bool) -> [f32; VOCABULARY] {
        std::array::from_fn(|token| {
            let full = ((last.index() * 3 + token * token * 2) % 7) as f32 * 0.45;
            let error = ((last.index() * 5 + token * 3) % 4) as f32 * 0.4 - 0.6;
            if draft { full + error } else { full }
        })
    }

    fn draft(
        &mut self,
        history: &mut TokenHistory,
        mut last: TokenId,
        counter: u64,
    ) -> Vec<(TokenId, Distribution)> {
        let mut drafts = Vec::new();
        let committed = history.generated().len();
        for position in 0..self.draft_length as u64 {
            let logits = Self::logits(last, true);
            let source = self.sampler.distribution(&logits, history).unwrap();
            // To stop by what is known before the draw is right.
            if source.top().1 < 0.25 {
                break;
            }
            let stream = if self.fault == Fault::OneStream {
                RandomStream::Accept
            } else {
                RandomStream::Draft
            };
            last = match self.fault {
                Fault::BestTokenAsSample => source.top().0,
                _ => self.sampler.draw(&source, stream, counter + position),
            };
            if self.fault == Fault::DroppedByOwnProbability && source.probability_of(last) < 0.3 {
                break;
            }
            let claimed = match self.fault {
                Fault::UnprocessedDraft => self.raw.distribution(&logits, history).unwrap(),
                _ => source,
            };
            drafts.push((last, claimed));
            history.push(last);
        }
        history.truncate(committed);
        drafts
    }

    /// One trial: tokens after the prompt `0`, by cycles of draft and verify.
    fn generate(&mut self, trial: u64) -> [TokenId; LENGTH] {
        let mut history = TokenHistory::new(&[TokenId(0)]);
        let mut last = TokenId(0);
        while history.generated().len() < LENGTH {
            let counter = trial * 16 + history.generated().len() as u64;
            let drafts = self.draft(&mut history, last, counter);
            let before = history.clone();
            let mut fallen = false;
            for (place, (token, claimed)) in drafts.iter().enumerate() {
                let logits = Self::logits(last, false);
                let target = match self.fault {
                    Fault::UnprocessedVerify => self.raw.distribution(&logits, &history),
                    Fault::StaleHistory => self.sampler.distribution(&logits, &before),
                    _ => self.sampler.distribution(&logits, &history),
                };
                let proposal = Proposal {
                    token: *token,
                    distribution: ProposalDistribution::Sampled(claimed),
                };
                let verdict =
                    self.sampler.verify(&target.unwrap(), &proposal, counter + place as u64);
                (last, fallen) = match verdict {
                    Verdict::Accepted => (*token, false),
                    Verdict::Replaced(other) => (other, true),
                };
                history.push(last);
                if fallen {
                    break;
                }
            }
            if !fallen {
                let logits = Self::logits(last, false);
                let unprocessed = self.fault == Fault::UnprocessedBonus;
                let chooser = if unprocessed { &mut self.raw } else { &mut self.sampler };
                let target = chooser.distribution(&logits, &history).unwrap();
                last = chooser.draw(&target, RandomStream::Target, counter + drafts.len() as u64);
                history.push(last);
            }
        }
        std::array::from_fn(|place| history.generated()[place])
    }

    /// The probability of every output of plain decoding, by enumeration.
    fn plain(&mut self) -> Vec<f64> {
        (0..VOCABULARY.pow(LENGTH as u32))
            .map(|cell| {
                let mut history = TokenHistory::new(&[TokenId(0)]);
                let mut last = TokenId(0);
                let mut probability = 1.0;
                for place in (0..LENGTH as u32).rev() {
                    let logits = Self::logits(last, false);
                    let target = self.sampler.distribution(&logits, &history).unwrap();
                    last = TokenId((cell / VOCABULARY.pow(place) % VOCABULARY) as u32);
                    probability *= target.probability_of(last);
                    history.push(last);
                }
                probability
            })
            .collect()
    }

    fn deviation(&mut self) -> f64 {
        let mut counts = vec![0; VOCABULARY.pow(LENGTH as u32)];
        for trial in 0..TRIALS {
            let cell = self
                .generate(trial)
                .iter()
                .fold(0, |cell, token| cell * VOCABULARY + token.index());
            counts[cell] += 1;
        }
        deviation(&self.plain(), &counts)
    }
}

/// Every processor at once, none so strong that it hides another.
fn everything() -> SamplingSettings {
    SamplingSettings {
        temperature: 0.8,
        top_k: 4,
        top_p: 0.95,
        min_p: 0.02,
        repetition_penalty: 1.3,
        presence_penalty: 0.3,
        frequency_penalty: 0.2,
        logit_bias: vec![(TokenId(2), 0.7)],
        seed: 11,
    }
}

#[test]
fn whole_cycles_commit_what_plain_decoding_would() {
    let plain = |temperature, seed| SamplingSettings { temperature, seed, ..Default::default() };
    let cases = [
        ("cold", plain(0.3, 1), 2),
        ("warm", plain(0.7, 2), 1),
        ("neutral", plain(1.0, 3), 4),
        ("hot", plain(1.5, 4), 8),
        ("top-k", SamplingSettings { top_k: 2, ..plain(1.0, 5) }, 2),
        ("top-p", SamplingSettings { top_p: 0.7, ..plain(1.5, 6) }, 2),
        ("min-p", SamplingSettings { min_p: 0.3, ..plain(1.0, 7) }, 2),
        ("everything", everything(), 2),
    ];
    let failures: Vec<String> = cases
        .into_iter()
        .map(|(name, settings, draft_length)| {
            (name, Cycles::new(&settings, draft_length, Fault::None).deviation())
        })
        .filter(|&(_, deviation)| deviation.is_nan() || deviation > 1.0)
        .map(|(name, deviation)| format!("{name}: {deviation} of the critical value"))
        .collect();
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn faults_that_were_shipped_are_seen() {
    let unseen: Vec<String> = [
        Fault::UnprocessedDraft,
        Fault::BestTokenAsSample,
        Fault::OneStream,
        Fault::UnprocessedVerify,
        Fault::UnprocessedBonus,
        Fault::StaleHistory,
        Fault::DroppedByOwnProbability,
    ]
    .into_iter()
    .map(|fault| (fault, Cycles::new(&everything(), 2, fault).deviation()))
    .filter(|&(_, deviation)| deviation <= 1.0)
    .map(|(fault, deviation)| format!("{fault:?}: {deviation} of the critical value"))
    .collect();
    assert!(unseen.is_empty(), "{unseen:#?}");
}

#[test]
fn greedy_cycles_give_the_greedy_tokens_whatever_is_drafted() {
    let settings = SamplingSettings { temperature: 0.0, ..everything() };
    let plain = Cycles::new(&settings, 0, Fault::None).generate(0);
    for draft_length in 1..8 {
        assert_eq!(Cycles::new(&settings, draft_length, Fault::None).generate(0), plain);
    }
}
