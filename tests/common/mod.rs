//! Helpers that several test files share.

#![allow(dead_code, reason = "each test file uses a part")]

pub mod chi_square;
pub mod engine;
pub mod frontier;
pub mod model_path;
pub mod passes;
pub mod predictor;
pub mod processed;
pub mod real_model;
pub mod stand_in;
pub mod tiny_folder;
pub mod tiny_model;
pub mod weights;
