//! The model that `skipstone fetch` is asked for.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, ensure};

/// Source of a model.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Reference {
    /// A file of this machine.
    Local(PathBuf),
    /// An `https://` URL, or `http://` for those who pin the hash.
    Url(String),
    /// A file of a model hub.
    Hub(HubFile),
}

/// `hub:OWNER/REPOSITORY/FILE[@REVISION]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct HubFile {
    /// `OWNER/REPOSITORY`.
    pub(super) repository: String,
    /// Path of the file in the repository.
    pub(super) file: String,
    /// Branch, tag or commit.
    pub(super) revision: String,
}

// === impl Reference ===

impl Reference {
    /// The name that the file gets: its own.
    pub(super) fn file_name(&self) -> anyhow::Result<String> {
        let path = match self {
            Self::Local(path) => path.to_string_lossy().into_owned(),
            Self::Url(url) => url.split(['?', '#']).next().unwrap_or_default().to_owned(),
            Self::Hub(file) => file.file.clone(),
        };
        let name = path.rsplit('/').next().unwrap_or_default();
        let is_plain = !name.starts_with('.')
            && !name.contains(['\\', '%'])
            && !name.chars().any(char::is_control);
        ensure!(
            is_plain && name.to_ascii_lowercase().ends_with(".gguf"),
            "{path} does not end in the name of a GGUF file, such as model.gguf"
        );
        Ok(name.to_owned())
    }
}

impl FromStr for Reference {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        if let Some(file) = text.strip_prefix("hub:") {
            return file.parse().map(Self::Hub);
        }
        if text.starts_with("https://") || text.starts_with("http://") {
            return Ok(Self::Url(text.to_owned()));
        }
        ensure!(!text.contains("://"), "{text} is not a file, an https:// URL or a hub: reference");
        Ok(Self::Local(PathBuf::from(text)))
    }
}

// === impl HubFile ===

impl FromStr for HubFile {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (path, revision) = text.split_once('@').unwrap_or((text, "main"));
        let mut parts = path.splitn(3, '/');
        let part = |found: Option<&str>| found.filter(|part| !part.is_empty()).map(str::to_owned);
        let (owner, name, file) = (part(parts.next()), part(parts.next()), part(parts.next()));
        let wanted =
            || format!("hub:{text} is not of the form hub:OWNER/REPOSITORY/FILE.gguf[@REVISION]");
        let (owner, name, file) = owner
            .zip(name)
            .zip(file)
            .map(|((owner, name), file)| (owner, name, file))
            .with_context(wanted)?;
        // hf-hub makes paths of these; a file must not leave its cache folder.
        let is_path_safe = |part: &str| {
            part.split('/').all(|step| !step.is_empty() && step != "." && step != "..")
        };
        ensure!(
            [&owner, &name, &file].into_iter().all(|part| is_path_safe(part))
                && is_path_safe(revision),
            wanted()
        );
        Ok(Self { repository: format!("{owner}/{name}"), file, revision: revision.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_told_apart() {
        let hub = |repository: &str, file: &str, revision: &str| {
            let (repository, file, revision) =
                (repository.to_owned(), file.to_owned(), revision.to_owned());
            Reference::Hub(HubFile { repository, file, revision })
        };
        for (text, expected, name) in [
            ("/m/a.gguf", Reference::Local("/m/a.gguf".into()), "a.gguf"),
            ("a.GGUF", Reference::Local("a.GGUF".into()), "a.GGUF"),
            (
                "https://example.org/m/a.gguf?x=/b#c",
                Reference::Url("https://example.org/m/a.gguf?x=/b#c".to_owned()),
                "a.gguf",
            ),
            ("hub:o/r/a.gguf", hub("o/r", "a.gguf", "main"), "a.gguf"),
            ("hub:o/r/q4/a.gguf@v1.0", hub("o/r", "q4/a.gguf", "v1.0"), "a.gguf"),
        ] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(reference, expected, "{text}");
            assert_eq!(reference.file_name().unwrap(), name, "{text}");
        }
    }

    #[test]
    fn others_are_refused() {
        let failures: Vec<&str> = [
            "ftp://example.org/a.gguf",
            "hub:o/a.gguf",
            "hub:o//a.gguf",
            "hub:o/r/../../a.gguf",
            "hub:../r/a.gguf",
            "hub:o/r/a.gguf@../x",
            "hub:o/r/a.gguf@",
            "https://example.org/",
            "https://example.org/%2e%2e.gguf",
            "/m/.gguf",
            "/m/model.bin",
        ]
        .into_iter()
        .filter(|text| {
            text.parse::<Reference>().and_then(|reference| reference.file_name()).is_ok()
        })
        .collect();
        assert!(failures.is_empty(), "taken: {failures:?}");
    }
}
