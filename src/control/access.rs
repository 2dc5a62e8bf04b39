//! Access to control of the replica: for everybody who reaches the port, or for those who know a
//! token.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use sha2::{Digest, Sha256};

/// Shorter tokens can be guessed.
const LEAST_TOKEN_BYTES: usize = 16;

/// Decides by a call's headers. Clones are equal.
#[derive(Clone, Default)]
pub struct Access {
    /// The token's SHA-256: comparing hashes takes the same time wherever they differ.
    token: Option<[u8; 32]>,
}

/// A reason why a token can't be used.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The file can't be read.
    #[error("can't read the token from {}: {source} (control.token_file)", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// It is short, or empty.
    #[error("the token in {} has {length} bytes; use at least {LEAST_TOKEN_BYTES}, as from \
        `openssl rand -hex 32`", path.display())]
    Short {
        /// The file.
        path: PathBuf,
        /// Bytes of the token, without blanks around it.
        length: usize,
    },
}

// === impl Access ===

impl Access {
    /// For everybody who reaches the port.
    pub fn open() -> Self {
        Self::default()
    }

    /// For those who send the token in the file, which may end with a line break.
    pub fn from_file(path: &Path) -> Result<Self, AccessError> {
        let text = fs::read_to_string(path)
            .map_err(|source| AccessError::File { path: path.to_owned(), source })?;
        let token = text.trim();
        if token.len() < LEAST_TOKEN_BYTES {
            return Err(AccessError::Short { path: path.to_owned(), length: token.len() });
        }
        Ok(Self { token: Some(Sha256::digest(token).into()) })
    }

    /// Whether a call with these headers may pass.
    pub(super) fn allows(&self, headers: &HeaderMap) -> bool {
        let Some(token) = &self.token else { return true };
        let sent =
            headers.get(AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
        sent.is_some_and(|sent| Sha256::digest(sent).as_slice() == token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_opens() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        fs::write(&path, "0123456789abcdef\n").unwrap();
        let access = Access::from_file(&path).unwrap();
        for (sent, allowed) in [
            (None, false),
            (Some("Bearer 0123456789abcdef"), true),
            (Some("Bearer 0123456789abcdeg"), false),
            (Some("Bearer "), false),
            (Some("0123456789abcdef"), false),
        ] {
            let headers: HeaderMap =
                sent.into_iter().map(|sent| (AUTHORIZATION, sent.parse().unwrap())).collect();
            assert_eq!(access.allows(&headers), allowed, "{sent:?}");
            assert!(Access::open().allows(&headers), "{sent:?}");
        }
    }

    #[test]
    fn a_token_that_is_no_secret_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        assert!(matches!(Access::from_file(&path), Err(AccessError::File { .. })));
        fs::write(&path, " \n").unwrap();
        let error = Access::from_file(&path).err().unwrap().to_string();
        assert!(error.contains("has 0 bytes; use at least 16"), "{error}");
    }
}
