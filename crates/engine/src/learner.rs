//! Bridges learned from the streams that are served.
//!
//! Every pass of the full model over tokens that are committed shows what a run of sublayers does
//! to their hidden states: what a bridge would read before it, and the state after it. The engine
//! thread hands such pairs on; a background thread (see [`super::course`]) adds them to the moments
//! of each run and fits bridges anew each time that the number of pairs has doubled. What it finds
//! is only a candidate: it replaces another plan if it drafts better what streams say (see
//! [`super::audition`]), whatever the fit says.
//!
//! Beside the runs in use there is one on probation, next to the run of the plan that streams bet
//! on most: the search for skip sets.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, channel, sync_channel};
use std::time::Instant;

use super::audition::{Candidate, Outcome};
use super::bets::Betting;
use super::course::{self, Course, Fit, Pairs};
use super::parts::Outline;
use crate::adapt::{BridgeWeights, FrontierPlan, LEFT_OUT, Moments};
use crate::drafting::{DraftPlan, RunSearch, SkipSet, run_name};
use skipstone_model::{Bridge, Model, PassOutput};

/// Share of the time of the streams it learns from that learning may take, both threads' work
/// together.
const BUDGET: f64 = 0.01;

/// Tokens, calibrated and served, beyond which the budget shrinks in proportion, since the next
/// ones teach less...
const WELL_KNOWN: f64 = 8192.0;

/// ...down to this share of it.
const LEAST_BUDGET: f64 = 0.1;

/// Multiplications a second that learning is taken to reach beside the engine's own work.
const PACE: f64 = 1e10;

/// Runs of plans that are learned at most.
const MOST_SPANS: usize = 2;

/// Share of the weights' memory that learning may take, if that is more than [`ALWAYS_ALLOWED`].
const MEMORY_SHARE: f64 = 0.25;

/// Bytes that learning may always take: 64 MiB.
const ALWAYS_ALLOWED: f64 = (64 << 20) as f64;

/// Pairs that are handed on together.
const BATCH: usize = 128;

/// Batches that may wait. More are dropped: there will be others.
const QUEUE: usize = 4;

/// The engine thread's end.
pub(super) struct Learner {
    hidden: usize,
    spans: Vec<Span>,
    /// Runs that there is memory for, one on probation included.
    room: usize,
    /// Runs of plans that are learned at most.
    most: usize,
    /// Where full passes save their states: the spans' ends, ascending.
    places: Arc<[usize]>,
    /// None where skip sets are not searched.
    search: Option<RunSearch>,
    /// Gone when the background thread could not be started or has ended.
    pairs: Option<SyncSender<Pairs>>,
    fits: Receiver<Fit>,
    /// Nanoseconds that the background thread computed.
    busy: Arc<AtomicU64>,
    /// Tokens that the profile was made from, and rows looked at since.
    known: f64,
    spent_seconds: f64,
    /// What may be spent.
    earned_seconds: f64,
}

/// A run of sublayers that is learned, and pairs not handed on yet.
struct Span {
    range: Range<usize>,
    course: Arc<Course>,
    pairs: Pairs,
    /// The plan that a plan with this run might replace, for the run on probation.
    seat: Option<usize>,
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

// === impl Span ===

impl Span {
    /// Begins to learn bridges over a run.
    fn new(range: Range<usize>, course: Course, seat: Option<usize>) -> Self {
        let course = Arc::new(course);
        Self { range, pairs: Pairs::new(&course), course, seat }
    }

