//! Merging of attention results, segment by segment.

use super::Parts;
use crate::elementwise::exp_of;
use crate::lanes::{Kernel, Lanes, eights, eights_mut};

/// Merges a segment into those before it.
pub(super) struct Merge<'a> {
    /// There are none before it.
    pub(super) is_first: bool,
    pub(super) merged: Parts<'a>,
    pub(super) partial: Parts<'a>,
    pub(super) head_dim: usize,
}

/// Divides the weighted sums of a row's heads by their weights' sums.
pub(super) struct Finish<'a> {
    /// \[group, head dim\].
    pub(super) mixed: &'a [f32],
    /// \[group\].
    pub(super) sums: &'a [f32],
    pub(super) head_dim: usize,
    /// \[group, head dim\].
    pub(super) out: &'a mut [f32],
}

impl Kernel for Merge<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { is_first, merged, partial, head_dim } = self;
        for head in 0..merged.sums.len() {
            // A row that sees nothing of the segment has nothing of it.
            if partial.sums[head] == 0.0 && !is_first {
                continue;
            }
            let (into, from) = (
                &mut merged.mixed[head * head_dim..][..head_dim],
                &partial.mixed[head * head_dim..][..head_dim],
            );
            // Nor need it have seen anything of those before.
            if is_first || merged.sums[head] == 0.0 {
                into.copy_from_slice(from);
                (merged.largest[head], merged.sums[head]) =
                    (partial.largest[head], partial.sums[head]);
                continue;
            }
            let (old, new) = (merged.largest[head], partial.largest[head]);
            let largest = if new > old { new } else { old };
            let (old, new) = (exp_of(old - largest), exp_of(new - largest));
            merged.largest[head] = largest;
            merged.sums[head] = merged.sums[head].mul_add(old, partial.sums[head] * new);
            let (old, new) = (lanes.splat(old), lanes.splat(new));
            for (into, from) in eights_mut(into).iter_mut().zip(eights(from)) {
                let from = lanes.mul(lanes.load(from), new);
                lanes.store(lanes.mul_add(lanes.load(into), old, from), into);
            }
        }
    }
}

impl Kernel for Finish<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        for (head, sum) in self.sums.iter().enumerate() {
            let scale = lanes.splat(1.0 / sum);
            let part = head * self.head_dim..(head + 1) * self.head_dim;
            let (from, out) = (eights(&self.mixed[part.clone()]), eights_mut(&mut self.out[part]));
            for (from, out) in from.iter().zip(out) {
                lanes.store(lanes.mul(lanes.load(from), scale), out);
            }
        }
    }
}
