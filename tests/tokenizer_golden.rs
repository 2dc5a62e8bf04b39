//! Promise: token ids equal those of the model's original tokenizer, in text, in chats and on the
//! way back.
//!
//! The expected ids come from an independent implementation; each file under `tests/data` says how
//! it was made.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests may assert by panicking, as tests do"
)]

mod common;

use std::path::PathBuf;
use std::sync::LazyLock;

use common::model_path::model_path;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use skipstone::gguf::GgufFile;
use skipstone::model::TokenId;
use skipstone::text::{ChatMessage, EncodeOptions, Role, TextModel, TokenType, Vocabulary};

#[derive(Deserialize)]
struct Golden {
    cases: Vec<GoldenCase>,
}

#[derive(Deserialize)]
struct GoldenCase {
    user: String,
    prompt_text: String,
    prompt_ids: Vec<TokenId>,
    output_ids: Vec<TokenId>,
    output_text: String,
}

#[derive(Deserialize)]
struct Nasty {
    plain: Vec<NastyCase>,
    special: Vec<NastyCase>,
}

#[derive(Deserialize)]
struct NastyCase {
    text: String,
    ids: Vec<TokenId>,
}

#[derive(Deserialize)]
struct SentencePiece {
    pieces: Vec<(String, f32, u8)>,
    cases: Vec<NastyCase>,
}

const PLAIN: EncodeOptions = EncodeOptions { add_special: false, parse_special: false };
const SPECIAL: EncodeOptions = EncodeOptions { add_special: false, parse_special: true };

static MODEL: LazyLock<TextModel> = LazyLock::new(|| {
    let file = GgufFile::open(&model_path()).expect("the default model opens");
    TextModel::from_gguf(&file).expect("its tokenizer is supported")
});

fn data<T: DeserializeOwned>(name: &str) -> T {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    let text = std::fs::read_to_string(&path).expect("test data is readable");
    serde_json::from_str(&text).expect("test data parses")
}

fn encode(text: &str, options: EncodeOptions) -> Vec<TokenId> {
    MODEL.encode(text, options).expect("within the limits")
}

/// One token at a time, as the engine does it.
fn decode_in_steps(tokens: &[TokenId]) -> String {
    let mut detokenizer = MODEL.detokenizer();
    let mut text: String = tokens.iter().map(|&token| detokenizer.push(token)).collect();
    text.push_str(&detokenizer.finish());
    text
}

#[test]
fn prompts_and_outputs_equal_the_golden_ones() {
    let golden: Golden = data("golden-smollm2-135m.json");
    assert!(golden.cases.len() >= 8);
    let mut wrong = Vec::new();
    for case in &golden.cases {
        let chat = [ChatMessage::new(Role::User, case.user.as_str())];
        let checks = [
            ("prompt text", encode(&case.prompt_text, SPECIAL) == case.prompt_ids),
            (
                "rendered chat",
                MODEL.render_chat(&chat, true).is_ok_and(|text| text == case.prompt_text),
            ),
            ("chat", MODEL.encode_chat(&chat, true).is_ok_and(|ids| ids == case.prompt_ids)),
            ("output", decode_in_steps(&case.output_ids) == case.output_text),
        ];
        wrong.extend(checks.iter().filter(|check| !check.1).map(|check| (check.0, &case.user)));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn nasty_texts_equal_the_reference() {
    let nasty: Nasty = data("tokenizer-smollm2.json");
    assert!(nasty.plain.len() > 70 && nasty.special.len() > 5);
    let plain = nasty.plain.iter().map(|case| (case, encode(&case.text, PLAIN)));
    let special = nasty.special.iter().map(|case| (case, encode(&case.text, SPECIAL)));
    let wrong: Vec<_> = plain
        .chain(special)
        .filter(|(case, got)| *got != case.ids)
        .map(|(case, got)| (&case.text, got, &case.ids))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn plain_text_comes_back_unchanged() {
    let nasty: Nasty = data("tokenizer-smollm2.json");
    let texts = nasty.plain.iter().chain(&nasty.special).map(|case| &case.text);
    let wrong: Vec<_> =
        texts.filter(|text| decode_in_steps(&encode(text, PLAIN)) != **text).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn special_tokens_are_read_only_on_request() {
    let text = "<|im_start|>user\nhi<|im_end|>\n<|endoftext|>";
    let special =
        |tokens: &[TokenId]| tokens.iter().filter(|&&token| MODEL.is_special(token)).count();
    assert_eq!(special(&encode(text, PLAIN)), 0);
    assert_eq!(special(&encode(text, SPECIAL)), 3);
}

#[test]
fn the_model_says_how_it_ends() {
    assert_eq!(MODEL.vocabulary_size(), 49_152);
    assert_eq!(MODEL.end_of_sequence(), [TokenId(2), TokenId(0)]);
    assert_eq!(MODEL.token_text(TokenId(2)), "<|im_end|>");
    assert_eq!(MODEL.token_text(TokenId(198)), "\n");
    assert!(
        MODEL.has_chat_template()
            && MODEL.is_special(TokenId(2))
            && !MODEL.is_special(TokenId(198))
    );
    // This model asks for no beginning-of-sequence token.
    assert_eq!(
        encode("hi", EncodeOptions { add_special: true, parse_special: false }),
        encode("hi", PLAIN)
    );
}

#[test]
fn text_beyond_the_limit_is_refused() {
    let error =
        MODEL.encode(&"a b ".repeat(300_000), PLAIN).expect_err("more than a mebibyte").to_string();
    assert!(error.contains("1200000") && error.contains("1048576"), "{error}");
}

#[test]
fn sentencepiece_equals_the_reference() {
    let reference: SentencePiece = data("tokenizer-sentencepiece.json");
    let mut vocabulary = Vocabulary { kind: "llama".to_owned(), ..Vocabulary::default() };
    for (text, score, kind) in reference.pieces {
        vocabulary.tokens.push(text);
        vocabulary.scores.push(score);
        vocabulary.token_types.push(match kind {
            1 => TokenType::Normal,
            2 => TokenType::Unknown,
            3 => TokenType::Control,
            4 => TokenType::UserDefined,
            6 => TokenType::Byte,
            other => panic!("the test data has a piece of type {other}"),
        });
    }
    let model = TextModel::from_vocabulary(&vocabulary).expect("a valid vocabulary");
    assert!(reference.cases.len() > 20);
    let mut wrong = Vec::new();
    for case in &reference.cases {
        let got = model.encode(&case.text, PLAIN).expect("within the limits");
        // The space in front stays: whether it belongs to the text depends on what comes before.
        let back = model.decode(&got);
        if got != case.ids || back.strip_prefix(' ').unwrap_or(&back) != case.text {
            wrong.push((&case.text, got, &case.ids, back));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
