//! A probability for each token that can be chosen.

use crate::TokenId;

/// Weights of all tokens that are summed up together.
const CHUNK: usize = 512;

/// Probabilities of tokens, in ascending order of the ids, which is also the order in which
/// [`Distribution::quantile`] adds them up. One token with all of it takes no allocation.
#[derive(Clone, Debug, PartialEq)]
pub struct Distribution {
    support: Support,
}

#[derive(Clone, Debug, PartialEq)]
enum Support {
    One(TokenId),
    /// Of some tokens; of the others it is 0.
    Many {
        tokens: Vec<TokenId>,
        /// Above 0, not normalised.
        weights: Vec<f64>,
        /// The sum of the weights, added in order.
        total: f64,
    },
    /// Of every token, by id: what no filter has touched.
    All {
        /// At least 0, two or more of them above, not normalised.
        weights: Vec<f32>,
        /// The sum of the sums of chunks.
        total: f64,
    },
}

// === impl Distribution ===

impl Distribution {
    /// All of it on one token.
    pub fn one_hot(token: TokenId) -> Self {
        Self { support: Support::One(token) }
    }

    /// Probabilities in proportion to weights. `None` unless the ids ascend, no weight is negative,
    /// NaN or infinite, and the sum of the weights is above 0 and finite.
    pub fn from_weights(weighted: impl IntoIterator<Item = (TokenId, f64)>) -> Option<Self> {
        let weighted = weighted.into_iter();
        let capacity = weighted.size_hint().0;
        let (mut tokens, mut weights) =
            (Vec::with_capacity(capacity), Vec::with_capacity(capacity));
        let mut total = 0.0;
        let mut last = None;
        for (token, weight) in weighted {
            if last.is_some_and(|last| last >= token) || !(0.0..f64::INFINITY).contains(&weight) {
                return None;
            }
            last = Some(token);
            if weight > 0.0 {
                tokens.push(token);
                weights.push(weight);
                total += weight;
            }
        }
        match tokens.as_slice() {
            [] => None,
            &[token] => Some(Self::one_hot(token)),
            _ => f64::is_finite(total)
                .then_some(Self { support: Support::Many { tokens, weights, total } }),
        }
    }

    /// Probabilities in proportion to weights by token. `None` unless no weight is negative, NaN or
    /// infinite, and one is above 0.
    pub(super) fn dense(weights: Vec<f32>) -> Option<Self> {
        let total: f64 = weights.chunks(CHUNK).map(sum_of).sum();
        let is_weight = |weight: &f32| (0.0..f32::INFINITY).contains(weight);
        let are_weights = weights.iter().fold(true, |all, weight| all & is_weight(weight));
        if !are_weights || total <= 0.0 {
            return None;
        }
        let likely = weights.iter().map(|&weight| u32::from(weight > 0.0)).sum::<u32>();
        let first = weights.iter().position(|&weight| weight > 0.0).filter(|_| likely == 1);
        Some(first.map_or(Self { support: Support::All { weights, total } }, |only| {
            Self::one_hot(id(only))
        }))
    }

    /// The token that has all of it, if one has.
    pub fn only(&self) -> Option<TokenId> {
        match &self.support {
            Support::One(only) => Some(*only),
            Support::Many { .. } | Support::All { .. } => None,
        }
    }

    /// The rest without one token; `None` if that is nothing.
    pub(super) fn without(&self, token: TokenId) -> Option<Self> {
        let Support::All { weights, .. } = &self.support else {
            return Self::from_weights(self.iter().filter(|&(other, _)| other != token));
        };
        let mut weights = weights.clone();
        weights.get_mut(token.index()).into_iter().for_each(|weight| *weight = 0.0);
        Self::dense(weights)
    }

