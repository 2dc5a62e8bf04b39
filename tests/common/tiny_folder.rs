//! A synthetic model as a folder with safetensors, for what reads such folders. Its tokens are the
//! 256 bytes and two markers.

#![allow(clippy::unwrap_used, reason = "helpers of tests may assert by panicking, as tests do")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

use super::weights::Random;

const HIDDEN: usize = 64;
const KV: usize = 32;
const FEED_FORWARD: usize = 128;
const LAYERS: usize = 2;
const VOCABULARY: usize = 258;

/// Writes a llama of two layers into `folder`.
pub fn write(folder: &Path) {
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "torch_dtype": "float32",
        "hidden_size": HIDDEN, "intermediate_size": FEED_FORWARD, "num_hidden_layers": LAYERS,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": VOCABULARY, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "max_position_embeddings": 512, "tie_word_embeddings": false,
    });
    let template = "{% for m in messages %}<start>{{ m.role }}\n{{ m.content }}<end>\n{% endfor \
        %}<start>assistant\n";
    let tokenizer_config =
        json!({"bos_token": "<start>", "eos_token": "<end>", "chat_template": template});
    for (name, content) in [
        ("config.json", config),
        ("tokenizer.json", tokenizer()),
        ("tokenizer_config.json", tokenizer_config),
    ] {
        fs::write(folder.join(name), content.to_string()).unwrap();
    }
    fs::write(folder.join("model.safetensors"), weights()).unwrap();
}

fn weights() -> Vec<u8> {
    let mut random = Random(9);
    let mut tensors: BTreeMap<String, (Vec<usize>, Vec<u8>)> = BTreeMap::new();
    let mut add = |name: String, shape: &[usize], scale: f32| {
        let count = shape.iter().product();
        // Norms, the only vectors, are ones.
        let values = if shape.len() == 1 { vec![1.0; count] } else { random.floats(count, scale) };
        tensors.insert(
            name,
            (shape.to_vec(), values.iter().flat_map(|value| value.to_le_bytes()).collect()),
        );
    };
    add("model.embed_tokens.weight".to_owned(), &[VOCABULARY, HIDDEN], 1.0);
    add("lm_head.weight".to_owned(), &[VOCABULARY, HIDDEN], 0.3);
    add("model.norm.weight".to_owned(), &[HIDDEN], 0.0);
    for layer in 0..LAYERS {
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        for (part, shape) in [
            ("input_layernorm", &[HIDDEN][..]),
            ("post_attention_layernorm", &[HIDDEN]),
            ("self_attn.q_proj", &[HIDDEN, HIDDEN]),
            ("self_attn.k_proj", &[KV, HIDDEN]),
            ("self_attn.v_proj", &[KV, HIDDEN]),
            ("self_attn.o_proj", &[HIDDEN, HIDDEN]),
            ("mlp.gate_proj", &[FEED_FORWARD, HIDDEN]),
            ("mlp.up_proj", &[FEED_FORWARD, HIDDEN]),
            ("mlp.down_proj", &[HIDDEN, FEED_FORWARD]),
        ] {
            add(name(part), shape, 0.3);
        }
    }
    let views = tensors.iter().map(|(name, (shape, bytes))| {
        (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
    });
    safetensors::serialize(views, None).unwrap()
}

/// Byte-level BPE without merges.
fn tokenizer() -> Value {
    let is_visible = |byte: u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let mut next = 256;
    let mut vocabulary = serde_json::Map::new();
    for byte in 0..256_u32 {
        let code = if is_visible(byte) {
            byte
        } else {
            next += 1;
            next - 1
        };
        vocabulary.insert(char::from_u32(code).unwrap().to_string(), json!(byte));
    }
    let added = |id: u32, text: &str| {
        json!({"id": id, "content": text, "special": true, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false})
    };
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": [added(256, "<start>"), added(257, "<end>")],
        "pre_tokenizer": byte_level, "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocabulary, "merges": [],
        },
    })
}
