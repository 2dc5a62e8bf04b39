//! Records that requests have asked for, so that the usual request does not wait for the store.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::adapt::Learned;
use crate::adapt::store::ProfileKey;

/// Keys that are remembered, some kilobytes each at most.
const MAX_ENTRIES: usize = 4096;

/// Shared by the keeper and the server. Locks are held for a look-up only.
#[derive(Default)]
pub(super) struct Cache(Mutex<HashMap<ProfileKey, Entry>>);

struct Entry {
    learned: Option<Arc<Learned>>,
    fetched: Instant,
}

/// What is known of a key, or that nothing is.
pub(super) struct Cached {
    pub(super) learned: Option<Arc<Learned>>,
    pub(super) age: Duration,
}

// === impl Cache ===

impl Cache {
    pub(super) fn get(&self, key: &ProfileKey) -> Option<Cached> {
        let entries = self.lock();
        let entry = entries.get(key)?;
        Some(Cached { learned: entry.learned.clone(), age: entry.fetched.elapsed() })
    }

    /// Remembers what the store has under `key`.
    pub(super) fn put(&self, key: ProfileKey, learned: Option<Arc<Learned>>) {
        let mut entries = self.lock();
        if entries.len() >= MAX_ENTRIES && !entries.contains_key(&key) {
            let oldest = entries.iter().min_by_key(|(_, entry)| entry.fetched).map(|(key, _)| *key);
            oldest.into_iter().for_each(|key| drop(entries.remove(&key)));
        }
        entries.insert(key, Entry { learned, fetched: Instant::now() });
    }

    /// Adds what a stream taught, if `key` is remembered.
    pub(super) fn add(&self, key: &ProfileKey, newer: &Learned) {
        if let Some(entry) = self.lock().get_mut(key) {
            Arc::make_mut(entry.learned.get_or_insert_default()).add(newer);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ProfileKey, Entry>> {
        // Each entry is valid at every moment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_entry_makes_room() {
        let cache = Cache::default();
        let key = |number: usize| ProfileKey::of(&number.to_string());
        for number in 0..=MAX_ENTRIES {
            cache.put(key(number), None);
        }
        assert!(cache.get(&key(0)).is_none() && cache.get(&key(1)).is_some());
        assert!(cache.get(&key(MAX_ENTRIES)).is_some_and(|cached| cached.learned.is_none()));
        let mut newer = Learned::default();
        newer.observe_ngram(0, true);
        cache.add(&key(1), &newer);
        cache.add(&key(0), &newer);
        assert_eq!(cache.get(&key(1)).unwrap().learned.as_deref(), Some(&newer));
        assert!(cache.get(&key(0)).is_none(), "what is not remembered is the store's alone");
    }
}
