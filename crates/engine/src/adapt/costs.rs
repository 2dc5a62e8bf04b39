//! Costs of a pass for one stream, in plain steps.

/// Rows of a verify pass at most.
pub const MAX_ROWS: usize = 33;

/// Current costs of a step, in plain steps, given what else is in the batch.
#[derive(Clone, Copy, Debug)]
pub struct Costs {
    /// A pass over this many rows more than none; entry 0 is 0, entry 1 is 1.
    pub rows: [f64; MAX_ROWS + 1],
    /// Rows of other streams in the pass.
    pub others: usize,
    /// Time that the stream's context adds to a plain step, as a share of one without context.
    pub context: f64,
}

// === impl Costs ===

impl Costs {
    /// Cost of a draft step that alone would take `alone` plain steps: with others its pass is as
    /// long as theirs, and its share of that is larger than its share of a pass that is as short as
    /// itself.
    pub fn of_draft(&self, alone: f64) -> f64 {
        let others = self.others as f64;
        if self.others == 0 { alone } else { alone * (others + 1.0) / (alone + others) }
    }

    /// Cost that one more token adds to the verify pass of a chain of `drafted` tokens. Beyond
    /// [`MAX_ROWS`] nothing is worth its row.
    pub fn of_row(&self, drafted: usize) -> f64 {
        match self.rows.get(drafted + 1..drafted + 3) {
            Some(&[before, after]) => after - before,
            _ => f64::INFINITY,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draft_beside_others_costs_its_share_of_their_pass() {
        let costs = |others| Costs { rows: [1.0; MAX_ROWS + 1], others, context: 0.0 };
        assert!((costs(0).of_draft(0.4) - 0.4).abs() < 1e-12);
        // One other: .4 / 1.4 of a pass, of which plain steps take half each.
        assert!((costs(1).of_draft(0.4) - 2.0 * 0.4 / 1.4).abs() < 1e-12);
        assert!(
            (costs(1000).of_draft(0.4) - 0.4).abs() < 1e-3,
            "the pass is as long with it as without"
        );
    }
}
