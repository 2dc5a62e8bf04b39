//! Llama and the many models that share its shape (Touvron et al., "LLaMA: Open and Efficient
//! Foundation Language Models", 2023). Some have biases; those are in the file or not.

use crate::blueprint::Blueprint;
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::header::Header;
use crate::rope::RopeConfig;
use skipstone_kernels::RopePairs;

pub(super) fn blueprint(header: &Header<'_>) -> Result<Blueprint, ModelError> {
    let config = ModelConfig::from_header(header)?;
    // Converters permute the rows of the query and key weights for this pairing.
    let rope = RopeConfig::from_header(header, RopePairs::Adjacent, config.head_dim)?;
    Ok(Blueprint::plain(config, rope))
}
