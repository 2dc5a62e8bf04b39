//! The board where the engine pins up what it is doing, for those who ask.
//!
//! The engine never waits for a reader, and does nothing for readers who don't ask: a question sets
//! a flag, and the next step answers it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::activity::{Activity, StreamActivity, Totals};

/// Streams that are remembered after their end.
const REMEMBERED: usize = 32;

/// Time between two answers at least, however many ask.
const PAUSE: Duration = Duration::from_millis(100);

/// Time that a reader waits for an answer; a step that takes longer is not waited for.
const PATIENCE: Duration = Duration::from_millis(500);

/// The readers' side. Clones share everything.
#[derive(Clone, Debug)]
pub struct Observer(Arc<Shared>);

/// The engine's side.
pub(super) struct Board {
    shared: Arc<Shared>,
    answered: Option<Instant>,
    finished: VecDeque<Arc<StreamActivity>>,
    /// Totals of streams that have ended.
    totals: Totals,
}

#[derive(Debug)]
struct Shared {
    asked: AtomicBool,
    /// Whether the engine has nothing to do; what hangs on the board is up to date then.
    idle: AtomicBool,
    activity: watch::Sender<Arc<Activity>>,
}

// === impl Observer ===

impl Observer {
    /// The engine's current activity. Returns within half a second; what is returned may then be
    /// older than that.
    pub async fn look(&self) -> Arc<Activity> {
        let mut answers = self.0.activity.subscribe();
        self.0.asked.store(true, Ordering::Release);
        if !self.0.idle.load(Ordering::Acquire) {
            // Too late is answered by what was last seen; no engine, by how it ended.
            let _ = tokio::time::timeout(PATIENCE, answers.changed()).await;
        }
        let activity = answers.borrow();
        Arc::clone(&activity)
    }
}

// === impl Board ===

impl Board {
    /// An empty board.
    pub(super) fn new() -> Self {
        let shared = Shared {
            asked: AtomicBool::new(false),
            idle: AtomicBool::new(true),
            activity: watch::Sender::new(Arc::default()),
        };
        Self {
            shared: Arc::new(shared),
            answered: None,
            finished: VecDeque::with_capacity(REMEMBERED),
            totals: Totals::default(),
        }
    }

    pub(super) fn observer(&self) -> Observer {
        Observer(Arc::clone(&self.shared))
    }

    /// Whether somebody waits for an answer. Nearly always no, and then this is all that the board
    /// costs a step.
    pub(super) fn is_asked(&self) -> bool {
        self.shared.asked.load(Ordering::Acquire)
            && self.answered.is_none_or(|answered| answered.elapsed() >= PAUSE)
    }

    /// Takes in a stream that has ended.
    pub(super) fn retire(&mut self, stream: StreamActivity) {
        self.totals.add(&stream);
        self.finished.truncate(REMEMBERED - 1);
        self.finished.push_front(Arc::new(stream));
    }

    /// Shows what the engine does now; the board adds what it has of ended streams.
    pub(super) fn show(&mut self, mut activity: Activity) {
        self.shared.asked.store(false, Ordering::Release);
        self.answered = Some(Instant::now());
        activity.totals = self.totals.clone();
        activity.running.iter().for_each(|stream| activity.totals.add(stream));
        activity.finished = self.finished.iter().cloned().collect();
        self.shared.activity.send_replace(Arc::new(activity));
    }

    /// Says whether the engine has something to do. Before it has not, [`Board::show`] must have
    /// shown so.
    pub(super) fn set_idle(&self, idle: bool) {
        self.shared.idle.store(idle, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::super::activity::testing::stream;
    use super::*;

    #[tokio::test]
    async fn a_question_is_answered_by_the_next_step() {
        let mut board = Board::new();
        assert!(!board.is_asked(), "nobody asked");
        board.set_idle(false);
        let observer = board.observer();
        let looking = tokio::spawn(async move { observer.look().await });
        while !board.is_asked() {
            tokio::task::yield_now().await;
        }
        board.retire(stream("ended", 2, Some("end_of_sequence")));
        board.show(Activity { running: vec![stream("runs", 3, None)], ..Activity::default() });
        let seen = looking.await.unwrap();
        assert_eq!(seen.running[0].request_id, "runs");
        assert_eq!(seen.finished[0].request_id, "ended");
        assert_eq!(seen.totals.committed_tokens, 5);
        assert!(!board.is_asked(), "it was answered");
    }

    #[tokio::test]
    async fn an_idle_engine_is_not_waited_for() {
        let mut board = Board::new();
        for index in 0..REMEMBERED + 3 {
            board.retire(stream(&index.to_string(), 1, Some("end_of_sequence")));
        }
        board.show(Activity::default());
        board.set_idle(true);
        let before = Instant::now();
        let seen = board.observer().look().await;
        assert!(before.elapsed() < PATIENCE, "{:?}", before.elapsed());
        assert_eq!(seen.finished.len(), REMEMBERED);
        assert_eq!(
            seen.finished[0].request_id,
            (REMEMBERED + 2).to_string(),
            "the newest comes first"
        );
        assert_eq!(seen.totals.committed_tokens, REMEMBERED + 3, "sums forget nothing");
    }
}
