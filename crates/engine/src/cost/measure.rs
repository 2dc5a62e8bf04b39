//! Timing passes, and what a model's passes cost at start.

use std::sync::Arc;

use super::curve::{INCREMENTS, POINTS, increments};
use super::{
    ATTENTION, CONTEXT, CURVE, CostModel, FURTHER, HEAD, HEAD_GROWTH, MLP, ModelSize, PACE,
    PARAMETERS, REST,
};
use skipstone_kernels::PAGE_POSITIONS;
use skipstone_model::sublayer::{SublayerKind, kind_of, of_layers};
use skipstone_model::{
    Bridge, LogitsWanted, Model, PageLease, PagePool, RowGroup, RowInput, Runner, SkipMask,
    StandInPart, TokenId,
};

/// Rounds of measurements at start, and of those of many rows, which take long and average by
/// themselves.
const ROUNDS: (usize, usize) = (4, 1);

/// The most rows that count as few.
const FEW: usize = 12;

/// Context of the longer measurements, in positions: far enough for what it costs to show.
const LONG_CONTEXT: usize = 1024;

/// Rows of the measurements that tell what each further one adds to attention.
const CONTEXT_ROWS: usize = 4;

/// Rows of the measurement that tells the head's growth from that of the layers.
const HEAD_ROWS: usize = 8;

/// One way to make a pass over rows of one stream.
#[derive(Clone, Copy)]
pub struct Way<'a> {
    /// Rows.
    pub rows: usize,
    /// Of the first row.
    pub position: usize,
    /// What they skip.
    pub skip: Option<&'a SkipMask>,
    /// What stands in for it.
    pub bridges: &'a [Arc<Bridge>],
    /// What they take of a stand-in.
    pub stand_in: StandInPart<'a>,
    /// Of all rows, or fewer.
    pub logits: LogitsWanted<'a>,
}

// === impl Way ===

impl Way<'_> {
    /// Of the whole model, with logits for all rows.
    pub fn whole(position: usize, rows: usize) -> Self {
        Self {
            rows,
            position,
            skip: None,
            bridges: &[],
            stand_in: StandInPart::None,
            logits: LogitsWanted::All,
        }
    }

    /// Makes the pass; returns its seconds. What the cache holds doesn't matter for the time.
    pub fn run(&self, runner: &mut Runner, pages: &[u32]) -> f64 {
        let vocabulary = runner.model().config().vocabulary;
        let token =
            |row: usize| TokenId(((100 + (self.position + row) % 1000) % vocabulary) as u32);
        let rows: Vec<RowInput<'_>> =
            (0..self.rows).map(|row| RowInput::Token(token(row))).collect();
        let group = RowGroup {
            skip: self.skip,
            bridges: self.bridges,
            stand_in: self.stand_in,
            logits: self.logits,
            ..RowGroup::new(pages, self.position, &rows)
        };
        runner.run(std::slice::from_ref(&group)).seconds
    }
}