    fn is_on_probation(&self) -> bool {
        self.seat.is_some()
    }
}

// === impl Learner ===

impl Learner {
    /// Starts to learn the bridges of `plans` for `model`, the best first. Without bridges there is
    /// nothing to learn. With `searches` it also tries runs next to those of the plans.
    pub(super) fn start(plans: &[FrontierPlan], model: &Model, searches: bool) -> Option<Self> {
        let hidden = model.config().hidden;
        let room = room(hidden, model.weights().bytes());
        // A search wants room for one more, but not in place of the only one.
        let most = MOST_SPANS.min(if searches && room > 1 { room - 1 } else { room });
        let profile_tokens = plans.iter().map(|plan| plan.profile_tokens).max().unwrap_or(0) as f64;
        let first_fit = course::first_fit(profile_tokens);
        let mut runs: Vec<(Range<usize>, Course)> = Vec::new();
        for bridge in plans.iter().flat_map(|plan| plan.plan.bridges()) {
            let known = runs.iter().position(|(range, _)| *range == bridge.span());
            let least_rank = bridge.rank();
            match known {
                Some(index) => runs[index].1.least_rank = runs[index].1.least_rank.max(least_rank),
                None if runs.len() < most => {
                    runs.push((bridge.span(), Course { least_rank, first_fit }))
                }
                None => {}
            }
        }
        if runs.is_empty() {
            if room == 0 {
                let limit = format_args!("{:.0} % of the weights", 100.0 * MEMORY_SHARE);
                tracing::info!(%limit, "bridges are not learned: it would take too much memory");
            }
            return None;
        }
        let (pairs, received) = sync_channel(QUEUE);
        let (found, fits) = channel();
        let busy = Arc::new(AtomicU64::new(0));
        let clock = Arc::clone(&busy);
        let thread = std::thread::Builder::new().name("learner".to_owned());
        let started = thread.spawn(move || course::learn(hidden, &received, &found, &clock));
        if let Err(error) = &started {
            tracing::warn!(%error, "bridges are not learned: no thread");
        }
        let mut learner = Self {
            hidden,
            spans: runs.into_iter().map(|(range, course)| Span::new(range, course, None)).collect(),
            room,
            most,
            places: Arc::default(),
            search: searches.then(RunSearch::default),
            pairs: started.is_ok().then_some(pairs),
            fits,
            busy,
            known: profile_tokens,
            spent_seconds: 0.0,
            earned_seconds: 0.0,
        };
        learner.place();
        Some(learner)
    }

    /// Sets the places to the ends of the spans.
    fn place(&mut self) {
        let ends = self.spans.iter().flat_map(|span| [span.range.start, span.range.end]);
        self.places = ends.collect::<BTreeSet<usize>>().into_iter().collect();
    }

    /// Where the next full pass should save its states: nowhere while learning is over its budget.
    pub(super) fn places(&self) -> Arc<[usize]> {
        let spent = self.spent_seconds + self.busy.load(Ordering::Relaxed) as f64 * 1e-9;
        // What is spent first and earned later would slow down the first streams of a process.
        let next = self.spans.len() as f64 * batch_seconds(self.hidden);
        let may = self.pairs.is_some() && spent + next <= self.earned_seconds;
        if may { Arc::clone(&self.places) } else { Arc::default() }
    }

    /// Books the time of streams that may be learned from.
    pub(super) fn observe_pass(&mut self, seconds: f64) {
        // Nothing is known of a run on probation.
        let searches = self.spans.iter().any(Span::is_on_probation);
        let share = if searches { BUDGET } else { budget(self.known) };
        self.earned_seconds += share * seconds;
    }

    /// Takes in the states of a group that saved them at all places, of a stream with these pages.
    pub(super) fn observe(
        &mut self,
        output: &PassOutput<'_>,
        group: usize,
        pages: &[u32],
        committed: &CommittedRows,
    ) {
        let started = Instant::now();
        let CommittedRows { rows, position, entry, entered } = committed;
        self.known += rows.len() as f64;
        for span in &mut self.spans {
            let place = |sublayer| self.places.binary_search(&sublayer).unwrap_or_default();
            let (before, after) = (place(span.range.start), place(span.range.end));
            // Rows that entered within the run never had the state before it.
            let first =
                if *entry <= span.range.start { rows.start } else { rows.start.max(*entered) };
            for row in first.max(LEFT_OUT.saturating_sub(*position))..rows.end {
                let inputs = &mut span.pairs.inputs;
                output.append_bridge_input((group, before, row), pages, position + row, inputs);
                span.pairs.after.extend_from_slice(output.saved(group, after, row));
            }
            if span.pairs.after.len() >= BATCH * self.hidden {
                let full = std::mem::replace(&mut span.pairs, Pairs::new(&span.course));
                // A full queue drops the batch.
                let sent = self.pairs.as_ref().map(|pairs| pairs.try_send(full));
                if let Some(Err(TrySendError::Disconnected(_))) = sent {
                    tracing::warn!("bridges are not learned any more: the thread has ended");
                    self.pairs = None;
                }
            }
        }
        self.spent_seconds += started.elapsed().as_secs_f64();
    }

