//! The acceptance rule of speculative sampling (Leviathan et al., Fast Inference from Transformers
//! via Speculative Decoding; Chen et al., Accelerating Large Language Model Decoding with
//! Speculative Sampling).
//!
//! A token x drawn from q is accepted with probability min(1, p(x) / q(x)), else replaced by a draw
//! from what p has above q. What is committed then follows p: min(p, q) comes from accepted drafts,
//! p - min(p, q) from replacements.

use super::distribution::Distribution;
use crate::TokenId;

/// A drafted token, and how it was chosen.
///
/// Whether a token drawn from a distribution is verified at all must not depend on that token. To
/// give up tokens that *turned out* unlikely would leave the likely ones over-represented; decide
/// by what is known before the draw (the draft's top probability), or verify the token and stop
/// after it.
#[derive(Clone, Copy, Debug)]
pub struct Proposal<'a> {
    /// The token.
    pub token: TokenId,
    /// The distribution that it comes from.
    pub distribution: ProposalDistribution<'a>,
}

/// The way a drafted token was chosen.
#[derive(Clone, Copy, Debug)]
pub enum ProposalDistribution<'a> {
    /// Drawn at random from exactly this distribution, temperature, filters and penalties included.
    Sampled(&'a Distribution),
    /// Chosen without regard to the random numbers of acceptance and replacement: an n-gram match,
    /// a greedy draft. Never wrong, since the rule then holds for each token by itself, only less
    /// often accepted.
    Deterministic,
}

/// Verdict on a drafted token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It is committed.
    Accepted,
    /// This token is committed in its stead, and the drafted tokens after it fall.
    Replaced(TokenId),
}

/// The probability with which `proposal` is accepted.
pub fn acceptance_probability(target: &Distribution, proposal: &Proposal<'_>) -> f64 {
    let wanted = target.probability_of(proposal.token);
    match drawn_from(proposal) {
        Some(source) => (wanted / source.probability_of(proposal.token)).min(1.0),
        None => wanted,
    }
}

/// The distribution of the token that replaces `proposal` once it is rejected; `None` if it can't
/// be rejected.
pub fn residual(target: &Distribution, proposal: &Proposal<'_>) -> Option<Distribution> {
    match drawn_from(proposal) {
        Some(source) => target.above(source),
        None => target.without(proposal.token),
    }
}

/// Applies the rule with two random numbers from [0, 1) that are independent of each other and of
/// the draft's own; the second is asked for only if the token is rejected.
pub fn decide(
    target: &Distribution,
    proposal: &Proposal<'_>,
    accept: f64,
    resample: impl FnOnce() -> f64,
) -> Verdict {
    if accept < acceptance_probability(target, proposal) {
        return Verdict::Accepted;
    }
    // Where p and q differ by rounding alone, p may have nothing above q: p itself is then as near
    // as can be.
    let share = resample();
    Verdict::Replaced(
        residual(target, proposal)
            .map_or_else(|| target.quantile(share), |rest| rest.quantile(share)),
    )
}

/// The distribution that the token was drawn from. One that gives the token no chance can't be it;
/// the deterministic rule is right for a token of unknown origin.
fn drawn_from<'a>(proposal: &Proposal<'a>) -> Option<&'a Distribution> {
    match proposal.distribution {
        ProposalDistribution::Sampled(source) if source.probability_of(proposal.token) > 0.0 => {
            Some(source)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(weights: &[f64]) -> Distribution {
        let weighted =
            weights.iter().enumerate().map(|(token, &weight)| (TokenId(token as u32), weight));
        Distribution::from_weights(weighted).unwrap()
    }

    #[test]
    fn the_rule_worked_by_hand() {
        let target = of(&[0.5, 0.25, 0.25, 0.0]);
        let draft = of(&[0.25, 0.5, 0.0, 0.25]);
        let mut failures = Vec::new();
        let mut case =
            |name: &str, token: u32, sampled: bool, accepted: f64, rest: Option<Distribution>| {
                let distribution = match sampled {
                    true => ProposalDistribution::Sampled(&draft),
                    false => ProposalDistribution::Deterministic,
                };
                let proposal = Proposal { token: TokenId(token), distribution };
                let found =
                    (acceptance_probability(&target, &proposal), residual(&target, &proposal));
                if found != (accepted, rest.clone()) {
                    failures.push(format!("{name}: {found:?}, not {accepted} {rest:?}"));
                }
            };
        let above = of(&[0.25, 0.0, 0.25, 0.0]);
        case("offered less than wanted", 0, true, 1.0, Some(above.clone()));
        case("offered twice what is wanted", 1, true, 0.5, Some(above.clone()));
        case("not wanted", 3, true, 0.0, Some(above));
        case("can't come from the draft", 2, true, 0.25, Some(of(&[0.5, 0.25])));
        case("deterministic", 0, false, 0.5, Some(of(&[0.0, 0.25, 0.25])));
        case("deterministic, not wanted", 3, false, 0.0, Some(target.clone()));
        assert!(failures.is_empty(), "{failures:#?}");
    }

    #[test]
    fn a_greedy_target_accepts_its_token_and_no_other() {
        let target = Distribution::one_hot(TokenId(1));
        let draft = of(&[0.9, 0.1]);
        for distribution in
            [ProposalDistribution::Sampled(&draft), ProposalDistribution::Deterministic]
        {
            for accept in [0.0, 0.5, 1.0 - f64::EPSILON / 2.0] {
                let verdict = |token| {
                    decide(
                        &target,
                        &Proposal { token: TokenId(token), distribution },
                        accept,
                        || 0.5,
                    )
                };
                assert_eq!(verdict(1), Verdict::Accepted);
                assert_eq!(verdict(0), Verdict::Replaced(TokenId(1)));
            }
        }
        let sure =
            Proposal { token: TokenId(1), distribution: ProposalDistribution::Deterministic };
        assert_eq!(residual(&target, &sure), None);
    }

    #[test]
    fn equal_distributions_accept_everything() {
        let both = of(&[0.1, 0.2, 0.7]);
        for token in 0..3 {
            let proposal = Proposal {
                token: TokenId(token),
                distribution: ProposalDistribution::Sampled(&both),
            };
            assert_eq!(acceptance_probability(&both, &proposal), 1.0);
            assert_eq!(residual(&both, &proposal), None);
        }
    }
}
