//! Under what a record is kept: the model's fingerprint, and the hash of a profile key.

use std::fmt;
use std::sync::Arc;

use sha2::{Digest, Sha256};

/// The hash of a profile key. The key itself is kept nowhere.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProfileKey([u8; 32]);

/// A record's place in a store.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct RecordKey {
    /// Fingerprint of the model.
    pub model: Arc<str>,
    /// Whose traffic.
    pub profile: ProfileKey,
}

// === impl ProfileKey ===

impl ProfileKey {
    /// Hashes a client's key. The empty one is everybody's: the pool.
    pub fn of(key: &str) -> Self {
        let hash = Sha256::new_with_prefix(b"skipstone profile key 1\0").chain_update(key);
        Self(hash.finalize().into())
    }

    /// Of the pool, which all traffic adds to.
    pub fn pool() -> Self {
        Self::of("")
    }

    /// Reads 64 hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut hash = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return None;
        }
        for (index, byte) in hash.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
        }
        // "+f" is a number to the standard library, but not to us.
        text.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some(Self(hash))
    }
}

impl Default for ProfileKey {
    fn default() -> Self {
        Self::pool()
    }
}

/// As 64 hexadecimal digits.
impl fmt::Display for ProfileKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for ProfileKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ProfileKey({self})")
    }
}

// === impl RecordKey ===

impl fmt::Display for RecordKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.model, self.profile)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_hashes_that_read_back() {
        let key = ProfileKey::of("customer 7");
        let text = key.to_string();
        assert_eq!(text.len(), 64);
        assert_eq!(ProfileKey::from_hex(&text), Some(key));
        assert_ne!(key, ProfileKey::of("customer 8"));
        assert_eq!(ProfileKey::of(""), ProfileKey::pool());
        let no_sum_of_the_text_alone =
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_ne!(ProfileKey::pool().to_string(), no_sum_of_the_text_alone);
        for wrong in
            ["", "00", &text[1..], &format!("{}+f", &text[2..]), &format!("{}é", &text[2..])]
        {
            assert_eq!(ProfileKey::from_hex(wrong), None, "{wrong}");
        }
    }
}
