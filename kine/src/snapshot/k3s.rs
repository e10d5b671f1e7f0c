//! Makes a snapshot from the SQLite datastore of a K3s server.
//!
//! There, one table `kine` has a row for every change; the row number is the revision, and a key's lease
//! is its time to live in seconds. Revisions are kept, so is history back to the last compaction. Versions
//! of keys are not recorded there and counted anew. Rows that fill gaps and the row of the
//! compaction are left out, but for the newest row: the counter of revisions must not go back.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row};

use super::SnapshotSummary;
use super::layout::{KEY, record_key, record_value};
use super::save::{Snapshot, finish, nameless};
use crate::bolt::BoltWriter;
use crate::index::Index;
use crate::limits::SNAPSHOT_CHUNK_BYTES;
use crate::log::{LeaseRow, Record};
use crate::revision::{REVISION_MAX, RecordId, Revision};
use crate::writer::unix_now_ms;

/// The key under which K3s remembers its compaction, in `prev_revision`.
const COMPACTION: &str = "compact_rev_key";
const GAP: &str = "gap-";

/// Why a datastore of K3s cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum K3sError {
    #[error("read {}: {source}", path.display())]
    Sql { path: PathBuf, source: rusqlite::Error },
    #[error("{}: row {row}: {detail}", path.display())]
    Row { path: PathBuf, row: i64, detail: &'static str },
    #[error("write a snapshot beside {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// One row.
struct Change {
    id: i64,
    name: String,
    deleted: bool,
    created: bool,
    create_revision: i64,
    lease: i64,
    value: Bytes,
}

/// True if the file is a SQLite datastore of K3s.
pub fn is_k3s(path: &Path) -> bool {
    let found = connect(path).and_then(|connection| {
        let sql = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'kine'";
        connection.query_row(sql, [], |_| Ok(())).optional()
    });
    matches!(found, Ok(Some(())))
}

/// Takes a snapshot of a K3s datastore; `scratch` is where it is put together. `rewrite` may give every value
/// that goes into it another form.
pub fn snapshot_k3s(
    path: &Path,
    scratch: &Path,
    rewrite: &mut dyn FnMut(Bytes) -> Bytes,
) -> Result<Snapshot, K3sError> {
    let failed = |source| K3sError::Sql { path: path.to_owned(), source };
    let mut connection = connect(path).map_err(failed)?;
    // One state throughout, also if a server is still running.
    let transaction = connection.transaction().map_err(failed)?;
    let compacted = compact_revision(&transaction).map_err(failed)?;
    let mut index = Index::new();
    let mut summary = SnapshotSummary { compact_revision: compacted, ..SnapshotSummary::default() };
    let mut ttls = BTreeSet::new();
    each(path, &transaction, &mut |record| {
        index.apply(record);
        Ok(())
    })?;
    index.set_compacted(compacted);
    summary.revision = index.revision();
    let write = |source| K3sError::Write { path: path.to_owned(), source };
    fs::create_dir_all(scratch).map_err(write)?;
    let file = nameless(scratch).map_err(write)?;
    let mut bolt = BoltWriter::new(BufWriter::with_capacity(SNAPSHOT_CHUNK_BYTES, file)).map_err(write)?;
    let mut bucket = bolt.bucket(KEY).map_err(write)?;
    each(path, &transaction, &mut |record| {
        if !index.keeps(record, compacted) {
            return Ok(());
        }
        summary.records += 1;
        summary.keys += u64::from(record.value.is_some() && index.is_current(record, summary.revision));
        ttls.extend((record.lease > 0).then_some(record.lease));
        let rewritten = Record { value: record.value.clone().map(&mut *rewrite), ..record.clone() };
        bucket.put(&record_key(record), &record_value(&rewritten))
    })?;
    bucket.end().map_err(write)?;
    let now_unix_ms = unix_now_ms();
    let lease =
        |ttl: i64| LeaseRow { id: ttl, ttl, deadline_unix_ms: now_unix_ms.saturating_add(ttl.saturating_mul(1000)) };
    let leases: BTreeMap<i64, LeaseRow> = ttls.into_iter().map(|ttl| (ttl, lease(ttl))).collect();
    summary.leases = leases.len() as u64;
    finish(bolt, summary, leases.values(), now_unix_ms).map_err(write)
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)
}

