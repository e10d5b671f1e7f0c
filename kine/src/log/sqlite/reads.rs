//! Reads: everything at the start, what is behind the last known run after a commit whose end is not known, and
//! pages of history by a connection of their own.

use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, OptionalExtension};

use super::file::{describe, suffixed};
use super::schema::meta;
use super::{LeaseRow, Loaded, LogError, LogReader, LogSize, Record, SqliteLog};
use crate::limits::BUSY_TIMEOUT;
use crate::log::run::{BadRun, Unpacker};
use crate::revision::{RecordId, Revision};

/// Why runs could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum RunError {
    #[error("{0}")]
    Sql(#[from] rusqlite::Error),
    #[error("{0}")]
    Bad(#[from] BadRun),
}

impl SqliteLog {
    /// Takes in the runs behind the last one known; visits their records.
    pub(super) fn read_runs(&mut self, visit: &mut dyn FnMut(Record)) -> Result<(), RunError> {
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
    pub(super) fn read_last_run(&mut self) -> Result<(), RunError> {
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

    pub(super) fn read_rest(&self) -> rusqlite::Result<Loaded> {
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
}

pub(super) struct SqliteReader {
    connection: Connection,
    unpacker: Unpacker,
    path: PathBuf,
}

impl SqliteReader {
    pub(super) fn open(path: &Path) -> Result<SqliteReader, LogError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(|e| describe(&e))?;
        connection.busy_timeout(BUSY_TIMEOUT).map_err(|e| describe(&e))?;
        connection.pragma_update(None, "cache_size", -512).map_err(|e| describe(&e))?;
        let unpacker = Unpacker::new().map_err(|e| LogError(e.to_string()))?;
        Ok(SqliteReader { connection, unpacker, path: path.to_owned() })
    }
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
