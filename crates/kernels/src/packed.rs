//! A weight matrix, repacked from a GGUF file into the tiles of [`super::layout`].

use super::blocks::{Block32, Block256, decode_block32, decode_block256};
use super::layout::{COLUMNS, Layout, SUB_SCALES, VECTOR, for_layout, tile_bytes};
use super::weight_type::WeightType;

/// A matrix of `outputs` x `width` weights in tiles of sixteen outputs; the last tile is padded
/// with zeros.
pub struct PackedMatrix {
    kind: WeightType,
    outputs: usize,
    width: usize,
    tile_bytes: usize,
    /// The tiles, from `start` on.
    data: Vec<u8>,
    start: usize,
}

/// One tile, and where what is read after it lies.
#[derive(Clone, Copy)]
pub(super) struct Tile<'a> {
    matrix: &'a PackedMatrix,
    weights: &'a [u8],
    /// Bytes from its end to the tile that is read next, modulo the size of the address space.
    gap: usize,
}

/// Tiles begin at a cache line, so that no register is loaded across two.
const ALIGNMENT: usize = 64;

/// A reason why a matrix can't be packed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PackError {
    /// A row is not a whole number of blocks.
    #[error("rows of {width} {kind} weights are not a multiple of the block of {block}")]
    Width {
        /// The row length.
        width: usize,
        /// The type.
        kind: WeightType,
        /// Its block length.
        block: usize,
    },
    /// The bytes don't match the shape.
    #[error("{outputs} rows of {width} {kind} weights take {expected} bytes, not {found}")]
    Length {
        /// Rows.
        outputs: usize,
        /// Row length.
        width: usize,
        /// The type.
        kind: WeightType,
        /// Bytes that the shape takes.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
}

// === impl PackedMatrix ===

impl PackedMatrix {
    /// Packs `bytes`, the `outputs` rows of `width` weights as they lie in the file, on `threads`
    /// threads.
    pub fn pack(
        kind: WeightType,
        outputs: usize,
        width: usize,
        bytes: &[u8],
        threads: usize,
    ) -> Result<Self, PackError> {
        if width == 0 || !width.is_multiple_of(kind.block_len()) {
            return Err(PackError::Width { width, kind, block: kind.block_len() });
        }
        let row_bytes = kind.row_bytes(width);
        if bytes.len() != outputs * row_bytes {
            let (expected, found) = (outputs * row_bytes, bytes.len());
            return Err(PackError::Length { outputs, width, kind, expected, found });
        }
        let tile_bytes = tile_bytes(kind, width);
        let tiles = outputs.div_ceil(COLUMNS);
        let mut data = vec![0; tiles * tile_bytes + ALIGNMENT];
        let start = data.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        let tiles_per_thread = tiles.div_ceil(threads.max(1)).max(1);
        std::thread::scope(|scope| {
            let parts = data[start..start + tiles * tile_bytes]
                .chunks_mut(tiles_per_thread * tile_bytes)
                .zip(bytes.chunks(tiles_per_thread * COLUMNS * row_bytes));
            for (tiles, rows) in parts {
                scope.spawn(move || {
                    let each =
                        tiles.chunks_exact_mut(tile_bytes).zip(rows.chunks(COLUMNS * row_bytes));
                    for (tile, rows) in each {
                        pack_tile(kind, rows, row_bytes, tile);
                    }
                });
            }
        });
        Ok(Self { kind, outputs, width, tile_bytes, data, start })
    }

    /// Output columns of a tile.
    pub const COLUMNS_PER_TILE: usize = COLUMNS;

    /// Bytes in memory of `outputs` columns of `width` inputs; `width` is a multiple of
    /// [`WeightType::block_len`].
    pub fn packed_bytes(kind: WeightType, outputs: usize, width: usize) -> usize {
        outputs.div_ceil(COLUMNS) * tile_bytes(kind, width)
    }

    /// Type that the weights were stored in; the packed form keeps their exact values.
    pub fn kind(&self) -> WeightType {
        self.kind
    }

    /// Output columns.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Inputs of each column.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Bytes in memory, which one pass reads once.
    pub fn bytes(&self) -> usize {
        self.tiles() * self.tile_bytes
    }

    /// Tiles of sixteen columns.
    pub(super) fn tiles(&self) -> usize {
        self.outputs.div_ceil(COLUMNS)
    }

    /// One tile.
    pub(super) fn tile(&self, index: usize) -> &[u8] {
        &self.data[self.start + index * self.tile_bytes..][..self.tile_bytes]
    }
}

// === impl Tile ===

impl<'a> Tile<'a> {
    /// Tile `index`, after which `next` is read.
    pub(super) fn new(matrix: &'a PackedMatrix, index: usize, next: Option<&[u8]>) -> Self {
        let weights = matrix.tile(index);
        let next = next.unwrap_or(weights);
        Self {
            matrix,
            weights,
            gap: next.as_ptr().addr().wrapping_sub(weights.as_ptr_range().end.addr()),
        }
    }

