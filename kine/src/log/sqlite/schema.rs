//! The tables, and how an older file's become today's.

use std::path::Path;

use bytes::Bytes;
use rusqlite::{Connection, params};

use super::commit::INSERT_RUN;
use super::file::{open_error, refusal};
use crate::error::Result;
use crate::limits::LOG_PAGE_RECORDS;
use crate::log::Record;
use crate::log::run::{Packer, cut};
use crate::revision::{RecordId, Revision};

const SCHEMA_VERSION: i64 = 2;

const SCHEMA: &str = "
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE history (first INTEGER PRIMARY KEY, records BLOB NOT NULL);
CREATE TABLE lease (id INTEGER PRIMARY KEY, ttl INTEGER NOT NULL, deadline INTEGER NOT NULL);
";

pub(super) fn migrate(
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

pub(super) fn meta(connection: &Connection, name: &str) -> rusqlite::Result<i64> {
    connection.query_row("SELECT value FROM meta WHERE name = ?1", [name], |row| row.get(0))
}
