//! What passes cost: one model that prices any batch and follows the machine.
//!
//! The price of a pass is counted in plain steps: one token of one stream through the whole model,
//! at an empty context.
//!
//! ```text
//! price = sum over sublayers (weight of the sublayer x curve(rows that run it))
//!       + head x head curve(rows that want logits) + draft head + fillers + rest
//!       + sum over streams (positions attended to x price of a position)
//! seconds = pace x price
//! ```
//!
//! The curve tells what several rows cost that share a read of the weights. All terms are measured
//! at start ([`CostModel::measure`]), kept from run to run ([`CostFile`]), and corrected by every
//! pass, whoever is in it ([`CostModel::observe`]).

mod curve;
mod file;
mod log;
mod measure;
mod shape;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use self::file::CostFile;
pub(crate) use self::log::PassLog;
pub use self::log::{PriceErrors, RecordedPass};
pub use self::measure::Way;
pub(crate) use self::measure::{median, time};
pub use self::shape::{DraftShape, StepShape};

use self::curve::{INCREMENTS, reached};
use self::measure::deviations;
use crate::adapt::{Costs, MAX_ROWS};
use skipstone_kernels::ATTENTION_ROW_BLOCK;
use skipstone_model::sublayer::{self, SublayerKind, kind_of};

/// Places of the parameters. The pace is the logarithm of the seconds of a price of 1; all others
/// are prices.
const PACE: usize = 0;
/// All attention sublayers, for one row.
const ATTENTION: usize = 1;
/// All MLPs, for one row.
const MLP: usize = 2;
/// The head over the whole vocabulary, for one row.
const HEAD: usize = 3;
/// What a pass takes whatever is in it.
const REST: usize = 4;
/// A position that the first row of a block attends to, in all attention sublayers.
const CONTEXT: usize = 5;
/// The same for a further row of a block, which shares the read of keys and values.
const FURTHER: usize = 6;
/// How much of the curve's growth the head has: it may be of another type than the layers.
const HEAD_GROWTH: usize = 7;
/// The curve's increments.
const CURVE: usize = 8;
const PARAMETERS: usize = CURVE + INCREMENTS;

type Vector = [f64; PARAMETERS];

/// Standard deviation of what one pass takes, as a share: what else the machine does.
const NOISE: f64 = 0.06;

/// Standard deviation by which the pace changes from one pass to the next.
const PACE_DRIFT: f64 = 0.006;

/// Standard deviation by which any other parameter changes from pass to pass, as a share of what it
/// is off by at start.
const DRIFT: f64 = 0.003;

/// What was not seen for long is off by this many times what it was at start, and no more.
const MOST_DRIFTED: f64 = 3.0;

/// How far one pass is believed to be off, in standard deviations: interruptions make a few much
/// slower...
const MOST_OFF: f64 = 3.0;

/// ...and one that took this many times as long says nothing.
const INTERRUPTED: f64 = 3.0;

/// But so many in a row that are off the same way are believed: the machine has changed its pace.
const LASTING: u32 = 8;

/// Where the plain step's time is known no better than this (as a share, one standard deviation), a
/// plain step tells.
const CONFIRMED: f64 = 0.03;

/// Prices passes. Learns by a Kalman filter (Kalman, 1960) over the parameters, which tells apart
/// what a pass can't: how much of an error is the machine's pace, which drifts, and how much is the
/// price of what was in the pass, which hardly does.
#[derive(Clone, Debug)]
pub struct CostModel {
    parameters: Vector,
    /// How far the parameters may be off, and together.
    covariance: [Vector; PARAMETERS],
    /// What [`DRIFT`] adds to the variances with each pass...
    drift: Vector,
    /// ...until they are so large.
    most: Vector,
    /// Passes in a row that were surprisingly slow, or quick.
    surprises: u32,
    /// Whether they were slow.
    were_slow: bool,
    /// Passes since a plain step was asked for.
    since_asked: u32,
    size: ModelSize,
}

