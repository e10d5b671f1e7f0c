//! The SQLite log: one file, WAL, `synchronous=FULL`.
//!
//! History is stored in runs of records, one row each, by the id of the first. A small commit goes into the row
//! of the one before as long as that fits its page: then it changes one page in place of four (a new page
//! changes the file's header, the map of pages and the node above, too).
//!
//! The writer's connection never checkpoints inside a commit: copying the WAL back
//! is a step of its own between batches, so that a commit costs one append and one
//! sync. Deletions and vacuum run unsynced; the next commit syncs them with itself.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rusqlite::config::DbConfig;
use rusqlite::hooks::Wal;
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

use super::run::{BadRun, Packer, Unpacker, cut};
use super::runs::{Plan, Runs};
use super::tail::Tail;
use super::{Batch, LeaseChange, LeaseRow, Loaded, Log, LogError, LogReader, LogSize, Reclaim, Record};
use crate::error::{Error, Result};
use crate::limits::{
    BUSY_TIMEOUT, FREE_BYTES_MIN, GARBAGE_PER_SLICE, LOG_PAGE_RECORDS, VACUUM_STEP_PAGES, WAL_BUSY_BYTES,
    WAL_IDLE_BYTES,
};
use crate::revision::{RecordId, Revision};

const SCHEMA_VERSION: i64 = 2;
/// Pages of a new file. A commit writes whole pages, and a small one, such as a cluster at rest makes, writes few: with pages
/// of 4 KiB it would take twice the bytes. Large commits hardly notice.
const PAGE_BYTES: u64 = 1024;
const MAGIC: &[u8] = b"SQLite format 3\0";

const SCHEMA: &str = "
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE history (first INTEGER PRIMARY KEY, records BLOB NOT NULL);
CREATE TABLE lease (id INTEGER PRIMARY KEY, ttl INTEGER NOT NULL, deadline INTEGER NOT NULL);
";

