//! The measured time of plain decoding: what every speedup is a ratio to.

use serde::{Deserialize, Serialize};

use crate::adapt::Costs;
use skipstone_kernels::PAGE_POSITIONS;
use skipstone_model::{LogitsWanted, PageLease, PagePool, RowGroup, RowInput, Runner, TokenId};

/// How much one pass moves the machine's pace, which changes from moment to moment: what all passes
/// have in common. The first plain steps move it more, since the measurement at start may have met
/// a better or worse moment.
const PACE_WEIGHT: f64 = 0.1;

/// How far passes of several rows move the pace until a plain step has confirmed it, as a share
/// either way: they can't tell it from an error of the curve.
const UNCONFIRMED: f64 = 0.15;

/// Passes of several rows after which a stream takes a plain step to confirm the pace: at first,
/// doubled each time, and at most. Where the pace turns out to have changed by more than
/// [`UNCONFIRMED`] it starts over.
const CONFIRMED_EVERY: (u32, u32) = (4, 256);

/// How much one pass moves what its number of rows costs, which hardly changes, once many have.
const CURVE_WEIGHT: f64 = 0.01;

/// Passes after a plain step that may do so: those that come before the first, or later, may show
/// that the pace is another.
const CURVE_PASSES: u32 = 64;

/// Passes that the measurement at start counts for.
const MEASURED: f64 = 4.0;

/// Plain steps in a row that look interrupted after which they are believed: the machine has slowed
/// down for good.
const LASTING: u32 = 8;

/// How far one pass is believed to be off, either way: interruptions make a few much slower.
const MOST_OFF: f64 = 0.4;

/// Measurements of each kind at start. Their median is what a plain step takes; what rows cost is
/// told by the quickest, which no interruption has touched.
const REPEATS: usize = 3;

/// Context of the longer measurements, in positions: far enough for the slopes to show.
const LONG_CONTEXT: usize = 1024;

/// Rows of the measurements that tell what each further one adds to attention.
const SLOPE_ROWS: usize = 4;

/// Rows measured; between them the curve is taken to be straight.
const ROWS: [usize; 12] = [1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 32, 64];

/// Seconds of a pass: a curve over its rows, which share the weights, and attention, which each row
/// has of its own and which grows with the context. Kept up to date.
///
/// A stream in a batch is compared with plain decoding *in that batch*: what batching saves is not
/// drafting's merit.
#[derive(Clone, Copy, PartialEq, Serialize, Deserialize, Debug)]
pub struct PlainStep {
    /// One stream at an empty context.
    base: f64,
    /// For each position of context.
    slope: f64,
    /// The same for each further row of the stream.
    row_slope: f64,
    /// A pass over `ROWS[i]` rows against a pass over one, both at an empty context.
    curve: [f64; ROWS.len()],
    /// Passes that moved each point of the curve.
    #[serde(skip)]
    moved: [u32; ROWS.len()],
    /// `base` at the last plain step.
    confirmed: f64,
    /// Passes of several rows since then.
    #[serde(skip)]
    unconfirmed: u32,
    /// The number of them at which a plain step is due.
    #[serde(skip, default = "first_due")]
    due_at: u32,
    /// Plain steps that moved the pace.
    #[serde(skip)]
    plain_steps: u32,
    /// The last plain steps, as far as they look interrupted.
    #[serde(skip)]
    interrupted: u32,
}

// === impl PlainStep ===