/// What of a model tells shares of its weights.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct ModelSize {
    /// Sublayers.
    pub sublayers: usize,
    /// Bytes of the head.
    pub head_bytes: usize,
    /// Bytes of all matrices.
    pub bytes: usize,
}

/// What others have in a pass.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Company {
    /// Rows.
    pub rows: usize,
    /// Of those, rows that want logits.
    pub logits: usize,
}

/// The price of a pass, and its derivative by each parameter.
struct Priced {
    price: f64,
    gradient: Vector,
}

// === impl Priced ===

impl Priced {
    /// Relative change of the pass's time by each parameter.
    fn slopes(&self) -> Vector {
        let mut slopes = self.gradient.map(|slope| slope / self.price);
        slopes[PACE] = 1.0;
        slopes
    }
}

// === impl CostModel ===

impl CostModel {
    fn new(parameters: Vector, deviations: Vector, size: ModelSize) -> Self {
        let mut covariance = [[0.0; PARAMETERS]; PARAMETERS];
        for (place, deviation) in deviations.iter().enumerate() {
            covariance[place][place] = deviation * deviation;
        }
        let mut drift = deviations.map(|deviation| (DRIFT * deviation).powi(2));
        drift[PACE] = PACE_DRIFT * PACE_DRIFT;
        let most = deviations.map(|deviation| (MOST_DRIFTED * deviation).powi(2));
        let (surprises, were_slow, since_asked) = (0, false, 0);
        Self { parameters, covariance, drift, most, surprises, were_slow, since_asked, size }
    }

    /// The model that it prices.
    pub fn size(&self) -> ModelSize {
        self.size
    }

    /// Seconds of a pass of these steps, one for each stream.
    pub fn seconds(&self, steps: &[StepShape]) -> f64 {
        self.pace() * self.priced(steps).price
    }

    /// Shares of the price of a pass by step, in plain steps; they add up to it. Each sublayer's
    /// price is divided equally among the rows that run it (the Shapley value, as far as further
    /// rows are free).
    pub fn shares(&self, steps: &[StepShape]) -> Vec<f64> {
        let rows = |at: &dyn Fn(&StepShape) -> usize| steps.iter().map(at).sum::<usize>();
        let each = |rows: usize, price: f64| if rows == 0 { 0.0 } else { price / rows as f64 };
        let all = rows(&|step| step.rows);
        let mut shares: Vec<f64> = steps
            .iter()
            .map(|step| self.attended(step) + each(all, self.rest()) * step.rows as f64)
            .collect();
        for filling in fillings(steps) {
            let last = each(filling.steps, self.read(filling.last, filling.steps));
            let keys = each(filling.rows, self.read(filling.keys, filling.rows));
            for (share, step) in shares.iter_mut().zip(steps).filter(|(_, it)| filling.has(it)) {
                *share += last + keys * step.rows as f64;
            }
        }
        for sublayer in 0..self.size.sublayers {
            let running = rows(&|step| step.rows_at(sublayer));
            let price = each(running, self.weight(sublayer) * self.curve(running));
            for (share, step) in shares.iter_mut().zip(steps) {
                *share += price * step.rows_at(sublayer) as f64;
            }
        }
        for vocabulary in [false, true] {
            let of =
                |step: &StepShape| if step.drafts_words() == vocabulary { step.logits } else { 0 };
            let wanting = rows(&of);
            for (share, step) in shares.iter_mut().zip(steps) {
                *share += each(wanting, self.head(wanting)) * of(step) as f64 * step.vocabulary();
            }
        }
        shares
    }

    /// Seconds that fall to a plain step at `context` positions beside others.
    pub fn plain_seconds(&self, context: usize, company: Company) -> f64 {
        self.pace() * self.share(context, 1, company)
    }

