//! The body of a streamed reply: one message an event.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use tonic::Status;

use super::running::Running;
use super::status;
use super::wire::GenerateStreamResponse;

type Step = Pin<Box<dyn Future<Output = (Running, Option<Item>)> + Send>>;
type Item = Result<GenerateStreamResponse, Status>;

/// The messages of one call. It owns the running request, so a client that goes away cancels it at once, also while
/// the engine has nothing to send.
pub struct ResponseStream {
    step: Option<Step>,
    retry_after: Duration,
}

// === impl ResponseStream ===

impl ResponseStream {
    /// Streams what `running` brings.
    pub(super) fn new(running: Running, retry_after: Duration) -> Self {
        Self { step: Some(Box::pin(step(running, retry_after))), retry_after }
    }
}

async fn step(mut running: Running, retry_after: Duration) -> (Running, Option<Item>) {
    let item = match running.next().await {
        Some(Ok(event)) => Some(Ok(running.reply.message(event))),
        Some(Err(error)) => Some(Err(status::status(&error, &running.reply.id, retry_after))),
        None => None,
    };
    (running, item)
}

impl Stream for ResponseStream {
    type Item = Item;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Item>> {
        let Some(future) = &mut self.step else {
            return Poll::Ready(None);
        };
        let Poll::Ready((running, item)) = future.as_mut().poll(context) else {
            return Poll::Pending;
        };
        let retry_after = self.retry_after;
        self.step = item.is_some().then(|| Box::pin(step(running, retry_after)) as Step);
        Poll::Ready(item)
    }
}

impl fmt::Debug for ResponseStream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ResponseStream").finish_non_exhaustive()
    }
}