fn compact_revision(connection: &Connection) -> rusqlite::Result<Revision> {
    let sql = "SELECT max(prev_revision) FROM kine WHERE name = ?1";
    let found: Option<i64> = connection.query_row(sql, [COMPACTION], |row| row.get(0))?;
    Ok(Revision::from_i64(found.unwrap_or(0)))
}

fn change(row: &Row<'_>) -> rusqlite::Result<Change> {
    let number = |column: usize| row.get::<_, Option<i64>>(column).map(Option::unwrap_or_default);
    Ok(Change {
        id: row.get(0)?,
        name: row.get(1)?,
        created: number(2)? != 0,
        deleted: number(3)? != 0,
        create_revision: number(4)?,
        lease: number(5)?,
        // K3s's own rows hold empty text where others hold bytes.
        value: match row.get_ref(6)? {
            ValueRef::Blob(bytes) | ValueRef::Text(bytes) => Bytes::copy_from_slice(bytes),
            _ => Bytes::new(),
        },
    })
}

/// Every change in order, as a record.
fn each(path: &Path, connection: &Connection, take: &mut dyn FnMut(&Record) -> io::Result<()>) -> Result<(), K3sError> {
    let failed = |source| K3sError::Sql { path: path.to_owned(), source };
    let newest: i64 =
        connection.query_row("SELECT coalesce(max(id), 0) FROM kine", [], |row| row.get(0)).map_err(failed)?;
    let sql = "SELECT id, name, created, deleted, create_revision, lease, value FROM kine ORDER BY id";
    let mut statement = connection.prepare(sql).map_err(failed)?;
    let mut rows = statement.query([]).map_err(failed)?;
    // The version of each key that exists.
    let mut versions: HashMap<String, i64> = HashMap::new();
    while let Some(row) = rows.next().map_err(failed)? {
        let change = change(row).map_err(failed)?;
        let row = change.id;
        let bad = |detail| K3sError::Row { path: path.to_owned(), row, detail };
        if !(1..i64::try_from(REVISION_MAX).unwrap_or(i64::MAX)).contains(&change.id) {
            return Err(bad("its number is no revision"));
        }
        let internal = change.name == COMPACTION || change.name.starts_with(GAP);
        if internal && change.id != newest {
            continue;
        }
        if change.name.is_empty() {
            return Err(bad("it has no name"));
        }
        let record = record(change, internal, &mut versions);
        take(&record).map_err(|source| K3sError::Write { path: path.to_owned(), source })?;
    }
    Ok(())
}

