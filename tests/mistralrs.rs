//! Promise: mistral.rs serves a folder of safetensors as our own engine serves a file: all get
//! their own text, a seed repeats it, a client that leaves makes room, and what can't be loaded is
//! refused by name.
#![cfg(feature = "mistralrs")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use common::engine::{
    PATIENCE, generate, generate_all, read, request, wait_until, wait_until_idle,
    wait_until_started,
};
use common::tiny_folder;
use skipstone::config::{Device, ModelSource};
use skipstone::engine::{Engine, Event, SerialOptions, Speculation, Submit, ValidRequest};
use skipstone::mistralrs::{LoadError, LoadOptions, Loaded, load};
use skipstone::sampling::{SamplingParams, SamplingSettings};
use skipstone::text::{ChatMessage, EncodeOptions, Role, TextModel};

fn load_folder(folder: &Path) -> Result<Loaded, LoadError> {
    let source = ModelSource::Folder(folder.to_owned());
    load(&LoadOptions { source: &source, device: Device::Cpu, threads: 2 })
}

fn start() -> (Engine, Arc<TextModel>) {
    let folder = tempfile::tempdir().unwrap();
    tiny_folder::write(folder.path());
    let loaded = load_folder(folder.path()).unwrap();
    assert_eq!(
        (loaded.architecture.as_str(), loaded.layers, loaded.context_length),
        ("llama", 2, 512)
    );
    assert_eq!(loaded.weight_types, ["float32"]);
    let options = SerialOptions {
        max_waiting: 64,
        stall_timeout: PATIENCE,
        event_buffer: 8,
        context_length: 512,
    };
    let text = Arc::clone(&loaded.text);
    (Engine::serial(Box::new(loaded.predictor), loaded.text, options).unwrap(), text)
}

fn of(text: &TextModel, prompt: &str, tokens: usize) -> ValidRequest {
    let prompt =
        text.encode(prompt, EncodeOptions { add_special: true, parse_special: false }).unwrap();
    request(&prompt, tokens, Speculation::Off)
}

#[test]
fn many_at_once_get_each_their_own() {
    let (engine, text) = start();
    let requests: Vec<_> =
        (0..8).map(|client| of(&text, &format!("client {client} asks"), 40)).collect();
    let alone: Vec<_> =
        requests.iter().map(|request| generate(&engine, request.clone()).unwrap().said()).collect();
    assert!(alone.windows(2).all(|pair| pair[0].0 != pair[1].0), "or nothing could be mixed up");
    let together: Vec<_> = generate_all(&engine, requests)
        .into_iter()
        .map(|outcome| outcome.unwrap().said())
        .collect();
    assert_eq!(together, alone);
}

#[test]
fn a_seed_repeats_and_another_does_not() {
    let (engine, text) = start();
    let sampled = |seed: u64| {
        let settings = SamplingSettings { temperature: 1.5, seed, ..SamplingSettings::default() };
        let sampling = SamplingParams::new(settings, text.vocabulary_size()).unwrap();
        generate(&engine, ValidRequest { sampling, ..of(&text, "once", 30) }).unwrap().tokens
    };
    assert_eq!(sampled(1), sampled(1));
    assert_ne!(sampled(1), sampled(2));
}

#[test]
fn a_chat_has_the_folder_s_template() {
    let (engine, text) = start();
    let prompt = text.encode_chat(&[ChatMessage::new(Role::User, "hi")], true).unwrap();
    // As everywhere, the newline that ends a template is not part of it.
    assert_eq!(text.decode(&prompt), "user\nhi\nassistant");
    assert_eq!(generate(&engine, request(&prompt, 5, Speculation::Off)).unwrap().tokens.len(), 5);
}

#[test]
fn who_leaves_makes_room() {
    let (engine, text) = start();
    for round in 0..20 {
        let mut leaving = engine.submit(of(&text, "a long story", 400)).unwrap();
        let next = engine.submit(of(&text, "next", 3)).unwrap();
        wait_until_started(&mut leaving);
        if round % 2 == 0 {
            let first = leaving.blocking_next();
            assert!(matches!(first, Some(Ok(Event::Delta(_)))), "{first:?}");
        }
        drop(leaving);
        assert_eq!(read(next).map(|outcome| outcome.tokens.len()), Ok(3), "round {round}");
        wait_until("the place is free", || engine.in_flight() == 0);
    }
    wait_until_idle(&engine);
}

#[test]
fn what_can_not_be_loaded_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let mut wrong = Vec::new();
    let mut case = |name: &str, prepare: &dyn Fn(&Path), says: &str| {
        tiny_folder::write(folder.path());
        prepare(folder.path());
        match load_folder(folder.path()) {
            Err(error) if error.to_string().contains(says) => {}
            other => {
                wrong.push(format!("{name}: {:?}", other.err().map(|error| error.to_string())))
            }
        }
    };
    let path = folder.path().display().to_string();
    case("no config", &|folder| fs::remove_file(folder.join("config.json")).unwrap(), &path);
    case(
        "a truncated file",
        &|folder| fs::write(folder.join("model.safetensors"), [0; 20]).unwrap(),
        &path,
    );
    case(
        "an unknown architecture",
        &|folder| {
            fs::write(folder.join("config.json"), r#"{"architectures": ["Parrot"]}"#).unwrap()
        },
        "Parrot",
    );
    assert!(wrong.is_empty(), "{wrong:#?}");
}
