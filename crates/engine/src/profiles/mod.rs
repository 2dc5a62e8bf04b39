//! What streams learn, kept beyond the process: between the engine, the server and a profile store.
//!
//! One thread, the keeper, owns the store. The engine hands it what streams taught and takes the
//! pool from it, and waits for neither. The server asks it, before it submits a request, what is
//! known of traffic like the request's: mostly the cache knows, else it waits for the keeper as
//! long as a reader won't notice. If the store fails the keeper goes on from memory, and tells
//! metrics.

mod cache;
mod keeper;

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use self::cache::Cache;
use self::keeper::{Command, Keeper};
use crate::adapt::Learned;
use crate::adapt::store::{ProfileKey, ProfileStore, Record, StoreError};
use crate::record::{self, StoreOperation, StoreOutcome};

/// How long a request waits for what is known of its traffic before it starts without.
pub const FETCH_BUDGET: Duration = Duration::from_millis(20);

/// How long an operator's request may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long the end of the process waits for the last write-back.
const LAST_WRITE: Duration = Duration::from_secs(2);

/// Commands that may wait for the keeper. More are refused: streams start cold, and what they
/// taught is lost.
const MAX_COMMANDS: usize = 1024;

/// How profiles are kept.
#[derive(Clone, Debug)]
pub struct ProfileOptions {
    /// Fingerprint of the model.
    pub model: Arc<str>,
    /// After this time what was learned counts half.
    pub half_life: Duration,
    /// What is learned reaches the store within this time, and what others put there reaches this
    /// process.
    pub write_back: Duration,
}

/// The keeper's handle. Dropping it writes back what is not in the store yet, and ends the thread.
pub struct Profiles {
    store: &'static str,
    /// Cached records of a store that others change are fetched again at this age.
    refetch_after: Option<Duration>,
    commands: SyncSender<Command>,
    cache: Arc<Cache>,
    pool: PoolSlot,
    stop: Arc<AtomicBool>,
    ended: Mutex<Receiver<()>>,
}

/// The engine's end: hands on what streams taught, takes the pool of all replicas. Never waits.
#[derive(Clone, Debug)]
pub struct ProfileLink {
    commands: SyncSender<Command>,
    pool: PoolSlot,
}

/// A pool that the engine has not taken yet.
type PoolSlot = Arc<Mutex<Option<Learned>>>;

/// What a request brings along about the traffic it belongs to.
#[derive(Clone, Default, Debug)]
pub struct Traffic {
    /// Under which its stream's lessons are kept, beside the pool.
    pub key: ProfileKey,
    /// What is known of that traffic.
    pub learned: Option<Arc<Learned>>,
}

/// Why an operator's request was not done.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProfilesError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The keeper has too much to do, or has ended.
    #[error("the profile store is busy; retry later")]
    Busy,
}

// === impl Profiles ===

