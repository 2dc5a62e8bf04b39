//! A request that the engine has taken.

use std::time::Instant;

use tokio::sync::watch;
use tonic::Code;

use super::calls::OpenCall;
use super::reply::Reply;
use super::status::CallError;
use crate::engine::{Event, GenerationError, GenerationStream};

/// A request that the engine has taken. Dropping it cancels the request.
#[derive(Debug)]
pub(super) struct Running {
    /// How to word the replies.
    pub(super) reply: Reply,
    /// When to give up.
    pub(super) deadline: Option<Instant>,
    /// `max_new_tokens`.
    pub(super) wanted: usize,
    events: GenerationStream,
    call: OpenCall,
    ending: watch::Receiver<bool>,
    ended: bool,
}

/// What [`Running`] is made of, beside its public fields.
#[derive(Debug)]
pub(super) struct Lease {
    /// The engine's side.
    pub(super) events: GenerationStream,
    /// The call's place among the open ones.
    pub(super) call: OpenCall,
    /// Turns true when the server can't wait any longer.
    pub(super) ending: watch::Receiver<bool>,
}

// === impl Running ===

impl Running {
    /// Joins the parts.
    pub(super) fn new(lease: Lease, reply: Reply, deadline: Option<Instant>, wanted: usize) -> Self {
        let Lease { events, call, ending } = lease;
        Self { reply, deadline, wanted, events, call, ending, ended: false }
    }

    /// The next event; `None` after the last or after an error.
    pub(super) async fn next(&mut self) -> Option<Result<Event, CallError>> {
        if self.ended {
            return None;
        }
        let message = tokio::select! {
            // What the engine has sent goes out before the server's own end.
            biased;
            message = self.events.next() => match message {
                Some(message) => message.map_err(CallError::from),
                None => Err(CallError::Unfinished),
            },
            // An error here means that the server is gone, which ends the stream as well.
            _ = self.ending.wait_for(|ending| *ending) => Err(GenerationError::ShuttingDown.into()),
        };
        match &message {
            Ok(Event::Finished(_)) => self.end(Code::Ok),
            Ok(_) => {}
            Err(error) => self.end(error.code()),
        }
        Some(message)
    }

    /// Settles how the call ended; the engine drops a request that has not finished.
    pub(super) fn end(&mut self, code: Code) {
        self.ended = true;
        self.call.end(code);
        self.events.cancel();
    }
}
