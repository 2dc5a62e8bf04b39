//! A GGUF file on disk, checked and mapped.

use std::ops::Range;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::{GgufError, Manifest, TensorInfo};
use skipstone_kernels::MappedFile;

/// An open model file: its manifest, and its tensors in mapped memory.
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    map: MappedFile,
    manifest: Manifest,
}

// === impl GgufFile ===

impl GgufFile {
    /// Maps the file and checks its header; tensor data is paged in when it is first read.
    ///
    /// # Errors
    ///
    /// [`GgufError::Open`] and [`GgufError::NotAFile`] about the file, everything else about its
    /// content.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let failed = |reason| GgufError::Open { path: path.to_owned(), reason };
        // Asked first, because opening a pipe would wait for a writer.
        if !std::fs::metadata(path).map_err(failed)?.is_file() {
            return Err(GgufError::NotAFile { path: path.to_owned() });
        }
        let map = MappedFile::open(path).map_err(failed)?;
        let manifest = Manifest::parse(map.bytes())?;
        Ok(Self { path: path.to_owned(), map, manifest })
    }

    /// The path that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The checked header.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Fingerprint of the model: the SHA-256, in lower-case hexadecimal, of everything before the
    /// tensor data (metadata and tensor table) and of all vectors (norms and biases), which tell
    /// tunings of one model apart. Reads little of the file.
    pub fn fingerprint(&self) -> String {
        let bytes = self.map.bytes();
        let tensors = self.manifest.tensors();
        let starts = tensors.iter().filter_map(range_of).map(|range| range.start);
        let header = bytes.get(..starts.min().unwrap_or(bytes.len()));
        let mut hash = Sha256::new_with_prefix(header.unwrap_or_default());
        for vector in tensors.iter().filter(|tensor| tensor.dims.len() == 1) {
            hash.update(self.bytes_of(vector));
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The data of a tensor of this file, `byte_len` bytes in the layout of its type; empty for a
    /// tensor of another file that lies outside this one.
    pub fn bytes_of(&self, tensor: &TensorInfo) -> &[u8] {
        range_of(tensor).and_then(|range| self.map.bytes().get(range)).unwrap_or_default()
    }

    /// Gives the memory of a tensor back once it was repacked; reading it again pages it in again.
    pub fn release(&self, tensor: &TensorInfo) {
        if let Some(range) = range_of(tensor) {
            self.map.release(range);
        }
    }
}

fn range_of(tensor: &TensorInfo) -> Option<Range<usize>> {
    let start = usize::try_from(tensor.offset).ok()?;
    Some(start..start.checked_add(usize::try_from(tensor.byte_len).ok()?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{GgufBuilder, TensorType};

    #[test]
    fn tensors_are_read_and_released() {
        let data: Vec<u8> = (0..3 * 4096).map(|index| (index % 251) as u8).collect();
        let bytes = GgufBuilder::new()
            .tensor("first", &[4], TensorType::I8, vec![1, 2, 3, 4])
            .tensor("second", &[3 * 1024], TensorType::F32, data.clone())
            .build();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        std::fs::write(&path, bytes).unwrap();

        let file = GgufFile::open(&path).unwrap();
        assert_eq!(file.path(), path);
        let [first, second] = file.manifest().tensors() else { panic!("{:?}", file.manifest()) };
        assert_eq!(file.bytes_of(first), [1, 2, 3, 4]);
        assert_eq!(file.bytes_of(second), data);
        file.release(second);
        assert_eq!(file.bytes_of(second), data);
        let mut stranger = second.clone();
        stranger.offset = u64::MAX - 1;
        assert_eq!(file.bytes_of(&stranger), [0_u8; 0]);
        file.release(&stranger);
    }

    #[test]
    fn the_fingerprint_tells_models_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        let fingerprint = |name: &str, norm: u8, weight: u8| {
            let bytes = GgufBuilder::new()
                .metadata("general.name", name)
                .tensor("norm", &[4], TensorType::I8, vec![1, 2, 3, norm])
                .tensor("matrix", &[4, 2], TensorType::I8, vec![weight; 8])
                .build();
            std::fs::write(&path, bytes).unwrap();
            GgufFile::open(&path).unwrap().fingerprint()
        };
        let first = fingerprint("a", 1, 1);
        assert_eq!(first.len(), 64);
        assert_eq!(first, fingerprint("a", 1, 2), "matrices are not read");
        assert_ne!(first, fingerprint("b", 1, 1));
        assert_ne!(first, fingerprint("a", 2, 1));
    }

    #[test]
    fn what_is_no_file_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let error = GgufFile::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("is not a regular file"), "{error}");
        let error = GgufFile::open(&folder.path().join("missing.gguf")).unwrap_err().to_string();
        assert!(
            error.contains("can't open the model") && error.contains("missing.gguf"),
            "{error}"
        );
        let empty = folder.path().join("empty.gguf");
        std::fs::write(&empty, []).unwrap();
        let error = GgufFile::open(&empty).unwrap_err().to_string();
        assert!(error.contains("ends inside the magic number"), "{error}");
    }
}
