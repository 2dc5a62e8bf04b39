//! Local search for the run of layers that a draft skips: what lies next to the run in use and was
//! not tried yet.
//!
//! The first step from a good run, not a search from nothing: profiles are found by calibration,
//! and traffic differs from the text that the model wrote for it by a layer or two. Which neighbour
//! is better is measured elsewhere; here is only decided what to try.

use std::collections::HashSet;
use std::ops::Range;

/// How the ends of a run move, in layers: one end, then both the same way, then one end further.
const MOVES: [(isize, isize); 8] =
    [(0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, -1), (0, 2), (-2, 0)];

/// What was tried so far.
#[derive(Clone, Default, Debug)]
pub struct RunSearch {
    tried: HashSet<Range<usize>>,
}

// === impl RunSearch ===

impl RunSearch {
    /// A run of sublayers next to `run` that was neither tried nor in use before, nor is `in_use`,
    /// of a model with `layers` layers, whose first and last always run. Runs are whole layers;
    /// `None` when there is nothing left to try, or `run` is not of whole layers.
    pub fn propose(
        &mut self,
        run: &Range<usize>,
        in_use: &[Range<usize>],
        layers: usize,
    ) -> Option<Range<usize>> {
        if !run.start.is_multiple_of(2) || !run.end.is_multiple_of(2) {
            return None;
        }
        self.tried.extend(in_use.iter().chain([run]).cloned());
        let neighbour = |(first, end): (isize, isize)| {
            let first = (run.start / 2).checked_add_signed(first).filter(|&first| first >= 1)?;
            let end = (run.end / 2).checked_add_signed(end).filter(|&end| end < layers)?;
            (first < end).then_some(2 * first..2 * end)
        };
        let found =
            MOVES.into_iter().filter_map(neighbour).find(|range| !self.tried.contains(range))?;
        self.tried.insert(found.clone());
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_neighbour_is_proposed_once_and_the_edges_always_run() {
        let mut search = RunSearch::default();
        let mut found = Vec::new();
        while let Some(run) = search.propose(&(4..8), &[6..8, 2..4], 6) {
            found.push(run);
        }
        assert_eq!(found, [4..10, 4..6, 2..8, 6..10, 2..6], "and not what is in use");
        assert_eq!(
            search.propose(&(2..10), &[], 6),
            None,
            "its neighbours were tried, or skip the first or last layer"
        );
        assert_eq!(RunSearch::default().propose(&(3..8), &[], 6), None);
        assert_eq!(
            RunSearch::default().propose(&(2..4), &[], 3),
            None,
            "there is only one layer to skip"
        );
    }
}
