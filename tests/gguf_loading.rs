//! Promise: a model file's tokenizer, chat template and sizes are checked before they are
//! used: loading it fails with an error that names the value, and never panics or takes memory that
//! the file does not have.
#![allow(clippy::unwrap_used, reason = "helpers of tests may assert by panicking, as tests do")]

mod common;

use std::io::Write;
use std::sync::Arc;

use common::tiny_model::TinyModel;
use skipstone::gguf::{GgufBuilder, GgufFile, Manifest};
use skipstone::model::Model;
use skipstone::text::{ChatMessage, EncodeOptions, Role, TextModel};

const VOCABULARY: usize = 20;

fn recipe() -> TinyModel {
    TinyModel {
        layers: 2,
        hidden: 32,
        feed_forward: 32,
        vocabulary: VOCABULARY,
        ..TinyModel::default()
    }
}

/// Loads a file as the service does, and uses what comes of it once.
fn load(bytes: &[u8]) -> Result<(), String> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    let file = Arc::new(GgufFile::open(file.path()).map_err(|error| error.to_string())?);
    let text = TextModel::from_gguf(&file).map_err(|error| error.to_string())?;
    Model::load(file, 1, &mut |_, _| {}).map_err(|error| error.to_string())?;
    let options = EncodeOptions { add_special: true, parse_special: true };
    let _ = text.encode("abc <s> def", options);
    let _ = text.encode_chat(&[ChatMessage::new(Role::User, "abc")], true);
    Ok(())
}

#[test]
fn each_kind_of_nonsense_is_refused_by_name() {
    let mut tokens: Vec<String> = (0..VOCABULARY).map(|token| format!("t{token}")).collect();
    let swapped = |place: usize, token: &str| {
        let mut tokens = tokens.clone();
        token.clone_into(&mut tokens[place]);
        tokens
    };
    let long = swapped(1, &"x".repeat(2000));
    tokens.pop();
    let template = "tokenizer.chat_template";
    type Change<'a> = Box<dyn Fn(GgufBuilder) -> GgufBuilder + 'a>;
    let cases: Vec<(&str, Change<'_>, &str)> = vec![
        (
            "fewer tokens than types",
            Box::new(|g| g.replace("tokenizer.ggml.tokens", tokens.clone())),
            "tokenizer",
        ),
        (
            "a special token of 2,000 bytes",
            Box::new(|g| g.replace("tokenizer.ggml.tokens", long.clone())),
            "2000 bytes",
        ),
        ("an unknown kind", Box::new(|g| g.replace("tokenizer.ggml.model", "rot13")), "rot13"),
        (
            "an end beyond the vocabulary",
            Box::new(|g| g.replace("tokenizer.ggml.eos_token_id", 99_u32)),
            "99",
        ),
        ("a broken template", Box::new(|g| g.replace(template, "{% for %}")), "template"),
        ("a template of 2 MiB", Box::new(|g| g.replace(template, "x".repeat(2 << 20))), "bytes"),
        ("no layers", Box::new(|g| g.replace("llama.block_count", 0_u32)), "block_count"),
        (
            "more layers than tensors",
            Box::new(|g| g.replace("llama.block_count", 4_000_000_u32)),
            "4000000",
        ),
        (
            "heads that don't divide",
            Box::new(|g| g.replace("llama.attention.head_count", 5_u32)),
            "head",
        ),
        (
            "a negative epsilon",
            Box::new(|g| g.replace("llama.attention.layer_norm_rms_epsilon", -1.0_f32)),
            "epsilon",
        ),
    ];
    assert_eq!(load(&recipe().gguf().build()), Ok(()), "the test's own file is sound");
    let mut failures = Vec::new();
    for (name, change, named) in cases {
        match load(&change(recipe().gguf()).build()) {
            Ok(()) => failures.push(format!("{name}: was accepted")),
            Err(error) if !error.contains(named) => failures.push(format!("{name}: {error}")),
            Err(_) => {}
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn a_byte_damaged_anywhere_in_the_header_is_no_panic() {
    let bytes = recipe().gguf().build();
    let header = {
        let manifest = Manifest::parse(&bytes).unwrap();
        manifest.tensors().iter().map(|tensor| tensor.offset).min().unwrap() as usize
    };
    let mut refused = 0;
    for place in 0..header {
        let mut damaged = bytes.clone();
        damaged[place] ^= [0xff, 0x01, 0x80][place % 3];
        if let Err(error) = load(&damaged) {
            assert!(!error.contains(char::is_control), "{error:?} can't be logged");
            refused += 1;
        }
    }
    assert!(refused * 3 > header, "only {refused} of {header} damaged bytes were noticed");
}
