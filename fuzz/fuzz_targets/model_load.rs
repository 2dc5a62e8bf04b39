//! Any bytes: what a file says of tokenizer, template and sizes may be refused, but must not panic
//! or take memory that the file does not have.
#![no_main]

use std::io::Write;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use skipstone::gguf::GgufFile;
use skipstone::model::Model;
use skipstone::text::{ChatMessage, EncodeOptions, Role, TextModel};

fuzz_target!(|bytes: &[u8]| {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(bytes).expect("room for it");
    let Ok(file) = GgufFile::open(file.path()) else { return };
    let file = Arc::new(file);
    if let Ok(text) = TextModel::from_gguf(&file) {
        let options = EncodeOptions { add_special: true, parse_special: true };
        let _ = text.encode("Tell me <|im_start|> more", options);
        let _ = text.encode_chat(&[ChatMessage::new(Role::User, "Hello")], true);
    }
    let _ = Model::load(file, 1, &mut |_, _| {});
});
