//! A file on its way into the cache: nobody sees it under its name before it is whole and checked.

use std::fs::{File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, ensure};
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use skipstone_gguf::GgufFile;

/// A temporary file in the destination's folder, so that the last step can be a rename. Dropped, it
/// is deleted.
pub(super) struct Arrival {
    file: NamedTempFile,
    hash: Sha256,
}

/// Writes to a file and hashes what it writes.
struct Hashing<'a> {
    file: &'a mut File,
    hash: &'a mut Sha256,
}

/// Lower-case hexadecimal SHA-256 of a file.
pub(super) fn file_sha256(path: &Path) -> anyhow::Result<String> {
    let mut file = File::open(path).with_context(|| format!("can't read {}", path.display()))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let length =
            file.read(&mut buffer).with_context(|| format!("can't read {}", path.display()))?;
        match buffer.get(..length) {
            None | Some([]) => return Ok(hexadecimal(hash)),
            Some(bytes) => hash.update(bytes),
        }
    }
}

// === impl Arrival ===

impl Arrival {
    /// An empty file in `folder`.
    pub(super) fn new(folder: &Path) -> anyhow::Result<Self> {
        let file = tempfile::Builder::new()
            .prefix(".fetch-")
            .suffix(".part")
            // As other files of the user, less what the umask takes: a service may run as another
            // user.
            .permissions(Permissions::from_mode(0o644))
            .tempfile_in(folder)
            .with_context(|| format!("can't write to {}", folder.display()))?;
        Ok(Self { file, hash: Sha256::new() })
    }

    /// Appends everything that `source` yields.
    pub(super) fn fill(&mut self, mut source: impl Read) -> anyhow::Result<()> {
        let mut sink = Hashing { file: self.file.as_file_mut(), hash: &mut self.hash };
        io::copy(&mut source, &mut sink).context("the transfer broke off")?;
        Ok(())
    }

    /// Checks the hash and the GGUF header, then gives the file its name.
    pub(super) fn settle(self, path: &Path, expected_sha256: Option<&str>) -> anyhow::Result<()> {
        let found = hexadecimal(self.hash);
        if let Some(expected) = expected_sha256 {
            ensure!(
                found == expected,
                "the file that arrived is not the expected one: its SHA-256 is {found}, expected \
                 {expected}"
            );
        }
        GgufFile::open(self.file.path()).context("what arrived is not a usable model file")?;
        self.file.as_file().sync_all().context("can't write the file to disk")?;
        self.file.persist(path).with_context(|| format!("can't create {}", path.display()))?;
        // The rename itself is only on disk when the folder is; if that fails the file is still
        // whole.
        if let Some(folder) = path.parent() {
            let _ = File::open(folder).and_then(|folder| folder.sync_all());
        }
        Ok(())
    }
}

// === impl Hashing ===

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        if let Some(written) = bytes.get(..written) {
            self.hash.update(written);
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn hexadecimal(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use skipstone_gguf::GgufBuilder;

    fn model() -> Vec<u8> {
        GgufBuilder::new().metadata("general.name", "x").build()
    }

    fn files(folder: &Path) -> Vec<String> {
        let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        names.map(|name| name.into_string().unwrap()).collect()
    }

    #[test]
    fn a_whole_file_gets_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.gguf");
        let bytes = model();
        let mut arrival = Arrival::new(folder.path()).unwrap();
        let (first, second) = bytes.split_at(10);
        arrival.fill(first).unwrap();
        arrival.fill(second).unwrap();
        let hash = hexadecimal(Sha256::new_with_prefix(&bytes));
        arrival.settle(&path, Some(&hash)).unwrap();
        assert_eq!(fs::read(&path).unwrap(), bytes);
        assert_eq!(file_sha256(&path).unwrap(), hash);
        assert_eq!(files(folder.path()), ["a.gguf"]);
    }

    #[test]
    fn the_hash_is_sha_256() {
        assert_eq!(
            hexadecimal(Sha256::new_with_prefix(b"abc")),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn what_is_wrong_or_broken_leaves_no_file() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("line cut"))
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.gguf");

        let mut arrival = Arrival::new(folder.path()).unwrap();
        arrival.fill(&model()[..]).unwrap();
        let wrong = "0".repeat(64);
        let error = arrival.settle(&path, Some(&wrong)).unwrap_err().to_string();
        let found = hexadecimal(Sha256::new_with_prefix(model()));
        assert!(error.contains(&wrong) && error.contains(&found), "{error}");

        let mut arrival = Arrival::new(folder.path()).unwrap();
        arrival.fill(&b"<html>not found</html>"[..]).unwrap();
        let error = arrival.settle(&path, None).unwrap_err().to_string();
        assert!(error.contains("not a usable model file"), "{error}");

        let mut arrival = Arrival::new(folder.path()).unwrap();
        arrival.fill(&model()[..10]).unwrap();
        assert!(arrival.fill(Broken).is_err());
        drop(arrival);
        assert_eq!(files(folder.path()), Vec::<String>::new());
    }
}