impl Profiles {
    /// Starts the thread that keeps profiles in `store`.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn start(store: Box<dyn ProfileStore>, options: ProfileOptions) -> io::Result<Self> {
        let (commands, receiver) = sync_channel(MAX_COMMANDS);
        let (cache, pool, stop) =
            (Arc::default(), PoolSlot::default(), Arc::<AtomicBool>::default());
        let (alive, ended) = channel();
        let (name, is_shared, write_back) = (store.name(), store.is_shared(), options.write_back);
        let keeper = Keeper::new(
            store,
            options,
            receiver,
            Arc::clone(&cache),
            Arc::clone(&pool),
            Arc::clone(&stop),
        );
        std::thread::Builder::new().name("profiles".to_owned()).spawn(move || {
            keeper.run();
            // Closes the channel, also if the keeper panics.
            drop(alive);
        })?;
        Ok(Self {
            store: name,
            refetch_after: is_shared.then_some(write_back),
            commands,
            cache,
            pool,
            stop,
            ended: Mutex::new(ended),
        })
    }

    /// The engine's end.
    pub fn link(&self) -> ProfileLink {
        ProfileLink { commands: self.commands.clone(), pool: Arc::clone(&self.pool) }
    }

    /// The store's name.
    pub fn store(&self) -> &'static str {
        self.store
    }

    /// What is known of the traffic under `key`, within [`FETCH_BUDGET`]; `None` for the pool,
    /// which the engine has.
    pub async fn traffic(&self, key: ProfileKey) -> Traffic {
        Traffic { key, learned: self.learned(key).await }
    }

    async fn learned(&self, key: ProfileKey) -> Option<Arc<Learned>> {
        if key == ProfileKey::pool() {
            return None;
        }
        if let Some(cached) = self.cache.get(&key) {
            if self.refetch_after.is_some_and(|limit| cached.age >= limit) {
                // For the next request; if the keeper is busy, for a later one.
                let _ = self.commands.try_send(Command::Fetch { key, answer: None });
            }
            return cached.learned;
        }
        let (answer, answered) = oneshot::channel();
        let sent = self.commands.try_send(Command::Fetch { key, answer: Some(answer) }).is_ok();
        match tokio::time::timeout(FETCH_BUDGET, answered).await {
            Ok(Ok(learned)) if sent => learned,
            _ => {
                record::profile_store(self.store, StoreOperation::Get, StoreOutcome::Timeout);
                None
            }
        }
    }

    /// The keys of which there are records of the model, the pool's included, ascending.
    ///
    /// # Errors
    /// If the store fails or is busy.
    pub async fn list(&self) -> Result<Vec<ProfileKey>, ProfilesError> {
        self.ask(|answer| Command::List { answer }).await
    }

    /// The record under `key`, with what was learned until now.
    ///
    /// # Errors
    /// If the store fails or is busy.
    pub async fn get(&self, key: ProfileKey) -> Result<Option<Record>, ProfilesError> {
        self.ask(|answer| Command::Get { key, answer }).await
    }

    /// Puts `learned` in the place of what is known under `key`.
    ///
    /// # Errors
    /// If the store fails or is busy.
    pub async fn put(&self, key: ProfileKey, learned: Learned) -> Result<Record, ProfilesError> {
        self.ask(|answer| Command::Put { key, learned, answer }).await
    }

    /// Forgets what is known under `key`; whether there was something.
    ///
    /// # Errors
    /// If the store fails or is busy.
    pub async fn delete(&self, key: ProfileKey) -> Result<bool, ProfilesError> {
        self.ask(|answer| Command::Delete { key, answer }).await
    }

    /// Writes back what is not in the store yet.
    ///
    /// # Errors
    /// If the store fails or is busy.
    pub async fn flush(&self) -> Result<(), ProfilesError> {
        self.ask(|answer| Command::Flush { answer }).await
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Command,
    ) -> Result<T, ProfilesError> {
        let (answer, answered) = oneshot::channel();
        self.commands.try_send(command(answer)).map_err(|_| ProfilesError::Busy)?;
        match tokio::time::timeout(PATIENCE, answered).await {
            Ok(Ok(result)) => Ok(result?),
            _ => Err(ProfilesError::Busy),
        }
    }
}

impl Drop for Profiles {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Wakes it up; if the channel is full, it is awake.
        let _ = self.commands.try_send(Command::Stop);
        let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
        if ended.recv_timeout(LAST_WRITE) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            tracing::warn!(
                store = self.store,
                "the profile store did not answer in time: what was learned last is lost"
            );
        }
    }
}

impl fmt::Debug for Profiles {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Profiles").field("store", &self.store).finish_non_exhaustive()
    }
}

// === impl ProfileLink ===

impl ProfileLink {
    /// Hands on what a stream with this key taught.
    pub(super) fn report(&self, key: ProfileKey, learned: Learned) {
        // A keeper that can't keep up loses lessons, which are only that.
        let _ = self.commands.try_send(Command::Taught { key, learned });
    }

    /// A pool that has been there since the last call.
    pub(super) fn take_pool(&self) -> Option<Learned> {
        self.pool.try_lock().ok()?.take()
    }
}