const INSERT_RUN: &str = "INSERT INTO history (first, records) VALUES (?1, ?2)";
const UPDATE_RUN: &str = "UPDATE history SET records = ?2 WHERE first = ?1";
/// SQLite's number of the mode in which free pages are given back step by step.
const VACUUM_INCREMENTAL: i64 = 2;
/// What a page keeps for itself of a row.
const PAGE_OVERHEAD: u64 = 64;
/// Runs one slice of a full clean-up writes anew.
const CLEAN_RUNS: usize = 16;
/// Records one slice of compaction takes at least.
const SLICE_RECORDS_MIN: usize = 8;

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

    /// Copies the WAL back when it holds `threshold` bytes that are not yet copied.
    fn checkpoint(&mut self, threshold: u64) -> Result<(), LogError> {
        let pages = self.wal_pages.load(Ordering::Relaxed);
        if pages < self.backfilled_pages {
            self.backfilled_pages = 0;
        }
        if pages.saturating_sub(self.backfilled_pages) * self.page_bytes < threshold.max(1) {
            return Ok(());
        }
        let copied = self
            .connection
            .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get::<_, i64>(2))
            .map_err(|e| describe(&e))?;
        self.backfilled_pages = u64::try_from(copied).unwrap_or(0);
        Ok(())
    }

    /// One step of incremental vacuum if enough of the file is free; true if more remains.
    fn vacuum(&mut self, full: bool) -> Result<bool, LogError> {
        let free = self.pragma("freelist_count")?;
        let total = self.pragma("page_count")?;
        let worth_it = free * self.page_bytes > FREE_BYTES_MIN && free * 4 > total;
        if free == 0 || !(full || worth_it) {
            return Ok(false);
        }
        self.unsynced(|connection| {
            let step = format!("PRAGMA incremental_vacuum({VACUUM_STEP_PAGES})");
            let mut statement = connection.prepare_cached(&step)?;
            let mut rows = statement.query([])?;
            while rows.next()?.is_some() {}
            Ok(())
        })?;
        Ok(true)
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

impl SqliteLog {
    /// Takes in the runs behind the last one known; visits their records.
    fn read_runs(&mut self, visit: &mut dyn FnMut(Record)) -> Result<(), RunError> {
        let after = self.runs.last_first().map_or(-1, |first| first.0.cast_signed());
        let mut statement =
            self.connection.prepare_cached("SELECT first, records FROM history WHERE first > ?1 ORDER BY first")?;
        let mut rows = statement.query([after])?;
        while let Some(row) = rows.next()? {
            let first = RecordId(row.get::<_, i64>(0)?.cast_unsigned());
            let records = self.unpacker.unpack(first, row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?)?;
            self.runs.add(first, &records);
            records.into_iter().for_each(&mut *visit);
        }
        Ok(())
    }

    /// Takes in what the row of the last known run holds beyond what is known of it.
    fn read_last_run(&mut self) -> Result<(), RunError> {
        let (Some(first), Some(last)) = (self.runs.last_first(), self.runs.last_id()) else { return Ok(()) };
        let mut select = self.connection.prepare_cached("SELECT records FROM history WHERE first = ?1")?;
        let Some(packed) = select.query_row([first.0.cast_signed()], |row| row.get::<_, Vec<u8>>(0)).optional()? else {
            return Ok(());
        };
        let records = self.unpacker.unpack(first, &packed)?;
        let known = records.partition_point(|record| record.id <= last);
        self.runs.extend_last(&records[known..]);
        Ok(())
    }

    /// Bytes of a row that has room in one page.
    fn row_bytes(&self) -> usize {
        usize::try_from(self.page_bytes - PAGE_OVERHEAD).unwrap_or(0)
    }

    /// The last run with a small commit behind it, if both fit its page.
    fn grown(&mut self, records: &[Record]) -> Result<Option<(RecordId, Vec<u8>)>, LogError> {
        let Some((first, all)) = self.tail.with(records, self.row_bytes()) else { return Ok(None) };
        let packed = self.packer.pack(first, all).map_err(|e| LogError(e.to_string()))?;
        Ok((packed.len() <= self.row_bytes()).then_some((first, packed)))
    }

    fn read_rest(&self) -> rusqlite::Result<Loaded> {
        let connection = &self.connection;
        let mut statement = connection.prepare("SELECT id, ttl, deadline FROM lease")?;
        let leases = statement
            .query_map([], |row| Ok(LeaseRow { id: row.get(0)?, ttl: row.get(1)?, deadline_unix_ms: row.get(2)? }))?;
        Ok(Loaded {
            cluster_id: meta(connection, "cluster_id")?.cast_unsigned(),
            member_id: meta(connection, "member_id")?.cast_unsigned(),
            compacted: Revision::from_i64(meta(connection, "compact_revision")?),
            leases: leases.collect::<rusqlite::Result<_>>()?,
            clean: meta(connection, "clean")? != 0,
            no_space: meta(connection, "no_space").optional()?.unwrap_or(0) != 0,
        })
    }

    /// Deletes runs and writes others anew, whole or not at all; needs no sync.
    fn carry_out(&mut self, plan: &Plan) -> Result<(), LogError> {
        let mut anew = Vec::new();
        for change in plan.changes.iter().filter(|change| !change.whole) {
            let packed = self
                .connection
                .prepare_cached("SELECT records FROM history WHERE first = ?1")
                .and_then(|mut select| select.query_row([change.first.0.cast_signed()], |row| row.get::<_, Vec<u8>>(0)))
                .map_err(|e| describe(&e))?;
            let records = self.unpacker.unpack(change.first, &packed).map_err(|e| LogError(e.to_string()))?;
            let kept = records.iter().enumerate().filter(|(place, _)| change.keeps(*place)).map(|(_, record)| record);
            anew.push((change.first, self.packer.pack(change.first, kept).map_err(|e| LogError(e.to_string()))?));
        }
        if plan.changes.iter().any(|change| Some(change.first) == self.tail.first()) {
            self.tail.clear();
        }
        if !plan.changes.is_empty() {
            self.vacuum_pending = true;
            self.unsynced(|connection| {
                let mut delete = connection.prepare_cached("DELETE FROM history WHERE first = ?1")?;
                for change in plan.changes.iter().filter(|change| change.whole) {
                    delete.execute([change.first.0.cast_signed()])?;
                }
                let mut update = connection.prepare_cached(UPDATE_RUN)?;
                for (first, records) in &anew {
                    update.execute(params![first.0.cast_signed(), records])?;
                }
                Ok(())
            })?;
        }
        self.runs.done(plan);
        Ok(())
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
        let grown = self.grown(&batch.records)?;
        // Should this fail, it is not known what the row holds.
        let mut tail = std::mem::take(&mut self.tail);
        let mut runs = Vec::new();
        for records in cut(&batch.records).filter(|_| grown.is_none()) {
            let first = records[0].id;
            runs.push((first, records, self.packer.pack(first, records).map_err(|e| LogError(e.to_string()))?));
        }
        self.transaction(|connection| {
            if let Some((first, packed)) = &grown {
                match connection.prepare_cached(UPDATE_RUN)?.execute(params![first.0.cast_signed(), packed])? {
                    1 => {}
                    other => return Err(rusqlite::Error::StatementChangedRows(other)),
                }
            }
            let mut insert = connection.prepare_cached(INSERT_RUN)?;
            for (first, _, packed) in &runs {
                insert.execute(params![first.0.cast_signed(), packed])?;
            }
            write_leases(connection, &batch.leases)?;
            let set = |name: &str, value: i64| {
                connection.prepare_cached("UPDATE meta SET value = ?2 WHERE name = ?1")?.execute(params![name, value])
            };
            if let Some(revision) = batch.compacted {
                set("compact_revision", revision.as_i64())?;
            }
            if let Some(clean) = batch.clean {
                set("clean", i64::from(clean))?;
            }
            if let Some(no_space) = batch.no_space {
                // A row that older files do not have.
                connection
                    .prepare_cached("INSERT OR REPLACE INTO meta VALUES ('no_space', ?1)")?
                    .execute([i64::from(no_space)])?;
            }
            Ok(())
        })?;
        if let Some((_, packed)) = &grown {
            self.runs.extend_last(&batch.records);
            tail.grow(&batch.records, packed.len());
        } else if let Some((_, last, packed)) = runs.last() {
            match packed.len() <= self.row_bytes() {
                true => tail.begin(last, packed.len()),
                false => tail.clear(),
            }
        }
        self.tail = tail;
        runs.into_iter().for_each(|(first, records, _)| self.runs.add(first, records));
        Ok(())
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
        let started = Instant::now();
        let count = ids.len().min(self.slice_records);
        let plan = self.runs.plan(&ids[..count]);
        self.carry_out(&plan)?;
        let took = started.elapsed();
        self.slice_records = match took > budget {
            true => (self.slice_records / 2).max(SLICE_RECORDS_MIN),
            false if took * 2 < budget => (self.slice_records * 2).min(GARBAGE_PER_SLICE),
            false => self.slice_records,
        };
        Ok(count)
    }

    fn reclaim(&mut self, how: Reclaim) -> Result<bool, LogError> {
        if self.runs.has_work() {
            let plan = self.runs.plan(&[]);
            self.carry_out(&plan)?;
        }
        match how {
            Reclaim::Busy => self.checkpoint(WAL_BUSY_BYTES).map(|()| false),
            Reclaim::Idle | Reclaim::Full => {
                let full = how == Reclaim::Full;
                if full {
                    let plan = self.runs.plan_clean(CLEAN_RUNS);
                    if !plan.changes.is_empty() {
                        self.carry_out(&plan)?;
                        self.checkpoint(WAL_BUSY_BYTES)?;
                        return Ok(true);
                    }
                }
                if (full || self.vacuum_pending) && self.vacuum(full)? {
                    // A long vacuum must not let the WAL grow.
                    self.checkpoint(WAL_BUSY_BYTES)?;
                    return Ok(true);
                }
                self.vacuum_pending = false;
                self.checkpoint(if full { 0 } else { WAL_IDLE_BYTES })?;
                Ok(false)
            }
        }
    }

    fn in_use(&mut self) -> Result<u64, LogError> {
        let pages = self.pragma("page_count")?.saturating_sub(self.pragma("freelist_count")?);
        Ok(pages * self.page_bytes)
    }

    fn reader(&self) -> Result<Box<dyn LogReader>, LogError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags).map_err(|e| describe(&e))?;
        connection.busy_timeout(BUSY_TIMEOUT).map_err(|e| describe(&e))?;
        connection.pragma_update(None, "cache_size", -512).map_err(|e| describe(&e))?;
        let unpacker = Unpacker::new().map_err(|e| LogError(e.to_string()))?;
        Ok(Box::new(SqliteReader { connection, unpacker, path: self.path.clone() }))
    }

    fn close(self: Box<Self>) -> Result<(), LogError> {
        // What is in the WAL is durable; without space for a copy the next start goes on with it.
        if let Err(error) = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())) {
            tracing::warn!(component = "kine", %error, "copy the write-ahead log back");
        }
        self.connection.close().map_err(|(_, e)| describe(&e))
    }
}

