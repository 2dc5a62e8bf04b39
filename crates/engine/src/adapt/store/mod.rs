//! Where what streams learn outlives them: stores of records, each of one model and one kind of
//! traffic.
//!
//! A store keeps bytes under a key and changes them atomically; what the bytes mean, and how
//! records are merged, is the same for all of them. A record is a hint: whatever a store loses,
//! mixes up or makes up costs speed and never changes an output.

mod embedded;
mod key;
mod memory;
mod record;
mod shared;

use std::time::{Duration, SystemTime};

pub use embedded::EmbeddedStore;
pub use key::{ProfileKey, RecordKey};
pub use memory::MemoryStore;
pub use record::{MAX_RECORD_BYTES, Record, RecordError};
pub use shared::{SharedStore, SharedStoreOptions};

use super::learned::Learned;

/// Keeps records. All calls may block: none is made by a thread that computes or serves.
pub trait ProfileStore: Send {
    /// The name in settings, metrics and logs.
    fn name(&self) -> &'static str;

    /// Whether other processes change its records, too.
    fn is_shared(&self) -> bool {
        false
    }

    /// The bytes under `key`, cut off somewhere beyond [`MAX_RECORD_BYTES`].
    ///
    /// # Errors
    /// If the store does not answer.
    fn read(&mut self, key: &RecordKey) -> Result<Option<Vec<u8>>, StoreError>;

    /// Puts what `change` makes of the bytes under `key` in their place, with no change by others
    /// in between. `change` may be called several times.
    ///
    /// # Errors
    /// If the store does not answer, or others change the record all the time.
    fn update(
        &mut self,
        key: &RecordKey,
        change: &mut dyn FnMut(Option<&[u8]>) -> Vec<u8>,
    ) -> Result<(), StoreError>;

    /// Removes what is under `key`; whether there was something.
    ///
    /// # Errors
    /// If the store does not answer.
    fn remove(&mut self, key: &RecordKey) -> Result<bool, StoreError>;

    /// The profile keys of which it has records of `model`.
    ///
    /// # Errors
    /// If the store does not answer.
    fn keys(&mut self, model: &str) -> Result<Vec<ProfileKey>, StoreError>;

    /// Makes sure that everything survives the process, as far as the store can.
    ///
    /// # Errors
    /// If the store does not answer.
    fn flush(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// Why a store did not do what it was asked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StoreError {
    /// It can't be opened.
    #[error(
        "can't open the profile store {place}: {reason}; {remedy}, or set profiles.store to \"memory\""
    )]
    Open {
        /// Path or address.
        place: String,
        /// What is wrong.
        reason: String,
        /// What to do.
        remedy: &'static str,
    },
    /// An operation failed.
    #[error("the profile store \"{store}\" can't {action}: {reason}")]
    Failed {
        /// Its name.
        store: &'static str,
        /// What was tried.
        action: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// It failed a moment ago.
    #[error("the profile store \"{store}\" does not answer; it is tried again in some seconds")]
    Resting {
        /// Its name.
        store: &'static str,
    },
    /// Others changed the record whenever it was to be replaced.
    #[error("others changed a record of the profile store \"{store}\" {attempts} times in a row")]
    Contended {
        /// Its name.
        store: &'static str,
        /// Attempts.
        attempts: usize,
    },
}

/// A merged record, and why what was stored before was dropped, if it was.
#[derive(Clone, PartialEq, Debug)]
pub struct Merged {
    /// What is stored now.
    pub record: Record,
    /// The fault of what was stored before.
    pub dropped: Option<RecordError>,
}

/// The record under `key`: none, sound, or faulty.
///
/// # Errors
/// If the store does not answer.
pub fn load(
    store: &mut dyn ProfileStore,
    key: &RecordKey,
) -> Result<Option<Result<Record, RecordError>>, StoreError> {
    Ok(store.read(key)?.map(|bytes| Record::from_bytes(&bytes)))
}

/// Adds `newer` to the record under `key`, which has faded by half for each `half_life` since it
/// was last written.
///
/// # Errors
/// If the store does not answer.
pub fn merge(
    store: &mut dyn ProfileStore,
    key: &RecordKey,
    newer: &Learned,
    half_life: Duration,
) -> Result<Merged, StoreError> {
    let mut merged = Merged { record: Record::default(), dropped: None };
    store.update(key, &mut |stored| {
        let (found, dropped) = match stored.map(Record::from_bytes) {
            Some(Ok(record)) => (record, None),
            Some(Err(error)) => (Record::default(), Some(error)),
            None => (Record::default(), None),
        };
        let mut record = found.faded(unix_seconds(), half_life);
        record.learned.add(newer);
        let bytes = record.to_bytes();
        merged = Merged { record, dropped };
        bytes
    })?;
    Ok(merged)
}

/// Puts `learned` in the place of the record under `key`.
///
/// # Errors
/// If the store does not answer.
pub fn replace(
    store: &mut dyn ProfileStore,
    key: &RecordKey,
    learned: &Learned,
) -> Result<Record, StoreError> {
    let record = Record { updated: unix_seconds(), learned: learned.clone() };
    store.update(key, &mut |_| record.to_bytes())?;
    Ok(record)
}

/// Seconds since 1970; a clock before that counts as 0.
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs())
}