impl PlainStep {
    /// Measures plain steps at a short and at a long context, and of up to `max_streams` streams;
    /// what rows and contexts cost is averaged with `kept`, if an earlier run kept it: what
    /// disturbs one start does not disturb all. The cache's contents don't matter for the time.
    pub fn measure(
        runner: &mut Runner,
        pages: &PagePool,
        max_streams: usize,
        kept: Option<Self>,
    ) -> Self {
        let mut step = Self {
            base: 0.0,
            slope: 0.0,
            row_slope: 0.0,
            curve: ROWS.map(|rows| rows as f64),
            moved: [0; ROWS.len()],
            confirmed: 0.0,
            unconfirmed: 0,
            due_at: first_due(),
            plain_steps: 0,
            interrupted: 0,
        };
        let room = pages.total() * PAGE_POSITIONS;
        let long = LONG_CONTEXT.min(runner.model().config().context_length).min(room);
        let Some(lease) = pages.lease(long) else { return step };
        seconds(runner, &lease, 0, 1); // the first passes fault the weights in
        let plain = seconds(runner, &lease, 0, 1);
        step.base = plain[REPEATS / 2];
        step.confirmed = step.base;
        step.measure_slopes(runner, &lease, long);
        let most = (2 * max_streams).max(9);
        let measured = ROWS.iter().filter(|&&rows| rows < most).count();
        for (&rows, point) in ROWS.iter().zip(&mut step.curve).take(measured).skip(1) {
            // Rows of one stream cost what rows of several do, but for the context each reads.
            // Measured beside a plain step, since machines change their pace.
            let plain = seconds(runner, &lease, 0, 1);
            *point = seconds(runner, &lease, 0, rows)[0] / plain[0];
        }
        straighten(&mut step.curve[..measured]);
        // More rows than were measured go on as these did on average.
        let last = measured - 1;
        let for_each_row = (step.curve[last] - 1.0) / (ROWS[last] - 1) as f64;
        for (&rows, point) in ROWS.iter().zip(&mut step.curve).skip(measured) {
            *point = 1.0 + for_each_row * (rows - 1) as f64;
        }
        if let Some(kept) = kept {
            step.curve
                .iter_mut()
                .zip(kept.curve)
                .for_each(|(now, then)| *now = (*now + then) / 2.0);
            step.slope = (step.slope + kept.slope * step.base / kept.base) / 2.0;
            step.row_slope = (step.row_slope + kept.row_slope * step.base / kept.base) / 2.0;
        }
        step
    }

    /// Measures what `long` positions of context add to a pass, of one row and of several in turn.
    fn measure_slopes(&mut self, runner: &mut Runner, lease: &PageLease, long: usize) {
        let Some(far) = long.checked_sub(SLOPE_ROWS).filter(|&far| far > 0) else { return };
        let mut quickest = [f64::INFINITY; 4];
        for _ in 0..REPEATS {
            let ways = [(0, 1), (far, 1), (0, SLOPE_ROWS), (far, SLOPE_ROWS)];
            for ((position, rows), quickest) in ways.into_iter().zip(&mut quickest) {
                *quickest = quickest.min(pass(runner, lease, position, rows));
            }
        }
        let [plain, far_plain, several, far_several] = quickest;
        // Of the pace that the plain step was measured at.
        let scale = self.base / (plain * far as f64);
        self.slope = (scale * (far_plain - plain)).max(0.0);
        let further = scale * (far_several - several) - self.slope;
        self.row_slope = (further / (SLOPE_ROWS - 1) as f64).max(0.0);
    }

    /// Seconds that fall to a plain step at `context` positions as one of `rows` rows of a pass.
    pub fn seconds(&self, context: usize, rows: usize) -> f64 {
        let rows = rows.max(1);
        self.base * self.rows(rows) / rows as f64 + self.attention(context, 1)
    }

    /// Seconds of a pass over `rows` rows of one stream, the first at `context` positions.
    fn pass_seconds(&self, context: usize, rows: usize) -> f64 {
        self.base * self.rows(rows) + self.attention(context, rows)
    }

    /// Seconds that `context` positions add to a pass over `rows` rows of one stream.
    fn attention(&self, context: usize, rows: usize) -> f64 {
        let further = rows.saturating_sub(1) as f64;
        (self.slope + self.row_slope * further) * context as f64
    }

