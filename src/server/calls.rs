//! The calls that are open: counted for the shutdown, and for the metrics when they end.

use std::sync::Arc;

use tokio::sync::watch;
use tonic::Code;

use super::status::code_label;
use crate::telemetry::record;

/// How many calls are open. Clones share one count.
#[derive(Clone, Debug)]
pub(super) struct OpenCalls(Arc<watch::Sender<usize>>);

/// One open call; it ends when this is dropped, as cancelled unless [`OpenCall::end`] said otherwise.
#[derive(Debug)]
pub(super) struct OpenCall {
    calls: OpenCalls,
    method: &'static str,
    code: Code,
}

// === impl OpenCalls ===

impl OpenCalls {
    /// No calls.
    pub(super) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }

    /// A call begins.
    pub(super) fn open(&self, method: &'static str) -> OpenCall {
        self.0.send_modify(|count| *count += 1);
        OpenCall { calls: self.clone(), method, code: Code::Cancelled }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        *self.0.borrow()
    }

    /// Waits for a moment without any.
    pub(super) async fn idle(&self) {
        // Can't fail: `self` holds the sender.
        let _ = self.0.subscribe().wait_for(|count| *count == 0).await;
    }
}

// === impl OpenCall ===

impl OpenCall {
    /// Says how the call ended.
    pub(super) fn end(&mut self, code: Code) {
        self.code = code;
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        record::request(self.method, code_label(self.code));
        self.calls.0.send_modify(|count| *count -= 1);
    }
}
