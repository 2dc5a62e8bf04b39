//! The draft vocabulary: the rows of the head that a draft looks at.

use super::Model;
use super::ids::TokenId;
use skipstone_kernels::{COLUMNS, PackError, PackedMatrix};

/// Some rows of the head, packed on their own, so that a draft step pays for these only. The verify
/// pass always uses all rows: what is missing here costs acceptance, never correctness.
pub struct DraftVocabulary {
    tokens: Vec<TokenId>,
    matrix: PackedMatrix,
    /// Whether the vocabulary holds a token, by id.
    holds: Vec<bool>,
}

/// The head of a draft step: a shared vocabulary and, per stream, tiles of the whole head for
/// tokens that it lacks.
#[derive(Clone, Copy, Debug)]
pub struct DraftHead<'a> {
    /// Shared by all streams of a plan.
    pub vocabulary: &'a DraftVocabulary,
    /// Tiles of the whole head.
    pub extra_tiles: &'a [u32],
}

// === impl DraftVocabulary ===

impl DraftVocabulary {
    /// Packs the rows of `tokens`, which are below the vocabulary size; repeats are dropped.
    pub fn new(model: &Model, tokens: &[TokenId], threads: usize) -> Result<Self, PackError> {
        let mut holds = vec![false; model.config().vocabulary];
        let mut kept = tokens.to_vec();
        kept.retain(|token| !std::mem::replace(&mut holds[token.index()], true));
        let matrix = model.weights().pack_head_rows(&kept, threads)?;
        Ok(Self { tokens: kept, matrix, holds })
    }

    /// Tokens of the vocabulary, in the order of its logits.
    pub fn tokens(&self) -> &[TokenId] {
        &self.tokens
    }

    /// Bytes that a pass reads.
    pub fn bytes(&self) -> usize {
        self.matrix.bytes()
    }

    /// The tile of the whole head that has the row of `token`, if the vocabulary lacks it.
    ///
    /// # Panics
    /// If the model has no such token.
    pub fn extra_tile(&self, token: TokenId) -> Option<u32> {
        (!self.holds[token.index()]).then_some((token.index() / COLUMNS) as u32)
    }

    pub(super) fn matrix(&self) -> &PackedMatrix {
        &self.matrix
    }
}

impl std::fmt::Debug for DraftVocabulary {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "DraftVocabulary({} tokens)", self.tokens.len())
    }
}

// === impl DraftHead ===

impl DraftHead<'_> {
    /// Logits that it yields.
    pub fn width(&self) -> usize {
        self.vocabulary.tokens.len() + self.extra_tiles.len() * COLUMNS
    }

    /// The token of entry `index` of a row of its logits, if that is a possible one.
    pub fn token(&self, index: usize) -> TokenId {
        let shared = &self.vocabulary.tokens;
        shared.get(index).copied().unwrap_or_else(|| {
            let (tile, column) =
                ((index - shared.len()) / COLUMNS, (index - shared.len()) % COLUMNS);
            TokenId(self.extra_tiles[tile] * COLUMNS as u32 + column as u32)
        })
    }

    /// Makes impossible what the extra tiles hold beside tokens that the vocabulary lacks: those
    /// that it has would count twice, and the last tile may reach beyond the vocabulary. `extra` is
    /// \[tiles, [`COLUMNS`]\].
    pub(super) fn mask(&self, extra: &mut [f32]) {
        for (&tile, logits) in self.extra_tiles.iter().zip(extra.chunks_exact_mut(COLUMNS)) {
            let held = self.vocabulary.holds[tile as usize * COLUMNS..]
                .iter()
                .chain(std::iter::repeat(&true));
            let useless = logits.iter_mut().zip(held).filter(|(_, held)| **held);
            useless.for_each(|(logit, _)| *logit = f32::NEG_INFINITY);
        }
    }

    /// Writes a row of its logits to their places in a row over all tokens, \[vocabulary\].
    pub fn scatter(&self, logits: &[f32], out: &mut [f32]) {
        let (shared, extra) = logits.split_at(self.vocabulary.tokens.len());
        for (&tile, logits) in self.extra_tiles.iter().zip(extra.chunks_exact(COLUMNS)) {
            out[tile as usize * COLUMNS..]
                .iter_mut()
                .zip(logits)
                .for_each(|(out, &logit)| *out = logit);
        }
        // After the tiles, which hold nothing for tokens of the vocabulary.
        for (token, &logit) in self.vocabulary.tokens.iter().zip(shared) {
            out[token.index()] = logit;
        }
    }
}
