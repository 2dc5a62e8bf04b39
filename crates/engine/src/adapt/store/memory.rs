//! The store that ends with the process.

use std::collections::BTreeMap;

use super::record::updated_of;
use super::{ProfileKey, ProfileStore, RecordKey, StoreError};

/// Keeps records in memory.
#[derive(Debug)]
pub struct MemoryStore {
    records: BTreeMap<String, Vec<u8>>,
    max_records: usize,
}

// === impl MemoryStore ===

impl MemoryStore {
    /// Keeps at most `max_records`, the latest.
    pub fn new(max_records: usize) -> Self {
        Self { records: BTreeMap::new(), max_records }
    }
}

impl ProfileStore for MemoryStore {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn read(&mut self, key: &RecordKey) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.records.get(&key.to_string()).cloned())
    }

    fn update(
        &mut self,
        key: &RecordKey,
        change: &mut dyn FnMut(Option<&[u8]>) -> Vec<u8>,
    ) -> Result<(), StoreError> {
        let name = key.to_string();
        let changed = change(self.records.get(&name).map(Vec::as_slice));
        self.records.insert(name.clone(), changed);
        if self.records.len() > self.max_records {
            let others = self.records.iter().filter(|(other, _)| **other != name);
            let oldest =
                others.min_by_key(|(_, bytes)| updated_of(bytes)).map(|(name, _)| name.clone());
            oldest.into_iter().for_each(|name| drop(self.records.remove(&name)));
        }
        Ok(())
    }

    fn remove(&mut self, key: &RecordKey) -> Result<bool, StoreError> {
        Ok(self.records.remove(&key.to_string()).is_some())
    }

    fn keys(&mut self, model: &str) -> Result<Vec<ProfileKey>, StoreError> {
        Ok(profiles_of(model, self.records.keys().map(String::as_str)))
    }
}

/// The profile keys among the names of records that belong to `model`.
pub(super) fn profiles_of<'a>(
    model: &str,
    names: impl Iterator<Item = &'a str>,
) -> Vec<ProfileKey> {
    let profile = |name: &str| ProfileKey::from_hex(name.strip_prefix(model)?.strip_prefix(':')?);
    names.filter_map(profile).collect()
}
