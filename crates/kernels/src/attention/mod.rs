//! Attention over keys and values in pages.
//!
//! The positions that a row sees are cut into segments of [`SEGMENT`], counted from the start of
//! its stream. Each segment is attended to on its own, against its own largest score, and what
//! comes out is merged in ascending order (Milakov and Gimelshein, "Online normalizer calculation
//! for softmax", 2018). So segments of one row can be computed by several threads (as in Dao et
//! al., "Flash-Decoding for long-context inference", 2023), and a row's bits depend on its own
//! position and the pages' contents, never on the batch or the threads.

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

/// Positions of a segment: enough that merging costs little, few enough that short contexts spread
/// over threads.
const SEGMENT: usize = 4 * PAGE_POSITIONS;

/// Segments whose results are kept at once, where they are computed apart.
const ROUND: usize = 16;

/// Rows of one stream that share one read of a page from memory, at most.
pub const ROW_BLOCK: usize = 8;

/// Segments are computed apart where there are fewer tasks than this for each thread.
const TASKS_PER_THREAD: usize = 4;

/// Results are merged by one thread where they hold fewer numbers than this: forking would take
/// longer.
const MERGE_GRAIN: usize = 4096;

/// Rows whose queries one thread turns before others help: forking takes longer.
const TURN_GRAIN: usize = 4;

/// One row that attends.
#[derive(Clone, Copy, Debug)]
pub struct AttentionRow<'a> {
    /// The pages of the row's stream, in order of position.
    pub pages: &'a [u32],
    /// First position that it sees: 0, or later behind a window.
    pub first: usize,
    /// One more than its own position, the last that it sees.
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

/// The layout of what a block of rows has of one segment, or of several merged: for each row and
/// query head of a group the weighted sum of values, \[rows, group, head dim\], the largest score
/// and the sum of weights, both \[rows, group\].
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
    /// Scaled dot-product attention of each row's query heads over its stream. `queries` and `out`
    /// are \[rows, query heads, head dim\]; the queries are turned by their positions in place.
    /// `row` describes row `i`.
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
            KvData::Half(data) => {
                attend(*shape, data, pool, isa, layer, row, queries, scratch, out)
            }
            KvData::Single(data) => {
                attend(*shape, data, pool, isa, layer, row, queries, scratch, out)
            }
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

    /// Numbers that the scores of a segment take.
    fn scores(self) -> usize {
        self.rows * self.group * SEGMENT
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

/// Rows of a block that finish soonest: larger blocks read less memory, smaller ones spread over
/// more threads. Reading a page counts as much as computing one row with it, which is about right
/// where the cache does not hold the stream.
fn block_rows(rows: usize, kv_heads: usize, segments: usize, threads: usize) -> usize {
    let time = |block: usize| {
        (rows.div_ceil(block) * kv_heads * segments).div_ceil(threads) * (1 + block.min(rows))
    };
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
    let (kv_heads, group) = (shape.kv_heads, shape.query_heads / shape.kv_heads);
    let width = shape.query_heads * shape.head_dim;
    let rows = queries.len() / width;
    assert!(queries.len().is_multiple_of(width), "queries");
    assert_eq!(out.len(), queries.len(), "output");
    let longest = (0..rows).map(|index| row(index).length).max().unwrap_or(0);
    let segments = longest.div_ceil(SEGMENT);
    scratch.cut(rows, block_rows(rows, kv_heads, segments, pool.threads()), &row);
    let AttentionScratch { blocks, scores, partials } = scratch;
    let most_rows = blocks.iter().map(Range::len).max().unwrap_or(0);
    let layout = Partial { rows: most_rows, group, head_dim: shape.head_dim };
    let tasks = blocks.len() * kv_heads;
    let is_apart = segments > 1 && tasks < TASKS_PER_THREAD * pool.threads();
    // Apart, each task has a place for what is merged and one for each segment of a round; else
    // each thread has two.
    let (holders, places) = if is_apart { (tasks, 1 + ROUND) } else { (pool.threads(), 2) };
    grow(scores, pool.threads() * layout.scores());
    grow(partials, holders * places * layout.numbers());
    turn(pool, shape, &row, queries);
    let attention = Attention {
        shape,
        data,
        isa,
        layer,
        row,
        queries,
        out: Disjoint::new(out),
        blocks,
        layout,
        scores: Disjoint::new(scores),
        partials: Disjoint::new(partials),
        places,
    };
    match is_apart {
        true => attention.run_apart(pool, tasks, segments),
        false => attention.run_whole(pool, tasks),
    }
}

/// One call of [`KvStore::attend`]. Its tasks are the pairs of a block and a key/value head;
/// results lie in numbered places, which holders have: tasks or threads.
struct Attention<'a, E, R> {
    shape: KvShape,
    data: &'a [E],
    isa: Isa,
    layer: usize,
    row: R,
    queries: &'a [f32],
    out: Disjoint<'a, f32>,
    blocks: &'a [Range<usize>],
    layout: Partial,
    scores: Disjoint<'a, f32>,
    partials: Disjoint<'a, f32>,
    /// Places of a holder.
    places: usize,
}

// === impl Attention ===

