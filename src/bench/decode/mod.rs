//! End-to-end decoding: the same prompts in several modes and by a peer, in turn, so that what
//! slows the machine hits all alike.

mod chart;
mod figures;
mod record;
mod report;
mod run;
mod turn;

pub use chart::{ChartError, draw};
pub use figures::{Figures, Interval};
pub use record::{DecodeRecord, write_csv};
pub use report::{DecodeReport, ModeReport, Named, PeerReport};
pub use run::{DecodeBench, DecodeError, DecodeMode, DecodePrompt, DecodeRun, Measurement};
pub(in crate::bench) use turn::Turn;

#[cfg(test)]
mod tests;
