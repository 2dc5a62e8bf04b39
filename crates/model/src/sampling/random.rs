//! Random numbers that are a function of seed, purpose and position, so that none is ever used
//! twice.
//!
//! A drafted token and the decision to accept it must not share a random number: the draft's choice
//! would then predict the decision, and the committed tokens would not follow the full model.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Purpose of a random number. Numbers of different streams are independent of each other.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RandomStream {
    /// To draw a token from a draft's distribution.
    Draft,
    /// To accept or reject a drafted token.
    Accept,
    /// To replace a rejected token.
    Resample,
    /// To draw from the full model: plain steps and bonus tokens.
    Target,
}

// === impl RandomStream ===

impl RandomStream {
    /// Part of the recipe of reproducible output: numbers stay, new streams take new ones.
    fn number(self) -> u64 {
        match self {
            Self::Draft => 1,
            Self::Accept => 2,
            Self::Resample => 3,
            Self::Target => 4,
        }
    }
}

/// The random number of `stream` at `counter`, evenly from [0, 1) in steps of 2^-53.
///
/// The counter is the position of the token in its stream; of drafts, which may meet a position
/// twice, the number of draws before.
pub fn uniform(seed: u64, stream: RandomStream, counter: u64) -> f64 {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    let mut generator = ChaCha8Rng::from_seed(key);
    generator.set_stream(stream.number());
    // Two 32-bit words a number.
    generator.set_word_pos(u128::from(counter) * 2);
    (generator.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAMS: [RandomStream; 4] =
        [RandomStream::Draft, RandomStream::Accept, RandomStream::Resample, RandomStream::Target];

    #[test]
    fn a_number_depends_on_seed_stream_and_counter_alone() {
        let mut seen = std::collections::HashSet::new();
        for seed in [0, 1, u64::MAX] {
            for stream in STREAMS {
                for counter in [0, 1, 2, 7, 8, 1 << 40, u64::MAX] {
                    let number = uniform(seed, stream, counter);
                    assert_eq!(number, uniform(seed, stream, counter));
                    assert!((0.0..1.0).contains(&number), "{number}");
                    assert!(
                        seen.insert(number.to_bits()),
                        "{seed} {stream:?} {counter} repeats a number"
                    );
                }
            }
        }
    }

    #[test]
    fn the_recipe_does_not_change_between_versions() {
        // Computed apart from this crate: key 42, the stream as nonce, words 6 and 7 of ChaCha8's
        // first block.
        let pinned =
            [0.107820420694823, 0.5831829313221659, 0.9433902295550081, 0.05588172623190368];
        let numbers = STREAMS.map(|stream| uniform(42, stream, 3));
        assert_eq!(numbers, pinned, "reproducible output would change");
    }

    #[test]
    fn numbers_are_even_and_streams_do_not_follow_each_other() {
        const COUNT: u64 = 40_000;
        // Half-width of 4.5 standard deviations of a mean of COUNT products.
        let tolerance = 4.5 / (12.0 * (COUNT as f64).sqrt());
        for (first, second) in [(0, 1), (1, 2), (0, 3), (2, 3)] {
            let mut covariance = 0.0;
            let mut mean = 0.0;
            for counter in 0..COUNT {
                let number = uniform(9, STREAMS[first], counter);
                mean += number / COUNT as f64;
                covariance +=
                    (number - 0.5) * (uniform(9, STREAMS[second], counter) - 0.5) / COUNT as f64;
            }
            assert!((mean - 0.5).abs() < tolerance * 12.0_f64.sqrt(), "mean {mean}");
            assert!(covariance.abs() < tolerance, "streams {first} and {second}: {covariance}");
        }
    }
}