    /// The part that exceeds `other`; `None` if that is nothing.
    pub(super) fn above(&self, other: &Self) -> Option<Self> {
        if let (Support::All { weights, total }, Support::All { weights: others, total: of_others }) =
            (&self.support, &other.support)
            && weights.len() == others.len()
        {
            let pairs = weights.iter().zip(others).enumerate();
            return Self::from_weights(pairs.map(|(token, (&weight, &other))| {
                (id(token), (f64::from(weight) / total - f64::from(other) / of_others).max(0.0))
            }));
        }
        // Both sides ascend, so they are walked together.
        let mut offers = other.iter().peekable();
        Self::from_weights(self.iter().map(|(token, wanted)| {
            while offers.next_if(|&(other, _)| other < token).is_some() {}
            let offered =
                offers.next_if(|&(other, _)| other == token).map_or(0.0, |(_, share)| share);
            (token, (wanted - offered).max(0.0))
        }))
    }

    /// The probability of one token; 0 if it is not stored.
    pub fn probability_of(&self, token: TokenId) -> f64 {
        match &self.support {
            Support::One(only) => f64::from(u8::from(*only == token)),
            Support::Many { tokens, weights, total, .. } => {
                tokens.binary_search(&token).map_or(0.0, |place| weights[place] / total)
            }
            Support::All { weights, total } => {
                weights.get(token.index()).map_or(0.0, |&weight| f64::from(weight) / total)
            }
        }
    }

    /// The most likely token, the lowest id among equals, and its probability.
    pub fn top(&self) -> (TokenId, f64) {
        let mut top = (TokenId(0), 0.0);
        for (token, probability) in self.iter() {
            if probability > top.1 {
                top = (token, probability);
            }
        }
        top
    }

    /// The number of tokens with a probability above 0, at least 1.
    #[allow(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        match &self.support {
            Support::One(_) => 1,
            Support::Many { tokens, .. } => tokens.len(),
            Support::All { weights, .. } => weights.iter().filter(|&&weight| weight > 0.0).count(),
        }
    }

    /// The tokens with their probabilities, in ascending order of the ids.
    pub fn iter(&self) -> impl Iterator<Item = (TokenId, f64)> {
        let none: &[f32] = &[];
        let (tokens, weights, all, total) = match &self.support {
            Support::One(only) => (std::slice::from_ref(only), [1.0].as_slice(), none, 1.0),
            Support::Many { tokens, weights, total, .. } => {
                (tokens.as_slice(), weights.as_slice(), none, *total)
            }
            Support::All { weights, total } => {
                ([].as_slice(), [].as_slice(), weights.as_slice(), *total)
            }
        };
        let some = tokens.iter().copied().zip(weights.iter().copied());
        let all = all.iter().enumerate().map(|(token, &weight)| (id(token), f64::from(weight)));
        some.chain(all.filter(|&(_, weight)| weight > 0.0))
            .map(move |(token, weight)| (token, weight / total))
    }

    /// The first token at which the probabilities, added in ascending order of the ids, exceed
    /// `share`; the last one if none does. With a `share` drawn evenly from [0, 1) this draws a
    /// token.
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
            Support::All { weights, total } => {
                let goal = share * total;
                // Never above the goal where a chunk begins, so no token without weight is taken.
                let mut sum = 0.0;
                for (index, chunk) in weights.chunks(CHUNK).enumerate() {
                    let after = sum + sum_of(chunk);
                    if after > goal {
                        let exceeds = |&weight: &f32| {
                            sum += f64::from(weight);
                            sum > goal
                        };
                        // Added one by one they may come out a little less.
                        let place = chunk.iter().position(exceeds).or_else(|| last_of(chunk));
                        return id(index * CHUNK + place.unwrap_or_default());
                    }
                    sum = after;
                }
                id(last_of(weights).unwrap_or_default())
            }
        }
    }
}

fn id(place: usize) -> TokenId {
    TokenId(place as u32)
}

/// The last place with a weight above 0.
fn last_of(weights: &[f32]) -> Option<usize> {
    weights.iter().rposition(|&weight| weight > 0.0)
}