    /// A pass over `rows` rows against a pass over one, both at an empty context.
    pub fn rows(&self, rows: usize) -> f64 {
        let rows = rows.max(1);
        let above = ROWS.iter().position(|&measured| measured > rows).unwrap_or(ROWS.len() - 1);
        let (low, high) = (ROWS[above - 1] as f64, ROWS[above] as f64);
        let share = (rows as f64 - low) / (high - low);
        self.curve[above - 1] + share * (self.curve[above] - self.curve[above - 1])
    }

    /// What rows cost a stream at `context` positions, in steps of its own, while other streams
    /// have `others` rows in the pass: a share of what all rows share, and its own attention.
    pub fn costs(&self, context: usize, others: usize) -> Costs {
        let share = |rows: usize| {
            self.share(rows as f64, others + rows) + self.context_share(context, rows)
        };
        let unit = share(1);
        let rows = std::array::from_fn(|rows| if rows == 0 { 0.0 } else { share(rows) / unit });
        Costs { rows, others, context: self.context_share(context, 1) }
    }

    /// What falls to so many of the `in_pass` rows of a pass, in plain steps without context.
    pub fn share(&self, rows: f64, in_pass: usize) -> f64 {
        self.rows(in_pass) * rows / in_pass as f64
    }

    /// What `context` positions add to a pass over `rows` rows of one stream, in plain steps
    /// without context.
    pub fn context_share(&self, context: usize, rows: usize) -> f64 {
        if self.base > 0.0 { self.attention(context, rows) / self.base } else { 0.0 }
    }

    /// Takes in a pass of the whole model over some rows of one stream that had the machine to
    /// itself: a verify, or with one row a plain step.
    pub fn observe(&mut self, rows: usize, context: usize, seconds: f64) {
        let Some(off) = self.follow(rows, context, seconds) else { return };
        if rows > 1 && self.context_share(context, rows) > self.rows(rows) {
            // Most of it was attention.
            self.row_slope *= 1.0 + CURVE_WEIGHT * off;
            return;
        }
        let above = ROWS.iter().position(|&measured| measured >= rows).unwrap_or(ROWS.len() - 1);
        let nearest = if above > 1 && rows - ROWS[above - 1] < ROWS[above] - rows {
            above - 1
        } else {
            above
        };
        if nearest > 0 {
            self.moved[nearest] += 1;
            let weight = (MEASURED + f64::from(self.moved[nearest])).recip().max(CURVE_WEIGHT);
            self.move_point(nearest, 1.0 + weight * off);
        }
    }

    /// Moves a point of the curve by a factor. More rows never cost less: it stops at points that
    /// more passes have moved, and takes others along.
    fn move_point(&mut self, index: usize, factor: f64) {
        let (curve, moved) = (&mut self.curve, self.moved);
        let firm = |other: &usize| *other == 0 || moved[*other] > moved[index];
        let below = (0..index).filter(firm).map(|other| curve[other]).fold(1.0, f64::max);
        let above = (index + 1..ROWS.len())
            .filter(firm)
            .map(|other| curve[other])
            .fold(f64::INFINITY, f64::min);
        let point = (curve[index] * factor).clamp(below, above);
        curve[..index].iter_mut().for_each(|other| *other = other.min(point));
        curve[index..].iter_mut().for_each(|other| *other = other.max(point));
        curve[index] = point;
    }

