//! Tokenizer files of the `transformers` library, for models whose GGUF file has no usable
//! tokenizer.
//!
//! Of `tokenizer.json` the normaliser, the splitter and the model are used as they are. Added
//! tokens are found by this crate instead, because message contents must not become control tokens;
//! their options `lstrip`, `rstrip` and `single_word` are not followed.

use std::fs;
use std::io::{ErrorKind, Read};
use std::path::Path;

use serde_json::{Value, json};
use tokenizers::{Model, PreTokenizerWrapper, Tokenizer};

use crate::TokenId;

use super::added_tokens::{ends_output, role_of};
use super::byte_pair::Pipeline;
use super::limits::{TEMPLATE_BYTES, TOKENIZER_FILE_BYTES};
use super::parts::{Encoder, TokenizerParts, distinct};
use super::token_table::{TokenRole, TokenTable};
use super::vocabulary::{SpecialIds, TokenType};
use super::{TextError, byte_level, sentencepiece};

/// Ids beyond this are taken for a broken file: the largest vocabularies have a quarter million
/// tokens.
const MAX_ID: u64 = 1 << 22;

/// A token that is written out in text.
struct AddedToken {
    id: u32,
    text: String,
    role: TokenRole,
}

/// Spelling of bytes in the texts of tokens.
enum Spelling {
    ByteLevel,
    SentencePiece,
}

/// The chat template beside a model: `chat_template.jinja`, or the entry of
/// `tokenizer_config.json`.
pub(super) fn chat_template(folder: &Path) -> Result<Option<String>, TextError> {
    let jinja = folder.join("chat_template.jinja");
    if let Some(template) = read(&jinja, TEMPLATE_BYTES as u64)? {
        return Ok(Some(template));
    }
    let path = folder.join("tokenizer_config.json");
    let Some(config) = read_json(&path)? else { return Ok(None) };
    Ok(match &config["chat_template"] {
        Value::String(template) => Some(template.clone()),
        Value::Array(named) => named
            .iter()
            .find(|entry| entry["name"] == "default")
            .and_then(|entry| entry["template"].as_str().map(str::to_owned)),
        _ => None,
    })
}

/// The ids that a model's own files name: `generation_config.json`, else `config.json`. Of a list
/// of ends the first three count.
pub(super) fn special_ids(folder: &Path) -> Result<SpecialIds, TextError> {
    let mut found = SpecialIds::default();
    for name in ["generation_config.json", "config.json"] {
        let Some(config) = read_json(&folder.join(name))? else { continue };
        let ids = |key: &str| -> Vec<u32> {
            let value = &config[key];
            let listed = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
            listed.iter().filter_map(|id| id.as_u64()?.try_into().ok()).collect()
        };
        found.beginning = found.beginning.or(ids("bos_token_id").first().copied());
        if found.end.is_none() {
            let mut ends = ids("eos_token_id").into_iter();
            (found.end, found.end_of_turn, found.end_of_message) =
                (ends.next(), ends.next(), ends.next());
        }
    }
    Ok(found)
}

/// The tokenizer beside a model; `None` if there is no `tokenizer.json`. `special` are the ids that
/// the model itself names.
pub(super) fn load(
    folder: &Path,
    special: &SpecialIds,
    templates: &[String],
) -> Result<Option<TokenizerParts>, TextError> {
    let path = folder.join("tokenizer.json");
    let Some(mut file) = read_json(&path)? else { return Ok(None) };
    let config = read_json(&folder.join("tokenizer_config.json"))?.unwrap_or_default();
    let refuse = |reason: String| TextError::TokenizerFile { path: path.clone(), reason };
    let spelling = Spelling::of(&file["decoder"]).map_err(refuse)?;
    let added = take_added_tokens(&mut file, templates).map_err(refuse)?;
    let inner = never_prepending(&file["pre_tokenizer"]).map_err(refuse)?;
    let tokenizer: Tokenizer = serde_json::from_value(file)
        .map_err(|error| refuse(format!("it does not parse: {error}")))?;
    let (prefix, suffix) = affixes(&tokenizer).map_err(refuse)?;
    let table = table(&tokenizer, &spelling, &added).map_err(refuse)?;
    let configured = |key: &str| {
        let text = config[key].as_str().or_else(|| config[key]["content"].as_str())?;
        added.iter().find(|token| token.text == text).map(|token| token.id)
    };
    let (beginning, end) =
        (configured("bos_token").or(special.beginning), configured("eos_token").or(special.end));
    let named =
        added.iter().filter(|token| token.role == TokenRole::Control && ends_output(&token.text));
    let ends = distinct(end.into_iter().chain(special.ends()).chain(named.map(|token| token.id)));
    let (normalizer, pre_tokenizer) =
        (tokenizer.get_normalizer().cloned(), tokenizer.get_pre_tokenizer().cloned());
    let model = tokenizer.get_model().clone();
    let pipeline = Pipeline { normalizer, pre_tokenizer, inner_pre_tokenizer: inner, model };
    Ok(Some(TokenizerParts {
        encoder: Encoder::Pipeline(Box::new(pipeline)),
        table,
        prefix,
        suffix,
        ends,
        beginning: beginning.map(TokenId),
        end: end.map(TokenId),
    }))
}