    /// Lets what was fitted audition, and puts the next run on probation when nothing is left to
    /// try.
    pub(super) fn challenge(&mut self, betting: &mut Betting, model: &Model) {
        while let Ok(Fit { course, pairs, bridge }) = self.fits.try_recv() {
            let Some(index) = self.spans.iter().position(|span| Arc::ptr_eq(&span.course, &course))
            else {
                continue;
            };
            let (range, seat) = (self.spans[index].range.clone(), self.spans[index].seat);
            let build = |weights: BridgeWeights| {
                Bridge::new(range.clone(), self.hidden, weights.bias, &weights.down, &weights.up)
                    .ok()
            };
            if let Some(bridge) = bridge.and_then(build).map(Arc::new) {
                tracing::info!(
                    first = range.start,
                    end = range.end,
                    rank = bridge.rank(),
                    pairs,
                    "a bridge was learned"
                );
                match seat {
                    Some(seat) => enter_run(betting, model, seat, &bridge),
                    None => enter_bridge(betting, model, &bridge),
                }
            }
            if self.spans[index].is_on_probation() {
                self.spans.remove(index);
                self.place();
            }
        }
        // Without a search the runs stay what they are.
        if self.search.is_some()
            && betting.auditions.is_idle()
            && !self.spans.iter().any(Span::is_on_probation)
        {
            self.follow(betting);
            self.search(betting, model.config().layers);
        }
    }

    /// Learns the run of the favourite plan, if a search has changed it, in place of one that no
    /// plan skips any more.
    fn follow(&mut self, betting: &Betting) {
        let bridges = || betting.plans().iter().flat_map(|plan| plan.plan.bridges());
        let spans = self.spans.len();
        self.spans.retain(|span| bridges().any(|bridge| bridge.span() == span.range));
        if self.spans.len() < spans {
            self.place();
        }
        let favourite = &betting.plans()[betting.favourite()];
        let first_fit = course::first_fit(favourite.profile_tokens as f64);
        for bridge in favourite.plan.bridges() {
            if self.spans.len() < self.most
                && !self.spans.iter().any(|span| span.range == bridge.span())
            {
                let course = Course { least_rank: bridge.rank(), first_fit };
                self.begin(Span::new(bridge.span(), course, None));
            }
        }
    }

    fn begin(&mut self, span: Span) {
        self.spans.push(span);
        self.place();
    }

