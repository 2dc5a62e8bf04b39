//! Attention over keys and values in pages.
//!
//! The positions that a row sees are cut into segments of [`SEGMENT`], counted from the start of its stream. Each segment is attended to on its
//! own, against its own largest score, and what comes out is merged in ascending order (Milakov and Gimelshein, "Online normalizer
//! calculation for softmax", 2018). So segments of one row can be computed by several threads (as in Dao et al., "Flash-Decoding for
//! long-context inference", 2023), and a row's bits depend on its own position and the pages' contents, never on the batch or the threads.

mod merge;
mod segment;

use std::ops::Range;

use self::merge::{Finish, Merge};
use self::segment::{AttendSegment, Pages};
use super::disjoint::Disjoint;
use super::elementwise::{RopeAngles, rope};
use super::isa::Isa;
use super::kv::{KvData, KvElement, KvShape, KvStore, PAGE_POSITIONS};
use super::pool::ThreadPool;

/// Positions of a segment: enough that merging costs little, few enough that short contexts spread over threads.
const SEGMENT: usize = 4 * PAGE_POSITIONS;

/// Segments whose results are kept at once, where they are computed apart.
const ROUND: usize = 16;

/// Rows of one stream that share one read of a page from memory, at most.
const ROW_BLOCK: usize = 8;

/// Segments are computed apart where there are fewer tasks than this for each thread.
const TASKS_PER_THREAD: usize = 4;

/// Results are merged by one thread where they hold fewer numbers than this: forking would take longer.
const MERGE_GRAIN: usize = 4096;

/// One row that attends.
#[derive(Clone, Copy, Debug)]
pub struct AttentionRow<'a> {
    /// The pages of the row's stream, in order of position.
    pub pages: &'a [u32],
    /// Positions it sees: its own and all before.
    pub length: usize,
    /// Rotary angles of its position.
    pub angles: RopeAngles<'a>,
}

/// Memory that attention reuses.
#[derive(Default)]
pub(super) struct AttentionScratch {
    /// Rows that are attended together: of one stream, one after the other.
    blocks: Vec<Range<usize>>,
    /// Scores of one segment, a part for each thread.
    scores: Vec<f32>,
    /// Results of segments, each laid out as [`Partial`] says.
    partials: Vec<f32>,
}

/// The layout of what a block of rows has of one segment, or of several merged: for each row and query head of a group the weighted sum of
/// values, \[rows, group, head dim\], the largest score and the sum of weights, both \[rows, group\].
#[derive(Clone, Copy)]
struct Partial {
    rows: usize,
    group: usize,
    head_dim: usize,
}

/// The parts of a [`Partial`].
struct Parts<'a> {
    mixed: &'a mut [f32],
    largest: &'a mut [f32],
    sums: &'a mut [f32],
}

// === impl KvStore ===

impl KvStore {
    /// Scaled dot-product attention of each row's query heads over its stream. `queries` and `out` are \[rows, query heads, head dim\]; the queries
    /// are turned by their positions in place. `row` describes row `i`.
    ///
    /// # Panics
    /// If a row sees more positions than its pages hold: a bug of the caller.
    pub fn attend<'a>(
        &mut self,
        pool: &mut ThreadPool,
        isa: Isa,
        layer: usize,
        row: impl Fn(usize) -> AttentionRow<'a> + Sync,
        queries: &mut [f32],
        out: &mut [f32],
    ) {
        let Self { shape, data, scratch } = self;
        match data {
            KvData::Half(data) => attend(*shape, data, pool, isa, layer, row, queries, scratch, out),
            KvData::Single(data) => attend(*shape, data, pool, isa, layer, row, queries, scratch, out),
        }
    }
}

// === impl AttentionScratch ===

