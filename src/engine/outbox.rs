//! Messages on their way to a reader who may be slow.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::handle::StreamMessage;

/// Sends without ever blocking the engine.
pub(super) struct Outbox {
    events: mpsc::Sender<StreamMessage>,
    unsent: VecDeque<StreamMessage>,
    blocked_since: Option<Instant>,
}

/// What became of the messages.
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
    pub(super) fn new(events: mpsc::Sender<StreamMessage>) -> Self {
        Self { events, unsent: VecDeque::new(), blocked_since: None }
    }

    /// Adds a message; it goes out with the next [`Outbox::flush`].
    pub(super) fn push(&mut self, message: StreamMessage) {
        self.unsent.push_back(message);
    }

    /// Sends what the reader's buffer takes.
    pub(super) fn flush(&mut self, now: Instant) -> Delivery {
        while let Some(message) = self.unsent.pop_front() {
            match self.events.try_send(message) {
                Ok(()) => self.blocked_since = None,
                Err(TrySendError::Full(message)) => {
                    self.unsent.push_front(message);
                    let since = *self.blocked_since.get_or_insert(now);
                    return Delivery::Blocked(now.saturating_duration_since(since));
                }
                Err(TrySendError::Closed(_)) => return Delivery::Gone,
            }
        }
        if self.events.is_closed() { Delivery::Gone } else { Delivery::Done }
    }

    /// Drops what is unsent and says why the stream ends, if there is room to say it.
    pub(super) fn fail(&mut self, error: super::event::GenerationError) {
        self.unsent.clear();
        // A reader whose buffer is full finds the channel closed after its last message.
        let _ = self.events.try_send(Err(error));
    }
}