struct SqliteReader {
    connection: Connection,
    unpacker: Unpacker,
    path: PathBuf,
}

impl LogReader for SqliteReader {
    fn records(&mut self, from: RecordId, count: usize, bytes: usize) -> Result<Vec<Record>, LogError> {
        let mut read = || -> Result<Vec<Record>, RunError> {
            // From the run that would hold `from` on.
            let mut statement = self.connection.prepare_cached(
                "SELECT first, records FROM history
                 WHERE first >= coalesce((SELECT max(first) FROM history WHERE first <= ?1), 0) ORDER BY first",
            )?;
            let mut rows = statement.query([from.0.cast_signed()])?;
            let (mut page, mut used) = (Vec::new(), 0);
            while used < bytes
                && page.len() < count
                && let Some(row) = rows.next()?
            {
                let first = RecordId(row.get::<_, i64>(0)?.cast_unsigned());
                let packed = row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?;
                for record in self.unpacker.unpack(first, packed)? {
                    if record.id >= from && used < bytes && page.len() < count {
                        used += record.weight();
                        page.push(record);
                    }
                }
            }
            Ok(page)
        };
        read().map_err(|e| LogError(e.to_string()))
    }

    fn get(&mut self, ids: &[RecordId]) -> Result<Vec<Option<Record>>, LogError> {
        let mut read = || -> Result<Vec<Option<Record>>, RunError> {
            let mut statement = self
                .connection
                .prepare_cached("SELECT first, records FROM history WHERE first <= ?1 ORDER BY first DESC LIMIT 1")?;
            // Neighbours in history are often asked for together.
            let mut run: Vec<Record> = Vec::new();
            let mut found = Vec::with_capacity(ids.len());
            for id in ids {
                let place = |run: &[Record]| run.binary_search_by_key(id, |record| record.id).ok();
                if place(&run).is_none() {
                    let mut rows = statement.query([id.0.cast_signed()])?;
                    run = match rows.next()? {
                        Some(row) => {
                            let first = RecordId(row.get::<_, i64>(0)?.cast_unsigned());
                            self.unpacker.unpack(first, row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?)?
                        }
                        None => Vec::new(),
                    };
                }
                found.push(place(&run).map(|place| run[place].clone()));
            }
            Ok(found)
        };
        read().map_err(|e| LogError(e.to_string()))
    }

