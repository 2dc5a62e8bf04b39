//! A slice that several threads write, each its own part.

use std::marker::PhantomData;
use std::ops::Range;

/// A mutable slice, lent out in parts.
pub(super) struct Disjoint<'a, T> {
    start: *mut T,
    length: usize,
    borrowed: PhantomData<&'a mut [T]>,
}

// SAFETY: a part is only reached through `part`, whose caller vouches that no other thread has it.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

// === impl Disjoint ===

impl<'a, T> Disjoint<'a, T> {
    /// Lends out `slice`.
    pub(super) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), length: slice.len(), borrowed: PhantomData }
    }

    /// Whether there is nothing to lend.
    pub(super) fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The elements of `range`.
    ///
    /// # Panics
    /// If the range leaves the slice.
    ///
    /// # Safety
    /// Parts that exist at the same time don't overlap.
    #[expect(
        clippy::mut_from_ref,
        reason = "that is what it is for; the caller keeps the parts apart"
    )]
    #[inline(always)]
    pub(super) unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.length, "part outside the slice");
        // SAFETY: the range lies inside the slice, which is borrowed for as long as `self` lives,
        // and the caller keeps the parts apart.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}