/// Seconds of `rounds` passes of each way, made in turn, after one that warms up. The quickest is
/// what a pass takes: it can be interrupted, but not be done sooner.
pub(crate) fn time(
    runner: &mut Runner,
    lease: &PageLease,
    ways: &[Way<'_>],
    rounds: usize,
) -> Vec<Vec<f64>> {
    let mut seconds = vec![Vec::with_capacity(rounds); ways.len()];
    for round in 0..=rounds {
        for (way, seconds) in ways.iter().zip(&mut seconds) {
            let taken = way.run(runner, lease.pages());
            if round > 0 {
                seconds.push(taken);
            }
        }
    }
    seconds
}

/// The middle one of some times.
pub(crate) fn median(seconds: &[f64]) -> f64 {
    let mut sorted = seconds.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn quickest(seconds: &[f64]) -> f64 {
    seconds.iter().copied().fold(f64::INFINITY, f64::min)
}

// === impl ModelSize ===

impl ModelSize {
    /// Of `model`.
    pub fn of(model: &Model) -> Self {
        let weights = model.weights();
        Self {
            sublayers: model.config().sublayers(),
            head_bytes: weights.head_bytes(),
            bytes: weights.bytes(),
        }
    }
}

// === impl CostModel ===

impl CostModel {
    /// Measures passes of up to `most_rows` rows, of short and long context, and passes that leave
    /// out one kind of part each. Averages the prices with those that an earlier run `kept`:
    /// whatever disturbs one start does not disturb all.
    pub fn measure(
        runner: &mut Runner,
        pages: &PagePool,
        most_rows: usize,
        kept: Option<&Self>,
    ) -> Self {
        let size = ModelSize::of(runner.model());
        let free = (pages.total() - pages.leased()) * PAGE_POSITIONS;
        let long = LONG_CONTEXT.min(free).min(runner.model().config().context_length);
        let Some(lease) = pages.lease(long).filter(|_| long > 0) else {
            tracing::warn!("no page is free to measure what passes cost: prices are guesses");
            return Self::unmeasured(size);
        };
        let mut measured = Measured::new(runner, &lease, long, most_rows).model(size);
        if let Some(kept) = kept.filter(|kept| kept.size == size) {
            for (now, then) in measured.parameters.iter_mut().zip(kept.parameters).skip(PACE + 1) {
                *now = (*now + then) / 2.0;
            }
        }
        measured
    }

    /// Rough guesses, for a cache that has no page free.
    fn unmeasured(size: ModelSize) -> Self {
        let mut parameters = [0.0; PARAMETERS];
        parameters[PACE] = 0.01_f64.ln();
        [parameters[ATTENTION], parameters[MLP], parameters[HEAD]] = [0.25, 0.5, 0.25];
        parameters[HEAD_GROWTH] = 1.0;
        parameters[CURVE..].copy_from_slice(&increments(&[1.0, 1.1]));
        Self::new(parameters, deviations(&parameters, 1, 1.0), size)
    }
}

/// What was measured, in seconds.
struct Measured {
    plain: f64,
    quickest_plain: f64,
    no_attention: f64,
    no_mlp: f64,
    no_head: f64,
    /// Of [`HEAD_ROWS`] rows.
    no_heads: f64,
    /// Positions of the long context.
    far: usize,
    far_plain: f64,
    /// Of [`CONTEXT_ROWS`] rows.
    far_rows: f64,
    /// By [`POINTS`], against one row.
    rows: Vec<f64>,
    /// All sublayers / those that were left out.
    all: f64,
}

// === impl Measured ===

impl Measured {
    fn new(runner: &mut Runner, lease: &PageLease, long: usize, most_rows: usize) -> Self {
        let (sublayers, layers) =
            (runner.model().config().sublayers(), runner.model().config().layers);
        // The first layer always runs.
        let inner = of_layers(1..layers);
        let without = |kind: SublayerKind| {
            SkipMask::new(
                (0..sublayers).map(|s| inner.contains(&s) && kind_of(s) == kind).collect(),
            )
        };
        let (attention, mlp) = (without(SublayerKind::Attention), without(SublayerKind::Mlp));
        let whole = |position: usize, rows: usize| Way::whole(position, rows);
        let most = most_rows.max(FEW).min(long);
        let far = long.saturating_sub(CONTEXT_ROWS);
        let plain = whole(0, 1);
        let mut ways = vec![
            plain,
            Way { skip: Some(&attention), ..plain },
            Way { skip: Some(&mlp), ..plain },
            Way { logits: LogitsWanted::None, ..plain },
            Way { logits: LogitsWanted::None, ..whole(0, HEAD_ROWS.min(most)) },
            whole(far, 1),
            whole(far, CONTEXT_ROWS.min(most)),
        ];
        let fixed = ways.len();
        let few = || POINTS.into_iter().skip(1).take_while(|&rows| rows <= FEW.min(most));
        ways.extend(few().map(|rows| whole(0, rows)));
        let seconds = time(runner, lease, &ways, ROUNDS.0);
        let quick: Vec<f64> = seconds.iter().map(|seconds| quickest(seconds)).collect();
        let mut rows = vec![1.0];
        rows.extend(quick[fixed..].iter().map(|seconds| seconds / quick[0]));
        for many in POINTS.into_iter().filter(|&rows| rows > FEW && rows <= most) {
            // Beside a plain step each, since machines change their pace.
            let seconds = time(runner, lease, &[plain, whole(0, many)], ROUNDS.1);
            rows.push(quickest(&seconds[1]) / quickest(&seconds[0]).max(quick[0]));
        }
        Self {
            plain: median(&seconds[0]),
            quickest_plain: quick[0],
            no_attention: quick[1],
            no_mlp: quick[2],
            no_head: quick[3],
            no_heads: quick[4],
            far,
            far_plain: quick[5],
            far_rows: quick[6],
            rows,
            all: sublayers as f64 / inner.len().max(1) as f64,
        }
    }

    /// The parameters that explain it.
    fn model(&self, size: ModelSize) -> CostModel {
        let plain = self.quickest_plain;
        let left_out = |seconds: f64| (1.0 - seconds / plain).clamp(0.0, 1.0);
        let [attention, mlp, head] = [
            self.all * left_out(self.no_attention),
            self.all * left_out(self.no_mlp),
            left_out(self.no_head),
        ];
        // Together not more than there is.
        let scale = (attention + mlp + head).max(1.0).recip();
        let [attention, mlp, head] = [attention, mlp, head].map(|part| part * scale);
        let rest = (1.0 - attention - mlp - head).max(0.0);
        let layers = attention + mlp;
        let mut parameters = [0.0; PARAMETERS];
        parameters[PACE] = self.plain.ln();
        [parameters[ATTENTION], parameters[MLP], parameters[HEAD], parameters[REST]] =
            [attention, mlp, head, rest];
        // What the context adds, of rows that follow each other.
        let added = |far: f64, near: f64| ((far - near).max(0.0)) / (self.far.max(1) as f64);
        let rows = |rows: usize| {
            let place = POINTS.iter().position(|&point| point == rows);
            place.and_then(|place| self.rows.get(place)).copied().unwrap_or(1.0)
        };
        parameters[CONTEXT] = added(self.far_plain / plain, 1.0);
        let several = added(self.far_rows / plain, rows(CONTEXT_ROWS));
        parameters[FURTHER] =
            ((several - parameters[CONTEXT]) / (CONTEXT_ROWS - 1) as f64).max(0.0);
        // The head of several rows against that of one, where the layers grow by so much.
        let heads = rows(HEAD_ROWS) - self.no_heads / plain;
        let grown = (self.no_heads / plain - rest) / layers - 1.0;
        let growth = if head > 0.0 && grown > 0.02 { (heads / head - 1.0) / grown } else { 1.0 };
        let growth = if growth.is_finite() { growth.clamp(0.25, 4.0) } else { 1.0 };
        parameters[HEAD_GROWTH] = growth;
        let scale = (layers + growth * head).max(f64::MIN_POSITIVE);
        let curve: Vec<f64> = self.rows.iter().map(|v| 1.0 + (v - 1.0) / scale).collect();
        parameters[CURVE..].copy_from_slice(&increments(&curve));
        CostModel::new(parameters, deviations(&parameters, curve.len(), 0.05), size)
    }
}

/// Standard deviations of the parameters at start: `share` of each and a little; of the curve's
/// beyond its `measured` points, all of each.
pub(super) fn deviations(
    parameters: &[f64; PARAMETERS],
    measured: usize,
    share: f64,
) -> [f64; PARAMETERS] {
    std::array::from_fn(|place| match place {
        PACE => 0.1_f64.max(share),
        ATTENTION | MLP | HEAD | REST => share * parameters[place] + 0.01,
        HEAD_GROWTH => 0.2 + share,
        CONTEXT | FURTHER => 0.2 * parameters[place] + 1e-7,
        _ => {
            let piece = place - CURVE;
            let is_measured = piece + 1 < measured;
            let rows = (POINTS[piece + 1] - POINTS[piece]) as f64;
            let unsure = if is_measured { share.max(0.1) } else { 1.0 };
            unsure * parameters[place] + 0.05 * rows.min(4.0)
        }
    })
}

const _: () = assert!(CURVE + INCREMENTS == PARAMETERS);
