//! Sound files, made up and real, read back.

use proptest::prelude::*;
use skipstone::gguf::{Array, GgufBuilder, GgufFile, Manifest, TensorType, Value};

use super::broken_promises;
use super::model_path::model_path;

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u8>().prop_map(Value::from),
        any::<i8>().prop_map(Value::from),
        any::<u16>().prop_map(Value::from),
        any::<i16>().prop_map(Value::from),
        any::<u32>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f32>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ]
}

macro_rules! vectors {
    ($($scalar:ty),+) => {
        prop_oneof![$(prop::collection::vec(any::<$scalar>(), 0..20).prop_map(Value::from)),+]
    };
}

fn value() -> impl Strategy<Value = Value> {
    let array = vectors!(u8, i8, u16, i16, u32, i32, u64, i64, f32, f64, bool, String);
    let nested = prop::collection::vec(prop::collection::vec(any::<i16>(), 0..4), 0..4)
        .prop_map(|rows| Value::from(rows.into_iter().map(Array::I16).collect::<Vec<_>>()));
    prop_oneof![scalar(), array, nested]
}

proptest! {
    #[test]
    fn a_sound_file_is_read_back_exactly(
        version in 2_u32..=3,
        exponent in 0_u32..13,
        entries in prop::collection::btree_map("[a-z.]{1,12}", value(), 0..12),
        tensors in prop::collection::btree_map("[a-z.]{1,12}", (0..TensorType::ALL.len(), 1_u64..4, 1_u64..4), 0..8),
    ) {
        let mut builder = GgufBuilder::new().version(version).metadata("general.alignment", 1_u32 << exponent);
        for (key, value) in &entries {
            builder = builder.metadata(key, value.clone());
        }
        let mut datas = Vec::new();
        for (seed, (name, &(kind, blocks, rows))) in (1_u8..).zip(&tensors) {
            let kind = TensorType::ALL[kind];
            let data = vec![seed; kind.block_bytes() * (blocks * rows) as usize];
            builder = builder.tensor(name, &[blocks * kind.block_len() as u64, rows], kind, data.clone());
            datas.push((name, kind, data));
        }
        let bytes = builder.build();
        let manifest = Manifest::parse(&bytes).unwrap();
        prop_assert_eq!(manifest.version(), version);
        prop_assert_eq!(manifest.alignment(), 1 << exponent);
        prop_assert_eq!(manifest.metadata().len(), entries.len() + 1);
        for (key, value) in &entries {
            prop_assert_eq!(manifest.metadata().get(key), Some(value));
        }
        prop_assert_eq!(manifest.tensors().len(), datas.len());
        for (name, kind, data) in datas {
            let tensor = manifest.tensor(name).unwrap();
            let range = tensor.offset as usize..(tensor.offset + tensor.byte_len) as usize;
            prop_assert_eq!(tensor.kind, kind);
            prop_assert_eq!(&bytes[range], data.as_slice());
        }
        prop_assert_eq!(broken_promises(&manifest, &bytes), [""; 0]);
    }
}

#[test]
fn the_default_model_is_read() {
    let file = GgufFile::open(&model_path()).unwrap();
    let manifest = file.manifest();
    assert_eq!((manifest.version(), manifest.alignment(), manifest.tensors().len()), (3, 32, 272));
    let metadata = manifest.metadata();
    assert_eq!(metadata.require_string("general.architecture"), Ok("llama"));
    assert_eq!(metadata.require_u32("llama.block_count"), Ok(30));
    assert_eq!(metadata.require_f32("llama.rope.freq_base"), Ok(100_000.0));
    assert_eq!(metadata.bool("tokenizer.ggml.add_bos_token"), Ok(Some(false)));
    assert_eq!(metadata.require_strings("tokenizer.ggml.tokens").unwrap()[1], "<|im_start|>");
    assert_eq!(metadata.i32s("tokenizer.ggml.token_type").unwrap().unwrap().len(), 49_152);
    for (name, dims, kind) in [
        ("token_embd.weight", &[576, 49_152][..], TensorType::Q8_0),
        ("output_norm.weight", &[576], TensorType::F32),
        ("blk.0.attn_k.weight", &[576, 192], TensorType::Q4_1),
        ("blk.29.ffn_down.weight", &[1536, 576], TensorType::Q4_1),
    ] {
        let tensor = manifest.tensor(name).unwrap_or_else(|| panic!("no tensor {name}"));
        assert_eq!((tensor.dims.as_slice(), tensor.kind), (dims, kind), "{name}");
        assert_eq!(file.bytes_of(tensor).len() as u64, tensor.byte_len, "{name}");
    }
    // The gains of a norm are finite and not all zero: the data starts where the reader says.
    let norm = manifest.tensor("output_norm.weight").unwrap();
    let gains: Vec<f32> =
        file.bytes_of(norm).as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    assert!(gains.iter().all(|gain| gain.is_finite() && gain.abs() < 100.0), "{gains:?}");
    assert!(gains.iter().any(|&gain| gain != 0.0));
}