    /// What rows cost a stream at `context` positions beside others, in steps of its own.
    pub fn costs(&self, context: usize, company: Company) -> Costs {
        let unit = self.share(context, 1, company);
        let mut rows = [0.0; MAX_ROWS + 1];
        for (count, cost) in rows.iter_mut().enumerate().skip(1) {
            *cost = self.share(context, count, company) / unit;
        }
        let context = self.parameters[CONTEXT] * context as f64 / self.plain();
        Costs { rows, others: company.rows, context }
    }

    /// A draft step of a lone stream at `context` positions, in plain steps there.
    pub fn draft(&self, draft: &DraftShape, context: usize) -> f64 {
        let plain = StepShape::whole(context, 1, 1);
        let step = StepShape { draft: Some(draft.clone()), ..plain.clone() };
        self.priced(&[step]).price / self.priced(&[plain]).price
    }

    /// Takes in what a pass took.
    pub fn observe(&mut self, steps: &[StepShape], seconds: f64) {
        self.since_asked = self.since_asked.saturating_add(1);
        let priced = self.priced(steps);
        let ratio = seconds / (self.pace() * priced.price);
        if !(ratio.is_finite() && ratio > 0.0) {
            return;
        }
        for (row, (drift, most)) in self.drift.iter().zip(self.most).enumerate() {
            let variance = &mut self.covariance[row][row];
            *variance += if *variance < most { *drift } else { 0.0 };
        }
        let slopes = priced.slopes();
        let most = MOST_OFF * (self.variance(&slopes) + NOISE * NOISE).sqrt();
        let off = ratio - 1.0;
        if off.abs() <= most && ratio < INTERRUPTED {
            self.surprises = 0;
            return self.correct(&slopes, off);
        }
        let is_slow = off > 0.0;
        self.surprises = if is_slow == self.were_slow { self.surprises + 1 } else { 1 };
        self.were_slow = is_slow;
        if self.surprises >= LASTING {
            // Prices don't jump; the pace does.
            self.covariance[PACE][PACE] += ratio.ln().powi(2);
            self.correct(&slopes, ratio.ln());
        } else if ratio < INTERRUPTED {
            self.correct(&slopes, off.clamp(-most, most));
        }
    }

    /// Whether the next step should be a plain one of a lone stream, which tells best what drafts
    /// are compared with. Having said so, it waits for a while.
    pub fn wants_plain_step(&mut self) -> bool {
        let slopes = self.priced(&[StepShape::whole(0, 1, 1)]).slopes();
        let wants = self.since_asked > 3 && self.variance(&slopes) > CONFIRMED * CONFIRMED;
        if wants {
            self.since_asked = 0;
        }
        wants
    }

    /// One step of the filter: a pass whose price has these slopes was off by the share `off`.
    fn correct(&mut self, slopes: &Vector, off: f64) {
        let spread: Vector = std::array::from_fn(|row| dot(&self.covariance[row], slopes));
        let variance = dot(&spread, slopes) + NOISE * NOISE;
        for (row, along) in spread.iter().enumerate() {
            self.parameters[row] += along / variance * off;
            for (column, across) in spread.iter().enumerate() {
                self.covariance[row][column] -= along * across / variance;
            }
        }
        // Nothing costs less than nothing, and more rows never less than fewer.
        self.parameters[PACE + 1..].iter_mut().for_each(|price| *price = price.max(0.0));
    }

    /// How far a price with these slopes may be off, as a share, squared.
    fn variance(&self, slopes: &Vector) -> f64 {
        self.covariance.iter().zip(slopes).map(|(row, slope)| slope * dot(row, slopes)).sum()
    }

    /// Seconds of a price of 1.
    fn pace(&self) -> f64 {
        self.parameters[PACE].exp()
    }

    /// The parameters in terms of the plain step as it is now.
    fn normalised(&self) -> Vector {
        let plain = self.plain();
        let mut parameters = self.parameters;
        parameters[PACE] += plain.ln();
        parameters[ATTENTION..=FURTHER].iter_mut().for_each(|price| *price /= plain);
        parameters
    }

