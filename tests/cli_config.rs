//! Promise: the program's settings can be checked and traced from the command line, and errors end
//! it with a status.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests may assert by panicking, as tests do

use std::fs;
use std::process::{Command, Output, Stdio};

/// The program with none of the caller's settings.
fn skipstone(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_skipstone"));
    command.args(arguments).env_clear().envs(environment.iter().copied()).stdin(Stdio::null());
    command.output().unwrap()
}

fn stdout(output: &Output) -> &str {
    str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    str::from_utf8(&output.stderr).unwrap()
}

#[test]
fn check_says_ok_or_everything_that_is_wrong() {
    let good = skipstone(&["config", "check"], &[]);
    assert_eq!((good.status.code(), stdout(&good)), (Some(0), "OK\n"));

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.toml");
    fs::write(&path, "[server]\ndrain_seconds = 9999\n[engine]\nmax_streams = 0\n").unwrap();
    let file = path.to_str().unwrap();
    for (arguments, environment) in [
        (&["config", "check", "--config", file][..], &[][..]),
        (&["config", "check"], &[("SKIPSTONE_CONFIG", file)]),
    ] {
        let bad = skipstone(arguments, environment);
        assert_eq!((bad.status.code(), stdout(&bad)), (Some(1), ""));
        for key in ["server.drain_seconds = 9999", "engine.max_streams = 0"] {
            assert!(
                stderr(&bad).contains(&format!("{key} in {file}: must be ")),
                "{}",
                stderr(&bad)
            );
        }
    }
}

#[test]
fn print_names_the_layer_of_each_value() {
    let output = skipstone(
        &["config", "print", "--set", "engine.max_streams=3"],
        &[("SKIPSTONE_SERVER__LISTEN", "127.0.0.1:1234")],
    );
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    for (start, end) in [
        ("listen = \"127.0.0.1:1234\"", "# the environment variable SKIPSTONE_SERVER__LISTEN"),
        ("max_streams = 3", "# the flag --set"),
        ("drain_seconds = 30", "# the built-in defaults"),
    ] {
        let line = stdout(&output).lines().find(|line| line.starts_with(start));
        assert!(line.is_some_and(|line| line.ends_with(end)), "{start}: {line:?}");
    }
}

#[test]
fn unknown_keys_end_every_command() {
    let set = ["--set", "server.lisen=127.0.0.1:1"];
    for command in
        [&["serve"][..], &["generate", "--prompt", "a"], &["chat", "--prompt", "a"], &["inspect"]]
    {
        let output = skipstone(&[command, &set].concat(), &[]);
        assert_eq!(output.status.code(), Some(1), "{command:?}");
        let expected =
            "unknown key `server.lisen` in the flag --set; did you mean `server.listen`?";
        assert!(stderr(&output).contains(expected), "{command:?}: {}", stderr(&output));
    }
}

#[test]
fn a_missing_model_says_how_to_get_one() {
    let folder = tempfile::tempdir().unwrap();
    let cache = [("XDG_CACHE_HOME", folder.path().to_str().unwrap())];
    for command in [&["generate", "--prompt", "a"][..], &["chat", "--prompt", "a"], &["inspect"]] {
        let output = skipstone(command, &cache);
        assert_eq!(output.status.code(), Some(1), "{command:?}");
        assert!(
            stderr(&output).contains("run `skipstone fetch`"),
            "{command:?}: {}",
            stderr(&output)
        );
    }
}

#[test]
fn completions_are_printed_for_each_shell() {
    for (shell, part) in
        [("bash", "complete -F"), ("zsh", "#compdef skipstone"), ("fish", "complete -c skipstone")]
    {
        let output = skipstone(&["completions", shell], &[]);
        assert_eq!(output.status.code(), Some(0));
        assert!(stdout(&output).contains(part), "{shell}");
    }
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    // As in `skipstone config print | head -0`: the other end of the pipe is closed before anything
    // is written.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = Command::new(env!("CARGO_BIN_EXE_skipstone"))
        .args(["config", "print"])
        .env_clear()
        .stdout(writer)
        .stderr(Stdio::piped())
        .spawn()
        .and_then(std::process::Child::wait_with_output)
        .unwrap();
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), ""));
}
