//! Weights that are asked for before they are read.

use super::registers::{Cache, Registers};
use crate::packed::Tile;

/// Distance ahead of its use at which a weight is fetched from memory into the second cache, in
/// bytes. The first cache has too few places for lines under way to keep memory busy.
const FAR: usize = 8192;

/// Distance ahead at which it is fetched from there into the first, for a single row, in bytes.
/// Several rows have enough to do meanwhile.
const NEAR: usize = 768;

/// Addresses of the weights that are asked for while a block is read: worked out once a block,
/// since several rows leave no time for it.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    far: *const u8,
    near: *const u8,
}

// === impl Ahead ===

impl Ahead {
    /// The weights ahead of the block at `offset` of a tile.
    #[inline(always)]
    pub(super) fn of(tile: Tile<'_>, offset: usize) -> Self {
        Self { far: tile.ahead(offset, FAR), near: tile.ahead(offset, NEAR) }
    }

    /// Asks for what lies [`FAR`] bytes after the `bytes` from `start` of the block on, in this
    /// tile or the next, on behalf of `R` rows.
    ///
    /// # Safety
    /// The CPU has what `V` needs.
    #[inline(always)]
    pub(super) unsafe fn fetch<V: Registers, const R: usize>(self, start: usize, bytes: usize) {
        for line in 0..bytes.div_ceil(64) {
            // SAFETY: the caller vouches for the CPU; any address may be asked for.
            unsafe {
                V::fetch(self.far.wrapping_add(start + 64 * line), Cache::Second);
                if R == 1 {
                    V::fetch(self.near.wrapping_add(start + 64 * line), Cache::First);
                }
            }
        }
    }
}