    fn size(&mut self) -> Result<LogSize, LogError> {
        let pages = |name: &str| {
            let value = self.connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
            value.map(|value| u64::try_from(value).unwrap_or(0)).map_err(|e| describe(&e))
        };
        let (total, page_bytes) = (pages("page_count")?, pages("page_size")?);
        let free = pages("freelist_count")?;
        let wal = fs::metadata(suffixed(&self.path, "-wal")).map_or(0, |meta| meta.len());
        Ok(LogSize { allocated: total * page_bytes + wal, in_use: total.saturating_sub(free) * page_bytes })
    }
}

/// Why runs could not be read.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error("{0}")]
    Sql(#[from] rusqlite::Error),
    #[error("{0}")]
    Bad(#[from] BadRun),
}

fn write_leases(connection: &Connection, changes: &[LeaseChange]) -> rusqlite::Result<()> {
    for change in changes {
        match change {
            LeaseChange::Put(lease) => connection
                .prepare_cached("INSERT OR REPLACE INTO lease (id, ttl, deadline) VALUES (?1, ?2, ?3)")?
                .execute(params![lease.id, lease.ttl, lease.deadline_unix_ms])?,
            LeaseChange::Delete(id) => connection.prepare_cached("DELETE FROM lease WHERE id = ?1")?.execute([id])?,
        };
    }
    Ok(())
}

fn page_bytes(connection: &Connection) -> rusqlite::Result<u64> {
    let bytes = connection.pragma_query_value(None, "page_size", |row| row.get::<_, i64>(0))?;
    Ok(u64::try_from(bytes).unwrap_or(PAGE_BYTES))
}

fn meta(connection: &Connection, name: &str) -> rusqlite::Result<i64> {
    connection.query_row("SELECT value FROM meta WHERE name = ?1", [name], |row| row.get(0))
}

pub(crate) fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn open_error(path: &Path, reason: impl ToString) -> Error {
    Error::Open { path: path.to_owned(), reason: reason.to_string() }
}

/// Takes the datastore for this process alone, until the file is dropped.
pub(crate) fn lock(path: &Path) -> Result<File> {
    let lock_path = suffixed(path, "-lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&lock_path)
        .map_err(|e| open_error(path, format!("{}: {e}", lock_path.display())))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(e)) => Err(open_error(path, e)),
    }
}