/// The sum in a fixed order, eight at a time.
fn sum_of(weights: &[f32]) -> f64 {
    let (blocks, rest) = weights.as_chunks::<8>();
    let mut sums = [0.0; 8];
    for block in blocks {
        sums.iter_mut().zip(block).for_each(|(sum, &weight)| *sum += f64::from(weight));
    }
    sums.iter().sum::<f64>() + rest.iter().map(|&weight| f64::from(weight)).sum::<f64>()
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
        assert_eq!(
            found.iter().collect::<Vec<_>>(),
            expected.map(|(token, share)| (TokenId(token), share))
        );
        assert_eq!((found.len(), found.top()), (4, (TokenId(5), 1.0 / 3.0)));
        for (token, share) in [(0, 0.0), (2, 1.0 / 12.0), (3, 0.0), (11, 4.0 / 12.0), (12, 0.0)] {
            assert_eq!(found.probability_of(TokenId(token)), share, "token {token}");
        }
        assert_eq!(of(&[(1, 0.0), (4, 0.2)]), Some(Distribution::one_hot(TokenId(4))));
        assert_eq!(
            Distribution::one_hot(TokenId(4)).iter().collect::<Vec<_>>(),
            [(TokenId(4), 1.0)]
        );
    }

    #[test]
    fn weights_of_all_tokens_give_what_weights_of_some_give() {
        let weights: Vec<f32> = (0..1500).map(|token| ((token * 37) % 11) as f32).collect();
        let other: Vec<f32> = (0..1500).map(|token| ((token * 41) % 13) as f32).collect();
        let sparse = |weights: &[f32]| {
            let weighted =
                weights.iter().enumerate().map(|(token, &weight)| (id(token), f64::from(weight)));
            Distribution::from_weights(weighted).unwrap()
        };
        let dense = |weights: &[f32]| Distribution::dense(weights.to_vec()).unwrap();
        let same = |one: &Distribution, two: &Distribution| {
            let close =
                |(a, b): ((TokenId, f64), (TokenId, f64))| a.0 == b.0 && (a.1 - b.1).abs() < 1e-9;
            assert!(one.len() == two.len() && one.iter().zip(two.iter()).all(close));
            assert_eq!((one.top().0, one.only()), (two.top().0, two.only()));
            for share in (0..400).map(|step| (f64::from(step) + 0.37) / 400.0) {
                assert_eq!(one.quantile(share), two.quantile(share), "share {share}");
            }
            for token in (0..1501).map(TokenId) {
                assert!(
                    (one.probability_of(token) - two.probability_of(token)).abs() < 1e-12,
                    "{token}"
                );
            }
        };
        let (all, some) = (dense(&weights), sparse(&weights));
        same(&all, &some);
        same(&all.without(TokenId(4)).unwrap(), &some.without(TokenId(4)).unwrap());
        let (excess, expected) =
            (all.above(&dense(&other)).unwrap(), some.above(&sparse(&other)).unwrap());
        assert_eq!(excess.len(), expected.len());
        for (found, expected) in excess.iter().zip(expected.iter()) {
            assert!(found.0 == expected.0 && (found.1 - expected.1).abs() < 1e-12);
        }
        assert_eq!(all.above(&all), None);
        assert_eq!(all.above(&sparse(&weights)), None, "the two kinds mix");
        let mut one = vec![0.0; 9];
        one[5] = 0.1;
        assert_eq!(Distribution::dense(one), Some(Distribution::one_hot(TokenId(5))));
        for refused in [
            vec![],
            vec![0.0; 3],
            vec![1.0, -1.0, 3.0],
            vec![1.0, f32::NAN],
            vec![f32::INFINITY, 1.0],
        ] {
            assert_eq!(Distribution::dense(refused.clone()), None, "{refused:?}");
        }
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
        let cases =
            [(0.0, 1), (0.249, 1), (0.25, 4), (0.749, 4), (0.75, 6), (below_one, 6), (1.0, 6)];
        for (share, token) in cases {
            assert_eq!(quarters.quantile(share), TokenId(token), "share {share}");
        }
        assert_eq!(Distribution::one_hot(TokenId(3)).quantile(0.7), TokenId(3));
    }
}
