//! The background thread of the learner: moments of runs of sublayers, and bridges fitted to them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Weak};
use std::time::Instant;

use crate::adapt::{BridgeFit, BridgeFitError, BridgeWeights, Moments};

/// Pairs that are remembered, by decay, so that the bridges follow the traffic.
const MEMORY: f64 = 131_072.0;

/// The ridge is this over the number of pairs: the more there are, the less they need to be held back.
const RIDGE_PAIRS: f64 = 800.0;

/// What is to be learned of one run.
#[derive(Debug)]
pub(super) struct Course {
    /// Tells courses apart.
    pub(super) number: usize,
    /// Ranks of the bridges to fit; 0 is the bias alone.
    pub(super) ranks: BTreeSet<usize>,
    /// Pairs before the first fit.
    pub(super) first_fit: f64,
}

/// States before and after a run, both \[pairs, hidden\].
pub(super) struct Pairs {
    pub(super) course: Arc<Course>,
    pub(super) before: Vec<f32>,
    pub(super) after: Vec<f32>,
}

/// Bridges fitted to one run.
pub(super) struct Fit {
    pub(super) course: Arc<Course>,
    /// Pairs seen.
    pub(super) pairs: f64,
    pub(super) bridges: Vec<BridgeWeights>,
}

/// What was learned of one run.
struct Progress {
    /// Gone once nobody wants to know.
    course: Weak<Course>,
    moments: Moments,
    next_fit: f64,
    /// Pairs ever seen; the moments' own count decays.
    seen: f64,
}

// === impl Pairs ===

impl Pairs {
    pub(super) fn new(course: &Arc<Course>) -> Self {
        Self { course: Arc::clone(course), before: Vec::new(), after: Vec::new() }
    }
}

// === the thread ===

/// Learns from `pairs` of states of `hidden` numbers until nobody sends any more. `busy` counts nanoseconds.
pub(super) fn learn(hidden: usize, pairs: &Receiver<Pairs>, fits: &Sender<Fit>, busy: &AtomicU64) {
    let mut courses: BTreeMap<usize, Progress> = BTreeMap::new();
    while let Ok(Pairs { course, before, after }) = pairs.recv() {
        let started = Instant::now();
        courses.retain(|_, progress| progress.course.strong_count() > 0);
        let progress = courses.entry(course.number).or_insert_with(|| Progress {
            course: Arc::downgrade(&course),
            moments: Moments::new(hidden),
            next_fit: course.first_fit,
            seen: 0.0,
        });
        let count = (before.len() / hidden) as f64;
        progress.moments.observe(&before, &after);
        progress.moments.decay(1.0 - count / MEMORY);
        progress.seen += count;
        if progress.seen >= progress.next_fit {
            let seen = progress.seen;
            progress.next_fit = (2.0 * seen).min(seen + MEMORY / 2.0);
            let bridges = fit(&progress.moments, &course.ranks).unwrap_or_else(|error| {
                tracing::warn!(%error, "a bridge could not be fitted");
                Vec::new()
            });
            if fits.send(Fit { course, pairs: seen, bridges }).is_err() {
                return;
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
