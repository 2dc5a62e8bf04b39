//! Measurements of the engine's parts, side by side with a peer in one run.

#![forbid(unsafe_code)]

pub mod decode;
mod machine;
mod passes;
mod peer;
mod record;
mod rows;
mod timeline;

pub use machine::{Machine, fork_join_seconds, peak_resident_bytes};
pub use passes::PassesBench;
pub use peer::{DecodePeer, Peer, PeerError};
pub use record::{RowRecord, append_csv, today};
pub use rows::{RowCurve, RowPoint, RowReport, RowsBench};
pub use timeline::{TimelineBench, Window};

/// The median of measurements; they are reordered. Zero for none.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        count if count % 2 == 1 => values[count / 2],
        count => (values[count / 2 - 1] + values[count / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&mut []), 0.0);
    }
}