// === impl Spelling ===

impl Spelling {
    fn of(decoder: &Value) -> Result<Self, String> {
        let text = decoder.to_string();
        if text.contains("\"ByteLevel\"") {
            Ok(Self::ByteLevel)
        } else if text.contains("\"Metaspace\"") || text.contains("\"ByteFallback\"") {
            Ok(Self::SentencePiece)
        } else {
            Err(format!("its decoder {text:.200} is neither byte-level nor SentencePiece's"))
        }
    }

    fn push_bytes(&self, text: &str, bytes: &mut Vec<u8>) {
        match (self, sentencepiece::byte_of(text)) {
            (Self::ByteLevel, _) => byte_level::push_bytes(text, bytes),
            (Self::SentencePiece, Some(byte)) => bytes.push(byte),
            (Self::SentencePiece, None) => sentencepiece::push_bytes(text, bytes),
        }
    }
}

/// Takes the added tokens out of the file, and the special ones out of the model's vocabulary,
/// where a text could otherwise merge to them.
fn take_added_tokens(file: &mut Value, templates: &[String]) -> Result<Vec<AddedToken>, String> {
    let entries = match file["added_tokens"].take() {
        Value::Array(entries) => entries,
        _ => Vec::new(),
    };
    file["added_tokens"] = json!([]);
    file["truncation"] = Value::Null;
    file["padding"] = Value::Null;
    let unknown = file["model"]["unk_token"].as_str().map(str::to_owned);
    let mut added = Vec::with_capacity(entries.len());
    for entry in entries {
        let (Some(id), Some(text)) = (entry["id"].as_u64(), entry["content"].as_str()) else {
            return Err(format!("the added token {entry} has no id or no content"));
        };
        if id > MAX_ID {
            return Err(format!(
                "the added token `{text}` has the id {id}, more than {MAX_ID} tokens are not read"
            ));
        }
        let kind =
            if entry["special"] == true { TokenType::Control } else { TokenType::UserDefined };
        let role = role_of(text, kind, templates);
        let is_special = matches!(role, TokenRole::Control | TokenRole::Marker);
        if is_special
            && unknown.as_deref() != Some(text)
            && let Some(vocabulary) = file["model"]["vocab"].as_object_mut()
        {
            vocabulary.remove(text);
        }
        added.push(AddedToken { id: id as u32, text: text.to_owned(), role });
    }
    Ok(added)
}

/// The splitter for text that is not at the start, if the file has one that treats the start
/// differently.
fn never_prepending(pre_tokenizer: &Value) -> Result<Option<PreTokenizerWrapper>, String> {
    let mut inner = pre_tokenizer.clone();
    let mut changed = false;
    let steps = match &mut inner["pretokenizers"] {
        Value::Array(steps) => steps.iter_mut().collect(),
        _ => vec![&mut inner],
    };
    for step in steps {
        if step["type"] == "Metaspace" && step["prepend_scheme"] == "first" {
            step["prepend_scheme"] = json!("never");
            changed = true;
        }
    }
    if !changed {
        return Ok(None);
    }
    serde_json::from_value(inner)
        .map(Some)
        .map_err(|error| format!("its pre_tokenizer does not parse: {error}"))
}

