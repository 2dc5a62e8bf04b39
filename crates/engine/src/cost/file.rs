//! What passes cost on this host, kept from one run of the service to the next.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{CostModel, ModelSize, PACE, PARAMETERS, deviations};

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
    size: ModelSize,
    parameters: Vec<f64>,
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
    pub(crate) fn read(&self) -> Option<CostModel> {
        let Kept { key, size, parameters } =
            serde_json::from_slice(&fs::read(&self.path).ok()?).ok()?;
        let parameters: [f64; PARAMETERS] = parameters.try_into().ok()?;
        let is_price = |price: &f64| (0.0..1e3).contains(price);
        let is_sound = key == self.key
            && parameters[PACE].is_finite()
            && parameters[PACE + 1..].iter().all(is_price);
        is_sound
            .then(|| CostModel::new(parameters, deviations(&parameters, usize::MAX, 0.05), size))
    }

    /// Keeps costs, whole or not at all.
    pub(crate) fn write(&self, costs: &CostModel) -> io::Result<()> {
        let folder = self.path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        // The parameters in terms of the plain step as it is now.
        let parameters = costs.normalised().to_vec();
        serde_json::to_writer(
            &mut file,
            &Kept { key: self.key.clone(), size: costs.size(), parameters },
        )?;
        file.persist(&self.path)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::model;
    use super::*;

    #[test]
    fn costs_come_back_under_their_key_only() {
        let folder = tempfile::tempdir().unwrap();
        let file = CostFile::new(&folder.path().join("state"), "a model, a machine".to_owned());
        let path = file.path.clone();
        assert_ne!(path, CostFile::new(&folder.path().join("state"), "another".to_owned()).path);
        assert!(file.read().is_none(), "nothing was kept yet");
        file.write(&model()).unwrap();
        assert_eq!(file.read().unwrap().parameters, model().parameters);
        let other = CostFile { key: "another".to_owned(), ..file.clone() };
        assert!(other.read().is_none());
        let whole = fs::read_to_string(&path).unwrap();
        for damaged in ["", "{}", "[1", &whole.replace("0.3", "-1.0"), &whole.replace("0.3,", "")] {
            fs::write(&path, damaged).unwrap();
            assert!(file.read().is_none(), "{damaged}");
        }
        assert!(CostFile { path: "/".into(), key: String::new() }.write(&model()).is_err());
    }
}