    /// Follows the machine's pace, by a pass over `rows` rows; returns how far the pass is off what
    /// was expected, as a share, if that says anything about its rows.
    fn follow(&mut self, rows: usize, context: usize, seconds: f64) -> Option<f64> {
        let off = seconds / self.pass_seconds(context, rows) - 1.0;
        // A pass that took several times as long was interrupted and says nothing about the model.
        let is_interrupted = off >= 2.0;
        match rows {
            1 => self.interrupted = if is_interrupted { self.interrupted + 1 } else { 0 },
            _ if is_interrupted => self.unconfirmed += 1,
            _ => {}
        }
        if !off.is_finite() || is_interrupted && (rows > 1 || self.interrupted < LASTING) {
            return None;
        }
        let off = off.clamp(-MOST_OFF, MOST_OFF);
        if rows == 1 {
            self.plain_steps += 1;
            self.move_pace(1.0 + off * f64::from(1 + self.plain_steps).recip().max(PACE_WEIGHT));
            (self.confirmed, self.unconfirmed) = (self.base, 0);
            if off.abs() > UNCONFIRMED {
                self.due_at = CONFIRMED_EVERY.0;
            }
            return Some(off);
        }
        self.unconfirmed += 1;
        let (low, high) =
            (self.confirmed * (1.0 - UNCONFIRMED), self.confirmed * (1.0 + UNCONFIRMED));
        let wanted = self.base * (1.0 + PACE_WEIGHT * off);
        let moved = wanted.clamp(low, high);
        self.move_pace(moved / self.base);
        let is_confirmed = self.plain_steps > 0 && self.unconfirmed <= CURVE_PASSES;
        (moved == wanted && is_confirmed).then_some(off)
    }

    fn move_pace(&mut self, factor: f64) {
        self.base *= factor;
        self.slope *= factor;
        self.row_slope *= factor;
    }

    /// Whether a plain step is due, since passes of several rows can't confirm the pace. Asks once.
    pub(super) fn takes_due(&mut self) -> bool {
        let is_due = self.unconfirmed >= self.due_at;
        if is_due {
            self.unconfirmed = 0;
            // As long as plain steps don't agree, more of them are needed soon.
            if self.interrupted == 0 {
                self.due_at = (2 * self.due_at).min(CONFIRMED_EVERY.1);
            }
        }
        is_due
    }

    /// Whether it can be what was once measured.
    pub(super) fn is_plausible(&self) -> bool {
        let ascends = self.curve.windows(2).all(|pair| pair[0] <= pair[1]);
        self.base > 0.0
            && self.base.is_finite()
            && [self.slope, self.row_slope].iter().all(|slope| *slope >= 0.0 && slope.is_finite())
            && ascends
            && self.curve[0] == 1.0
            && self.curve[ROWS.len() - 1].is_finite()
    }
}

const fn first_due() -> u32 {
    CONFIRMED_EVERY.0
}

/// Makes what was measured of more and more rows ascend from 1. What disturbs a pass makes it
/// slower, so where fewer rows seem to cost more, it is the fewer that were disturbed.
fn straighten(curve: &mut [f64]) {
    let mut least = f64::INFINITY;
    for point in curve.iter_mut().rev() {
        least = least.min(*point);
        *point = least.max(1.0);
    }
    curve.iter_mut().take(1).for_each(|first| *first = 1.0);
}

/// Seconds of passes over `rows` rows from `position` on, the quickest first.
fn seconds(runner: &mut Runner, lease: &PageLease, position: usize, rows: usize) -> [f64; REPEATS] {
    let mut seconds = std::array::from_fn(|_| pass(runner, lease, position, rows));
    seconds.sort_by(f64::total_cmp);
    seconds
}

/// Seconds of one such pass.
fn pass(runner: &mut Runner, lease: &PageLease, position: usize, rows: usize) -> f64 {
    let rows = vec![RowInput::Token(TokenId(0)); rows.min(lease.positions())];
    let group =
        RowGroup { logits: LogitsWanted::All, ..RowGroup::new(lease.pages(), position, &rows) };
    runner.run(std::slice::from_ref(&group)).seconds
}

#[cfg(test)]
pub(super) mod testing {
    use super::{PlainStep, first_due};

    pub(crate) const STEP: PlainStep = PlainStep {
        base: 0.010,
        slope: 0.00001,
        row_slope: 0.00001,
        curve: [1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.2, 2.4, 3.2, 4.0, 8.0, 16.0],
        moved: [0; 12],
        confirmed: 0.010,
        unconfirmed: 0,
        due_at: first_due(),
        plain_steps: 0,
        interrupted: 0,
    };
}

#[cfg(test)]
mod tests;