    /// A plain step at an empty context.
    fn plain(&self) -> f64 {
        self.parameters[ATTENTION..=REST].iter().sum::<f64>().max(f64::MIN_POSITIVE)
    }

    fn rest(&self) -> f64 {
        self.parameters[REST]
    }

    /// A pass over this many rows against one over one row, as far as the layers go.
    fn curve(&self, rows: usize) -> f64 {
        match rows {
            0 => 0.0,
            _ => 1.0 + dot_curve(&self.parameters, &reached(rows)),
        }
    }

    /// The head over the whole vocabulary for this many rows.
    fn head(&self, rows: usize) -> f64 {
        let growth = self.parameters[HEAD_GROWTH];
        match rows {
            0 => 0.0,
            _ => self.parameters[HEAD] * (1.0 + growth * (self.curve(rows) - 1.0)),
        }
    }

    /// A sublayer's weights, for one row.
    fn weight(&self, sublayer: usize) -> f64 {
        self.parameters[parameter_of(sublayer)] / self.layers()
    }

    fn layers(&self) -> f64 {
        sublayer::layers(self.size.sublayers).max(1) as f64
    }

    /// What the positions that a step attends to cost it.
    fn attended(&self, step: &StepShape) -> f64 {
        let (leading, further) = self.positions(step);
        self.parameters[CONTEXT] * leading + self.parameters[FURTHER] * further
    }

    /// Positions that the first rows of a step's blocks attend to, and those of the further rows:
    /// each as a share of all attention sublayers.
    fn positions(&self, step: &StepShape) -> (f64, f64) {
        let (rows, blocks) = (step.rows, step.rows.div_ceil(ATTENTION_ROW_BLOCK));
        let sum = |count: usize, apart: usize| {
            (count * step.position + apart * (count * count.saturating_sub(1) / 2)) as f64
        };
        let (all, leading) = (sum(rows, 1), sum(blocks, ATTENTION_ROW_BLOCK));
        let running: usize = (0..self.size.sublayers)
            .filter(|&sublayer| kind_of(sublayer) == SublayerKind::Attention)
            .map(|sublayer| step.rows_at(sublayer))
            .sum();
        let share = running as f64 / (self.layers() * rows.max(1) as f64);
        // The last row of a stand-in attends by blocks of its own.
        let own = step.draft.as_ref().map_or(0.0, |draft| draft.attentions as f64 / self.layers());
        let last = (step.position + rows.saturating_sub(1)) as f64;
        (share * leading + own * last, share * (all - leading))
    }

    /// What it costs `rows` rows to read further weights, as many as this share of the model's.
    fn read(&self, share: f64, rows: usize) -> f64 {
        share * self.matrices() * self.curve(rows)
    }

    /// All matrices, for one row.
    fn matrices(&self) -> f64 {
        self.parameters[ATTENTION..=HEAD].iter().sum()
    }

    /// What falls to `rows` rows of one stream beside others that all run the whole model.
    fn share(&self, context: usize, rows: usize, company: Company) -> f64 {
        let (all, wanting) = (company.rows + rows, company.logits + rows);
        let layers = self.parameters[ATTENTION] + self.parameters[MLP];
        let shared = (layers * self.curve(all) + self.rest()) / all as f64;
        let head = self.head(wanting) / wanting as f64;
        rows as f64 * (shared + head) + self.attended(&StepShape::whole(context, rows, rows))
    }

