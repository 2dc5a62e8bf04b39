//! The store that replicas share: a server that speaks the Redis protocol (Redis, Valkey).

use std::time::Duration;

use redis::{Client, Connection, ConnectionInfo, IntoConnectionInfo, RedisError, RedisResult};

use super::memory::profiles_of;
use super::record::MAX_RECORD_BYTES;
use super::{ProfileKey, ProfileStore, RecordKey, StoreError};

const NAME: &str = "redis";

/// Before each record's name, so that the server may serve others, too.
const PREFIX: &str = "skipstone:learned:";

/// How long a connection may take to be made, and an answer to come. Records are a hint: a server
/// that needs longer is of no use.
const CONNECT: Duration = Duration::from_millis(250);
const ANSWER: Duration = Duration::from_millis(250);

/// Tries to replace a record that others change meanwhile.
const ATTEMPTS: usize = 16;

/// Keys of a model that are listed at most, and those asked for at once.
const MAX_KEYS: usize = 10_000;
const KEYS_AT_ONCE: usize = 1000;

/// How to reach the server. Not to be printed: it holds the password.
#[derive(Clone)]
pub struct SharedStoreOptions {
    /// `redis://host:port/database`.
    pub url: String,
    /// Its password, if it wants one.
    pub password: Option<String>,
    /// Records that nobody changed for this long are forgotten by the server.
    pub retention: Duration,
}

/// Keeps records on a server. Connects when it is first used, and again after a failure.
pub struct SharedStore {
    client: Client,
    connection: Option<Connection>,
    retention: Duration,
}

// === impl SharedStore ===

impl SharedStore {
    /// Checks the address; does not connect yet.
    ///
    /// # Errors
    /// If the address can't be one.
    pub fn new(options: &SharedStoreOptions) -> Result<Self, StoreError> {
        let info = |error: RedisError| StoreError::Open {
            place: options.url.clone(),
            reason: error.to_string(),
            remedy: "name the server in profiles.url as redis://host:port",
        };
        let mut address: ConnectionInfo =
            options.url.as_str().into_connection_info().map_err(info)?;
        if let Some(password) = &options.password {
            let settings = address.redis_settings().clone().set_password(password);
            address = address.set_redis_settings(settings);
        }
        let client = Client::open(address).map_err(info)?;
        Ok(Self { client, connection: None, retention: options.retention })
    }

    /// Runs `work` on the connection. After a failure the next call makes a new one: this one may
    /// be in the middle of an answer.
    fn run<T>(
        &mut self,
        action: &'static str,
        work: impl FnOnce(&mut Connection) -> RedisResult<T>,
    ) -> Result<T, StoreError> {
        let failed = |error: RedisError| StoreError::Failed {
            store: NAME,
            action,
            reason: error.to_string(),
        };
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect().map_err(failed)?,
        };
        let result = work(&mut connection).map_err(failed)?;
        self.connection = Some(connection);
        Ok(result)
    }

    fn connect(&self) -> RedisResult<Connection> {
        let connection = self.client.get_connection_with_timeout(CONNECT)?;
        connection.set_read_timeout(Some(ANSWER))?;
        connection.set_write_timeout(Some(ANSWER))?;
        Ok(connection)
    }
}

impl ProfileStore for SharedStore {
    fn name(&self) -> &'static str {
        NAME
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn read(&mut self, key: &RecordKey) -> Result<Option<Vec<u8>>, StoreError> {
        self.run("read", |connection| read(connection, &name_of(key)))
    }

    fn update(
        &mut self,
        key: &RecordKey,
        change: &mut dyn FnMut(Option<&[u8]>) -> Vec<u8>,
    ) -> Result<(), StoreError> {
        let (name, seconds) = (name_of(key), self.retention.as_secs().max(1));
        let done = self.run("write", |connection| {
            for _ in 0..ATTEMPTS {
                redis::cmd("WATCH").arg(&name).exec(connection)?;
                let changed = change(read(connection, &name)?.as_deref());
                // Nothing is answered if the record was changed since it was watched.
                let answer: Option<(String,)> = redis::pipe()
                    .atomic()
                    .cmd("SET")
                    .arg(&name)
                    .arg(changed)
                    .arg("EX")
                    .arg(seconds)
                    .query(connection)?;
                if answer.is_some() {
                    return Ok(true);
                }
            }
            Ok(false)
        })?;
        if done { Ok(()) } else { Err(StoreError::Contended { store: NAME, attempts: ATTEMPTS }) }
    }

    fn remove(&mut self, key: &RecordKey) -> Result<bool, StoreError> {
        let removed: u64 =
            self.run("remove", |connection| redis::cmd("DEL").arg(name_of(key)).query(connection))?;
        Ok(removed > 0)
    }

    fn keys(&mut self, model: &str) -> Result<Vec<ProfileKey>, StoreError> {
        let pattern = format!("{PREFIX}{model}:*");
        let names = self.run("list", |connection| {
            let (mut names, mut cursor): (Vec<String>, u64) = (Vec::new(), 0);
            loop {
                let mut scan = redis::cmd("SCAN");
                scan.arg(cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(KEYS_AT_ONCE);
                let (next, found): (u64, Vec<String>) = scan.query(connection)?;
                names.extend(found);
                if next == 0 || names.len() >= MAX_KEYS {
                    return Ok(names);
                }
                cursor = next;
            }
        })?;
        let mut keys =
            profiles_of(model, names.iter().filter_map(|name| name.strip_prefix(PREFIX)));
        // A scan may name a key twice.
        keys.sort_unstable();
        keys.dedup();
        Ok(keys)
    }
}

/// The first bytes under `name`: one too many is enough to see that it is no record.
fn read(connection: &mut Connection, name: &str) -> RedisResult<Option<Vec<u8>>> {
    let answer: RedisResult<Vec<u8>> =
        redis::cmd("GETRANGE").arg(name).arg(0).arg(MAX_RECORD_BYTES).query(connection);
    match answer {
        Ok(bytes) => Ok((!bytes.is_empty()).then_some(bytes)),
        // A list or the like: no record of ours, as empty bytes are none.
        Err(error) if error.code() == Some("WRONGTYPE") => Ok(Some(Vec::new())),
        Err(error) => Err(error),
    }
}

fn name_of(key: &RecordKey) -> String {
    format!("{PREFIX}{key}")
}
