//! Leases on key/value pages: what is dropped is free.

use std::sync::{Arc, Mutex, PoisonError};

use skipstone_kernels::PAGE_POSITIONS;

/// The free pages of a [`skipstone_kernels::KvStore`].
#[derive(Clone, Debug)]
pub struct PagePool {
    free: Arc<Mutex<Vec<u32>>>,
    total: usize,
}

/// Pages for the positions of one stream, leased up front so that it can't run out later.
#[derive(Debug)]
pub struct PageLease {
    pages: Vec<u32>,
    free: Arc<Mutex<Vec<u32>>>,
}

// === impl PagePool ===

impl PagePool {
    /// A pool of `total` free pages.
    pub fn new(total: usize) -> Self {
        // The lowest page is handed out first, so that a quiet server touches little memory.
        let free = (0..u32::try_from(total).unwrap_or(u32::MAX)).rev().collect();
        Self { free: Arc::new(Mutex::new(free)), total }
    }

    /// Pages for `positions` positions, or `None` if too few are free.
    pub fn lease(&self, positions: usize) -> Option<PageLease> {
        let wanted = Self::pages_for(positions);
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let rest = free.len().checked_sub(wanted)?;
        let mut pages = free.split_off(rest);
        pages.reverse();
        Some(PageLease { pages, free: Arc::clone(&self.free) })
    }

    /// Pages that `positions` positions take.
    pub fn pages_for(positions: usize) -> usize {
        positions.div_ceil(PAGE_POSITIONS)
    }

    /// Number of pages.
    pub fn total(&self) -> usize {
        self.total
    }

    /// Pages that are leased.
    pub fn leased(&self) -> usize {
        self.total - self.free.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

// === impl PageLease ===

impl PageLease {
    /// The pages, in order of position.
    pub fn pages(&self) -> &[u32] {
        &self.pages
    }

    /// Positions there is room for.
    pub fn positions(&self) -> usize {
        self.pages.len() * PAGE_POSITIONS
    }
}

impl Drop for PageLease {
    fn drop(&mut self) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.extend(self.pages.drain(..).rev());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_are_disjoint_and_return_when_dropped() {
        let pool = PagePool::new(4);
        let first = pool.lease(PAGE_POSITIONS + 1).unwrap();
        let second = pool.lease(1).unwrap();
        assert_eq!((first.pages(), second.pages()), (&[0, 1][..], &[2][..]));
        assert!(pool.lease(2 * PAGE_POSITIONS).is_none(), "only one page is left");
        assert_eq!(pool.leased(), 3);
        drop(first);
        assert_eq!(pool.leased(), 1);
        assert_eq!(pool.lease(3 * PAGE_POSITIONS).unwrap().positions(), 3 * PAGE_POSITIONS);
        drop(second);
        assert_eq!(pool.leased(), 0);
    }
}
