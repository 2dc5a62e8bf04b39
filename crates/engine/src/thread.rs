//! A running engine: the way to its thread, whatever that computes with.

use std::io;
use std::thread::JoinHandle;

use super::board::Observer;
use super::handle::{GenerationStream, Submit, SubmitError};
use super::queue::Entrance;
use super::request::ValidRequest;

/// A running engine. Dropping it ends the streams that still run and joins the thread.
pub struct Engine {
    entrance: Entrance,
    observer: Observer,
    thread: Option<JoinHandle<()>>,
}

// === impl Engine ===

impl Engine {
    /// Starts the thread that does `work` until the queue of `entrance` is closed.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub(super) fn spawn(
        entrance: Entrance,
        observer: Observer,
        work: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let thread = std::thread::Builder::new().name("engine".to_owned()).spawn(work)?;
        Ok(Self { entrance, observer, thread: Some(thread) })
    }

    /// An observer of what the engine is doing.
    pub fn observer(&self) -> Observer {
        self.observer.clone()
    }
}

impl Submit for Engine {
    fn submit(&self, request: ValidRequest) -> Result<GenerationStream, SubmitError> {
        self.entrance.submit(request)
    }

    fn drain(&self) {
        self.entrance.drain();
    }

    fn in_flight(&self) -> usize {
        self.entrance.in_flight()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.entrance.close();
        if let Some(thread) = self.thread.take() {
            // Its panic, if any, was already reported by the panic hook.
            let _ = thread.join();
        }
    }
}
