//! Log-probabilities for the caller's eyes: of the full model, before anything is done to its
//! logits.

use std::cmp::Ordering;

use crate::TokenId;
use skipstone_kernels::{Isa, exp_total};

/// Natural logarithms of softmax probabilities of one row.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprobs {
    /// Log-probability of the token asked for; -inf if it is not in the row.
    pub logprob: f32,
    /// The most likely tokens, best first, the lower id first among equals.
    pub top: Vec<(TokenId, f32)>,
}

/// The log-probability of `token` and of the `top` most likely tokens under the raw logits of one
/// row.
///
/// A row from which no token can be drawn (see [`super::SamplingError`]) gives NaN and an empty
/// list.
pub fn log_probabilities(logits: &[f32], token: TokenId, top: usize) -> TokenLogprobs {
    let Ok(peak) = super::logits::peak(logits) else {
        return TokenLogprobs { logprob: f32::NAN, top: Vec::new() };
    };
    let log_total = exp_total(Isa::detect(), logits, peak).ln();
    let logprob = |logit: f32| (f64::from(logit) - f64::from(peak) - log_total) as f32;
    let top = best(logits, top).into_iter().map(|(token, logit)| (token, logprob(logit))).collect();
    TokenLogprobs {
        logprob: logits.get(token.index()).map_or(f32::NEG_INFINITY, |&logit| logprob(logit)),
        top,
    }
}

/// The `count` highest logits in order: one comparison for each entry that isn't among the best so
/// far.
fn best(logits: &[f32], count: usize) -> Vec<(TokenId, f32)> {
    let count = count.min(logits.len());
    let mut best: Vec<(TokenId, f32)> = Vec::with_capacity(count + 1);
    if count == 0 {
        return best;
    }
    for (index, &logit) in logits.iter().enumerate() {
        if best.len() == count && best.last().is_some_and(|&(_, lowest)| logit <= lowest) {
            continue;
        }
        let place =
            best.partition_point(|(_, other)| other.partial_cmp(&logit) != Some(Ordering::Less));
        best.insert(place, (TokenId(index as u32), logit));
        best.truncate(count);
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_equal_the_definition() {
        let logits: Vec<f32> =
            (0..997).map(|index| ((index * 577) % 991) as f32 / 40.0 + 300.0).collect();
        let total: f64 = logits.iter().map(|&logit| f64::from(logit - 300.0).exp()).sum();
        let expected = |token: TokenId| f64::from(logits[token.index()]) - 300.0 - total.ln();
        let mut order: Vec<TokenId> = (0..997).map(TokenId).collect();
        order.sort_by(|a, b| logits[b.index()].total_cmp(&logits[a.index()]).then(a.cmp(b)));
        for count in [0, 1, 5, 20, 997, 2000] {
            let found = log_probabilities(&logits, TokenId(3), count);
            assert!((f64::from(found.logprob) - expected(TokenId(3))).abs() < 1e-5);
            let tokens: Vec<TokenId> = found.top.iter().map(|&(token, _)| token).collect();
            assert_eq!(tokens, order[..count.min(997)], "top {count}");
            for (token, logprob) in found.top {
                assert!((f64::from(logprob) - expected(token)).abs() < 1e-5, "token {token}");
            }
        }
    }

    #[test]
    fn ties_masked_tokens_and_broken_rows() {
        let masked = log_probabilities(&[0.0, f32::NEG_INFINITY, 0.0], TokenId(1), 2);
        assert_eq!(masked.logprob, f32::NEG_INFINITY);
        let half = std::f32::consts::LN_2;
        assert_eq!(masked.top, [(TokenId(0), -half), (TokenId(2), -half)]);
        assert_eq!(log_probabilities(&[1.0], TokenId(7), 0).logprob, f32::NEG_INFINITY);
        let broken = log_probabilities(&[0.0, f32::NAN], TokenId(0), 2);
        assert!(broken.logprob.is_nan() && broken.top.is_empty());
    }
}