impl AttentionScratch {
    /// Cuts rows into blocks. Rows of a block have one stream and ascend by one position.
    fn cut<'a>(&mut self, rows: usize, most: usize, row: impl Fn(usize) -> AttentionRow<'a>) {
        self.blocks.clear();
        for index in 0..rows {
            let follows = |block: &&mut Range<usize>| {
                let (before, this) = (row(block.end - 1), row(index));
                block.len() < most
                    && std::ptr::eq(before.pages, this.pages)
                    && before.length + 1 == this.length
            };
            match self.blocks.last_mut().filter(follows) {
                Some(block) => block.end += 1,
                None => self.blocks.push(index..index + 1),
            }
        }
    }
}

// === impl Partial ===

impl Partial {
    /// Numbers that it takes, in whole cache lines, so that threads don't share one.
    fn numbers(self) -> usize {
        (self.rows * self.group * (self.head_dim + 2)).next_multiple_of(16)
    }

    /// Its parts, of which `rows` rows are in use.
    fn parts(self, numbers: &mut [f32], rows: usize) -> Parts<'_> {
        let heads = self.rows * self.group;
        let (mixed, rest) = numbers.split_at_mut(heads * self.head_dim);
        let (largest, sums) = rest.split_at_mut(heads);
        let used = rows * self.group;
        Parts {
            mixed: &mut mixed[..used * self.head_dim],
            largest: &mut largest[..used],
            sums: &mut sums[..used],
        }
    }
}

/// Rows of a block that finish soonest: larger blocks read less memory, smaller ones spread over more threads. Reading a page counts as
/// much as computing one row with it, which is about right where the cache does not hold the stream.
fn block_rows(rows: usize, kv_heads: usize, segments: usize, threads: usize) -> usize {
    let time =
        |block: usize| (rows.div_ceil(block) * kv_heads * segments).div_ceil(threads) * (1 + block.min(rows));
    (1..=ROW_BLOCK).min_by_key(|&block| time(block)).unwrap_or(1)
}