/// Creates the file private and durable, or looks whether it is a SQLite file at all.
fn prepare_file(path: &Path) -> Result<()> {
    match fs::metadata(path) {
        Ok(meta) if meta.len() > 0 => {
            let mut start = [0; MAGIC.len()];
            let read = File::open(path).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut start));
            match read {
                Ok(()) if start == MAGIC => Ok(()),
                _ => Err(Error::Corrupt { path: path.to_owned(), detail: "it does not begin as a SQLite file".into() }),
            }
        }
        _ => {
            OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .mode(0o600)
                .open(path)
                .map_err(|e| open_error(path, e))?;
            let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
            File::open(folder.unwrap_or(Path::new(".")))
                .and_then(|folder| folder.sync_all())
                .map_err(|e| open_error(path, e))
        }
    }
}

fn connect(path: &Path, wal_pages: Arc<AtomicU64>) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(32);
    // A refused file must not be changed by closing it.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    // A hook of our own replaces the automatic checkpoint.
    connection.wal_hook(Some(move |_: &mut Wal, pages: std::ffi::c_int| {
        wal_pages.store(u64::try_from(pages).unwrap_or(0), Ordering::Relaxed);
        Ok(())
    }))?;
    Ok(connection)
}

fn check(path: &Path, connection: &Connection) -> Result<()> {
    let verdict: String =
        connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(|e| refusal(path, &e))?;
    if verdict == "ok" {
        return Ok(());
    }
    Err(Error::Corrupt { path: path.to_owned(), detail: verdict.replace('\n', " ") })
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    // These take effect only before the first table; a file of ours keeps what it has.
    connection.pragma_update(None, "page_size", PAGE_BYTES.cast_signed())?;
    // To set this writes, also what is there already; a file on a full disk must open all the same.
    if connection.pragma_query_value(None, "auto_vacuum", |row| row.get::<_, i64>(0))? != VACUUM_INCREMENTAL {
        connection.pragma_update(None, "auto_vacuum", VACUUM_INCREMENTAL)?;
    }
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update_and_check(None, "journal_size_limit", WAL_BUSY_BYTES as i64, |_| Ok(()))
}

