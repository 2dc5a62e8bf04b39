//! A request that the engine has taken.

use std::time::{Duration, Instant};

use tokio::sync::watch;
use tonic::Code;

use super::calls::OpenCall;
use super::reply::{Collected, Reply};
use super::status::CallError;
use super::wire;
use skipstone_engine::{Event, GenerationError, GenerationStream};

/// A unary call is answered this long before its deadline: at the deadline itself the transport
/// cuts it, and then says CANCELLED instead of DEADLINE_EXCEEDED.
const TRANSPORT_MARGIN: Duration = Duration::from_millis(10);

/// A request that the engine has taken. Dropping it cancels the request.
#[derive(Debug)]
pub(super) struct Running {
    /// Wording of the replies.
    pub(super) reply: Reply,
    deadline: Option<Instant>,
    wanted: usize,
    events: GenerationStream,
    call: OpenCall,
    ending: watch::Receiver<bool>,
    ended: bool,
}

/// The parts of a [`Running`], beside the words and the limits of its request.
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
    /// Joins the parts. `wanted` is `max_new_tokens`.
    pub(super) fn new(
        lease: Lease,
        reply: Reply,
        deadline: Option<Instant>,
        wanted: usize,
    ) -> Self {
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
            Ok(event) => {
                self.call.span().observe(event);
                if matches!(event, Event::Finished(_)) {
                    self.end(Code::Ok);
                }
            }
            Err(error) => self.end(error.code()),
        }
        Some(message)
    }

    /// Gathers all events into one reply.
    pub(super) async fn collect(&mut self) -> Result<wire::GenerateResponse, CallError> {
        let mut collected = Collected::default();
        let cut = self.deadline.and_then(|deadline| deadline.checked_sub(TRANSPORT_MARGIN));
        loop {
            let event = match cut {
                None => self.next().await,
                Some(cut) => match tokio::time::timeout_at(cut.into(), self.next()).await {
                    Ok(event) => event,
                    Err(_) => {
                        let committed = collected.committed();
                        self.end(Code::DeadlineExceeded);
                        return Err(GenerationError::DeadlineExceeded {
                            committed,
                            wanted: self.wanted,
                        }
                        .into());
                    }
                },
            };
            match event {
                Some(Ok(Event::Started(_))) => {}
                Some(Ok(Event::Delta(delta))) => collected.add(delta, &self.reply),
                Some(Ok(Event::Finished(finished))) => {
                    return Ok(self.reply.response(collected, *finished));
                }
                Some(Err(error)) => return Err(error),
                None => return Err(CallError::Unfinished),
            }
        }
    }

    /// Settles how the call ended; the engine drops a request that has not finished.
    fn end(&mut self, code: Code) {
        self.ended = true;
        self.call.end(code);
        self.events.cancel();
    }
}
