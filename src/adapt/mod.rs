//! What is learned while serving.

#![forbid(unsafe_code)]

mod fold;

pub use fold::Fold;