fn migrate(
    path: &Path,
    connection: &mut Connection,
    packer: &mut Packer,
    ids: impl FnOnce() -> (u64, u64),
) -> Result<()> {
    let refuse = |e: rusqlite::Error| refusal(path, &e);
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema WHERE type = 'table'", [], |row| row.get(0))
        .map_err(refuse)?;
    if tables > 0 {
        return match meta(connection, "schema") {
            Ok(SCHEMA_VERSION) => Ok(()),
            Ok(1) => pack_rows(connection, packer).map_err(refuse),
            Ok(other) => Err(open_error(path, format!("schema {other} was written by another version"))),
            Err(_) => Err(open_error(path, "it is a SQLite file, but not a datastore")),
        };
    }
    let (cluster_id, member_id) = ids();
    let mut create = || -> rusqlite::Result<()> {
        let transaction = connection.transaction()?;
        transaction.execute_batch(SCHEMA)?;
        for (name, value) in [
            ("schema", SCHEMA_VERSION),
            ("cluster_id", cluster_id.cast_signed()),
            ("member_id", member_id.cast_signed()),
            ("compact_revision", 0),
            ("clean", 1),
        ] {
            transaction.execute("INSERT INTO meta VALUES (?1, ?2)", params![name, value])?;
        }
        transaction.commit()
    };
    create().map_err(|e| refusal(path, &e))
}

/// From schema 1, a row per record, to runs; in one transaction.
fn pack_rows(connection: &mut Connection, packer: &mut Packer) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    transaction.execute_batch("CREATE TABLE history (first INTEGER PRIMARY KEY, records BLOB NOT NULL)")?;
    let mut pending: Vec<Record> = Vec::new();
    let mut store = |pending: &mut Vec<Record>| -> rusqlite::Result<()> {
        for records in cut(pending) {
            let first = records[0].id;
            let packed = packer.pack(first, records).map_err(|e| rusqlite::Error::ToSqlConversionFailure(e.into()))?;
            transaction.prepare_cached(INSERT_RUN)?.execute(params![first.0.cast_signed(), packed])?;
        }
        pending.clear();
        Ok(())
    };
    {
        let mut statement =
            transaction.prepare("SELECT id, key, value, create_revision, version, lease FROM log ORDER BY id")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            pending.push(Record {
                id: RecordId(row.get::<_, i64>(0)?.cast_unsigned()),
                key: Bytes::from(row.get::<_, Vec<u8>>(1)?),
                value: row.get::<_, Option<Vec<u8>>>(2)?.map(Bytes::from),
                create_revision: Revision::from_i64(row.get(3)?),
                version: row.get(4)?,
                lease: row.get(5)?,
            });
            if pending.len() >= LOG_PAGE_RECORDS {
                store(&mut pending)?;
            }
        }
        store(&mut pending)?;
    }
    transaction.execute_batch("DROP TABLE log; UPDATE meta SET value = 2 WHERE name = 'schema'")?;
    transaction.commit()
}

/// What an SQLite error at open means to the operator.
fn refusal(path: &Path, error: &rusqlite::Error) -> Error {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => {
            Error::Corrupt { path: path.to_owned(), detail: error.to_string() }
        }
        _ => open_error(path, error),
    }
}

