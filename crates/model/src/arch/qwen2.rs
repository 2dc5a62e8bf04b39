//! Qwen2 and Qwen2.5 (Yang et al., "Qwen2 Technical Report", 2024): Llama's shape with biases on
//! queries, keys and values, which are in the file.

use crate::blueprint::Blueprint;
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::header::Header;
use crate::rope::RopeConfig;
use skipstone_kernels::RopePairs;

pub(super) fn blueprint(header: &Header<'_>) -> Result<Blueprint, ModelError> {
    let config = ModelConfig::from_header(header)?;
    let rope = RopeConfig::from_header(header, RopePairs::Halves, config.head_dim)?;
    Ok(Blueprint::plain(config, rope))
}