    pub(super) fn matrix(self) -> &'a PackedMatrix {
        self.matrix
    }

    pub(super) fn weights(self) -> &'a [u8] {
        self.weights
    }

    /// The address `bytes` bytes after `offset`, were the next tile right behind this one. To be
    /// prefetched only.
    #[inline(always)]
    pub(super) fn ahead(self, offset: usize, bytes: usize) -> *const u8 {
        let gap = if offset + bytes < self.weights.len() { 0 } else { self.gap };
        self.weights.as_ptr().wrapping_add(offset + bytes).wrapping_add(gap)
    }
}

// === packing ===

/// Packs up to sixteen rows; a missing row stays zero, which decodes to zero scales.
fn pack_tile(kind: WeightType, rows: &[u8], row_bytes: usize, tile: &mut [u8]) {
    let rows: Vec<&[u8]> = rows.chunks_exact(row_bytes).collect();
    for_layout!(kind, pack_floats(kind, &rows, tile), |L| match kind.block_len() {
        32 => pack_blocks32::<L>(&rows, tile),
        _ => pack_blocks256::<L>(&rows, tile),
    });
}

fn pack_floats(kind: WeightType, rows: &[&[u8]], tile: &mut [u8]) {
    let size = kind.block_bytes();
    for (column, row) in rows.iter().enumerate() {
        for (input, bytes) in row.chunks_exact(size).enumerate() {
            tile[(input * COLUMNS + column) * size..][..size].copy_from_slice(bytes);
        }
    }
}

fn pack_blocks32<L: Layout>(rows: &[&[u8]], tile: &mut [u8]) {
    let block_bytes = L::KIND.block_bytes();
    for (index, packed) in tile.chunks_exact_mut(L::HEAD + L::PLANES).enumerate() {
        for (column, row) in rows.iter().enumerate() {
            let block: Block32 =
                decode_block32(L::KIND, &row[index * block_bytes..][..block_bytes]);
            packed[2 * column..][..2].copy_from_slice(&block.scale.to_le_bytes());
            if L::MINIMA {
                packed[2 * (COLUMNS + column)..][..2].copy_from_slice(&block.minimum.to_le_bytes());
            }
            pack_codes::<L>(&block.codes, column, &mut packed[L::HEAD..]);
        }
    }
}

fn pack_blocks256<L: Layout>(rows: &[&[u8]], tile: &mut [u8]) {
    let block_bytes = L::KIND.block_bytes();
    for (index, packed) in tile.chunks_exact_mut(L::HEAD + SUB_SCALES + 8 * L::PLANES).enumerate() {
        for (column, row) in rows.iter().enumerate() {
            let block: Block256 =
                decode_block256(L::KIND, &row[index * block_bytes..][..block_bytes]);
            packed[2 * column..][..2].copy_from_slice(&block.scale.to_le_bytes());
            if L::MINIMA {
                packed[2 * (COLUMNS + column)..][..2].copy_from_slice(&block.minimum.to_le_bytes());
            }
            let (head, planes) = packed.split_at_mut(L::HEAD + SUB_SCALES);
            let sub = &mut head[L::HEAD..];
            // Pairs of sub-blocks: Q4_K and Q5_K have 4 pairs of scales, then 4 pairs of minima;
            // Q6_K 8 pairs of scales.
            for sub_block in 0..16 {
                let value = match (L::MINIMA, sub_block) {
                    (true, 8..) => block.sub_minima[sub_block - 8],
                    _ => block.sub_scales[sub_block] as u8,
                };
                sub[2 * (sub_block / 2 * COLUMNS + column) + sub_block % 2] = value;
            }
            for (codes, planes) in
                block.codes.as_chunks().0.iter().zip(planes.chunks_exact_mut(L::PLANES))
            {
                pack_codes::<L>(codes, column, planes);
            }
        }
    }
}

/// Adds the codes of one column to the zeroed or partly filled planes of a group.
fn pack_codes<L: Layout>(codes: &[u8; 32], column: usize, planes: &mut [u8]) {
    for (input, &code) in codes.iter().enumerate() {
        let (vector, lane) = (input / 4, 4 * column + input % 4);
        if L::BITS == 8 {
            planes[VECTOR * vector + lane] = code;
            continue;
        }
        planes[VECTOR * (vector % 4) + lane] |= (code & 15) << (vector / 4 * 4);
        match L::BITS {
            5 => planes[4 * VECTOR + lane] |= (code >> 4) << vector,
            6 => planes[(4 + vector / 4) * VECTOR + lane] |= (code >> 4) << (vector % 4 * 2),
            _ => {}
        }
    }
}
