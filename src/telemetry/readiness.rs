//! Readiness of the process for new requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Set by the server, read by `/readyz`. Clones share one value; it starts as not ready.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<AtomicBool>);

// === impl Readiness ===

impl Readiness {
    /// Says whether new requests are welcome.
    pub fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::Release);
    }

    /// Whether new requests are welcome.
    pub fn is_ready(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}
