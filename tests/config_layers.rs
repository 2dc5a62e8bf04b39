//! Promise: a setting comes from the last layer that names it, and whatever is wrong is named with
//! its layer.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests may assert by panicking, as tests do

use std::fs;

use skipstone::config::{DEFAULT_TOML, Flag, KvCachePrecision, Layers};
use skipstone::telemetry::LogFormat;

fn environment(variables: &[(&str, &str)]) -> Vec<(String, String)> {
    variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn errors(layers: &Layers) -> String {
    layers.load().expect_err("the configuration should be refused").to_string()
}

fn file_with(text: &str) -> (tempfile::TempDir, Layers) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("skipstone.toml");
    fs::write(&path, text).unwrap();
    (folder, Layers { file: Some(path), ..Layers::default() })
}

#[test]
fn later_layers_win_and_are_named() {
    let (_folder, mut layers) = file_with(
        "[server]\nlisten = \"127.0.0.1:1001\"\nmax_new_tokens_default = 11\n\
         [engine]\nmax_streams = 3\nmax_waiting = 4\n[log]\nformat = \"json\"\n",
    );
    layers.environment = environment(&[
        ("SKIPSTONE_SERVER__LISTEN", "127.0.0.1:1002"),
        ("SKIPSTONE_ENGINE__MAX_STREAMS", "5"),
        ("SKIPSTONE_SPECULATION__SKIP_MLP", "3,4"),
        ("SKIPSTONE_MODEL__NAME", "404"),
        ("HOME", "/nowhere"),
    ]);
    layers.flags = vec![
        Flag::new("server.listen", "127.0.0.1:1003", "the flag --listen"),
        Flag::new("speculation.policy", "static", "the flag --speculation"),
        Flag::new("engine.kv_cache_precision", "f32", "the flag --set"),
    ];
    let configuration = layers.load().unwrap();
    let settings = configuration.settings();
    assert_eq!(settings.server.listen.port(), 1003);
    assert_eq!(settings.server.max_new_tokens_default, 11);
    assert_eq!((settings.engine.max_streams, settings.engine.max_waiting), (5, 4));
    assert_eq!(settings.engine.kv_cache_precision, KvCachePrecision::F32);
    assert_eq!(settings.log.format, LogFormat::Json);
    assert_eq!(settings.speculation.policy, "static");
    assert_eq!(settings.speculation.skip_mlp, [3, 4]);
    assert_eq!(settings.model.name.as_deref(), Some("404"));

    let origin = |key: &str| {
        let found = configuration.values().iter().find(|value| value.key() == key).unwrap();
        found.origin().to_owned()
    };
    assert_eq!(origin("server.listen"), "the flag --listen");
    assert_eq!(
        origin("engine.max_streams"),
        "the environment variable SKIPSTONE_ENGINE__MAX_STREAMS"
    );
    assert!(origin("engine.max_waiting").ends_with("skipstone.toml"));
    assert_eq!(origin("metrics.listen"), "the built-in defaults");
}

#[test]
fn unknown_keys_are_refused_with_the_nearest_and_the_layer() {
    let (_folder, mut layers) =
        file_with("[server]\nlisten_adress = \"127.0.0.1:1\"\n[enginee]\nmax_streams = 2\n");
    layers.environment = environment(&[("SKIPSTONE_ENGINE__MAX_STREEMS", "2")]);
    layers.flags = vec![
        Flag::new("threads", "2", "the flag --set"),
        Flag::new("weather.tomorrow_in_paris", "rain", "the flag --set"),
    ];
    let text = errors(&layers);
    for expected in [
        "unknown key `server.listen_adress` in ",
        "skipstone.toml; did you mean `server.listen`?",
        "unknown key `enginee.max_streams` in ",
        "unknown key `engine.max_streems` in the environment variable \
         SKIPSTONE_ENGINE__MAX_STREEMS; \
         did you mean `engine.max_streams`?",
        "unknown key `threads` in the flag --set; did you mean `engine.threads`?",
        "unknown key `weather.tomorrow_in_paris` in the flag --set; `skipstone config print` lists",
    ] {
        assert!(text.contains(expected), "no {expected:?} in:\n{text}");
    }
    assert_eq!(text.lines().count(), 5, "{text}");
}

