//! A probability for each token that can be chosen.

use crate::model::TokenId;

/// Probabilities of tokens. Only those above 0 are stored, in ascending order of the ids, which is also the order in
/// which [`Distribution::quantile`] adds them up; one token with all of it takes no allocation.
#[derive(Clone, Debug, PartialEq)]
pub struct Distribution {
    support: Support,
}

#[derive(Clone, Debug, PartialEq)]
enum Support {
    One(TokenId),
    Many {
        tokens: Vec<TokenId>,
        /// Above 0, not normalised.
        weights: Vec<f64>,
        /// The sum of the weights, added in order.
        total: f64,
        /// The place of the highest weight, the first among equals.
        top: usize,
    },
}

// === impl Distribution ===

impl Distribution {
    /// All of it on one token.
    pub fn one_hot(token: TokenId) -> Self {
        Self { support: Support::One(token) }
    }

    /// Probabilities in proportion to weights. `None` unless the ids ascend, no weight is negative, NaN or infinite,
    /// and the sum of the weights is above 0 and finite.
    pub fn from_weights(weighted: impl IntoIterator<Item = (TokenId, f64)>) -> Option<Self> {
        let weighted = weighted.into_iter();
        let capacity = weighted.size_hint().0;
        let (mut tokens, mut weights) = (Vec::with_capacity(capacity), Vec::with_capacity(capacity));
        let (mut total, mut top) = (0.0, 0);
        let mut last = None;
        for (token, weight) in weighted {
            if last.is_some_and(|last| last >= token) || !(0.0..f64::INFINITY).contains(&weight) {
                return None;
            }
            last = Some(token);
            if weight > 0.0 {
                if weights.get(top).is_some_and(|&highest| weight > highest) {
                    top = weights.len();
                }
                tokens.push(token);
                weights.push(weight);
                total += weight;
            }
        }
        match tokens.as_slice() {
            [] => None,
            &[token] => Some(Self::one_hot(token)),
            _ => f64::is_finite(total)
                .then_some(Self { support: Support::Many { tokens, weights, total, top } }),
        }
    }

    /// The probability of one token; 0 if it is not stored.
    pub fn probability_of(&self, token: TokenId) -> f64 {
        match &self.support {
            Support::One(only) => f64::from(u8::from(*only == token)),
            Support::Many { tokens, weights, total, .. } => {
                tokens.binary_search(&token).map_or(0.0, |place| weights[place] / total)
            }
        }
    }

    /// The most likely token, the lowest id among equals, and its probability.
    pub fn top(&self) -> (TokenId, f32) {
        match &self.support {
            Support::One(only) => (*only, 1.0),
            Support::Many { tokens, weights, total, top } => (tokens[*top], (weights[*top] / total) as f32),
        }
    }

    /// The number of tokens with a probability above 0, at least 1.
    #[allow(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        match &self.support {
            Support::One(_) => 1,
            Support::Many { tokens, .. } => tokens.len(),
        }
    }

    /// The tokens with their probabilities, in ascending order of the ids.
    pub fn iter(&self) -> impl Iterator<Item = (TokenId, f64)> {
        let (tokens, weights, total) = match &self.support {
            Support::One(only) => (std::slice::from_ref(only), [1.0].as_slice(), 1.0),
            Support::Many { tokens, weights, total, .. } => (tokens.as_slice(), weights.as_slice(), *total),
        };
        tokens.iter().zip(weights).map(move |(&token, &weight)| (token, weight / total))
    }

    /// The first token at which the probabilities, added in ascending order of the ids, exceed `share`; the last one
    /// if none does. With a `share` drawn evenly from [0, 1) this draws a token.
    pub fn quantile(&self, share: f64) -> TokenId {
        match &self.support {
            Support::One(only) => *only,
            Support::Many { tokens, weights, total, .. } => {
                let goal = share * total;
                let mut sum = 0.0;
                let place = weights.iter().position(|weight| {
                    sum += weight;
                    sum > goal
                });
                tokens[place.unwrap_or(tokens.len() - 1)]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(weights: &[(u32, f64)]) -> Option<Distribution> {
        Distribution::from_weights(weights.iter().map(|&(token, weight)| (TokenId(token), weight)))
    }

    #[test]
    fn weights_become_probabilities() {
        let found = of(&[(2, 1.0), (3, 0.0), (5, 4.0), (9, 3.0), (11, 4.0)]).unwrap();
        let expected = [(2, 1.0 / 12.0), (5, 4.0 / 12.0), (9, 3.0 / 12.0), (11, 4.0 / 12.0)];
        assert_eq!(found.iter().collect::<Vec<_>>(), expected.map(|(token, share)| (TokenId(token), share)));
        assert_eq!((found.len(), found.top()), (4, (TokenId(5), 1.0_f32 / 3.0)));
        for (token, share) in [(0, 0.0), (2, 1.0 / 12.0), (3, 0.0), (11, 4.0 / 12.0), (12, 0.0)] {
            assert_eq!(found.probability_of(TokenId(token)), share, "token {token}");
        }
        assert_eq!(of(&[(1, 0.0), (4, 0.2)]), Some(Distribution::one_hot(TokenId(4))));
        assert_eq!(Distribution::one_hot(TokenId(4)).iter().collect::<Vec<_>>(), [(TokenId(4), 1.0)]);
    }

    #[test]
    fn what_is_no_distribution_is_refused() {
        let (nan, infinity) = (f64::NAN, f64::INFINITY);
        let refused: [&[(u32, f64)]; 8] = [
            &[],
            &[(1, 0.0)],
            &[(1, 1.0), (1, 1.0)],
            &[(2, 1.0), (1, 1.0)],
            &[(1, -1.0), (2, 3.0)],
            &[(1, nan), (2, 3.0)],
            &[(1, infinity), (2, 3.0)],
            &[(1, f64::MAX), (2, f64::MAX)],
        ];
        for weights in refused {
            assert_eq!(of(weights), None, "{weights:?}");
        }
    }

    #[test]
    fn quantiles_go_by_id_and_never_leave_the_support() {
        let quarters = of(&[(1, 1.0), (4, 2.0), (6, 1.0)]).unwrap();
        let below_one = 1.0 - f64::EPSILON / 2.0;
        let cases = [(0.0, 1), (0.249, 1), (0.25, 4), (0.749, 4), (0.75, 6), (below_one, 6), (1.0, 6)];
        for (share, token) in cases {
            assert_eq!(quarters.quantile(share), TokenId(token), "share {share}");
        }
        assert_eq!(Distribution::one_hot(TokenId(3)).quantile(0.7), TokenId(3));
    }
}
