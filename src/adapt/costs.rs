//! What a pass costs a stream, in plain steps.

/// Rows of a verify pass at most.
pub const MAX_ROWS: usize = 33;

/// What a step costs now, in plain steps, given what else is in the batch.
#[derive(Clone, Copy, Debug)]
pub struct Costs {
    /// A pass over this many rows more than none; entry 0 is 0, entry 1 is 1.
    pub rows: [f64; MAX_ROWS + 1],
    /// What the stream's context adds to a plain step, as a share of one without context.
    pub context: f64,
}

/// A draft step in plain steps at an empty context, from what it is where the context adds the share `context` to those. Attention alone takes
/// longer with the context, and the step runs the share `attention` of it.
pub fn cost_without_context(cost: f64, attention: f64, context: f64) -> f64 {
    cost * (1.0 + context) - attention * context
}

// === impl Costs ===

impl Costs {
    /// What the verify pass of a chain of `drafted` tokens costs more with one more of them. Beyond [`MAX_ROWS`] nothing is worth its row.
    pub fn of_row(&self, drafted: usize) -> f64 {
        match self.rows.get(drafted + 1..drafted + 3) {
            Some(&[before, after]) => after - before,
            _ => f64::INFINITY,
        }
    }
}