#[test]
fn wrong_types_and_values_name_key_layer_and_remedy() {
    for (key, value, expected) in [
        (
            "server.listen",
            "localhost",
            "server.listen in the flag --set: invalid socket address syntax",
        ),
        (
            "engine.max_streams",
            "many",
            "engine.max_streams in the flag --set: invalid type: found string \"many\"",
        ),
        ("engine.kv_cache_precision", "f8", "engine.kv_cache_precision in the flag --set: "),
        ("engine.max_streams", "-1", "engine.max_streams in the flag --set: "),
        ("engine.max_streams", "0", "engine.max_streams = 0 in the flag --set: must be 1 to 256"),
        (
            "speculation.policy",
            "fast",
            "speculation.policy = fast in the flag --set: must be one of off, adaptive, static",
        ),
        ("speculation.skip_mlp", "3,x", "speculation.skip_mlp.1 in the flag --set: invalid type"),
        ("metrics.enabled", "perhaps", "metrics.enabled in the flag --set: "),
        ("server", "1", "server"),
        (
            "server.listen.port",
            "1",
            "unknown key `server.listen.port` in the flag --set; did you mean",
        ),
    ] {
        let text = errors(&Layers {
            flags: vec![Flag::new(key, value, "the flag --set")],
            ..Layers::default()
        });
        assert!(text.contains(expected), "{key} = {value}: no {expected:?} in:\n{text}");
    }
}

#[test]
fn errors_of_several_sections_come_together() {
    let (_folder, layers) =
        file_with("[engine]\nmax_streams = \"x\"\n[server]\ndrain_seconds = true\n");
    let text = errors(&layers);
    assert!(text.contains("engine.max_streams") && text.contains("server.drain_seconds"), "{text}");
}

#[test]
fn files_that_cannot_be_read_say_so() {
    let missing = Layers { file: Some("/no/such/file.toml".into()), ..Layers::default() };
    assert!(errors(&missing).contains("can't read the configuration file /no/such/file.toml"));
    let (_folder, broken) = file_with("[server\n");
    assert!(errors(&broken).contains("is not valid TOML"));
}

#[test]
fn variables_that_only_look_like_settings_do_not_stop_the_start() {
    // What an orchestrator sets for a service named "skipstone", and what the tests of this crate
    // use.
    let layers = Layers {
        environment: environment(&[
            ("SKIPSTONE_SERVICE_HOST", "10.0.0.1"),
            ("SKIPSTONE_PORT_50051_TCP", "tcp://10.0.0.1:50051"),
            ("SKIPSTONE_TEST_MODEL", "/models/a.gguf"),
        ]),
        ..Layers::default()
    };
    assert_eq!(layers.load().unwrap(), Layers::default().load().unwrap());

    let misspelt = environment(&[("SKIPSTONE_SERVER_LISTEN", "127.0.0.1:1")]);
    let text = errors(&Layers { environment: misspelt, ..Layers::default() });
    assert!(
        text.contains("SKIPSTONE_SERVER_LISTEN is not read; name it SKIPSTONE_SERVER__LISTEN"),
        "{text}"
    );
}

#[test]
fn what_is_printed_can_be_read_back() {
    let flags = vec![
        Flag::new("model.path", "/models/a \"b\" ü.gguf", "the flag --model"),
        Flag::new("speculation.skip_attention", "7,8", "the flag --skip-attention"),
        Flag::new("sampling.temperature", "0.7", "the flag --temperature"),
    ];
    let configuration = Layers { flags, ..Layers::default() }.load().unwrap();
    let (_folder, again) = file_with(&configuration.to_string());
    assert_eq!(again.load().unwrap().settings(), configuration.settings());
}

#[test]
fn every_built_in_key_has_a_comment() {
    let mut commented = false;
    let mut bare = Vec::new();
    let mut keys = 0;
    for line in DEFAULT_TOML.lines() {
        if let Some((key, _)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) {
            keys += 1;
            if !commented {
                bare.push(key);
            }
        }
        commented = line.starts_with('#');
    }
    assert!(bare.is_empty(), "keys without a comment: {bare:?}");
    assert_eq!(keys, Layers::default().load().unwrap().values().len());
}
