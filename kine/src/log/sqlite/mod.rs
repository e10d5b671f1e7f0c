//! The SQLite log: one file, WAL, `synchronous=FULL`.
//!
//! History is stored in runs of records, one row each, by the id of the first. A small commit goes into the row
//! of the one before as long as that fits its page: then it changes one page in place of four (a new page
//! changes the file's header, the map of pages and the node above, too).
//!
//! The writer's connection never checkpoints inside a commit: copying the WAL back
//! is a step of its own between batches, so that a commit costs one append and one
//! sync. Deletions and vacuum run unsynced; the next commit syncs them with itself.

mod commit;
mod compaction;
mod file;
mod reads;
mod schema;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

pub(crate) use file::{lock, suffixed};
use rusqlite::Connection;

use self::compaction::SLICE_RECORDS_MIN;
use self::file::{check, configure, connect, describe, open_error, page_bytes, prepare_file, refusal};
use self::reads::{RunError, SqliteReader};
use self::schema::migrate;
use super::run::{Packer, Unpacker};
use super::runs::Runs;
use super::tail::Tail;
use super::{Batch, LeaseChange, LeaseRow, Loaded, Log, LogError, LogReader, LogSize, Reclaim, Record};
use crate::error::{Error, Result};
use crate::revision::RecordId;

/// The writer's side of the file.
pub(crate) struct SqliteLog {
    path: PathBuf,
    connection: Connection,
    /// Of this file.
    page_bytes: u64,
    /// Pages in the WAL, kept by a hook on every commit.
    wal_pages: Arc<AtomicU64>,
    /// Pages of the present WAL already copied back.
    backfilled_pages: u64,
    /// False once there was nothing to vacuum, until something is deleted.
    vacuum_pending: bool,
    runs: Runs,
    /// The last run, if what comes next may still go into its row.
    tail: Tail,
    packer: Packer,
    unpacker: Unpacker,
    /// How many records a slice of compaction takes; follows the time they take.
    slice_records: usize,
    /// Held so that no second process opens the file.
    _lock: File,
}

impl SqliteLog {
    /// Opens or creates the file; refuses a locked, foreign, newer or damaged one.
    pub(crate) fn open(path: &Path, ids: impl FnOnce() -> (u64, u64)) -> Result<SqliteLog> {
        let lock = lock(path)?;
        prepare_file(path)?;
        let wal_pages = Arc::new(AtomicU64::new(0));
        let mut connection = connect(path, wal_pages.clone()).map_err(|e| refusal(path, &e))?;
        check(path, &connection)?;
        configure(&connection).map_err(|e| refusal(path, &e))?;
        let mut packer = Packer::new().map_err(|e| open_error(path, e))?;
        migrate(path, &mut connection, &mut packer, ids)?;
        Ok(SqliteLog {
            path: path.to_owned(),
            page_bytes: page_bytes(&connection).map_err(|e| refusal(path, &e))?,
            connection,
            wal_pages,
            backfilled_pages: 0,
            vacuum_pending: true,
            runs: Runs::default(),
            tail: Tail::default(),
            packer,
            unpacker: Unpacker::new().map_err(|e| open_error(path, e))?,
            slice_records: SLICE_RECORDS_MIN,
            _lock: lock,
        })
    }

    /// Runs `work` in a transaction; on any error nothing of it remains.
    fn transaction<T>(&mut self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, LogError> {
        self.recover()?;
        let result = (|| {
            self.connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
            let value = work(&self.connection)?;
            self.connection.prepare_cached("COMMIT")?.execute([])?;
            Ok(value)
        })();
        result.map_err(|error: rusqlite::Error| {
            self.rollback();
            describe(&error)
        })
    }

    fn rollback(&self) {
        if !self.connection.is_autocommit()
            && let Err(error) = self.connection.execute_batch("ROLLBACK")
        {
            tracing::warn!(component = "kine", %error, "roll back a failed batch");
        }
    }

    /// After an error a transaction may still be open; then only a new connection helps.
    fn recover(&mut self) -> Result<(), LogError> {
        if self.connection.is_autocommit() {
            return Ok(());
        }
        let connection = connect(&self.path, self.wal_pages.clone()).map_err(|e| describe(&e))?;
        configure(&connection).map_err(|e| describe(&e))?;
        self.connection = connection;
        Ok(())
    }

    fn pragma(&self, name: &str) -> Result<u64, LogError> {
        self.connection
            .pragma_query_value(None, name, |row| row.get::<_, i64>(0))
            .map(|value| u64::try_from(value).unwrap_or(0))
            .map_err(|e| describe(&e))
    }

    /// A transaction whose loss in a crash does no harm.
    fn unsynced<T>(&mut self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, LogError> {
        self.recover()?;
        let set = |connection: &Connection, level: &str| {
            connection.pragma_update(None, "synchronous", level).map_err(|e| describe(&e))
        };
        set(&self.connection, "NORMAL")?;
        let result = self.transaction(work);
        // Without FULL nothing may be acknowledged, so a failure here must surface.
        set(&self.connection, "FULL")?;
        result
    }
}

impl Log for SqliteLog {
    fn load(&mut self, visit: &mut dyn FnMut(Record)) -> Result<Loaded> {
        self.read_runs(visit).map_err(|error| match error {
            RunError::Sql(error) => refusal(&self.path, &error),
            RunError::Bad(bad) => Error::Corrupt { path: self.path.clone(), detail: bad.to_string() },
        })?;
        self.read_rest().map_err(|e| refusal(&self.path, &e))
    }

    fn append(&mut self, batch: &Batch) -> Result<(), LogError> {
        self.commit(batch)
    }

    fn last_id(&mut self) -> Result<Option<RecordId>, LogError> {
        self.recover()?;
        self.tail.clear();
        // A commit that seemed to fail may have left records in the last run that is known, or runs behind it.
        self.read_last_run().map_err(|e| LogError(e.to_string()))?;
        self.read_runs(&mut drop).map_err(|e| LogError(e.to_string()))?;
        Ok(self.runs.last_id())
    }

    fn delete(&mut self, ids: &[RecordId], budget: Duration) -> Result<usize, LogError> {
        self.delete_slice(ids, budget)
    }

    fn reclaim(&mut self, how: Reclaim) -> Result<bool, LogError> {
        self.reclaim_step(how)
    }

    fn in_use(&mut self) -> Result<u64, LogError> {
        let pages = self.pragma("page_count")?.saturating_sub(self.pragma("freelist_count")?);
        Ok(pages * self.page_bytes)
    }

    fn reader(&self) -> Result<Box<dyn LogReader>, LogError> {
        Ok(Box::new(SqliteReader::open(&self.path)?))
    }

    fn close(self: Box<Self>) -> Result<(), LogError> {
        // What is in the WAL is durable; without space for a copy the next start goes on with it.
        if let Err(error) = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())) {
            tracing::warn!(component = "kine", %error, "copy the write-ahead log back");
        }
        self.connection.close().map_err(|(_, e)| describe(&e))
    }
}
