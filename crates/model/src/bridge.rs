//! A bridge: a cheap learned map that stands in for a run of skipped sublayers.

use std::ops::Range;

use half::f16;
use sha2::{Digest, Sha256};

use skipstone_kernels::{PackedMatrix, WeightType};

/// `x -> x + bias + up (down [x, f])`, applied before sublayer `span.start` in place of the
/// sublayers of `span`; f is the feature of the position before (see
/// [`super::ModelConfig::feature_sublayer`]).
pub struct Bridge {
    span: Range<usize>,
    bias: Vec<f32>,
    /// `down`, \[rank, 2 hidden\], and `up`, \[hidden, rank\]; none for a bridge of the bias alone.
    maps: Option<(PackedMatrix, PackedMatrix)>,
    digest: [u8; 32],
}

/// A reason why a bridge is refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BridgeError {
    /// The span is empty.
    #[error("a bridge over sublayers {start} to {end} skips nothing")]
    Empty {
        /// First sublayer.
        start: usize,
        /// The one after the last.
        end: usize,
    },
    /// The parts don't fit each other.
    #[error(
        "the parts of the bridge don't fit a hidden size of {hidden}: bias {bias}, down {down}, up {up} numbers"
    )]
    Shape {
        /// Hidden size.
        hidden: usize,
        /// Length of the bias.
        bias: usize,
        /// Length of `down`.
        down: usize,
        /// Length of `up`.
        up: usize,
    },
    /// A number is infinite, not a number, or too large for half precision.
    #[error("the bridge holds a number that half precision can't hold")]
    NotFinite,
}

// === impl Bridge ===

impl Bridge {
    /// Builds a bridge over `span` for hidden states of `hidden` numbers. `bias` is \[hidden\],
    /// `down` \[rank, 2 hidden\], `up` \[hidden, rank\], both empty for rank 0. The maps are kept
    /// in half precision.
    pub fn new(
        span: Range<usize>,
        hidden: usize,
        bias: Vec<f32>,
        down: &[f32],
        up: &[f32],
    ) -> Result<Self, BridgeError> {
        if span.is_empty() {
            return Err(BridgeError::Empty { start: span.start, end: span.end });
        }
        let shape = BridgeError::Shape { hidden, bias: bias.len(), down: down.len(), up: up.len() };
        if bias.len() != hidden
            || down.len() != 2 * up.len()
            || hidden == 0
            || !up.len().is_multiple_of(hidden)
        {
            return Err(shape);
        }
        // The bias is kept as it is.
        let fits = |number: &f32| f16::from_f32(*number).is_finite();
        if !(bias.iter().all(|number| number.is_finite()) && down.iter().chain(up).all(fits)) {
            return Err(BridgeError::NotFinite);
        }
        let rank = up.len() / hidden;
        let pack = |outputs: usize, width: usize, numbers: &[f32]| {
            let bytes: Vec<u8> =
                numbers.iter().flat_map(|&number| f16::from_f32(number).to_le_bytes()).collect();
            PackedMatrix::pack(WeightType::F16, outputs, width, &bytes, 1)
                .map_err(|_| shape.clone())
        };
        let maps = match rank {
            0 => None,
            _ => Some((pack(rank, 2 * hidden, down)?, pack(hidden, rank, up)?)),
        };
        let mut hash = Sha256::new();
        bias.iter().for_each(|number| hash.update(number.to_le_bytes()));
        down.iter().chain(up).for_each(|&number| hash.update(f16::from_f32(number).to_le_bytes()));
        Ok(Self { span, bias, maps, digest: hash.finalize().into() })
    }

    /// The sublayers it stands in for.
    pub fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// Rank of the map; 0 if there is only a bias.
    pub fn rank(&self) -> usize {
        self.maps.as_ref().map_or(0, |(down, _)| down.outputs())
    }

    /// SHA-256 of its numbers, as they are kept.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// Bytes that a pass reads.
    pub fn bytes(&self) -> usize {
        let maps = self.maps.as_ref().map_or(0, |(down, up)| down.bytes() + up.bytes());
        maps + size_of_val(self.bias.as_slice())
    }

    /// \[hidden\].
    pub(super) fn bias(&self) -> &[f32] {
        &self.bias
    }

    /// `down` and `up`.
    pub(super) fn maps(&self) -> Option<(&PackedMatrix, &PackedMatrix)> {
        self.maps.as_ref().map(|(down, up)| (down, up))
    }
}

impl std::fmt::Debug for Bridge {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Bridge({:?}, rank {})", self.span, self.rank())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_that_do_not_fit_are_refused() {
        let build = |span, bias: usize, down: &[f32], up: &[f32]| {
            Bridge::new(span, 8, vec![0.0; bias], down, up).map(|bridge| bridge.rank())
        };
        assert_eq!(build(2..6, 8, &[0.5; 32], &[0.5; 16]), Ok(2));
        assert_eq!(build(2..6, 8, &[], &[]), Ok(0));
        assert_eq!(build(6..6, 8, &[], &[]), Err(BridgeError::Empty { start: 6, end: 6 }));
        for (bias, down, up) in [(7, 32, 16), (8, 16, 16), (8, 18, 9)] {
            let found = build(2..6, bias, &vec![0.0; down], &vec![0.0; up]);
            assert_eq!(found, Err(BridgeError::Shape { hidden: 8, bias, down, up }));
        }
        assert_eq!(build(2..6, 8, &[f32::NAN; 16], &[0.0; 8]), Err(BridgeError::NotFinite));
        assert_eq!(
            build(2..6, 8, &[1e9; 16], &[0.0; 8]),
            Err(BridgeError::NotFinite),
            "overflows a half"
        );
    }
}