impl<'r, E: KvElement, R: Fn(usize) -> AttentionRow<'r> + Sync> Attention<'_, E, R> {
    /// Each task at once, one segment after the other.
    fn run_whole(&self, pool: &mut ThreadPool, tasks: usize) {
        pool.run_ranges_numbered(tasks, 1, &|thread, range| {
            // SAFETY: the places are this thread's, and it runs one range at a time.
            let (merged, partial) = unsafe { (self.place(thread, 0), self.place(thread, 1)) };
            for task in range {
                for segment in self.segments(task) {
                    self.compute(thread, task, segment, partial);
                    self.merge(task, segment, merged, partial);
                }
                self.finish(task, merged);
            }
        });
    }

    /// The segments of all tasks, round by round, in no order; each round is merged in order.
    fn run_apart(&self, pool: &mut ThreadPool, tasks: usize, segments: usize) {
        for round in (0..segments).step_by(ROUND) {
            let count = ROUND.min(segments - round);
            pool.run_ranges_numbered(tasks * count, 1, &|thread, range| {
                for item in range {
                    let (task, offset) = (item / count, item % count);
                    if self.segments(task).contains(&(round + offset)) {
                        // SAFETY: this segment's place, and each segment is computed by one thread.
                        self.compute(thread, task, round + offset, unsafe {
                            self.place(task, 1 + offset)
                        });
                    }
                }
            });
            let grain = (MERGE_GRAIN / (count * self.layout.numbers())).max(1);
            pool.run_ranges(tasks, grain, &|range| {
                for task in range {
                    // SAFETY: the places are this task's, which one thread merges.
                    let place = |place| unsafe { self.place(task, place) };
                    let merged = place(0);
                    let seen = self.segments(task);
                    for segment in round.max(seen.start)..seen.end.min(round + count) {
                        self.merge(task, segment, merged, place(1 + segment - round));
                    }
                    if round + count >= segments {
                        self.finish(task, merged);
                    }
                }
            });
        }
    }

    /// # Safety
    /// A place that is in use is not asked for again.
    #[expect(clippy::mut_from_ref, reason = "as `Disjoint::part`")]
    unsafe fn place(&self, holder: usize, place: usize) -> &mut [f32] {
        let start = (holder * self.places + place) * self.layout.numbers();
        // SAFETY: places don't overlap, and the caller keeps to one use of each.
        unsafe { self.partials.part(start..start + self.layout.numbers()) }
    }

    /// The rows of a task, and its key/value head.
    fn of_task(&self, task: usize) -> (Range<usize>, usize) {
        (self.blocks[task / self.shape.kv_heads].clone(), task % self.shape.kv_heads)
    }

    /// Segments that the rows of a task see.
    fn segments(&self, task: usize) -> Range<usize> {
        let block = self.of_task(task).0;
        let (first, last) = ((self.row)(block.start), (self.row)(block.end - 1));
        first.first / SEGMENT..last.length.div_ceil(SEGMENT)
    }

    /// Place of the query heads of `kv_head` in row `index`.
    fn heads(&self, index: usize, kv_head: usize) -> Range<usize> {
        let width = self.layout.group * self.shape.head_dim;
        let start = (index * self.shape.kv_heads + kv_head) * width;
        start..start + width
    }

    /// Computes what a task has of a segment, into `partial`.
    fn compute(&self, thread: usize, task: usize, segment: usize, partial: &mut [f32]) {
        let (block, kv_head) = self.of_task(task);
        let (first, last) = ((self.row)(block.start), (self.row)(block.end - 1));
        assert!(first.length > 0 && last.length <= last.pages.len() * PAGE_POSITIONS, "pages");
        let scores = thread * self.layout.scores();
        // SAFETY: each thread has a part of its own, and computes one segment at a time.
        let scores = unsafe { self.scores.part(scores..scores + self.layout.scores()) };
        self.isa.run(AttendSegment {
            pages: Pages {
                shape: self.shape,
                data: self.data,
                layer: self.layer,
                kv_head,
                pages: first.pages,
            },
            rows: block.len(),
            length: first.length,
            firsts: std::array::from_fn(|offset| match offset < block.len() {
                true => (self.row)(block.start + offset).first,
                false => 0,
            }),
            segment,
            group: self.layout.group,
            queries: std::array::from_fn(|offset| match offset < block.len() {
                true => &self.queries[self.heads(block.start + offset, kv_head)],
                false => &[],
            }),
            scores,
            parts: self.layout.parts(partial, block.len()),
        });
    }

    /// Merges what a task has of a segment into what it has of those before.
    fn merge(&self, task: usize, segment: usize, merged: &mut [f32], partial: &mut [f32]) {
        let rows = self.of_task(task).0.len();
        let (merged, partial) = (self.layout.parts(merged, rows), self.layout.parts(partial, rows));
        self.isa.run(Merge {
            is_first: segment == self.segments(task).start,
            merged,
            partial,
            head_dim: self.shape.head_dim,
        });
    }

    /// Writes what a task has of all segments.
    fn finish(&self, task: usize, merged: &mut [f32]) {
        let (block, kv_head) = self.of_task(task);
        let merged = self.layout.parts(merged, block.len());
        for (offset, index) in block.enumerate() {
            let Partial { group, head_dim, .. } = self.layout;
            let mixed = &merged.mixed[offset * group * head_dim..][..group * head_dim];
            let sums = &merged.sums[offset * group..][..group];
            // SAFETY: these heads of this row belong to the task, which one thread finishes.
            let out = unsafe { self.out.part(self.heads(index, kv_head)) };
            self.isa.run(Finish { mixed, sums, head_dim, out });
        }
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
    pool.run_ranges(rows, TURN_GRAIN, &|range| {
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
