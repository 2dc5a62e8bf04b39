//! Rotary embeddings: what a file says of one, its frequencies, and the angles of a pass's rows.

use super::error::ModelError;
use super::floats::Rotation;
use super::header::Header;
use skipstone_kernels::{RopeAngles, RopePairs};

/// A rotary embedding, as a file describes it (Su et al., "RoFormer", 2021).
#[derive(Clone, PartialEq, Debug)]
pub(super) struct RopeConfig {
    /// The elements that turn together.
    pub(super) pairs: RopePairs,
    /// Elements of a head that turn; even.
    pub(super) dimensions: usize,
    /// Base of the frequencies.
    pub(super) base: f32,
    /// Positions are divided by this (linear scaling); 1 without scaling.
    pub(super) linear_factor: f32,
}

/// A rotary embedding, ready to turn.
pub(super) struct Rope {
    pairs: RopePairs,
    /// Radians per position of each pair.
    frequencies: Vec<f64>,
}

/// The angles of the rows of a pass under one rotary embedding, each \[rows, pairs\].
#[derive(Default)]
pub(super) struct Angles {
    cosines: Vec<f32>,
    sines: Vec<f32>,
}

/// The angles of a row that is not turned.
pub(super) const UNTURNED: RopeAngles<'static> =
    RopeAngles { pairs: RopePairs::Adjacent, cosines: &[], sines: &[] };

// === impl RopeConfig ===

impl RopeConfig {
    /// The rotary embedding that the header describes, for heads of `head_dim` elements.
    pub(super) fn from_header(
        header: &Header<'_>,
        pairs: RopePairs,
        head_dim: usize,
    ) -> Result<Self, ModelError> {
        let metadata = header.metadata();
        let dimensions = header.optional("rope.dimension_count", 2..=head_dim)?.unwrap_or(head_dim);
        if !dimensions.is_multiple_of(2) {
            let reason = "must be even".to_owned();
            return Err(header.error("rope.dimension_count", dimensions, reason));
        }
        let scaling = metadata.string(&header.key("rope.scaling.type"))?.unwrap_or("none");
        let linear_factor = match scaling {
            "none" => 1.0,
            "linear" => header.required_number("rope.scaling.factor", 1e-3..=1e6)?,
            other => return Err(ModelError::RopeScaling(other.to_owned())),
        };
        let base = header.number("rope.freq_base", 1.0..=1e12)?.unwrap_or(10_000.0);
        Ok(Self { pairs, dimensions, base, linear_factor })
    }

    /// Pairs of a head that turn.
    pub(super) fn pair_count(&self) -> usize {
        self.dimensions / 2
    }
}

// === impl Rope ===

impl Rope {
    /// The rotary embedding that `config` describes; `factors` are divisors of the frequencies
    /// stored in the file (llama3), one for each pair, if it has any.
    pub(super) fn new(config: &RopeConfig, factors: Option<&[f32]>) -> Self {
        let frequency = |pair: usize| {
            let exponent = 2.0 * pair as f64 / config.dimensions as f64;
            let factor = factors.map_or(1.0, |factors| f64::from(factors[pair]));
            f64::from(config.base).powf(-exponent) / factor / f64::from(config.linear_factor)
        };
        let frequencies = (0..config.pair_count()).map(frequency).collect();
        Self { pairs: config.pairs, frequencies }
    }

    /// The same for those who turn heads elsewhere.
    pub(super) fn rotation(&self) -> Rotation {
        Rotation { pairs: self.pairs, frequencies: self.frequencies.clone() }
    }

    /// Row `row` of `angles`, which this embedding filled.
    pub(super) fn angles<'a>(&self, angles: &'a Angles, row: usize) -> RopeAngles<'a> {
        let count = self.frequencies.len();
        let part = row * count..(row + 1) * count;
        RopeAngles {
            pairs: self.pairs,
            cosines: &angles.cosines[part.clone()],
            sines: &angles.sines[part],
        }
    }
}

// === impl Angles ===

impl Angles {
    /// Computes the angles of rows at `positions` under `rope`.
    pub(super) fn fill(&mut self, rope: &Rope, positions: impl Iterator<Item = usize>) {
        self.cosines.clear();
        self.sines.clear();
        for position in positions {
            for frequency in &rope.frequencies {
                let (sine, cosine) = (position as f64 * frequency).sin_cos();
                self.cosines.push(cosine as f32);
                self.sines.push(sine as f32);
            }
        }
    }
}
