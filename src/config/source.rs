//! The meaning of `model.path`: a file, a folder, or a repository on the hub.

use std::fmt;
use std::path::{Path, PathBuf};

/// Source of a model.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ModelSource {
    /// A GGUF file, which may not exist.
    File(PathBuf),
    /// A folder with safetensors and their configuration.
    Folder(PathBuf),
    /// A repository on the Hugging Face hub, `owner/name`.
    Hub(String),
}

// === impl ModelSource ===

impl ModelSource {
    /// Decides by looking: what exists is a file or a folder; what does not may be a repository's
    /// name, unless it would lie in a folder that exists.
    pub fn of(path: &Path) -> Self {
        if path.is_dir() {
            return Self::Folder(path.to_owned());
        }
        match path.to_str() {
            Some(text)
                if !path.exists()
                    && is_repository(text)
                    && !path.parent().is_some_and(Path::is_dir) =>
            {
                Self::Hub(text.to_owned())
            }
            _ => Self::File(path.to_owned()),
        }
    }
}

impl fmt::Display for ModelSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Folder(path) => write!(f, "the folder {}", path.display()),
            Self::Hub(name) => write!(f, "the hub's {name}"),
        }
    }
}

/// `owner/name`, in the characters that the hub allows, and not the name of a GGUF file.
fn is_repository(text: &str) -> bool {
    let is_name = |part: &str| {
        part.starts_with(|first: char| first.is_ascii_alphanumeric())
            && part
                .chars()
                .all(|other| other.is_ascii_alphanumeric() || matches!(other, '-' | '_' | '.'))
    };
    text.split_once('/').is_some_and(|(owner, name)| is_name(owner) && is_name(name))
        && !text.to_ascii_lowercase().ends_with(".gguf")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_told_by_looking() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("model.gguf");
        std::fs::write(&file, "x").unwrap();
        assert_eq!(ModelSource::of(folder.path()), ModelSource::Folder(folder.path().to_owned()));
        assert_eq!(ModelSource::of(&file), ModelSource::File(file));
        for (text, is_hub) in [
            ("Qwen/Qwen3-0.6B", true),
            ("src/such", false),
            ("no/such.gguf", false),
            ("no/such/file", false),
            ("/no/such", false),
            ("./such", false),
            ("../such", false),
            ("such", false),
            ("a b/c", false),
        ] {
            let source = ModelSource::of(Path::new(text));
            assert_eq!(matches!(source, ModelSource::Hub(_)), is_hub, "{text}: {source:?}");
        }
    }
}
