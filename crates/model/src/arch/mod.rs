//! The architectures. Each has a file with one function, which reads a file's header and says what
//! the model is made of; everything else knows blueprints and blocks only.
//!
//! To add an architecture, write such a file and give it a line in the table.

mod llama;
mod qwen2;

use super::blueprint::Blueprint;
use super::error::ModelError;
use super::header::Header;
use skipstone_gguf::Manifest;

/// A function from a checked header to the blueprint of its model.
type Draw = fn(&Header<'_>) -> Result<Blueprint, ModelError>;

/// The architectures by `general.architecture`.
#[rustfmt::skip] // one a line
const ARCHITECTURES: &[(&str, Draw)] = &[
    ("llama", llama::blueprint),
    ("qwen2", qwen2::blueprint),
];

/// Architectures that the native engine runs, as `general.architecture` names them.
pub const SUPPORTED_ARCHITECTURES: [&str; ARCHITECTURES.len()] = {
    let mut names = [""; ARCHITECTURES.len()];
    let mut index = 0;
    while index < names.len() {
        names[index] = ARCHITECTURES[index].0;
        index += 1;
    }
    names
};

/// The blueprint of a file's model.
pub(super) fn blueprint(manifest: &Manifest) -> Result<Blueprint, ModelError> {
    let name = manifest.metadata().require_string("general.architecture")?;
    let &(architecture, draw) = ARCHITECTURES
        .iter()
        .find(|(architecture, _)| *architecture == name)
        .ok_or_else(|| ModelError::Architecture { name: name.to_owned() })?;
    draw(&Header { manifest, architecture })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sublayer::sublayers;
    use skipstone_gguf::{GgufBuilder, TensorType};
    use skipstone_kernels::RopePairs;

    fn header(architecture: &str) -> Manifest {
        let key = |name: &str| format!("{architecture}.{name}");
        let file = GgufBuilder::new()
            .metadata("general.architecture", architecture)
            .metadata(&key("block_count"), 3_u32)
            .metadata(&key("embedding_length"), 32_u32)
            .metadata(&key("feed_forward_length"), 64_u32)
            .metadata(&key("attention.head_count"), 4_u32)
            .metadata(&key("attention.head_count_kv"), 2_u32)
            .metadata(&key("context_length"), 128_u32)
            .metadata(&key("attention.layer_norm_rms_epsilon"), 1e-5_f32)
            .tensor("token_embd.weight", &[32, 5], TensorType::F32, vec![0; 32 * 5 * 4]);
        Manifest::parse(&file.build()).unwrap()
    }

    #[test]
    fn every_name_of_the_table_draws_its_own_blueprint() {
        let pairs = [RopePairs::Adjacent, RopePairs::Halves];
        for (name, pairs) in SUPPORTED_ARCHITECTURES.into_iter().zip(pairs) {
            let Blueprint { config, ropes, layers, .. } = blueprint(&header(name)).unwrap();
            assert_eq!((config.architecture.as_str(), config.layers, layers.len()), (name, 3, 3));
            assert_eq!((config.sublayers(), config.vocabulary), (sublayers(3), 5));
            assert_eq!((ropes.len(), ropes[0].pairs, ropes[0].dimensions), (1, pairs, 8), "{name}");
        }
    }

    #[test]
    fn a_stranger_is_told_what_is_supported() {
        let error = blueprint(&header("parrot")).err().unwrap();
        assert!(error.is_unsupported());
        assert_eq!(
            error.to_string(),
            "architecture \"parrot\" is not supported; the native engine runs llama, qwen2"
        );
    }
}
