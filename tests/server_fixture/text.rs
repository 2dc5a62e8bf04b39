//! A tokenizer that needs no model file: one token for each byte.

use skipstone::text::{SpecialIds, TextModel, TokenType, Vocabulary};

/// The bytes from 0, then three tokens with a role.
pub fn model() -> TextModel {
    let bytes = (0..=255_u8).map(|byte| (format!("<0x{byte:02X}>"), TokenType::Byte));
    let roles =
        [("<unk>", TokenType::Unknown), ("<s>", TokenType::Control), ("</s>", TokenType::Control)]
            .map(own);
    let (tokens, token_types): (Vec<_>, Vec<_>) = bytes.chain(roles).unzip();
    let vocabulary = Vocabulary {
        kind: "llama".to_owned(),
        scores: vec![0.0; tokens.len()],
        tokens,
        token_types,
        special: SpecialIds {
            unknown: Some(256),
            beginning: Some(257),
            end: Some(258),
            ..SpecialIds::default()
        },
        add_beginning: Some(false),
        add_space_prefix: Some(false),
        chat_template: Some(
            "{% for message in messages %}{{ message.content }}\n{% endfor %}".to_owned(),
        ),
        ..Vocabulary::default()
    };
    TextModel::from_vocabulary(&vocabulary).unwrap()
}

fn own((text, kind): (&str, TokenType)) -> (String, TokenType) {
    (text.to_owned(), kind)
}
