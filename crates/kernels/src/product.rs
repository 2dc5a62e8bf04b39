//! Matrix products: rows of activations times packed weights.

use std::ops::Range;

use super::activations::Activations;
use super::disjoint::Disjoint;
use super::isa::Isa;
use super::layout::COLUMNS;
use super::packed::{PackedMatrix, Tile};
use super::pool::ThreadPool;

/// Activation rows whose outputs of a tile are gathered before they are written.
const ROW_BLOCK: usize = 8;

/// One product of a call: `result[row, column] = sum of inputs[row, i] * matrix[column, i] +
/// bias[column]`.
pub struct Product<'a> {
    /// The weights.
    pub matrix: &'a PackedMatrix,
    /// The tiles of [`COLUMNS`] outputs to compute, which are then the columns of the result;
    /// `None` computes all.
    pub tiles: Option<&'a [u32]>,
    /// The input rows that take part.
    pub rows: Range<usize>,
    /// Added to each row.
    pub bias: Option<&'a [f32]>,
    /// Destination of the result.
    pub out: Out<'a>,
}

/// Destination of a result.
pub enum Out<'a> {
    /// It is written, \[rows, columns\].
    Write(&'a mut [f32]),
    /// Its row `i` is added to row `rows[i]` of `target`, \[.., columns\].
    Add {
        /// The rows that are added to.
        target: &'a mut [f32],
        /// Row numbers of `target`.
        rows: &'a [usize],
    },
}

/// A product as the threads share it: each fills tiles of its own.
struct Job<'a> {
    matrix: &'a PackedMatrix,
    tiles: Option<&'a [u32]>,
    rows: Range<usize>,
    bias: Option<&'a [f32]>,
    out: Disjoint<'a, f32>,
    add_to: Option<&'a [usize]>,
    columns: usize,
    /// Tiles of the products before this one.
    first_tile: usize,
}

// === impl Product ===

impl<'a> Product<'a> {
    /// All outputs of `matrix` for `rows` rows, written to `out`.
    pub fn all(matrix: &'a PackedMatrix, rows: usize, out: &'a mut [f32]) -> Self {
        Self { matrix, tiles: None, rows: 0..rows, bias: None, out: Out::Write(out) }
    }

    /// Columns of the result.
    fn columns(&self) -> usize {
        self.tiles.map_or(self.matrix.outputs(), |tiles| tiles.len() * COLUMNS)
    }

    fn check(&self, inputs: &Activations) {
        assert_eq!(self.matrix.width(), inputs.width(), "matrix and input widths differ");
        assert!(
            self.rows.start <= self.rows.end && self.rows.end <= inputs.rows(),
            "rows outside the input"
        );
        let format = self.matrix.kind().activation_format();
        assert!(
            self.rows.is_empty() || inputs.has(format),
            "the input is not quantised for the matrix"
        );
        let columns = self.columns();
        assert!(self.bias.is_none_or(|bias| bias.len() == columns), "bias length");
        match &self.out {
            Out::Write(out) => assert_eq!(out.len(), self.rows.len() * columns, "output length"),
            Out::Add { target, rows } => {
                assert_eq!(rows.len(), self.rows.len(), "target rows");
                assert!(
                    rows.iter().all(|row| (row + 1) * columns <= target.len()),
                    "row outside the target"
                );
            }
        }
    }
}

/// Runs the products, which share an input, in one fork-join. Row `i` of a result has the same bits
/// whatever other rows and products take part, on any number of threads and any instruction set.
///
/// `then` is the matrix that will be read next: the thread that computes the last tile asks for its
/// first weights.
///
/// `inputs` must hold the integer forms that the matrices need ([`Activations::quantize`]).
///
/// # Panics
/// If shapes don't agree: a bug of the caller.
pub fn multiply<const N: usize>(
    pool: &mut ThreadPool,
    isa: Isa,
    inputs: &Activations,
    products: [Product<'_>; N],
    then: Option<&PackedMatrix>,
) {
    let then = then.map(|matrix| matrix.tile(0));
    let mut total = 0;
    let jobs = products.map(|product| {
        product.check(inputs);
        let columns = product.columns();
        let tiles = product.tiles.map_or(product.matrix.tiles(), <[u32]>::len);
        let Product { matrix, tiles: chosen, rows, bias, out } = product;
        let (out, add_to) = match out {
            Out::Write(out) => (out, None),
            Out::Add { target, rows } => (target, Some(rows)),
        };
        let first_tile = total;
        total += tiles;
        Job {
            matrix,
            tiles: chosen,
            rows,
            bias,
            out: Disjoint::new(out),
            add_to,
            columns,
            first_tile,
        }
    });
    let jobs = &jobs;
    // The last that starts here or before; one without tiles starts where its successor does.
    let find =
        |tile: usize| jobs.iter().rfind(|job| job.first_tile <= tile).filter(|_| tile < total);
    pool.run_ranges(total, 1, &|range| {
        let mut block = [[0.0; COLUMNS]; ROW_BLOCK];
        for tile in range {
            let Some(job) = find(tile) else { return };
            let index = tile - job.first_tile;
            let next =
                find(tile + 1).map(|job| job.matrix.tile(job.tile(tile + 1 - job.first_tile)));
            let tile = Tile::new(job.matrix, job.tile(index), next.or(then));
            job.run(isa, inputs, index, tile, &mut block);
        }
    });
}

// === impl Job ===

impl Job<'_> {
    /// The `index`-th tile, by its place in the matrix.
    fn tile(&self, index: usize) -> usize {
        self.tiles.map_or(index, |tiles| tiles[index] as usize)
    }

    /// Computes the columns of the `index`-th tile, which is `tile`, by way of `block`.
    fn run(
        &self,
        isa: Isa,
        inputs: &Activations,
        index: usize,
        tile: Tile<'_>,
        block: &mut [[f32; COLUMNS]; ROW_BLOCK],
    ) {
        let column = index * COLUMNS;
        let columns = COLUMNS.min(self.columns - column);
        let bias = self.bias.map(|bias| &bias[column..][..columns]);
        for start in self.rows.clone().step_by(ROW_BLOCK) {
            let block = &mut block[..ROW_BLOCK.min(self.rows.end - start)];
            isa.tile_rows(tile, inputs, start, block);
            for (offset, values) in block.iter_mut().enumerate() {
                if let Some(bias) = bias {
                    values.iter_mut().zip(bias).for_each(|(value, bias)| *value += bias);
                }
                let row = start - self.rows.start + offset;
                let at = self.add_to.map_or(row, |rows| rows[row]) * self.columns + column;
                // SAFETY: these columns belong to this tile, which this thread alone has claimed.
                let out = unsafe { self.out.part(at..at + columns) };
                match (self.add_to, <&mut [f32; COLUMNS]>::try_from(&mut *out)) {
                    (Some(_), _) => {
                        out.iter_mut().zip(values).for_each(|(out, value)| *out += *value)
                    }
                    (None, Ok(out)) => *out = *values,
                    (None, Err(_)) => out.copy_from_slice(&values[..columns]),
                }
            }
        }
    }
}
