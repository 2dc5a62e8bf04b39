//! Counters whose label is a small number, made once per number.

use std::fmt;
use std::sync::{PoisonError, RwLock};

use metrics::Counter;

/// A counter for each index, made on first use and kept: adding to a known one neither allocates
/// nor formats.
pub(super) struct IndexedCounters {
    end: usize,
    make: fn(usize) -> Counter,
    counters: RwLock<Vec<Counter>>,
}

// === impl IndexedCounters ===

impl IndexedCounters {
    /// `make` registers the counter of an index below `end`, which is at least 1.
    pub(super) fn new(end: usize, make: fn(usize) -> Counter) -> Self {
        Self { end, make, counters: RwLock::default() }
    }

    /// Adds `count` to the counter of `index`, or of the last index if it is beyond; those below it
    /// appear on the page with it.
    pub(super) fn add(&self, index: usize, count: u64) {
        let index = index.min(self.end - 1);
        // A poisoned lock guards a list of handles that is valid at every moment: each is pushed
        // whole.
        if let Some(counter) =
            self.counters.read().unwrap_or_else(PoisonError::into_inner).get(index)
        {
            return counter.increment(count);
        }
        let mut counters = self.counters.write().unwrap_or_else(PoisonError::into_inner);
        while counters.len() <= index {
            let counter = (self.make)(counters.len());
            counters.push(counter);
        }
        counters[index].increment(count);
    }
}

impl fmt::Debug for IndexedCounters {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("IndexedCounters").finish_non_exhaustive()
    }
}
