//! Messages on their way to a reader who may be slow.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::handle::StreamMessage;

/// Places of the channel that are kept for the error that may have to end the stream: without one,
/// the reader who stalled would never learn why it ended.
const RESERVED: usize = 1;

/// Sends without ever blocking the engine.
pub(super) struct Outbox {
    events: mpsc::Sender<StreamMessage>,
    unsent: VecDeque<StreamMessage>,
    blocked_since: Option<Instant>,
}

/// Outcome of a flush.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Delivery {
    /// All are with the reader.
    Done,
    /// The reader's buffer has been full for this long: produce no more.
    Blocked(Duration),
    /// The reader is gone.
    Gone,
}

// === impl Outbox ===

impl Outbox {
    /// A channel that holds `buffer` messages before its reader is waited for.
    pub(super) fn channel(
        buffer: usize,
    ) -> (mpsc::Sender<StreamMessage>, mpsc::Receiver<StreamMessage>) {
        mpsc::channel(buffer.max(1) + RESERVED)
    }

    pub(super) fn new(events: mpsc::Sender<StreamMessage>) -> Self {
        Self { events, unsent: VecDeque::new(), blocked_since: None }
    }

    /// Adds a message; it goes out with the next [`Outbox::flush`].
    pub(super) fn push(&mut self, message: StreamMessage) {
        self.unsent.push_back(message);
    }

    /// Sends what the reader's buffer takes.
    pub(super) fn flush(&mut self, now: Instant) -> Delivery {
        while !self.unsent.is_empty() && !self.events.is_closed() {
            if self.events.capacity() <= RESERVED {
                let since = *self.blocked_since.get_or_insert(now);
                return Delivery::Blocked(now.saturating_duration_since(since));
            }
            let Some(message) = self.unsent.pop_front() else { break };
            // There is room and nobody else sends, so only a reader who leaves now can refuse it;
            // that is seen below.
            let _ = self.events.try_send(message);
            self.blocked_since = None;
        }
        if self.events.is_closed() { Delivery::Gone } else { Delivery::Done }
    }

    /// Drops what is unsent and says why the stream ends.
    pub(super) fn fail(&mut self, error: super::event::GenerationError) {
        self.unsent.clear();
        // The reserved place is free, so only a reader who is gone does not get it.
        let _ = self.events.try_send(Err(error));
    }
}
