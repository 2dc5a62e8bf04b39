//! What passes cost on this host, kept from one run of the service to the next.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::baseline::PlainStep;
use super::parts::Parts;

/// Where the costs of one model on one machine are kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CostFile {
    /// The file.
    pub path: PathBuf,
    /// Model, processor, threads, streams and instruction set: costs under another key are of no
    /// use.
    pub key: String,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    key: String,
    plain_step: PlainStep,
    parts: Parts,
}

// === impl CostFile ===

impl CostFile {
    /// The file of this key in a folder.
    pub fn new(folder: &Path, key: String) -> Self {
        let digest = Sha256::digest(&key);
        let name: String = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        Self { path: folder.join(format!("costs-{name}.json")), key }
    }

    /// What was kept, if it is of this key and makes sense. A file that can't be read is as good as
    /// none: costs are measured then.
    pub(super) fn read(&self) -> Option<(PlainStep, Parts)> {
        let Kept { key, plain_step, parts } =
            serde_json::from_slice(&fs::read(&self.path).ok()?).ok()?;
        let is_sound = key == self.key && plain_step.is_plausible() && parts.is_plausible();
        is_sound.then_some((plain_step, parts))
    }

    /// Keeps costs, whole or not at all.
    pub(super) fn write(&self, plain_step: PlainStep, parts: Parts) -> io::Result<()> {
        let folder = self.path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        serde_json::to_writer(&mut file, &Kept { key: self.key.clone(), plain_step, parts })?;
        file.persist(&self.path)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::baseline::testing::STEP;
    use crate::parts::testing::PARTS;

    #[test]
    fn costs_come_back_under_their_key_only() {
        let folder = tempfile::tempdir().unwrap();
        let file = CostFile::new(&folder.path().join("state"), "a model, a machine".to_owned());
        let path = file.path.clone();
        assert_ne!(path, CostFile::new(&folder.path().join("state"), "another".to_owned()).path);
        assert_eq!(file.read(), None, "nothing was kept yet");
        file.write(STEP, PARTS).unwrap();
        assert_eq!(file.read(), Some((STEP, PARTS)));
        assert_eq!(CostFile { key: "another".to_owned(), ..file.clone() }.read(), None);
        for damaged in ["", "{}", "[1", &fs::read_to_string(&path).unwrap().replace("0.01", "-1.0")]
        {
            fs::write(&path, damaged).unwrap();
            assert_eq!(file.read(), None, "{damaged}");
        }
        assert!(CostFile { path: "/".into(), key: String::new() }.write(STEP, PARTS).is_err());
    }
}
