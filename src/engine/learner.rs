//! Bridges learned from the streams that are served.
//!
//! Every pass of the full model over tokens that are committed shows what a run of sublayers does to their hidden states: before it and
//! after it. The engine thread hands such pairs on; a background thread adds them to the moments of each run and fits
//! bridges anew each time that the number of pairs has doubled. What it finds only becomes a rival (see [`super::trial`]): a bridge
//! replaces another if more of its drafts are accepted, whatever the fit says.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::time::Instant;

use super::bets::Betting;
use crate::adapt::{BridgeFit, BridgeFitError, BridgeWeights, LEFT_OUT, Moments};
use crate::drafting::DraftPlan;
use crate::model::{Bridge, PassOutput};

/// Share of the engine's time that learning may take, both threads' work together.
const BUDGET: f64 = 0.01;

/// Runs that are learned at most: the moments of each take two matrices over the hidden size.
const MOST_SPANS: usize = 2;

/// Pairs that are handed on together.
const BATCH: usize = 128;

/// Batches that may wait. More are dropped: there will be others.
const QUEUE: usize = 4;

/// Pairs before the first fit.
const FIRST_FIT: f64 = 1024.0;

/// Pairs that are remembered, by decay, so that the bridges follow the traffic.
const MEMORY: f64 = 131_072.0;

/// The ridge is this over the number of pairs: the more there are, the less they need to be held back.
const RIDGE_PAIRS: f64 = 800.0;

/// The engine thread's end.
pub(super) struct Learner {
    hidden: usize,
    spans: Vec<Span>,
    /// Where full passes save their states: the spans' ends, ascending.
    places: Arc<[usize]>,
    /// Gone when the background thread could not be started or has ended.
    pairs: Option<SyncSender<Pairs>>,
    fits: Receiver<Fit>,
    /// Nanoseconds that the background thread was busy.
    busy: Arc<AtomicU64>,
    spent_seconds: f64,
    pass_seconds: f64,
}

/// A run of sublayers with a bridge, and pairs not handed on yet.
struct Span {
    range: Range<usize>,
    pairs: Pairs,
}

/// States before and after a run, both \[pairs, hidden\].
#[derive(Default)]
struct Pairs {
    span: usize,
    before: Vec<f32>,
    after: Vec<f32>,
}

/// Bridges fitted to one run.
struct Fit {
    span: usize,
    tokens: f64,
    bridges: Vec<BridgeWeights>,
}

/// Rows of a pass that a stream's committed tokens went through.
#[derive(Clone, Debug)]
pub(super) struct CommittedRows {
    /// Rows of the group.
    pub(super) rows: Range<usize>,
    /// The position of the group's first row.
    pub(super) position: usize,
    /// The first rows entered before this sublayer...
    pub(super) entry: usize,
    /// ...so many of them.
    pub(super) entered: usize,
}

// === impl Learner ===

