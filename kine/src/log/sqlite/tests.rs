//! The log on a file of its own: full disks, shared rows, ends that are not known, and what is synced.

use std::time::Duration;

use bytes::Bytes;
use rusqlite::params;

use super::commit::UPDATE_RUN;
use super::*;
use crate::revision::Revision;

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
