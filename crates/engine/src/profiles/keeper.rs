//! The keeper: the thread that owns the profile store.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::cache::Cache;
use super::{PoolSlot, ProfileOptions};
use crate::adapt::Learned;
use crate::adapt::store::{
    self, ProfileKey, ProfileStore, Record, RecordError, RecordKey, StoreError, unix_seconds,
};
use crate::record::{self, StoreOperation, StoreOutcome};

/// How long a store that failed is left alone; doubled after each further failure.
const FIRST_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(30);

/// Keys whose lessons are kept in memory while the store fails.
const MAX_PENDING: usize = 10_000;

/// With nothing to do it looks around this seldom.
const IDLE: Duration = Duration::from_secs(3600);

type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

/// What the keeper is asked.
#[derive(Debug)]
pub(super) enum Command {
    /// A stream taught this.
    Taught {
        key: ProfileKey,
        learned: Learned,
    },
    /// What is known under the key, into the cache and to whoever waits.
    Fetch {
        key: ProfileKey,
        answer: Option<oneshot::Sender<Option<Arc<Learned>>>>,
    },
    List {
        answer: Answer<Vec<ProfileKey>>,
    },
    Get {
        key: ProfileKey,
        answer: Answer<Option<Record>>,
    },
    Put {
        key: ProfileKey,
        learned: Learned,
        answer: Answer<Record>,
    },
    Delete {
        key: ProfileKey,
        answer: Answer<bool>,
    },
    Flush {
        answer: Answer<()>,
    },
    /// Wakes it up to see that it is to end.
    Stop,
}

/// The thread's state.
pub(super) struct Keeper {
    store: Box<dyn ProfileStore>,
    options: ProfileOptions,
    commands: Receiver<Command>,
    cache: Arc<Cache>,
    pool: PoolSlot,
    stop: Arc<AtomicBool>,
    /// Not in the store yet.
    pending: HashMap<ProfileKey, Learned>,
    /// When to write back, or to look what others wrote.
    due: Instant,
    /// Until when the store is left alone because it failed, and for how long after the next
    /// failure.
    rest_until: Option<Instant>,
    next_rest: Duration,
}

// === impl Keeper ===

impl Keeper {
    pub(super) fn new(
        store: Box<dyn ProfileStore>,
        options: ProfileOptions,
        commands: Receiver<Command>,
        cache: Arc<Cache>,
        pool: PoolSlot,
        stop: Arc<AtomicBool>,
    ) -> Self {
        let (due, next_rest) = (Instant::now(), FIRST_REST);
        let pending = HashMap::new();
        Self {
            store,
            options,
            commands,
            cache,
            pool,
            stop,
            pending,
            due,
            rest_until: None,
            next_rest,
        }
    }

    pub(super) fn run(mut self) {
        self.refresh_pool();
        self.schedule();
        while !self.stop.load(Ordering::Acquire) {
            match self.due.checked_duration_since(Instant::now()).filter(|wait| !wait.is_zero()) {
                None => {
                    self.write_back();
                    self.schedule();
                }
                Some(wait) => match self.commands.recv_timeout(wait) {
                    Ok(command) => self.handle(command),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => break,
                },
            }
        }
        self.handle_waiting();
        if let Err(error) = self.flush() {
            tracing::warn!(%error, keys = self.pending.len(), "what was learned last is lost");
        }
    }

