//! Rows of logits as the model gives them: their peak, and the check that they can be used at all.

use crate::TokenId;
use skipstone_kernels::{Isa, LogitScan, exp_total, scan_logits};

/// A row of logits from which no token can be chosen. No token is made up in its stead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SamplingError {
    /// A logit is not a number.
    #[error(
        "entry {entry} of the logits is NaN; the model file is damaged or a kernel is wrong: check the file against its checksum"
    )]
    NotANumber {
        /// Its place in the row.
        entry: usize,
    },
    /// A logit, or what the penalties made of it, is infinite.
    #[error(
        "entry {entry} of the logits is +inf; the model file is damaged or a kernel is wrong: check the file against its checksum"
    )]
    PositiveInfinity {
        /// Its place in the row.
        entry: usize,
    },
    /// There is no token to choose.
    #[error(
        "none of the {entries} logits is finite, so there is no token to choose; check the model file against its checksum"
    )]
    NoFiniteLogit {
        /// The row's length.
        entries: usize,
    },
}

/// The highest logit of a usable row: no NaN, no +inf, at least one finite entry.
pub(super) fn peak(logits: &[f32]) -> Result<f32, SamplingError> {
    let LogitScan { maximum, has_nan } = scan_logits(Isa::detect(), logits);
    let entry_where = |test: fn(&f32) -> bool| logits.iter().position(test).unwrap_or_default();
    if has_nan {
        return Err(SamplingError::NotANumber { entry: entry_where(|logit| logit.is_nan()) });
    }
    if maximum == f32::INFINITY {
        return Err(SamplingError::PositiveInfinity {
            entry: entry_where(|&logit| logit == f32::INFINITY),
        });
    }
    if maximum == f32::NEG_INFINITY {
        return Err(SamplingError::NoFiniteLogit { entries: logits.len() });
    }
    Ok(maximum)
}

/// The first entry that has the peak's value; `None` if none has it.
pub(super) fn first_at(logits: &[f32], peak: f32) -> Option<usize> {
    // Block by block: compilers compare a block at once, but look for a place one by one.
    const BLOCK: usize = 64;
    let is_here = |block: &[f32]| block.iter().fold(false, |found, &logit| found | (logit == peak));
    let block = logits.chunks(BLOCK).position(is_here)?;
    let place = logits[block * BLOCK..].iter().position(|&logit| logit == peak)?;
    Some(block * BLOCK + place)
}

/// The token with the highest logit, the lowest id among equals; `None` for a row with NaN or +inf,
/// or without a finite entry.
pub fn argmax(logits: &[f32]) -> Option<TokenId> {
    first_at(logits, peak(logits).ok()?).map(|index| TokenId(index as u32))
}

/// The token that [`argmax`] gives and its softmax probability, within 1e-6: a draft's confidence.
///
/// A row without an argmax gives token 0 with probability 0, which is below every threshold: stop
/// drafting.
pub fn top_probability(logits: &[f32]) -> (TokenId, f32) {
    let Ok(peak) = peak(logits) else { return (TokenId(0), 0.0) };
    let index = first_at(logits, peak).unwrap_or_default();
    (TokenId(index as u32), (1.0 / exp_total(Isa::detect(), logits, peak)) as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAN: f32 = f32::NAN;
    const INFINITY: f32 = f32::INFINITY;

    /// A row of `length` with `value` at `place`.
    fn row(length: usize, place: usize, value: f32) -> Vec<f32> {
        let mut row: Vec<f32> =
            (0..length).map(|index| -(((index * 7) % 13) as f32) - 1.0).collect();
        row[place] = value;
        row
    }

    #[test]
    fn the_argmax_is_found_at_every_place_of_every_length() {
        for length in 1..50 {
            for place in 0..length {
                assert_eq!(
                    argmax(&row(length, place, 0.5)),
                    Some(TokenId(place as u32)),
                    "{place} of {length}"
                );
            }
        }
    }

    #[test]
    fn the_lowest_id_wins_a_tie() {
        for length in 2..50 {
            assert_eq!(argmax(&vec![-3.0; length]), Some(TokenId(0)));
            let mut tied = row(length, length - 1, 2.0);
            tied[length / 2] = 2.0;
            assert_eq!(argmax(&tied), Some(TokenId((length / 2) as u32)), "length {length}");
        }
    }

    #[test]
    fn an_unusable_row_is_an_error_wherever_the_fault_lies() {
        for length in 1..50 {
            for place in 0..length {
                for sign in [1.0, -1.0] {
                    let broken = row(length, place, NAN.copysign(sign));
                    assert_eq!(peak(&broken), Err(SamplingError::NotANumber { entry: place }));
                    assert_eq!(argmax(&broken), None);
                    assert_eq!(top_probability(&broken).1, 0.0);
                }
                let infinite = row(length, place, INFINITY);
                assert_eq!(peak(&infinite), Err(SamplingError::PositiveInfinity { entry: place }));
                let masked = row(length, place, f32::NEG_INFINITY);
                assert_eq!(peak(&masked).is_ok(), length > 1, "one -inf is fine");
            }
            let entries = length;
            assert_eq!(
                peak(&vec![-INFINITY; length]),
                Err(SamplingError::NoFiniteLogit { entries })
            );
        }
        assert_eq!(argmax(&[]), None);
        assert_eq!(argmax(&[NAN; 20]), None);
    }

    #[test]
    fn the_confidence_is_the_softmax_probability() {
        for length in [1, 2, 15, 16, 17, 1000, 49_152] {
            let logits: Vec<f32> =
                (0..length).map(|index| ((index * 7919) % 1013) as f32 / 50.0).collect();
            let (token, probability) = top_probability(&logits);
            let peak = f64::from(logits[token.index()]);
            let total: f64 = logits.iter().map(|&logit| (f64::from(logit) - peak).exp()).sum();
            assert_eq!(Some(token), argmax(&logits));
            assert!(
                (f64::from(probability) - 1.0 / total).abs() < 1e-6,
                "length {length}: {probability}"
            );
        }
    }
}
