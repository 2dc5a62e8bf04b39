//! Requests on their way to the thread that serves them: first come, first served, in a bounded
//! number.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::event::GenerationError;
use super::handle::{CancelFlag, GenerationStream, StreamMessage, SubmitError};
use super::outbox::Outbox;
use super::request::ValidRequest;
use crate::record;

/// A request that waits, with the ends of its channels.
pub(super) struct Pending {
    pub(super) request: ValidRequest,
    pub(super) events: mpsc::Sender<StreamMessage>,
    pub(super) cancel: CancelFlag,
    pub(super) submitted: Instant,
}

/// The callers' side.
pub(super) struct Entrance {
    commands: Option<SyncSender<Pending>>,
    shared: Arc<Shared>,
    max_waiting: usize,
    event_buffer: usize,
}

/// The thread's side.
pub(super) struct Queue {
    commands: Receiver<Pending>,
    waiting: VecDeque<Pending>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    waiting: AtomicUsize,
    running: AtomicUsize,
    draining: AtomicBool,
    closed: AtomicBool,
}

/// Both sides of a queue of `max_waiting` requests, whose streams hold `event_buffer` messages for
/// slow readers.
pub(super) fn queue(max_waiting: usize, event_buffer: usize) -> (Entrance, Queue) {
    let (commands, receiver) = sync_channel(max_waiting.max(1));
    let shared = Arc::new(Shared::default());
    let entrance = Entrance {
        commands: Some(commands),
        shared: Arc::clone(&shared),
        max_waiting,
        event_buffer,
    };
    (entrance, Queue { commands: receiver, waiting: VecDeque::new(), shared })
}

// === impl Pending ===

impl Pending {
    /// Ends it before it ran.
    pub(super) fn refuse(&self, error: GenerationError) {
        record::request_finished(error.reason());
        let _ = self.events.try_send(Err(error));
    }
}

// === impl Entrance ===

impl Entrance {
    /// Queues a request without blocking.
    pub(super) fn submit(&self, request: ValidRequest) -> Result<GenerationStream, SubmitError> {
        if self.shared.draining.load(Ordering::Acquire) {
            return Err(SubmitError::Draining);
        }
        let claim = |waiting| (waiting < self.max_waiting).then_some(waiting + 1);
        if let Err(waiting) =
            self.shared.waiting.fetch_update(Ordering::AcqRel, Ordering::Acquire, claim)
        {
            return Err(SubmitError::QueueFull { waiting });
        }
        let (events, receiver) = Outbox::channel(self.event_buffer);
        let cancel = CancelFlag::default();
        let pending =
            Pending { request, events, cancel: cancel.clone(), submitted: Instant::now() };
        // The counter keeps the channel from filling up, so only a dead thread refuses.
        let sent =
            self.commands.as_ref().is_some_and(|commands| commands.try_send(pending).is_ok());
        if !sent {
            self.shared.waiting.fetch_sub(1, Ordering::AcqRel);
            return Err(SubmitError::Stopped);
        }
        Ok(GenerationStream::new(receiver, cancel))
    }

    /// Refuses new requests from now on.
    pub(super) fn drain(&self) {
        self.shared.draining.store(true, Ordering::Release);
    }

    /// Streams that wait or run.
    pub(super) fn in_flight(&self) -> usize {
        self.shared.waiting.load(Ordering::Acquire) + self.shared.running.load(Ordering::Acquire)
    }

    /// Tells the thread to end.
    pub(super) fn close(&mut self) {
        self.shared.closed.store(true, Ordering::Release);
        self.commands = None;
    }
}

// === impl Queue ===

impl Queue {
    /// Takes what was submitted meanwhile. Returns false when the thread shall end.
    pub(super) fn receive(&mut self) -> bool {
        loop {
            match self.commands.try_recv() {
                Ok(pending) => self.waiting.push_back(pending),
                Err(TryRecvError::Empty) => return !self.shared.closed.load(Ordering::Acquire),
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    /// Blocks until something is submitted, or nobody can submit any more.
    pub(super) fn block(&mut self) {
        loop {
            match self.commands.recv_timeout(Duration::from_secs(3600)) {
                Ok(pending) => return self.waiting.push_back(pending),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Drops what was cancelled or is too late.
    pub(super) fn sweep(&mut self, now: Instant) {
        let before = self.waiting.len();
        self.waiting.retain(|pending| {
            if pending.request.is_expired(now) {
                pending.refuse(pending.request.deadline_error(0));
            } else if pending.cancel.is_set() {
                record::request_finished(pending.request.abandoned(now));
            } else {
                return true;
            }
            false
        });
        self.shared.waiting.fetch_sub(before - self.waiting.len(), Ordering::AcqRel);
    }

    /// The one that came first. [`Queue::admitted`] or [`Queue::put_back`] must follow.
    pub(super) fn take(&mut self) -> Option<Pending> {
        self.waiting.pop_front()
    }

    /// Returns one that can't start yet.
    pub(super) fn put_back(&mut self, pending: Pending) {
        self.waiting.push_front(pending);
    }

    /// Notes that one which was taken now runs, or was refused. Only after [`Queue::set_running`]:
    /// a request between the two counts would not be in flight, and a drain might end without it.
    pub(super) fn admitted(&self) {
        self.shared.waiting.fetch_sub(1, Ordering::AcqRel);
    }

    /// Notes how many run.
    pub(super) fn set_running(&self, running: usize) {
        self.shared.running.store(running, Ordering::Release);
    }

    /// Requests that wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Tells all who wait that the thread ends, those included who came since the last look.
    pub(super) fn shut_down(&mut self) {
        for pending in self.waiting.drain(..).chain(self.commands.try_iter()) {
            pending.refuse(GenerationError::ShuttingDown);
        }
    }
}
