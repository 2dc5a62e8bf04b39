//! The store in a file of this machine.

use std::fs;
use std::path::Path;

use redb::{
    Database, Durability, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition,
};

use super::memory::profiles_of;
use super::record::updated_of;
use super::{ProfileKey, ProfileStore, RecordKey, StoreError};

const NAME: &str = "redb";

const TABLE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("learned");

/// Memory for pages of the file. Records that are in use are cached elsewhere.
const CACHE_BYTES: usize = 1 << 20;

/// When the store is full, so large a part of it is forgotten at once, the oldest: finding those
/// means to read all.
const FORGOTTEN_SHARE: usize = 16;

/// Keeps records in a file. A change is safe from the end of the process at once, and from a loss
/// of power after [`ProfileStore::flush`]: waiting for the disk at each change would cost more than
/// it can save.
#[derive(Debug)]
pub struct EmbeddedStore {
    database: Database,
    max_records: usize,
}

// === impl EmbeddedStore ===

impl EmbeddedStore {
    /// Opens the file at `path`, or makes it, for at most `max_records`.
    ///
    /// # Errors
    /// If another process has it open, or it can't be read and written.
    pub fn open(path: &Path, max_records: usize) -> Result<Self, StoreError> {
        let failed = |reason: String, remedy| StoreError::Open {
            place: path.display().to_string(),
            reason,
            remedy,
        };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|error| {
                failed(error.to_string(), "name a writable folder with engine.state_folder")
            })?;
        }
        let mut builder = Database::builder();
        let database = builder.set_cache_size(CACHE_BYTES).create(path).map_err(|error| match error {
            redb::DatabaseError::DatabaseAlreadyOpen => failed(
                "another process has it open".to_owned(),
                "name another folder with engine.state_folder, let replicas share a server with profiles.store = \"redis\"",
            ),
            error => failed(error.to_string(), "remove the file, or name another folder with engine.state_folder"),
        })?;
        Ok(Self { database, max_records: max_records.max(1) })
    }

    fn change<T>(
        &self,
        action: &'static str,
        change: impl FnOnce(&mut redb::Table<'_, &str, &[u8]>) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let run = || -> Result<T, redb::Error> {
            let mut transaction = self.database.begin_write()?;
            transaction.set_durability(Durability::None)?;
            let result = change(&mut transaction.open_table(TABLE)?)?;
            transaction.commit()?;
            Ok(result)
        };
        run().map_err(|error| failed(action, &error))
    }

    fn look<T>(
        &self,
        action: &'static str,
        look: impl FnOnce(&redb::ReadOnlyTable<&str, &[u8]>) -> Result<T, redb::Error>,
    ) -> Result<Option<T>, StoreError> {
        let run = || -> Result<Option<T>, redb::Error> {
            match self.database.begin_read()?.open_table(TABLE) {
                Ok(table) => Ok(Some(look(&table)?)),
                Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
                Err(error) => Err(error.into()),
            }
        };
        run().map_err(|error| failed(action, &error))
    }
}

impl ProfileStore for EmbeddedStore {
    fn name(&self) -> &'static str {
        NAME
    }

    fn read(&mut self, key: &RecordKey) -> Result<Option<Vec<u8>>, StoreError> {
        let name = key.to_string();
        let found = self.look("read", |table| {
            Ok(table.get(name.as_str())?.map(|bytes| bytes.value().to_vec()))
        })?;
        Ok(found.flatten())
    }

    fn update(
        &mut self,
        key: &RecordKey,
        change: &mut dyn FnMut(Option<&[u8]>) -> Vec<u8>,
    ) -> Result<(), StoreError> {
        let (name, most) = (key.to_string(), self.max_records);
        self.change("write", |table| {
            let changed = change(table.get(name.as_str())?.as_ref().map(|bytes| bytes.value()));
            let is_new = table.insert(name.as_str(), changed.as_slice())?.is_none();
            if is_new && table.len()? > most as u64 {
                forget_oldest(table, &name, most.div_ceil(FORGOTTEN_SHARE))?;
            }
            Ok(())
        })
    }

    fn remove(&mut self, key: &RecordKey) -> Result<bool, StoreError> {
        let name = key.to_string();
        self.change("remove", |table| Ok(table.remove(name.as_str())?.is_some()))
    }

    fn keys(&mut self, model: &str) -> Result<Vec<ProfileKey>, StoreError> {
        let names = |table: &redb::ReadOnlyTable<&str, &[u8]>| {
            table
                .iter()?
                .map(|entry| Ok(entry?.0.value().to_owned()))
                .collect::<Result<Vec<String>, redb::Error>>()
        };
        let names = self.look("list", names)?.unwrap_or_default();
        Ok(profiles_of(model, names.iter().map(String::as_str)))
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        // An empty change that waits for the disk takes all those before it along.
        let run = || -> Result<(), redb::Error> { Ok(self.database.begin_write()?.commit()?) };
        run().map_err(|error| failed("flush", &error))
    }
}

/// Removes the `count` records that were written longest ago, `newest` not among them.
fn forget_oldest(
    table: &mut redb::Table<'_, &str, &[u8]>,
    newest: &str,
    count: usize,
) -> Result<(), redb::Error> {
    let mut ages: Vec<(u64, String)> = Vec::new();
    for entry in table.iter()? {
        let (name, bytes) = entry?;
        if name.value() != newest {
            ages.push((updated_of(bytes.value()), name.value().to_owned()));
        }
    }
    ages.sort_unstable();
    for (_, name) in ages.iter().take(count) {
        table.remove(name.as_str())?;
    }
    Ok(())
}

fn failed(action: &'static str, error: &redb::Error) -> StoreError {
    StoreError::Failed { store: NAME, action, reason: error.to_string() }
}