    fn priced(&self, steps: &[StepShape]) -> Priced {
        let mut gradient = [0.0; PARAMETERS];
        let mut price = self.rest();
        gradient[REST] = 1.0;
        // `weight` of the curve at `rows` rows, of which `growth` is the part that grows.
        let mut add = |rows: usize, parameter: usize, share: f64, growth: f64| {
            if rows == 0 {
                return;
            }
            let reached = reached(rows);
            let more = dot_curve(&self.parameters, &reached);
            let weight = share * self.parameters[parameter];
            gradient[parameter] += share * (1.0 + growth * more);
            price += weight * (1.0 + growth * more);
            if parameter == HEAD {
                gradient[HEAD_GROWTH] += weight * more;
            }
            for (slope, reached) in gradient[CURVE..].iter_mut().zip(reached) {
                *slope += weight * growth * reached;
            }
        };
        for sublayer in 0..self.size.sublayers {
            let rows = steps.iter().map(|step| step.rows_at(sublayer)).sum();
            add(rows, parameter_of(sublayer), self.layers().recip(), 1.0);
        }
        let growth = self.parameters[HEAD_GROWTH];
        let whole = steps.iter().filter(|step| !step.drafts_words());
        add(whole.map(|step| step.logits).sum(), HEAD, 1.0, growth);
        // All plans of an engine share one draft vocabulary.
        let drafting = || steps.iter().filter(|step| step.drafts_words());
        let share = drafting().map(StepShape::vocabulary).fold(0.0, f64::max);
        add(drafting().map(|step| step.logits).sum(), HEAD, share, growth);
        for step in steps {
            price += self.attended(step);
            let (leading, further) = self.positions(step);
            gradient[CONTEXT] += leading;
            gradient[FURTHER] += further;
        }
        for Filling { last, keys, steps, rows } in fillings(steps) {
            for (share, rows) in [(last, steps), (keys, rows)] {
                price += self.read(share, rows);
                let slope = share * self.curve(rows);
                gradient[ATTENTION..=HEAD].iter_mut().for_each(|sum| *sum += slope);
                for (sum, reached) in gradient[CURVE..].iter_mut().zip(reached(rows)) {
                    *sum += share * self.matrices() * reached;
                }
            }
        }
        Priced { price: price.max(f64::MIN_POSITIVE), gradient }
    }
}

/// What fills the gaps of the steps that draft alike, which is read as weights are, once for all of
/// them.
struct Filling {
    /// Bytes that each step's last row reads / bytes of the model.
    last: f64,
    /// Bytes that all rows read / bytes of the model.
    keys: f64,
    /// The steps.
    steps: usize,
    /// Their rows.
    rows: usize,
}

// === impl Filling ===

impl Filling {
    fn of(step: &StepShape) -> Option<Self> {
        let draft = step.draft.as_ref().filter(|draft| draft.fillers > 0.0)?;
        let (last, keys) = (draft.fillers - draft.keys, draft.keys);
        Some(Self { last, keys, steps: 1, rows: step.rows })
    }

    /// Whether the step is one of these. What two plans read in common is not told here: plans with
    /// the same numbers are taken for one.
    fn has(&self, step: &StepShape) -> bool {
        Self::of(step).is_some_and(|other| other.last == self.last && other.keys == self.keys)
    }
}

fn fillings(steps: &[StepShape]) -> Vec<Filling> {
    let mut found: Vec<Filling> = Vec::new();
    for step in steps {
        let Some(one) = Filling::of(step) else { continue };
        match found.iter_mut().find(|filling| filling.has(step)) {
            Some(filling) => {
                filling.steps += 1;
                filling.rows += one.rows;
            }
            None => found.push(one),
        }
    }
    found
}

fn parameter_of(sublayer: usize) -> usize {
    match kind_of(sublayer) {
        SublayerKind::Attention => ATTENTION,
        SublayerKind::Mlp => MLP,
    }
}

fn dot(left: &Vector, right: &Vector) -> f64 {
    left.iter().zip(right).map(|(left, right)| left * right).sum()
}

fn dot_curve(parameters: &Vector, reached: &[f64; INCREMENTS]) -> f64 {
    parameters[CURVE..].iter().zip(reached).map(|(increment, reached)| increment * reached).sum()
}
