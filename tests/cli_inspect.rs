//! Promise: `skipstone inspect` states the facts of a model file.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests may assert by panicking, as tests do

#[path = "common/model_path.rs"]
mod model_path;

use std::process::Command;

use model_path::model_path;

fn inspect(arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_skipstone"));
    let output = command
        .env_clear()
        .arg("inspect")
        .arg("--model")
        .arg(model_path())
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_default_model_is_described() {
    let json: serde_json::Value = serde_json::from_str(&inspect(&["--json"])).unwrap();
    for (field, expected) in [
        ("architecture", serde_json::json!("llama")),
        ("layers", serde_json::json!(30)),
        ("sublayers", serde_json::json!(60)),
        ("embedding_length", serde_json::json!(576)),
        ("attention_heads", serde_json::json!(9)),
        ("key_value_heads", serde_json::json!(3)),
        ("vocabulary", serde_json::json!(49_152)),
        ("has_chat_template", serde_json::json!(true)),
    ] {
        assert_eq!(json[field], expected, "{field}");
    }
    let sum = |list: &serde_json::Value| {
        list.as_array().unwrap().iter().map(|part| part["bytes"].as_u64().unwrap()).sum::<u64>()
    };
    let file_bytes = std::fs::metadata(model_path()).unwrap().len();
    let bytes = json["bytes"].as_u64().unwrap();
    assert_eq!(sum(&json["parts"]), bytes);
    assert!(bytes < file_bytes && bytes > file_bytes / 10 * 9, "{bytes} of {file_bytes}");
    assert_eq!(json["blocks"].as_array().unwrap().len(), 60);
    // Seven matrices a layer, and the head that is tied to the embedding.
    let packing = json["packing"].as_array().unwrap();
    let tensors: u64 = packing.iter().map(|packing| packing["tensors"].as_u64().unwrap()).sum();
    assert_eq!(tensors, 30 * 7 + 1, "{packing:?}");
    for packing in packing {
        let (bytes, packed) =
            (packing["bytes"].as_u64().unwrap(), packing["packed"]["bytes"].as_u64().unwrap());
        assert!(packed >= bytes && packed < bytes / 8 * 9, "{packing}");
    }
    assert!(sum(&json["blocks"]) < bytes);
}

#[test]
fn the_table_has_the_same_facts() {
    let table = inspect(&[]);
    for line in ["architecture         llama", "vocabulary           49152"] {
        assert!(table.lines().any(|found| found == line), "no {line:?} in\n{table}");
    }
    assert!(
        table.contains("30 (60 sublayers; a draft may skip those of layers 1 to 28)"),
        "{table}"
    );
}