impl Learner {
    /// Starts to learn the bridges of `plans`, the best first, for states of `hidden` numbers. Without bridges there is nothing to learn.
    pub(super) fn start<'a>(plans: impl Iterator<Item = &'a DraftPlan>, hidden: usize) -> Option<Self> {
        let mut spans: Vec<(Range<usize>, BTreeSet<usize>)> = Vec::new();
        for bridge in plans.flat_map(DraftPlan::bridges) {
            let known = spans.iter().position(|(range, _)| *range == bridge.span());
            match known {
                Some(index) => spans[index].1.extend([bridge.rank()]),
                None if spans.len() < MOST_SPANS => {
                    spans.push((bridge.span(), BTreeSet::from([bridge.rank()])));
                }
                None => {}
            }
        }
        if spans.is_empty() {
            return None;
        }
        let places: BTreeSet<usize> = spans.iter().flat_map(|(range, _)| [range.start, range.end]).collect();
        let (pairs, received) = sync_channel(QUEUE);
        let (found, fits) = channel();
        let busy = Arc::new(AtomicU64::new(0));
        let ranks: Vec<BTreeSet<usize>> = spans.iter().map(|(_, ranks)| ranks.clone()).collect();
        let clock = Arc::clone(&busy);
        let thread = std::thread::Builder::new().name("learner".to_owned());
        let started = thread.spawn(move || learn(hidden, &ranks, &received, &found, &clock));
        if let Err(error) = &started {
            tracing::warn!(%error, "bridges are not learned: no thread");
        }
        Some(Self {
            hidden,
            spans: spans
                .into_iter()
                .enumerate()
                .map(|(span, (range, _))| Span { range, pairs: Pairs { span, ..Pairs::default() } })
                .collect(),
            places: places.into_iter().collect(),
            pairs: started.is_ok().then_some(pairs),
            fits,
            busy,
            spent_seconds: 0.0,
            pass_seconds: 0.0,
        })
    }

    /// Where the next full pass should save its states: nowhere while learning is over its budget.
    pub(super) fn places(&self) -> Arc<[usize]> {
        let spent = self.spent_seconds + self.busy.load(Ordering::Relaxed) as f64 * 1e-9;
        let may = self.pairs.is_some() && spent <= BUDGET * self.pass_seconds;
        if may { Arc::clone(&self.places) } else { Arc::default() }
    }

    /// Books a pass.
    pub(super) fn observe_pass(&mut self, seconds: f64) {
        self.pass_seconds += seconds;
    }

    /// Takes in the states of a group that saved them at all places.
    pub(super) fn observe(&mut self, output: &PassOutput<'_>, group: usize, committed: &CommittedRows) {
        let started = Instant::now();
        let CommittedRows { rows, position, entry, entered } = committed;
        for span in &mut self.spans {
            let place = |sublayer| self.places.binary_search(&sublayer).unwrap_or_default();
            let (before, after) = (place(span.range.start), place(span.range.end));
            // Rows that entered within the run never had the state before it.
            let first = if *entry <= span.range.start { rows.start } else { rows.start.max(*entered) };
            for row in first.max(LEFT_OUT.saturating_sub(*position))..rows.end {
                span.pairs.before.extend_from_slice(output.saved(group, before, row));
                span.pairs.after.extend_from_slice(output.saved(group, after, row));
            }
            if span.pairs.before.len() >= BATCH * self.hidden {
                let next = Pairs { span: span.pairs.span, ..Pairs::default() };
                let full = std::mem::replace(&mut span.pairs, next);
                // A full queue drops the batch.
                let _ = self.pairs.as_ref().map(|pairs| pairs.try_send(full));
            }
        }
        self.spent_seconds += started.elapsed().as_secs_f64();
    }

    /// Puts up what was fitted as rivals of the plans that have such a bridge.
    pub(super) fn challenge(&mut self, betting: &mut Betting) {
        while let Ok(Fit { span, tokens, bridges }) = self.fits.try_recv() {
            let range = self.spans[span].range.clone();
            for weights in bridges {
                let rank = weights.rank();
                let bridge =
                    Bridge::new(range.clone(), self.hidden, weights.bias, &weights.down, &weights.up);
                let Ok(bridge) = bridge.map(Arc::new) else { continue };
                for index in 0..betting.plans().len() {
                    let plan = &betting.plans()[index].plan;
                    let fits = |old: &Arc<Bridge>| old.span() == range && old.rank() == rank;
                    if !plan.bridges().iter().any(fits) {
                        continue;
                    }
                    if let Ok(rival) = plan.with_bridge(Arc::clone(&bridge)) {
                        betting.challenge(index, Arc::new(rival));
                    }
                }
            }
            tracing::info!(first = range.start, end = range.end, tokens, "bridges were learned");
        }
    }
}

// === the background thread ===

/// The moments of one run.
struct Course {
    moments: Moments,
    next_fit: f64,
    /// Pairs ever seen; the moments' own count decays.
    seen: f64,
}

fn learn(
    hidden: usize,
    ranks: &[BTreeSet<usize>],
    pairs: &Receiver<Pairs>,
    fits: &Sender<Fit>,
    busy: &AtomicU64,
) {
    let course = || Course { moments: Moments::new(hidden), next_fit: FIRST_FIT, seen: 0.0 };
    let mut courses: Vec<Course> = ranks.iter().map(|_| course()).collect();
    while let Ok(Pairs { span, before, after }) = pairs.recv() {
        let started = Instant::now();
        let course = &mut courses[span];
        let count = (before.len() / hidden) as f64;
        course.moments.observe(&before, &after);
        course.moments.decay(1.0 - count / MEMORY);
        course.seen += count;
        if course.seen >= course.next_fit {
            course.next_fit = (2.0 * course.seen).min(course.seen + MEMORY / 2.0);
            match fit(&course.moments, &ranks[span]) {
                Ok(bridges) => {
                    if fits.send(Fit { span, tokens: course.seen, bridges }).is_err() {
                        return;
                    }
                }
                Err(error) => tracing::warn!(%error, "a bridge could not be fitted"),
            }
        }
        busy.fetch_add(started.elapsed().as_nanos() as u64, Ordering::Relaxed);
    }
}

fn fit(moments: &Moments, ranks: &BTreeSet<usize>) -> Result<Vec<BridgeWeights>, BridgeFitError> {
    let mut bridges = Vec::with_capacity(ranks.len());
    if ranks.contains(&0) {
        bridges.push(BridgeWeights::bias_of(moments)?);
    }
    if ranks.iter().any(|&rank| rank > 0) {
        let fit = BridgeFit::new(moments, (RIDGE_PAIRS / moments.tokens()).clamp(0.01, 1.0))?;
        bridges.extend(ranks.iter().filter(|&&rank| rank > 0).map(|&rank| fit.bridge(rank)));
    }
    Ok(bridges)
}