    fn handle_waiting(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            self.handle(command);
        }
    }

    fn handle(&mut self, command: Command) {
        match command {
            Command::Taught { key, learned } => self.take(key, &learned),
            Command::Fetch { key, answer } => {
                let learned = self.fetch(key);
                // Whoever waited may have started without.
                let _ = answer.map(|answer| answer.send(learned));
            }
            Command::List { answer } => {
                let _ = answer.send(self.list());
            }
            Command::Get { key, answer } => {
                let _ = answer.send(self.get(key));
            }
            Command::Put { key, learned, answer } => {
                let _ = answer.send(self.put(key, &learned));
            }
            Command::Delete { key, answer } => {
                let _ = answer.send(self.delete(key));
            }
            Command::Flush { answer } => {
                let _ = answer.send(self.flush());
            }
            Command::Stop => {}
        }
    }

    /// Sets the next time to look at the store without being asked.
    fn schedule(&mut self) {
        let has_work = self.store.is_shared() || !self.pending.is_empty();
        self.due = Instant::now() + if has_work { self.options.write_back } else { IDLE };
    }

    /// Takes what a stream taught.
    fn take(&mut self, key: ProfileKey, learned: &Learned) {
        let was_idle = self.pending.is_empty() && !self.store.is_shared();
        self.cache.add(&key, learned);
        self.keep(ProfileKey::pool(), learned);
        if key != ProfileKey::pool() {
            self.keep(key, learned);
        }
        if was_idle {
            self.schedule();
        }
    }

    /// Keeps lessons until they are written.
    fn keep(&mut self, key: ProfileKey, learned: &Learned) {
        if self.pending.len() < MAX_PENDING || self.pending.contains_key(&key) {
            self.pending.entry(key).or_default().add(learned);
        }
    }

    /// What is known under `key`, what the store does not have yet included; into the cache as
    /// well.
    fn fetch(&mut self, key: ProfileKey) -> Option<Arc<Learned>> {
        let Ok(stored) = self.load(key) else {
            // As the store has not answered, what is remembered can't be older than what it holds.
            let cached = self.cache.get(&key).and_then(|cached| cached.learned);
            return cached.or_else(|| self.pending.get(&key).cloned().map(Arc::new));
        };
        let mut learned = stored.map(|record| record.learned);
        if let Some(pending) = self.pending.get(&key) {
            learned.get_or_insert_default().add(pending);
        }
        let learned = learned.map(Arc::new);
        self.cache.put(key, learned.clone());
        learned
    }

    /// The sound record under `key`, as of now. One that is not sound is as good as none.
    fn load(&mut self, key: ProfileKey) -> Result<Option<Record>, StoreError> {
        let name = self.name_of(key);
        match self.with_store(StoreOperation::Get, |store| store::load(store, &name))? {
            Some(Ok(record)) => {
                self.count(StoreOperation::Get, StoreOutcome::Ok);
                Ok(Some(record.faded(unix_seconds(), self.options.half_life)))
            }
            Some(Err(error)) => {
                self.reject(StoreOperation::Get, key, &error);
                Ok(None)
            }
            None => {
                self.count(StoreOperation::Get, StoreOutcome::Missing);
                Ok(None)
            }
        }
    }

    /// Hands the engine the store's pool.
    fn refresh_pool(&mut self) {
        if let Ok(Some(record)) = self.load(ProfileKey::pool()) {
            self.share(ProfileKey::pool(), record.learned);
        }
    }

    /// Lets the others of this process know what the store has under `key`.
    fn share(&self, key: ProfileKey, learned: Learned) {
        if key == ProfileKey::pool() {
            // The last one to be set is the latest, also if a panic poisoned the lock.
            *self.pool.lock().unwrap_or_else(PoisonError::into_inner) = Some(learned);
        } else {
            self.cache.put(key, Some(Arc::new(learned)));
        }
    }

    /// Writes back what is pending, and takes what others wrote to the pool.
    fn write_back(&mut self) {
        if self.store.is_shared() && !self.pending.contains_key(&ProfileKey::pool()) {
            self.refresh_pool();
        }
        // Told already; what is not written stays pending.
        let _ = self.write_pending();
    }

    fn write_pending(&mut self) -> Result<(), StoreError> {
        let mut keys: Vec<ProfileKey> = self.pending.keys().copied().collect();
        keys.sort_by_key(|key| *key != ProfileKey::pool());
        for key in keys {
            self.write(key)?;
            // Who asks for a record does not wait until all are written.
            self.handle_waiting();
        }
        Ok(())
    }

    /// Adds what is pending under `key` to the store.
    fn write(&mut self, key: ProfileKey) -> Result<(), StoreError> {
        let Some(newer) = self.pending.remove(&key) else { return Ok(()) };
        let (name, half_life) = (self.name_of(key), self.options.half_life);
        let merged = self.with_store(StoreOperation::Merge, |store| {
            store::merge(store, &name, &newer, half_life)
        });
        let merged = match merged {
            Ok(merged) => merged,
            Err(error) => {
                self.pending.insert(key, newer);
                return Err(error);
            }
        };
        match merged.dropped {
            Some(error) => self.reject(StoreOperation::Merge, key, &error),
            None => self.count(StoreOperation::Merge, StoreOutcome::Ok),
        }
        // Of a store that is ours alone the engine knows the pool already.
        if self.store.is_shared() || key != ProfileKey::pool() {
            self.share(key, merged.record.learned);
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        // Whether the store has come back is seen by trying.
        self.rest_until = None;
        self.write_pending()?;
        self.with_store(StoreOperation::Flush, |store| store.flush())?;
        self.count(StoreOperation::Flush, StoreOutcome::Ok);
        Ok(())
    }

    fn list(&mut self) -> Result<Vec<ProfileKey>, StoreError> {
        let model = Arc::clone(&self.options.model);
        let mut keys = self.with_store(StoreOperation::List, |store| store.keys(&model))?;
        self.count(StoreOperation::List, StoreOutcome::Ok);
        keys.extend(self.pending.keys());
        keys.sort_unstable();
        keys.dedup();
        Ok(keys)
    }

    fn get(&mut self, key: ProfileKey) -> Result<Option<Record>, StoreError> {
        self.write(key)?;
        self.load(key)
    }

    fn put(&mut self, key: ProfileKey, learned: &Learned) -> Result<Record, StoreError> {
        let name = self.name_of(key);
        let record =
            self.with_store(StoreOperation::Put, |store| store::replace(store, &name, learned))?;
        self.count(StoreOperation::Put, StoreOutcome::Ok);
        self.pending.remove(&key);
        self.share(key, record.learned.clone());
        Ok(record)
    }

    fn delete(&mut self, key: ProfileKey) -> Result<bool, StoreError> {
        let name = self.name_of(key);
        let removed = self.with_store(StoreOperation::Delete, |store| store.remove(&name))?;
        let outcome = if removed { StoreOutcome::Ok } else { StoreOutcome::Missing };
        self.count(StoreOperation::Delete, outcome);
        let was_pending = self.pending.remove(&key).is_some();
        self.share(key, Learned::default());
        Ok(removed || was_pending)
    }

    /// Runs `work` on the store unless that rests. A failure makes it rest.
    fn with_store<T>(
        &mut self,
        operation: StoreOperation,
        work: impl FnOnce(&mut dyn ProfileStore) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let now = Instant::now();
        if self.rest_until.is_some_and(|until| now < until) {
            self.count(operation, StoreOutcome::Skipped);
            return Err(StoreError::Resting { store: self.store.name() });
        }
        let result = work(&mut *self.store);
        match &result {
            Ok(_) if self.next_rest != FIRST_REST => {
                tracing::info!(store = self.store.name(), "the profile store answers again");
                (self.rest_until, self.next_rest) = (None, FIRST_REST);
            }
            Ok(_) => {}
            Err(error) => {
                self.count(operation, StoreOutcome::Error);
                if self.next_rest == FIRST_REST {
                    tracing::warn!(%error, "profiles are kept in memory until the store answers");
                }
                self.rest_until = Some(now + self.next_rest);
                self.next_rest = (2 * self.next_rest).min(LONGEST_REST);
            }
        }
        result
    }

    fn name_of(&self, key: ProfileKey) -> RecordKey {
        RecordKey { model: Arc::clone(&self.options.model), profile: key }
    }

    fn count(&self, operation: StoreOperation, outcome: StoreOutcome) {
        record::profile_store(self.store.name(), operation, outcome);
    }

    /// Tells of a record that is dropped.
    fn reject(&self, operation: StoreOperation, key: ProfileKey, error: &RecordError) {
        self.count(operation, StoreOutcome::Rejected);
        tracing::warn!(store = self.store.name(), %key, %error, "a record of the profile store is dropped");
    }
}
