//! The way into the engine thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::mpsc;

use super::event::{Event, GenerationError};
use super::request::ValidRequest;

/// A reason why a request is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SubmitError {
    /// Too much is waiting.
    #[error("the queue is full: {waiting} requests wait (engine.max_waiting); retry later")]
    QueueFull {
        /// Requests that wait.
        waiting: usize,
    },
    /// The server takes no new requests.
    #[error("the server is draining; send the request to another replica")]
    Draining,
    /// The engine thread ended.
    #[error("the engine has stopped")]
    Stopped,
}

/// A message of one stream: any number of events, then `Finished` or an error.
pub type StreamMessage = Result<Event, GenerationError>;

/// Takes requests on behalf of an engine.
///
/// The engine thread is the one implementation; tests of the server bring their own.
pub trait Submit: Send + Sync + 'static {
    /// Queues a request without blocking.
    fn submit(&self, request: ValidRequest) -> Result<GenerationStream, SubmitError>;
    /// Refuses new requests from now on; those accepted still finish.
    fn drain(&self);
    /// Streams that wait or run.
    fn in_flight(&self) -> usize;
}

/// A running request. Dropping it cancels the request: its cache pages are free within one step.
#[derive(Debug)]
pub struct GenerationStream {
    events: mpsc::Receiver<StreamMessage>,
    cancel: CancelOnDrop,
}

/// The engine's view of the caller's interest.
#[derive(Clone, Debug, Default)]
pub struct CancelFlag(Arc<AtomicBool>);

#[derive(Debug)]
struct CancelOnDrop(CancelFlag);

// === impl GenerationStream ===

impl GenerationStream {
    /// Joins the two ends: what the engine sends, and the flag it looks at before each step.
    pub fn new(events: mpsc::Receiver<StreamMessage>, cancel: CancelFlag) -> Self {
        Self { events, cancel: CancelOnDrop(cancel) }
    }

    /// The next message; `None` after the last.
    pub async fn next(&mut self) -> Option<StreamMessage> {
        self.events.recv().await
    }

    /// As [`GenerationStream::next`], for threads without a runtime.
    pub fn blocking_next(&mut self) -> Option<StreamMessage> {
        self.events.blocking_recv()
    }

    /// Ends the request early; messages already sent can still be read.
    pub fn cancel(&self) {
        self.cancel.0.set();
    }
}

// === impl CancelFlag ===

impl CancelFlag {
    /// Asks the engine to drop the stream.
    pub fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether the stream should be dropped.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

// === impl CancelOnDrop ===

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.set();
    }
}
