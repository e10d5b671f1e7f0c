//! The statements of the log, put together from a dialect's words.
//!
//! Tables: `skiff_log` is the log of `docs/store.md`; `skiff_head` has one row, whose lock is the
//! turn to write; `skiff_lease` numbers every change, so that others find what is new, and keeps
//! ended leases for a while for the same reason (their `ttl` is −1); `skiff_writer` has the number of
//! the last batch of every opening of the store, which tells what became of a commit in doubt.

use super::digest::push_hex;
use super::{Cell, Dialect, Row, SqlError};
use crate::log::{LeaseRow, Record};
use crate::revision::{RecordId, Revision};

/// Version of the tables.
pub(super) const SCHEMA_VERSION: i64 = 1;
/// The `ttl` of a lease that has ended.
const ENDED: i64 = -1;

/// The row of `skiff_head`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// The newest record.
    pub(super) id: RecordId,
    pub(super) compacted: Revision,
    pub(super) no_space: bool,
    /// The number of the newest change of a lease.
    pub(super) lease_seq: i64,
    /// Ended leases up to this number have been forgotten.
    pub(super) lease_purged: i64,
    pub(super) cluster_id: u64,
    pub(super) member_id: u64,
    pub(super) version: i64,
}

const LOG_COLUMNS: &str = "id, name, value, create_revision, version, lease";

pub(super) fn tables(dialect: &Dialect) -> Vec<String> {
    let (number, key, value) = dialect.types;
    let table = |name: &str, columns: &str| {
        let columns = columns.replace("NUMBER", number).replace("KEY_BYTES", key).replace("VALUE_BYTES", value);
        format!("CREATE TABLE IF NOT EXISTS {name} ({columns}){}", dialect.table_options)
    };
    vec![
        table(
            "skiff_log",
            "id NUMBER NOT NULL PRIMARY KEY, name KEY_BYTES NOT NULL, value VALUE_BYTES,
             create_revision NUMBER NOT NULL, version NUMBER NOT NULL, lease NUMBER NOT NULL",
        ),
        table(
            "skiff_lease",
            "id NUMBER NOT NULL PRIMARY KEY, ttl NUMBER NOT NULL, deadline NUMBER NOT NULL, seq NUMBER NOT NULL UNIQUE",
        ),
        table("skiff_writer", "id NUMBER NOT NULL PRIMARY KEY, batch NUMBER NOT NULL, seen NUMBER NOT NULL"),
        table(
            "skiff_head",
            "one NUMBER NOT NULL PRIMARY KEY, schema_version NUMBER NOT NULL, cluster_id NUMBER NOT NULL,
             member_id NUMBER NOT NULL, head NUMBER NOT NULL, compacted NUMBER NOT NULL, no_space NUMBER NOT NULL,
             lease_seq NUMBER NOT NULL, lease_purged NUMBER NOT NULL",
        ),
    ]
}

/// The first row of `skiff_head`.
pub(super) fn first_head(cluster_id: u64, member_id: u64) -> String {
    let head = RecordId::first_of(Revision::FIRST).0;
    let (cluster_id, member_id) = (cluster_id.cast_signed(), member_id.cast_signed());
    format!("INSERT INTO skiff_head VALUES (1, {SCHEMA_VERSION}, {cluster_id}, {member_id}, {head}, 0, 0, 0, 0)")
}

pub(super) fn read_head(lock: bool) -> String {
    let lock = if lock { " FOR UPDATE" } else { "" };
    format!(
        "SELECT head, compacted, no_space, lease_seq, lease_purged, cluster_id, member_id, schema_version
         FROM skiff_head WHERE one = 1{lock}"
    )
}

/// `None` if there is no row.
pub(super) fn head(rows: &[Row]) -> Result<Option<Head>, SqlError> {
    let Some(row) = rows.first() else { return Ok(None) };
    let number = |column: usize| int(row, column);
    Ok(Some(Head {
        id: RecordId(number(0)?.cast_unsigned()),
        compacted: Revision::from_i64(number(1)?),
        no_space: number(2)? != 0,
        lease_seq: number(3)?,
        lease_purged: number(4)?,
        cluster_id: number(5)?.cast_unsigned(),
        member_id: number(6)?.cast_unsigned(),
        version: number(7)?,
    }))
}

/// A page of the log from `from` to `until`: at most `count` records, and no more once they hold `bytes`.
pub(super) fn page(from: RecordId, until: RecordId, count: usize, bytes: usize) -> String {
    let columns: Vec<String> = LOG_COLUMNS.split(", ").map(|column| format!("l.{column}")).collect();
    let columns = columns.join(", ");
    format!(
        "SELECT {columns} FROM (
             SELECT id, size, SUM(size) OVER (ORDER BY id) AS total FROM (
                 SELECT id, octet_length(name) + coalesce(octet_length(value), 0) AS size FROM skiff_log
                 WHERE id >= {} AND id <= {} ORDER BY id LIMIT {count}
             ) sized
         ) summed JOIN skiff_log l ON l.id = summed.id
         WHERE summed.total - summed.size < {bytes} ORDER BY l.id",
        from.0, until.0
    )
}

pub(super) fn get(ids: &[RecordId]) -> String {
    format!("SELECT {LOG_COLUMNS} FROM skiff_log WHERE id IN ({})", numbers(ids.iter().map(|id| id.0.cast_signed())))
}

