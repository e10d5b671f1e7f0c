//! The datastore's file: taken for one process, made private and durable, opened, checked and set up.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::config::DbConfig;
use rusqlite::hooks::Wal;
use rusqlite::{Connection, OpenFlags};

use crate::error::{Error, Result};
use crate::limits::{BUSY_TIMEOUT, WAL_BUSY_BYTES};
use crate::log::LogError;

/// Pages of a new file. A commit writes whole pages, and a small one, such as a cluster at rest makes, writes few: with pages
/// of 4 KiB it would take twice the bytes. Large commits hardly notice.
const PAGE_BYTES: u64 = 1024;
const MAGIC: &[u8] = b"SQLite format 3\0";
/// SQLite's number of the mode in which free pages are given back step by step.
const VACUUM_INCREMENTAL: i64 = 2;

pub(crate) fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
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
pub(super) fn prepare_file(path: &Path) -> Result<()> {
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

pub(super) fn connect(path: &Path, wal_pages: Arc<AtomicU64>) -> rusqlite::Result<Connection> {
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

pub(super) fn check(path: &Path, connection: &Connection) -> Result<()> {
    let verdict: String =
        connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(|e| refusal(path, &e))?;
    if verdict == "ok" {
        return Ok(());
    }
    Err(Error::Corrupt { path: path.to_owned(), detail: verdict.replace('\n', " ") })
}

pub(super) fn configure(connection: &Connection) -> rusqlite::Result<()> {
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

pub(super) fn page_bytes(connection: &Connection) -> rusqlite::Result<u64> {
    let bytes = connection.pragma_query_value(None, "page_size", |row| row.get::<_, i64>(0))?;
    Ok(u64::try_from(bytes).unwrap_or(PAGE_BYTES))
}

pub(super) fn open_error(path: &Path, reason: impl ToString) -> Error {
    Error::Open { path: path.to_owned(), reason: reason.to_string() }
}

/// What an SQLite error at open means to the operator.
pub(super) fn refusal(path: &Path, error: &rusqlite::Error) -> Error {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => {
            Error::Corrupt { path: path.to_owned(), detail: error.to_string() }
        }
        _ => open_error(path, error),
    }
}

pub(super) fn describe(error: &rusqlite::Error) -> LogError {
    LogError(error.to_string())
}