/// An internal row stands for nothing but its number: it becomes the deletion of its name.
fn record(change: Change, internal: bool, versions: &mut HashMap<String, i64>) -> Record {
    let id = RecordId::new(Revision::from_i64(change.id), 0);
    let key = Bytes::from(change.name.clone());
    if internal || change.deleted {
        versions.remove(&change.name);
        return Record { id, key, value: None, create_revision: Revision(0), version: 0, lease: 0 };
    }
    // A change whose creation was compacted away is at least the second.
    let before = if change.created { 0 } else { versions.get(&change.name).copied().unwrap_or(1) };
    let version = before + 1;
    versions.insert(change.name, version);
    let created_here = change.created || change.create_revision <= 0;
    let create_revision = if created_here { change.id } else { change.create_revision };
    Record {
        id,
        key,
        value: Some(change.value),
        create_revision: Revision::from_i64(create_revision),
        version,
        lease: change.lease.max(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Archive;
    use crate::{KeyRange, RangeRequest, Store, StoreOptions, WatchMessage, WatchRequest};

    /// Number, name, created, deleted, create_revision, prev_revision, lease, value.
    type K3sRow = (i64, &'static str, bool, bool, i64, i64, i64, &'static str);

    /// The table as K3s makes it, with these rows.
    fn k3s(path: &Path, rows: &[K3sRow]) {
        let connection = Connection::open(path).unwrap();
        connection
            .execute_batch(
                "CREATE TABLE kine (id INTEGER PRIMARY KEY AUTOINCREMENT, name INTEGER, created INTEGER, deleted INTEGER,
                 create_revision INTEGER, prev_revision INTEGER, lease INTEGER, value BLOB, old_value BLOB)",
            )
            .unwrap();
        let first = "INSERT INTO kine VALUES (1, 'compact_rev_key', 1, 0, 0, 5, 0, '', '')";
        connection.execute(first, []).unwrap();
        for (id, name, created, deleted, create_revision, prev_revision, lease, value) in rows {
            connection
                .execute(
                    "INSERT INTO kine VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, NULL)",
                    rusqlite::params![
                        id,
                        name,
                        created,
                        deleted,
                        create_revision,
                        prev_revision,
                        lease,
                        value.as_bytes()
                    ],
                )
                .unwrap();
        }
    }

    async fn restored(folder: &Path) -> Store {
        let file = folder.join("k3s.db");
        assert!(is_k3s(&file));
        let archive = folder.join("snapshot.db");
        snapshot_k3s(&file, folder, &mut |value| value).unwrap().save(&archive).unwrap();
        let target = folder.join("state.db");
        Archive::open(&archive, false).unwrap().restore(&target, false).unwrap();
        Store::open(StoreOptions::sqlite(target)).await.unwrap()
    }

    #[tokio::test]
    async fn revisions_history_and_leases_of_k3s_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let rows = [
            (3, "/a", true, false, 0, 0, 0, "1"),
            (4, "/b", true, false, 0, 0, 3600, "1"),
            (5, "/a", false, false, 3, 3, 0, "2"),
            (6, "gap-6", false, true, 0, 0, 0, ""),
            (7, "/a", false, false, 3, 5, 0, "3"),
            (8, "/c", true, false, 0, 0, 0, "1"),
            (9, "/c", false, true, 8, 8, 0, "1"),
            (11, "gap-11", false, true, 0, 0, 0, ""),
        ];
        k3s(&folder.path().join("k3s.db"), &rows);
        let store = restored(folder.path()).await;
        assert_eq!((store.current_revision(), store.compact_revision()), (Revision(11), Revision(5)));
        let all = store.range(RangeRequest::new(KeyRange::all())).await.unwrap().kvs;
        let shown: Vec<_> = all.iter().map(|kv| (kv.key.as_ref(), kv.value.as_ref(), kv.mod_revision.0)).collect();
        assert_eq!(shown, [(&b"/a"[..], &b"3"[..], 7), (b"/b", b"1", 4)]);
        assert_eq!((all[0].create_revision, all[0].version), (Revision(3), 3));
        assert_eq!((all[1].lease, store.lease_time_to_live(3600, true).unwrap().keys.len()), (3600, 1));
        let past = store.range(RangeRequest::new(KeyRange::key("/a")).at(Revision(5))).await.unwrap();
        assert_eq!(past.kvs[0].value, "2");
        assert!(store.range(RangeRequest::new(KeyRange::all()).at(Revision(4))).await.is_err());
        let mut watcher = store.watch(WatchRequest::new(KeyRange::prefix("/"), Revision(6))).unwrap();
        let WatchMessage::Events(events) = watcher.next().await.unwrap() else { panic!("events") };
        assert_eq!(events.iter().map(|event| event.kv.mod_revision.0).collect::<Vec<_>>(), [7, 8, 9]);
        store.close().await.unwrap();
    }

    #[test]
    fn other_files_are_not_taken_for_a_datastore_of_k3s() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("other.db");
        assert!(!is_k3s(&path));
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE log (id INTEGER)").unwrap();
        assert!(!is_k3s(&path));
        assert!(matches!(snapshot_k3s(&path, folder.path(), &mut |value| value), Err(K3sError::Sql { .. })));
    }
}