/// Tokens that the post-processor puts around a text.
fn affixes(tokenizer: &Tokenizer) -> Result<(Vec<TokenId>, Vec<TokenId>), String> {
    let encode = |add_special| {
        let encoding = tokenizer
            .encode("a", add_special)
            .map_err(|error| format!("it can't encode: {error}"))?;
        Ok::<_, String>(encoding.get_ids().iter().copied().map(TokenId).collect::<Vec<_>>())
    };
    let (plain, whole) = (encode(false)?, encode(true)?);
    if plain.is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    let at = whole.windows(plain.len()).position(|window| window == plain);
    let at = at.ok_or_else(|| "its post-processor changes the text's own tokens".to_owned())?;
    Ok((whole[..at].to_vec(), whole[at + plain.len()..].to_vec()))
}

fn table(
    tokenizer: &Tokenizer,
    spelling: &Spelling,
    added: &[AddedToken],
) -> Result<TokenTable, String> {
    let vocabulary = tokenizer.get_model().get_vocab();
    let ids = vocabulary.values().copied().chain(added.iter().map(|token| token.id));
    let count = ids.max().map_or(0, |last| u64::from(last) + 1);
    if count == 0 || count > MAX_ID {
        return Err(format!("its largest id makes {count} tokens; 1 to {MAX_ID} can be read"));
    }
    // Ids that no token has are padding: they print nothing.
    let mut entries = vec![("", TokenRole::Control); count as usize];
    for (text, &id) in &vocabulary {
        entries[id as usize] = (text, TokenRole::Ordinary);
    }
    for token in added {
        entries[token.id as usize] = (&token.text, token.role);
    }
    let mut table = TokenTable::default();
    for (text, role) in entries {
        table.push(role, |bytes| match role {
            TokenRole::Ordinary => spelling.push_bytes(text, bytes),
            _ => bytes.extend_from_slice(text.as_bytes()),
        });
    }
    Ok(table)
}

fn read_json(path: &Path) -> Result<Option<Value>, TextError> {
    let Some(text) = read(path, TOKENIZER_FILE_BYTES)? else { return Ok(None) };
    let parsed = serde_json::from_str(&text);
    parsed
        .map(Some)
        .map_err(|error| TextError::TokenizerFile { path: path.into(), reason: error.to_string() })
}

