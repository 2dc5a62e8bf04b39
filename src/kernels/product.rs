//! Matrix products: rows of activations times packed weights.

use super::activations::Activations;
use super::isa::{Isa, Level};
use super::layout::COLUMNS;
use super::packed::PackedMatrix;
use super::pool::ThreadPool;
use super::portable;

/// Activation rows that share one unpacking of a tile.
const ROW_BLOCK: usize = 8;

/// One product of a call: `out[row, column] = sum of inputs[row, i] * matrix[column, i]`.
pub struct Product<'a> {
    /// The weights.
    pub matrix: &'a PackedMatrix,
    /// \[rows, outputs\].
    pub out: &'a mut [f32],
}

/// Where a product writes, shared between threads that each fill tiles of their own.
struct Target<'a> {
    matrix: &'a PackedMatrix,
    out: *mut f32,
    /// Tiles of the products before this one.
    first_tile: usize,
}

// SAFETY: threads write disjoint columns (each tile is claimed once), and nobody reads before the pool has joined.
unsafe impl Sync for Target<'_> {}

/// Multiplies all rows of `inputs` with each matrix, in one fork-join. Row `i` of the result has the same bits whatever other
/// rows and products take part, on any number of threads and any instruction set.
///
/// `inputs` must hold the integer forms that the matrices need ([`Activations::quantize`]).
///
/// # Panics
/// If a matrix has another width than `inputs`, or an output another length than rows x outputs: a bug of the caller.
pub fn multiply(pool: &mut ThreadPool, isa: Isa, inputs: &Activations, products: &mut [Product<'_>]) {
    let rows = inputs.rows();
    let mut tiles = 0;
    let mut targets: [Option<Target<'_>>; 3] = [const { None }; 3];
    assert!(products.len() <= targets.len(), "at most three products share an input");
    for (target, product) in targets.iter_mut().zip(products.iter_mut()) {
        assert_eq!(product.matrix.width(), inputs.width(), "matrix and input widths differ");
        assert_eq!(product.out.len(), rows * product.matrix.outputs(), "output length");
        *target = Some(Target { matrix: product.matrix, out: product.out.as_mut_ptr(), first_tile: tiles });
        tiles += product.matrix.tiles();
    }
    let targets = &targets;
    pool.run_ranges(tiles, 1, &|range| {
        for tile in range {
            let owner = targets.iter().flatten().rfind(|target| target.first_tile <= tile);
            if let Some(target) = owner {
                multiply_tile(isa, inputs, target, tile - target.first_tile);
            }
        }
    });
}

fn multiply_tile(isa: Isa, inputs: &Activations, target: &Target<'_>, tile: usize) {
    let outputs = target.matrix.outputs();
    let column = tile * COLUMNS;
    let columns = COLUMNS.min(outputs - column);
    let mut block = [[0.0_f32; COLUMNS]; ROW_BLOCK];
    for row in (0..inputs.rows()).step_by(ROW_BLOCK) {
        let block = &mut block[..ROW_BLOCK.min(inputs.rows() - row)];
        tile_rows(isa, target.matrix, tile, inputs, row, block);
        for (index, values) in block.iter().enumerate() {
            let start = (row + index) * outputs + column;
            // SAFETY: `out` has rows x outputs floats (asserted in `multiply`), and `start + columns` lies inside row
            // `row + index`; these columns belong to this tile, which this thread alone has claimed.
            unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), target.out.add(start), columns) };
        }
    }
}

fn tile_rows(
    isa: Isa,
    matrix: &PackedMatrix,
    tile: usize,
    inputs: &Activations,
    row: usize,
    out: &mut [[f32; COLUMNS]],
) {
    match isa.level() {
        Level::Portable => {
            for (index, values) in out.iter_mut().enumerate() {
                *values = portable::tile_row(matrix, tile, inputs, row + index);
            }
        }
        #[cfg(target_arch = "x86_64")]
        Level::Avx2(token) => token.tile_rows(matrix, tile, inputs, row, out),
        #[cfg(target_arch = "x86_64")]
        Level::Avx512Vnni(token) => token.tile_rows(matrix, tile, inputs, row, out),
    }
}
