//! The background thread of the learner: moments of runs of sublayers, and bridges fitted to them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::adapt::{BridgeFit, BridgeFitError, BridgeWeights, Moments};

/// Pairs before a run is fitted for the first time: with fewer, a bridge is hardly ever better than
/// the bias...
const FIRST_FIT: f64 = 4096.0;

/// ...or than one from a profile, if they are less than this share of the tokens that the profile
/// was made from.
const FIRST_FIT_SHARE: f64 = 0.25;

/// Pairs that are remembered, by decay, so that the bridges follow the traffic.
const MEMORY: f64 = 131_072.0;

/// The ridge is this over the number of pairs: the more there are, the less they need to be held
/// back.
const RIDGE_PAIRS: f64 = 800.0;

/// Pairs that a rank needs: a rank of 64 pays from some 4,000 on.
const PAIRS_PER_RANK: f64 = 64.0;

/// Square matrices of doubles over the hidden size that a fit takes for a moment: the Gram matrix
/// and its factor, four each; or the map, the cross moments, what predictions vary by, and its
/// eigenvectors.
const FIT_MATRICES: usize = 8;

/// What is to be learned of one run.
#[derive(Debug)]
pub(super) struct Course {
    /// The least rank of a bridge; 0 is the bias alone.
    pub(super) least_rank: usize,
    /// Pairs before the first fit.
    pub(super) first_fit: f64,
}

/// What a bridge over a run reads, and the states after the run; see [`Moments::observe`].
pub(super) struct Pairs {
    pub(super) course: Arc<Course>,
    pub(super) inputs: Vec<f32>,
    pub(super) after: Vec<f32>,
}

/// A bridge fitted to one run.
pub(super) struct Fit {
    pub(super) course: Arc<Course>,
    /// Pairs seen.
    pub(super) pairs: f64,
    /// None if the fit failed.
    pub(super) bridge: Option<BridgeWeights>,
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
        Self { course: Arc::clone(course), inputs: Vec::new(), after: Vec::new() }
    }
}

// === impl Progress ===

impl Progress {
    fn new(course: &Arc<Course>, hidden: usize) -> Self {
        let moments = Moments::new(hidden);
        Self { course: Arc::downgrade(course), moments, next_fit: course.first_fit, seen: 0.0 }
    }
}

// === the thread ===

/// Learns from `pairs` of states of `hidden` numbers until nobody sends any more. `busy` counts
/// nanoseconds of computing.
pub(super) fn learn(hidden: usize, pairs: &Receiver<Pairs>, fits: &Sender<Fit>, busy: &AtomicU64) {
    give_way();
    let mut courses: Vec<Progress> = Vec::new();
    while let Ok(Pairs { course, inputs, after }) = pairs.recv() {
        let started = computed();
        courses.retain(|progress| progress.course.strong_count() > 0);
        let known =
            courses.iter().position(|progress| progress.course.as_ptr() == Arc::as_ptr(&course));
        let index = known.unwrap_or_else(|| {
            courses.push(Progress::new(&course, hidden));
            courses.len() - 1
        });
        let progress = &mut courses[index];
        let count = (after.len() / hidden) as f64;
        progress.moments.observe(&inputs, &after);
        progress.moments.decay(1.0 - count / MEMORY);
        progress.seen += count;
        if progress.seen >= progress.next_fit {
            let seen = progress.seen;
            progress.next_fit = (2.0 * seen).min(seen + MEMORY / 2.0);
            let rank = rank(seen, hidden).max(course.least_rank);
            let bridge = fit(&progress.moments, rank)
                .inspect_err(|error| tracing::warn!(%error, "a bridge could not be fitted"));
            if fits.send(Fit { course, pairs: seen, bridge: bridge.ok() }).is_err() {
                return;
            }
        }
        busy.fetch_add((computed() - started).as_nanos() as u64, Ordering::Relaxed);
    }
}

/// Lets the threads that compute go first: a fit takes seconds, and nobody waits for it.
fn give_way() {
    // Elsewhere priorities belong to processes.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, 19) {
        tracing::debug!(%error, "bridges are learned at normal priority");
    }
}

/// What this thread has computed so far. At its priority it mostly waits, and that takes nobody's
/// time.
#[cfg(target_os = "linux")]
fn computed() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Waiting included: only the time of day is known everywhere.
#[cfg(not(target_os = "linux"))]
fn computed() -> Duration {
    static STARTED: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    STARTED.get_or_init(std::time::Instant::now).elapsed()
}

/// Pairs before a bridge is fitted that would replace one from a profile of so many tokens.
pub(super) fn first_fit(tokens: f64) -> f64 {
    FIRST_FIT.max(FIRST_FIT_SHARE * tokens)
}

/// Bytes that a fit takes for a moment.
pub(super) fn fit_bytes(hidden: usize) -> usize {
    FIT_MATRICES * size_of::<f64>() * hidden * hidden
}

/// The rank that so many pairs support, a power of two: more would fit what is particular to them.
fn rank(pairs: f64, hidden: usize) -> usize {
    let most = ((pairs / PAIRS_PER_RANK) as usize).min(hidden / 2);
    most.checked_ilog2().map_or(0, |power| 1 << power)
}

fn fit(moments: &Moments, rank: usize) -> Result<BridgeWeights, BridgeFitError> {
    if rank == 0 {
        return BridgeWeights::bias_of(moments);
    }
    Ok(BridgeFit::new(moments, (RIDGE_PAIRS / moments.tokens()).clamp(0.01, 1.0))?.bridge(rank))
}

#[cfg(test)]
mod tests {
    use super::{FIRST_FIT, first_fit, rank};

    #[test]
    fn what_comes_from_much_is_challenged_late() {
        assert_eq!([0.0, 2048.0, 65536.0].map(first_fit), [FIRST_FIT, FIRST_FIT, 16384.0]);
    }

    #[test]
    fn the_rank_rises_with_the_pairs_up_to_half_of_the_width() {
        let found = [100.0, 1024.0, 4096.0, 8000.0, 8192.0, 1e6].map(|pairs| rank(pairs, 576));
        assert_eq!(found, [1, 16, 64, 64, 128, 256]);
        assert_eq!(rank(1e6, 1), 0);
    }
}