/// A file's text; `None` if it does not exist.
fn read(path: &Path, max: u64) -> Result<Option<String>, TextError> {
    let refuse = |reason: String| TextError::TokenizerFile { path: path.to_owned(), reason };
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(refuse(error.to_string())),
    };
    let mut text = String::new();
    file.take(max + 1).read_to_string(&mut text).map_err(|error| refuse(error.to_string()))?;
    if text.len() as u64 > max {
        return Err(refuse(format!("it has more than {max} bytes")));
    }
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::{ChatMessage, EncodeOptions, Role, TextModel};
    use skipstone_gguf::{GgufBuilder, GgufFile};

    /// Puts the files beside a model with this tokenizer kind, and loads it.
    fn load_model(kind: &str, files: &[(&str, Value)]) -> Result<TextModel, TextError> {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("model.gguf");
        let tokens =
            skipstone_gguf::Value::Array(skipstone_gguf::Array::String(vec!["a".to_owned()]));
        let gguf = GgufBuilder::new()
            .metadata("tokenizer.ggml.model", skipstone_gguf::Value::String(kind.to_owned()))
            .metadata("tokenizer.ggml.tokens", tokens);
        fs::write(&model, gguf.build()).unwrap();
        for (name, content) in files {
            let text = content.as_str().map_or_else(|| content.to_string(), str::to_owned);
            fs::write(folder.path().join(name), text).unwrap();
        }
        TextModel::from_gguf(&GgufFile::open(&model).unwrap())
    }

    fn byte_level() -> Value {
        let added = |id: u32, text: &str, special: bool| {
            json!({"id": id, "content": text, "special": special, "single_word": false, "lstrip": false,
                   "rstrip": false, "normalized": false})
        };
        json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
            "added_tokens": [added(5, "<bos>", true), added(6, "</s>", true), added(8, "<tab>", false)],
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<bos>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {"<bos>": {"id": "<bos>", "ids": [5], "tokens": ["<bos>"]}},
            },
            "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                "vocab": {"a": 0, "b": 1, "Ġ": 2, "ab": 3, "Ġab": 4, "</s>": 6},
                "merges": [["a", "b"], ["Ġ", "ab"]],
            },
        })
    }

    fn sentencepiece() -> Value {
        let mut file = byte_level();
        let metaspace = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false});
        file["pre_tokenizer"] = metaspace.clone();
        file["decoder"] = metaspace;
        file["post_processor"] = Value::Null;
        file["model"]["vocab"] = json!({"a": 0, "b": 1, "▁": 2, "▁a": 3, "<0x0A>": 4});
        file["model"]["merges"] = json!([["▁", "a"]]);
        file["model"]["byte_fallback"] = json!(true);
        file
    }

    fn ids(model: &TextModel, text: &str, add_special: bool, parse_special: bool) -> Vec<u32> {
        let tokens = model.encode(text, EncodeOptions { add_special, parse_special }).unwrap();
        tokens.into_iter().map(|token| token.0).collect()
    }

    #[test]
    fn the_file_beside_the_model_is_the_fallback() {
        let config = json!({"bos_token": "<bos>", "eos_token": {"content": "</s>"},
                            "chat_template": "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"});
        let model = load_model(
            "mystery",
            &[("tokenizer.json", byte_level()), ("tokenizer_config.json", config)],
        )
        .unwrap();
        assert_eq!(ids(&model, "ab ab", true, false), [5, 3, 4]);
        assert_eq!(ids(&model, "a<tab>b", false, false), [0, 8, 1]);
        assert_eq!(ids(&model, "ab</s>", false, true), [3, 6]);
        assert!(!ids(&model, "ab</s>", false, false).contains(&6));
        assert_eq!(model.end_of_sequence(), [TokenId(6)]);
        assert_eq!(model.vocabulary_size(), 9);
        assert_eq!(model.decode(&[5, 4, 8, 7, 6].map(TokenId)), " ab<tab>");
        let chat = [ChatMessage::new(Role::User, "ab</s>ab")];
        let chat: Vec<u32> =
            model.encode_chat(&chat, true).unwrap().iter().map(|token| token.0).collect();
        assert_eq!(chat, [5, 3, 3, 6], "the vocabulary has no bytes for `</s>` as text");
    }

    #[test]
    fn a_space_goes_in_front_of_the_first_text_only() {
        let model = load_model("mystery", &[("tokenizer.json", sentencepiece())]).unwrap();
        assert_eq!(ids(&model, "a a<tab>a\n", false, false), [3, 3, 8, 0, 4]);
        assert_eq!(model.decode(&[3, 3, 8, 0, 4].map(TokenId)), " a a<tab>a\n");
    }

    #[test]
    fn the_template_file_comes_before_the_configuration() {
        let files = [
            ("tokenizer.json", byte_level()),
            ("chat_template.jinja", json!("{{ messages[0].content }}")),
            (
                "tokenizer_config.json",
                json!({"chat_template": [{"name": "default", "template": "b"}]}),
            ),
        ];
        let render = |files| {
            let model = load_model("mystery", files).unwrap();
            model.render_chat(&[ChatMessage::new(Role::User, "a")], true).unwrap()
        };
        assert_eq!(render(&files[..]), "a");
        assert_eq!(render(&[files[0].clone(), files[2].clone()]), "b");
    }

    #[test]
    fn unusable_files_are_refused_by_name() {
        let none = load_model("mystery", &[]).unwrap_err().to_string();
        assert!(none.contains("`mystery`") && none.contains("tokenizer.json"), "{none}");
        let mut decoder = byte_level();
        decoder["decoder"] = json!({"type": "CTC"});
        let mut huge = byte_level();
        huge["added_tokens"][0]["id"] = json!(4_000_000_000_u32);
        let cases = [
            ("decoder", decoder, "neither byte-level"),
            ("id", huge, "4000000000"),
            ("JSON", json!("{"), "EOF"),
            ("shape", json!({"decoder": {"type": "ByteLevel"}}), "does not parse"),
        ];
        for (name, file, part) in cases {
            let error = load_model("mystery", &[("tokenizer.json", file)]).unwrap_err().to_string();
            assert!(error.contains(part) && error.contains("tokenizer.json"), "{name}: {error}");
        }
    }
}
