//! The kernels: all arithmetic on weights and activations, and the only `unsafe` of the crate.
//!
//! Every kernel is *row-invariant*: row `i` of a call over many rows has the same bits as a call
//! over that row alone, on any number of threads. That is what makes greedy speculation lossless,
//! and `tests/row_invariance.rs` checks it.

#![allow(unsafe_code)]
#![deny(unsafe_op_in_unsafe_fn)]
#![warn(clippy::undocumented_unsafe_blocks)]

mod activations;
mod attention;
mod blocks;
mod disjoint;
mod elementwise;
mod isa;
mod kv;
mod lanes;
mod layout;
mod logits;
mod mapping;
mod packed;
mod pool;
mod product;
mod tiles;
mod weight_type;

pub use activations::{Activations, FormatSet};
pub use attention::{AttentionRow, ROW_BLOCK as ATTENTION_ROW_BLOCK};
pub use blocks::dequantize_row;
pub use elementwise::{RopeAngles, RopePairs, rms_norm, swiglu};
pub use isa::Isa;
pub use kv::{KvPrecision, KvShape, KvSlot, KvStore, PAGE_POSITIONS};
pub use layout::COLUMNS;
pub use logits::{LogitScan, exp_total, scan_logits, softmax_weights};
pub use mapping::MappedFile;
pub use packed::{PackError, PackedMatrix};
pub use pool::ThreadPool;
pub use product::{Out, Product, multiply};
pub use weight_type::{ActivationFormat, WeightType};
