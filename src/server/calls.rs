//! The calls that are open: counted for the shutdown and, when they end, for metrics and traces.

use std::sync::Arc;
use std::time::Instant;

use opentelemetry_sdk::trace::SdkTracer;
use tokio::sync::watch;
use tonic::Code;

use super::call_span::CallSpan;
use super::intake::Head;
use super::status::code_label;
use skipstone_engine::is_due;
use skipstone_engine::record;

/// Number of open calls. Clones share one count.
#[derive(Clone, Debug)]
pub(super) struct OpenCalls {
    count: Arc<watch::Sender<usize>>,
    tracer: Option<SdkTracer>,
}

/// One open call; it ends when this is dropped. Unless [`OpenCall::end`] said how, its client has
/// left.
#[derive(Debug)]
pub(super) struct OpenCall {
    calls: OpenCalls,
    method: &'static str,
    code: Option<Code>,
    deadline: Option<Instant>,
    span: CallSpan,
}

// === impl OpenCalls ===

impl OpenCalls {
    /// No calls. `tracer` makes their spans, if they are traced.
    pub(super) fn new(tracer: Option<SdkTracer>) -> Self {
        Self { count: Arc::new(watch::Sender::new(0)), tracer }
    }

    /// A call begins.
    pub(super) fn open(&self, method: &'static str, head: &Head) -> OpenCall {
        self.count.send_modify(|count| *count += 1);
        let span = CallSpan::begin(self.tracer.as_ref(), method, head);
        OpenCall { calls: self.clone(), method, code: None, deadline: None, span }
    }

    /// Number of open calls.
    pub(super) fn count(&self) -> usize {
        *self.count.borrow()
    }

    /// Waits for a moment without any.
    pub(super) async fn idle(&self) {
        // Can't fail: `self` holds the sender.
        let _ = self.count.subscribe().wait_for(|count| *count == 0).await;
    }
}

// === impl OpenCall ===

impl OpenCall {
    /// Says how the call ended.
    pub(super) fn end(&mut self, code: Code) {
        self.code = Some(code);
    }

    /// Says when the client gives up by itself.
    pub(super) fn expect_by(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
    }

    /// The call's place in a trace.
    pub(super) fn span(&mut self) -> &mut CallSpan {
        &mut self.span
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        let left = if is_due(self.deadline, Instant::now()) {
            Code::DeadlineExceeded
        } else {
            Code::Cancelled
        };
        let code = self.code.unwrap_or(left);
        record::request(self.method, code_label(code));
        self.span.end(code);
        self.calls.count.send_modify(|count| *count -= 1);
    }
}