pub(super) fn record(row: &Row) -> Result<Record, SqlError> {
    Ok(Record {
        id: RecordId(int(row, 0)?.cast_unsigned()),
        key: match row.get(1) {
            Some(Cell::Bytes(key)) => key.clone(),
            _ => return Err(SqlError::garbled("a key")),
        },
        value: match row.get(2) {
            Some(Cell::Bytes(value)) => Some(value.clone()),
            Some(Cell::Null) => None,
            _ => return Err(SqlError::garbled("a value")),
        },
        create_revision: Revision::from_i64(int(row, 3)?),
        version: int(row, 4)?,
        lease: int(row, 5)?,
    })
}

/// Inserts of about `bytes_max` each.
pub(super) fn insert(dialect: &Dialect, records: &[Record], bytes_max: usize) -> Vec<String> {
    let begin = format!("INSERT INTO skiff_log ({LOG_COLUMNS}) VALUES ");
    let mut statements = Vec::new();
    let mut statement = String::new();
    for record in records {
        let next = statement.len() + record.weight() * 2 + 256;
        if !statement.is_empty() && next > bytes_max {
            statements.push(std::mem::take(&mut statement));
        }
        statement.push_str(if statement.is_empty() { &begin } else { ", " });
        statement.push_str(&format!("({}, ", record.id.0));
        literal(dialect, &mut statement, &record.key);
        statement.push_str(", ");
        match &record.value {
            Some(value) => literal(dialect, &mut statement, value),
            None => statement.push_str("NULL"),
        }
        statement.push_str(&format!(", {}, {}, {})", record.create_revision, record.version, record.lease));
    }
    statements.extend((!statement.is_empty()).then_some(statement));
    statements
}

pub(super) fn delete(ids: &[RecordId]) -> String {
    let ids = numbers(ids.iter().map(|id| id.0.cast_signed()));
    // What another server is deleting need not be waited for.
    format!(
        "DELETE FROM skiff_log WHERE id IN (
             SELECT id FROM (SELECT id FROM skiff_log WHERE id IN ({ids}) FOR UPDATE SKIP LOCKED) free)"
    )
}

pub(super) fn write_head(head: &Head) -> String {
    format!(
        "UPDATE skiff_head SET head = {}, compacted = {}, no_space = {}, lease_seq = {}, lease_purged = {} WHERE one = 1",
        head.id.0,
        head.compacted,
        i64::from(head.no_space),
        head.lease_seq,
        head.lease_purged
    )
}

/// Every lease there is.
pub(super) fn leases() -> String {
    "SELECT id, ttl, deadline FROM skiff_lease WHERE ttl >= 0".to_owned()
}

/// What has happened to leases after `seq`.
pub(super) fn lease_changes(seq: i64) -> String {
    format!("SELECT id, ttl, deadline, seq FROM skiff_lease WHERE seq > {seq} ORDER BY seq")
}

/// `None` for one that has ended.
pub(super) fn lease(row: &Row) -> Result<(i64, Option<LeaseRow>), SqlError> {
    let (id, ttl, deadline_unix_ms) = (int(row, 0)?, int(row, 1)?, int(row, 2)?);
    Ok((id, (ttl != ENDED).then_some(LeaseRow { id, ttl, deadline_unix_ms })))
}

/// Replaces leases; those that are `None` end at `now_ms`. Numbers them from `seq` on.
pub(super) fn write_leases(changes: &[(i64, Option<LeaseRow>)], seq: i64, now_ms: i64) -> Vec<String> {
    if changes.is_empty() {
        return Vec::new();
    }
    let ids = numbers(changes.iter().map(|(id, _)| *id));
    let values: Vec<String> = changes
        .iter()
        .zip(seq..)
        .map(|((id, row), seq)| match row {
            Some(row) => format!("({id}, {}, {}, {seq})", row.ttl, row.deadline_unix_ms),
            None => format!("({id}, {ENDED}, {now_ms}, {seq})"),
        })
        .collect();
    vec![
        format!("DELETE FROM skiff_lease WHERE id IN ({ids})"),
        format!("INSERT INTO skiff_lease (id, ttl, deadline, seq) VALUES {}", values.join(", ")),
    ]
}

/// The newest number among leases that ended before `before_ms`.
pub(super) fn ended_leases(before_ms: i64) -> String {
    format!("SELECT coalesce(max(seq), 0) FROM skiff_lease WHERE ttl = {ENDED} AND deadline < {before_ms}")
}

pub(super) fn forget_leases(seq: i64) -> String {
    format!("DELETE FROM skiff_lease WHERE ttl = {ENDED} AND seq <= {seq}")
}

fn literal(dialect: &Dialect, out: &mut String, bytes: &[u8]) {
    let (begin, end) = dialect.bytes;
    out.push_str(begin);
    push_hex(out, bytes);
    out.push_str(end);
}

fn numbers(numbers: impl Iterator<Item = i64>) -> String {
    numbers.map(|number| number.to_string()).collect::<Vec<_>>().join(", ")
}

pub(super) fn int(row: &Row, column: usize) -> Result<i64, SqlError> {
    match row.get(column) {
        Some(Cell::Int(number)) => Ok(*number),
        _ => Err(SqlError::garbled("a number")),
    }
}

/// The only number of an answer.
pub(super) fn single(rows: &[Row]) -> Result<i64, SqlError> {
    rows.first().map_or_else(|| Err(SqlError::garbled("no row")), |row| int(row, 0))
}