fn describe(error: &rusqlite::Error) -> LogError {
    LogError(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What does not become smaller by packing.
    fn noise(bytes: usize) -> Bytes {
        let mut noise = vec![0; bytes];
        rand::fill(&mut noise[..]);
        noise.into()
    }

    fn batch(revision: u64, bytes: usize) -> Batch {
        let record = Record {
            id: RecordId::new(Revision(revision), 0),
            key: Bytes::from_static(b"a"),
            value: Some(noise(bytes)),
            create_revision: Revision(revision),
            version: 1,
            lease: 0,
        };
        Batch { records: vec![record], ..Batch::default() }
    }

    fn limit_pages(log: &SqliteLog, pages: u32) {
        log.connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(())).unwrap();
    }

    #[test]
    fn a_full_disk_fails_the_batch_whole_and_later_ones_succeed() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = SqliteLog::open(&folder.path().join("s.db"), || (1, 2)).unwrap();
        log.append(&batch(2, 100)).unwrap();
        limit_pages(&log, 20);
        let error = log.append(&batch(3, 1 << 20)).unwrap_err();
        assert!(error.to_string().contains("full"), "{error}");
        assert_eq!(log.last_id().unwrap(), Some(RecordId::new(Revision(2), 0)));
        let mut reader = log.reader().unwrap();
        assert_eq!(reader.records(RecordId::default(), 10, 1 << 20).unwrap().len(), 1);
        limit_pages(&log, 10_000);
        log.append(&batch(3, 1 << 20)).unwrap();
        assert_eq!(log.last_id().unwrap(), Some(RecordId::new(Revision(3), 0)));
        Box::new(log).close().unwrap();
    }

    fn small(revision: u64) -> Batch {
        let mut batch = batch(revision, 0);
        batch.records[0].key = Bytes::from(format!("/registry/leases/{}", revision % 3));
        batch
    }

    fn rows(log: &SqliteLog) -> i64 {
        log.connection.query_row("SELECT count(*) FROM history", [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn small_commits_share_a_row_until_its_page_is_full() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = SqliteLog::open(&folder.path().join("s.db"), || (1, 2)).unwrap();
        (2..=40).for_each(|revision| log.append(&small(revision)).unwrap());
        assert_eq!(rows(&log), 1);
        let longest = "SELECT max(length(records)) FROM history";
        (41..300).for_each(|revision| log.append(&small(revision)).unwrap());
        let bytes: i64 = log.connection.query_row(longest, [], |row| row.get(0)).unwrap();
        assert!((2..20).contains(&rows(&log)) && bytes < 1024, "{} rows of {bytes}", rows(&log));
        let read = log.reader().unwrap().records(RecordId::default(), 1000, 1 << 20).unwrap();
        assert_eq!(read.iter().map(|record| record.id.revision().0).collect::<Vec<_>>(), (2..300).collect::<Vec<_>>());
        let ids: Vec<_> = (150..299).map(|revision| RecordId::new(Revision(revision), 0)).collect();
        assert!(log.reader().unwrap().get(&ids).unwrap().iter().all(Option::is_some));
        // What compaction changed in the last row is not written back by the next commit.
        let mut left = &ids[..];
        while !left.is_empty() {
            left = &left[log.delete(left, Duration::from_secs(1)).unwrap()..];
        }
        while log.reclaim(Reclaim::Full).unwrap() {}
        log.append(&small(300)).unwrap();
        assert_eq!(log.reader().unwrap().get(&ids).unwrap().iter().flatten().count(), 0);
        Box::new(log).close().unwrap();
        let mut log = SqliteLog::open(&folder.path().join("s.db"), || (1, 2)).unwrap();
        let mut loaded = Vec::new();
        log.load(&mut |record| loaded.push(record.id.revision().0)).unwrap();
        assert_eq!(loaded, (2..150).chain([299, 300]).collect::<Vec<_>>());
    }

    #[test]
    fn a_commit_into_the_last_row_that_seemed_to_fail_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = SqliteLog::open(&folder.path().join("s.db"), || (1, 2)).unwrap();
        log.append(&small(2)).unwrap();
        log.append(&small(3)).unwrap();
        // As if the last one had been written and an error reported.
        let grown = [small(2), small(3), small(4)].map(|batch| batch.records[0].clone());
        let packed = Packer::new().unwrap().pack(grown[0].id, &grown).unwrap();
        log.connection.execute(UPDATE_RUN, params![grown[0].id.0.cast_signed(), packed]).unwrap();
        assert_eq!(log.last_id().unwrap(), Some(RecordId::new(Revision(4), 0)));
        log.append(&small(5)).unwrap();
        let read = log.reader().unwrap().records(RecordId::default(), 10, 1 << 20).unwrap();
        assert_eq!(read.iter().map(|record| record.id.revision().0).collect::<Vec<_>>(), [2, 3, 4, 5]);
    }

    #[test]
    fn what_is_committed_is_synced_again_after_an_unsynced_slice() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = SqliteLog::open(&folder.path().join("s.db"), || (1, 2)).unwrap();
        log.append(&batch(2, 100)).unwrap();
        assert_eq!(log.delete(&[RecordId::new(Revision(2), 0)], Duration::from_secs(1)).unwrap(), 1);
        assert_eq!(log.pragma("synchronous").unwrap(), 2, "FULL");
        assert_eq!(log.last_id().unwrap(), None);
    }
}