    /// Puts a run next to that of the favourite plan on probation, if that plan has one bridge over
    /// one run.
    fn search(&mut self, betting: &Betting, layers: usize) {
        if self.spans.len() >= self.room {
            return;
        }
        let seat = betting.favourite();
        let [bridge] = betting.plans()[seat].plan.bridges() else { return };
        if betting.plans()[seat].plan.runs().len() > 1 {
            return;
        }
        let in_use: Vec<Range<usize>> =
            betting.plans().iter().flat_map(|plan| plan.plan.runs()).collect();
        let search = self.search.as_mut();
        let Some(range) = search.and_then(|search| search.propose(&bridge.span(), &in_use, layers))
        else {
            return;
        };
        let course = Course { least_rank: bridge.rank(), first_fit: course::first_fit(0.0) };
        self.begin(Span::new(range, course, Some(seat)));
    }
}

/// The share of time that learning may take where so many tokens are known.
fn budget(known: f64) -> f64 {
    BUDGET * (WELL_KNOWN / known.max(WELL_KNOWN)).max(LEAST_BUDGET)
}

/// Runs that can be learned in the memory that learning may take, beside weights of so many bytes.
fn room(hidden: usize, weight_bytes: usize) -> usize {
    let allowed = (MEMORY_SHARE * weight_bytes as f64).max(ALWAYS_ALLOWED);
    let left = allowed - course::fit_bytes(hidden) as f64;
    if left > 0.0 { (left / Moments::bytes_of(hidden) as f64) as usize } else { 0 }
}

/// What a batch of pairs takes to learn, roughly: the moments of one pair take 6 multiplications
/// for each square of the hidden size, and copies as much again.
fn batch_seconds(hidden: usize) -> f64 {
    (BATCH * 12 * hidden * hidden) as f64 / PACE
}

/// Enters `bridge` for the seats of all plans that have one over the same run.
fn enter_bridge(betting: &mut Betting, model: &Model, bridge: &Arc<Bridge>) {
    for seat in 0..betting.plans().len() {
        let FrontierPlan { plan, name, .. } = &betting.plans()[seat];
        if !plan.bridges().iter().any(|old| old.span() == bridge.span()) {
            continue;
        }
        let name = if plan.bridges().len() == 1 { name_of(bridge) } else { name.clone() };
        if let Ok(plan) = plan.with_bridge(Arc::clone(bridge)) {
            enter(betting, model, seat, name, plan, bridge);
        }
    }
}

/// Enters a plan that skips the run of `bridge`, for the seat of the plan that it came from.
fn enter_run(betting: &mut Betting, model: &Model, seat: usize, bridge: &Arc<Bridge>) {
    let old = &betting.plans()[seat].plan;
    let Ok(skip_set) = SkipSet::of_run(bridge.span(), model.config().layers) else { return };
    let mut plan = DraftPlan::new(skip_set, old.confidence_threshold);
    if let Some(vocabulary) = old.vocabulary() {
        plan = plan.with_vocabulary(Arc::clone(vocabulary));
    }
    if let Ok(plan) = plan.with_bridges(vec![Arc::clone(bridge)]) {
        enter(betting, model, seat, name_of(bridge), plan, bridge);
    }
}

/// What a step of `plan` costs is taken to be what its parts do; once the plan drafts, its time is
/// measured.
fn enter(
    betting: &mut Betting,
    model: &Model,
    seat: usize,
    name: String,
    plan: DraftPlan,
    bridge: &Arc<Bridge>,
) {
    let (new, old) = (Outline::of(&plan, model), Outline::of(&betting.plans()[seat].plan, model));
    let extra_cost = betting.parts.cost(&new) - betting.parts.cost(&old);
    let candidate = Candidate::new(seat, name, Arc::new(plan), Arc::clone(bridge), extra_cost);
    if betting.knowledge.bank().mechanisms().auditions {
        betting.auditions.enter(candidate);
    } else {
        betting.conclude(Outcome { candidate, is_better: true, agreement: (0.0, 0.0), tokens: 0 });
    }
}

/// The name of a plan that skips the run of `bridge` and nothing else.
fn name_of(bridge: &Bridge) -> String {
    match bridge.rank() {
        0 => format!("{}, bias", run_name(&bridge.span())),
        rank => format!("{}, rank {rank}", run_name(&bridge.span())),
    }
}

#[cfg(test)]
mod tests {
    use super::{BUDGET, budget, room};

    #[test]
    fn where_much_is_known_learning_takes_less() {
        for (known, expected) in
            [(0.0, 1.0), (8192.0, 1.0), (16384.0, 0.5), (65536.0, 0.125), (1e9, 0.1)]
        {
            assert!(
                (budget(known) / BUDGET - expected).abs() < 1e-9,
                "{known} tokens: {}",
                budget(known)
            );
        }
    }

    #[test]
    fn wide_models_learn_in_a_quarter_of_their_weights() {
        assert!(room(576, 90_000_000) >= 3, "SmolLM2-135M");
        assert!(room(1536, 1_100_000_000) >= 2, "Qwen2.5-1.5B");
        assert_eq!(room(8192, 1_000_000_000), 0);
    }
}