#[expect(clippy::too_many_arguments, reason = "`KvStore::attend` for one element type")]
fn attend<'a, E: KvElement>(
    shape: KvShape,
    data: &[E],
    pool: &mut ThreadPool,
    isa: Isa,
    layer: usize,
    row: impl Fn(usize) -> AttentionRow<'a> + Sync,
    queries: &mut [f32],
    scratch: &mut AttentionScratch,
    out: &mut [f32],
) {
    let (kv_heads, head_dim) = (shape.kv_heads, shape.head_dim);
    let group = shape.query_heads / kv_heads;
    let width = group * head_dim;
    let rows = queries.len() / (kv_heads * width);
    assert!(queries.len().is_multiple_of(kv_heads * width), "queries");
    assert_eq!(out.len(), queries.len(), "output");
    let longest = (0..rows).map(|index| row(index).length).max().unwrap_or(0);
    let segments = longest.div_ceil(SEGMENT);
    scratch.cut(rows, block_rows(rows, kv_heads, segments, pool.threads()), &row);
    let AttentionScratch { blocks, scores, partials } = scratch;
    let tasks = blocks.len() * kv_heads;
    let most_rows = blocks.iter().map(Range::len).max().unwrap_or(0);
    let layout = Partial { rows: most_rows, group, head_dim };
    let is_apart = segments > 1 && tasks < TASKS_PER_THREAD * pool.threads();
    // Apart, each task has a place for what is merged and one for each segment of a round; else each thread has two.
    let (holders, places) = if is_apart { (tasks, 1 + ROUND) } else { (pool.threads(), 2) };
    let thread_scores = most_rows * group * SEGMENT;
    grow(scores, pool.threads() * thread_scores);
    grow(partials, holders * places * layout.numbers());
    let (scores, partials) = (Disjoint::new(scores), Disjoint::new(partials));
    turn(pool, shape, &row, queries);
    let queries = &*queries;
    let out = Disjoint::new(out);
    // SAFETY (of all parts): a holder's places belong to the task or thread that it is, a segment's place to the one thread that computes
    // the segment, and a task's rows of the output to the task.
    let place = |holder: usize, place: usize| {
        let start = (holder * places + place) * layout.numbers();
        // SAFETY: as above.
        unsafe { partials.part(start..start + layout.numbers()) }
    };
    let of_task = |task: usize| (blocks[task / kv_heads].clone(), task % kv_heads);
    let compute = |thread: usize, task: usize, segment: usize, partial: &mut [f32]| {
        let (block, kv_head) = of_task(task);
        let (first, last) = (row(block.start), row(block.end - 1));
        assert!(first.length > 0 && last.length <= last.pages.len() * PAGE_POSITIONS, "pages");
        // SAFETY: each thread has a part of its own, and computes one segment at a time.
        let scores = unsafe { scores.part(thread * thread_scores..(thread + 1) * thread_scores) };
        let queries = std::array::from_fn(|offset| match offset < block.len() {
            true => &queries[((block.start + offset) * kv_heads + kv_head) * width..][..width],
            false => &[],
        });
        let parts = layout.parts(partial, block.len());
        let pages = Pages { shape, data, layer, kv_head, pages: first.pages };
        let (rows, length) = (block.len(), first.length);
        isa.run(AttendSegment { pages, rows, length, segment, group, queries, scores, parts });
    };
    let merge = |task: usize, segment: usize, merged: &mut [f32], partial: &mut [f32]| {
        let (block, _) = of_task(task);
        let (merged, partial) = (layout.parts(merged, block.len()), layout.parts(partial, block.len()));
        isa.run(Merge { is_first: segment == 0, merged, partial, head_dim });
    };
    let segments_of = |task: usize| row(of_task(task).0.end - 1).length.div_ceil(SEGMENT);
    let finish = |task: usize, merged: &mut [f32]| {
        let (block, kv_head) = of_task(task);
        let merged = layout.parts(merged, block.len());
        for (offset, index) in block.enumerate() {
            let start = (index * kv_heads + kv_head) * width;
            // SAFETY: the rows of blocks have parts of their own, and each task is finished by one thread.
            let out = unsafe { out.part(start..start + width) };
            let (mixed, sums) =
                (&merged.mixed[offset * width..][..width], &merged.sums[offset * group..][..group]);
            isa.run(Finish { mixed, sums, head_dim, out });
        }
    };
    if !is_apart {
        pool.run_ranges_numbered(tasks, 1, &|thread, range| {
            for task in range {
                let (merged, partial) = (place(thread, 0), place(thread, 1));
                for segment in 0..segments_of(task) {
                    compute(thread, task, segment, partial);
                    merge(task, segment, merged, partial);
                }
                finish(task, merged);
            }
        });
        return;
    }
    for round in (0..segments).step_by(ROUND) {
        let count = ROUND.min(segments - round);
        pool.run_ranges_numbered(tasks * count, 1, &|thread, range| {
            for item in range {
                let (task, offset) = (item / count, item % count);
                if round + offset < segments_of(task) {
                    compute(thread, task, round + offset, place(task, 1 + offset));
                }
            }
        });
        let grain = (MERGE_GRAIN / (count * layout.numbers())).max(1);
        pool.run_ranges(tasks, grain, &|range| {
            for task in range {
                let merged = place(task, 0);
                let last = segments_of(task).min(round + count);
                (round..last)
                    .for_each(|segment| merge(task, segment, merged, place(task, 1 + segment - round)));
                if round + count >= segments {
                    finish(task, merged);
                }
            }
        });
    }
}

/// Turns the queries of each row by its position.
fn turn<'a>(
    pool: &mut ThreadPool,
    shape: KvShape,
    row: &(impl Fn(usize) -> AttentionRow<'a> + Sync),
    queries: &mut [f32],
) {
    let width = shape.query_heads * shape.head_dim;
    let rows = queries.len() / width;
    let queries = Disjoint::new(queries);
    // A row takes less time than a fork: only many rows are worth one.
    pool.run_ranges(rows, 4, &|range| {
        for index in range {
            // SAFETY: each row is turned by one thread.
            let queries = unsafe { queries.part(index * width..(index + 1) * width) };
            rope(row(index).angles, queries, shape.head_dim);
        }
    });
}

fn grow(numbers: &mut Vec<f32>, length: usize) {
    if numbers.len() < length {
        numbers.resize(length, 0.0);
    }
}
