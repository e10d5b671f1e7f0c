//! The store from inside: what needs a log of one's own or the file underneath.

use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::log::memory::MemoryLog;
use crate::log::{Batch, Loaded, Log, LogError, LogReader, LogSize, Reclaim, Record};
use crate::revision::RecordId;
use crate::*;

/// A memory log whose appends fail on demand, and whose readers do something else before every page.
#[derive(Default)]
struct FaultyLog {
    inner: MemoryLog,
    fault: Arc<AtomicU8>,
    interrupt: Interrupt,
}

type Interrupt = Arc<OnceLock<Box<dyn Fn() + Send + Sync>>>;

struct InterruptedReader {
    inner: Box<dyn LogReader>,
    interrupt: Interrupt,
}

const FAIL_CLEANLY: u8 = 1;
const COMMIT_BUT_REPORT_FAILURE: u8 = 2;
const FAIL_EVERYTHING: u8 = 3;
const STALL: u8 = 4;
const STALLED: u8 = 5;

impl Log for FaultyLog {
    fn load(&mut self, visit: &mut dyn FnMut(Record)) -> Result<Loaded> {
        self.inner.load(visit)
    }

    fn append(&mut self, batch: &Batch) -> Result<(), LogError> {
        match self.fault.load(Ordering::SeqCst) {
            0 => return self.inner.append(batch),
            STALL => {
                self.fault.store(STALLED, Ordering::SeqCst);
                while self.fault.load(Ordering::SeqCst) == STALLED {
                    std::thread::sleep(Duration::from_millis(5));
                }
                return self.inner.append(batch);
            }
            COMMIT_BUT_REPORT_FAILURE => self.inner.append(batch)?,
            _ => {}
        }
        Err(LogError("no space left on device".into()))
    }

    fn last_id(&mut self) -> Result<Option<RecordId>, LogError> {
        if self.fault.load(Ordering::SeqCst) == FAIL_EVERYTHING {
            return Err(LogError("input/output error".into()));
        }
        self.inner.last_id()
    }

    fn delete(&mut self, ids: &[RecordId], budget: Duration) -> Result<usize, LogError> {
        self.inner.delete(ids, budget)
    }

    fn reclaim(&mut self, how: Reclaim) -> Result<bool, LogError> {
        self.inner.reclaim(how)
    }

    fn in_use(&mut self) -> Result<u64, LogError> {
        self.inner.in_use()
    }

    fn reader(&self) -> Result<Box<dyn LogReader>, LogError> {
        Ok(Box::new(InterruptedReader { inner: self.inner.reader()?, interrupt: self.interrupt.clone() }))
    }

    fn close(self: Box<Self>) -> Result<(), LogError> {
        Ok(())
    }
}

impl LogReader for InterruptedReader {
    fn records(&mut self, from: RecordId, count: usize, bytes: usize) -> Result<Vec<Record>, LogError> {
        if let Some(interrupt) = self.interrupt.get() {
            interrupt();
        }
        self.inner.records(from, count, bytes)
    }

    fn get(&mut self, ids: &[RecordId]) -> Result<Vec<Option<Record>>, LogError> {
        self.inner.get(ids)
    }

    fn size(&mut self) -> Result<LogSize, LogError> {
        self.inner.size()
    }
}

fn faulty() -> (Store, Arc<AtomicU8>) {
    let fault = Arc::new(AtomicU8::new(0));
    let log = FaultyLog { fault: fault.clone(), ..FaultyLog::default() };
    (Store::over(Box::new(log), &StoreOptions::default()).unwrap(), fault)
}

async fn put(store: &Store, key: &'static str, value: &'static str) -> Result<Revision> {
    store.put(PutRequest::new(key, value)).await.map(|response| response.revision)
}

#[tokio::test]
async fn a_failed_commit_leaves_nothing_and_the_store_recovers() {
    let (store, fault) = faulty();
    assert_eq!(put(&store, "a", "1").await.unwrap(), Revision(2));
    for kind in [FAIL_CLEANLY, FAIL_EVERYTHING] {
        fault.store(kind, Ordering::SeqCst);
        assert!(matches!(put(&store, "a", "2").await, Err(Error::Write(_))));
        assert!(matches!(put(&store, "b", "2").await, Err(Error::Write(_))));
        assert_eq!(store.get(b"a").unwrap().value, "1");
        assert!(store.get(b"b").is_none());
        assert_eq!(store.current_revision(), Revision(2));
    }
    fault.store(0, Ordering::SeqCst);
    assert_eq!(put(&store, "b", "3").await.unwrap(), Revision(3));
}

#[tokio::test]
async fn a_commit_that_took_place_despite_its_error_is_seen_by_readers_and_watchers() {
    let (store, fault) = faulty();
    let mut watcher = store.watch(WatchRequest::new(KeyRange::all(), Revision(0))).unwrap();
    fault.store(COMMIT_BUT_REPORT_FAILURE, Ordering::SeqCst);
    assert_eq!(put(&store, "a", "1").await.unwrap(), Revision(2));
    fault.store(0, Ordering::SeqCst);
    assert_eq!(put(&store, "b", "1").await.unwrap(), Revision(3));
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let WatchMessage::Events(events) = watcher.next().await.unwrap() else { continue };
        seen.extend(events.iter().map(|event| event.kv.mod_revision));
    }
    assert_eq!(seen, [Revision(2), Revision(3)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_disk_stalls_writes_wait_and_reads_do_not() {
    let (store, fault) = faulty();
    put(&store, "a", "1").await.unwrap();
    fault.store(STALL, Ordering::SeqCst);
    let write = tokio::spawn({
        let store = store.clone();
        async move { put(&store, "a", "2").await }
    });
    while fault.load(Ordering::SeqCst) != STALLED {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for _ in 0..100 {
        assert_eq!(store.get(b"a").unwrap().value, "1", "not visible before it is durable");
        let range = store.range(RangeRequest::new(KeyRange::all())).await.unwrap();
        assert_eq!(range.count, 1);
    }
    assert!(!write.is_finished());
    fault.store(0, Ordering::SeqCst);
    assert_eq!(write.await.unwrap().unwrap(), Revision(3));
    assert_eq!(store.get(b"a").unwrap().value, "2");
}

#[tokio::test]
async fn revisions_versions_and_leases_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let options = StoreOptions::sqlite(folder.path().join("state.db"));
    let store = Store::open(options.clone()).await.unwrap();
    let (lease, _) = store.lease_grant(0, 100).await.unwrap();
    put(&store, "a", "1").await.unwrap();
    put(&store, "a", "2").await.unwrap();
    let leased = PutRequest { lease, ..PutRequest::new("b", "x") };
    store.put(leased).await.unwrap();
    store.delete(KeyRange::key("a")).await.unwrap();
    store.compact(Revision(3), true).await.unwrap();
    store.close().await.unwrap();
    assert!(matches!(put(&store, "a", "3").await, Err(Error::Stopped)));

    let store = Store::open(options).await.unwrap();
    assert_eq!(store.current_revision(), Revision(5));
    assert_eq!(store.compact_revision(), Revision(3));
    assert!(store.get(b"a").is_none());
    let at_three = RangeRequest::new(KeyRange::key("a")).at(Revision(3));
    let kv = store.range(at_three.clone()).await.unwrap().kvs.remove(0);
    assert_eq!((kv.value.as_ref(), kv.version, kv.create_revision), (&b"2"[..], 2, Revision(2)));
    let too_old = store.range(at_three.at(Revision(2))).await;
    assert!(matches!(too_old, Err(Error::Compacted { compact_revision: Revision(3) })));
    let ttl = store.lease_time_to_live(lease, true).unwrap();
    assert_eq!(ttl.keys, ["b"]);
    assert!((97..=100).contains(&ttl.ttl), "{ttl:?}");
    store.lease_revoke(lease).await.unwrap();
    assert!(store.get(b"b").is_none());
    store.close().await.unwrap();
}

/// Bytes that take the same space on disk.
fn noise(bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    rand::fill(&mut noise[..]);
    noise
}

#[tokio::test]
async fn a_file_in_use_damaged_or_foreign_is_refused_with_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let store = Store::open(StoreOptions::sqlite(&path)).await.unwrap();
    for i in 0..200 {
        let key = format!("/key/{i:03}");
        store.put(PutRequest::new(key, noise(500))).await.unwrap();
    }
    let second = Store::open(StoreOptions::sqlite(&path)).await;
    assert!(matches!(second, Err(Error::InUse { .. })));
    store.close().await.unwrap();

    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2 / 4096 * 4096;
    bytes[middle..middle + 4096].fill(0xa5);
    std::fs::write(&path, &bytes).unwrap();
    let error = Store::open(StoreOptions::sqlite(&path)).await.err().unwrap();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains("state.db"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), bytes, "a refused file stays as it was");

    std::fs::write(&path, b"not a database, but long enough to be one").unwrap();
    assert!(matches!(Store::open(StoreOptions::sqlite(&path)).await, Err(Error::Corrupt { .. })));

    let foreign = folder.path().join("foreign.db");
    let connection = rusqlite::Connection::open(&foreign).unwrap();
    connection.execute_batch("CREATE TABLE kine (id INTEGER)").unwrap();
    drop(connection);
    assert!(matches!(Store::open(StoreOptions::sqlite(&foreign)).await, Err(Error::Open { .. })));
}

/// A file as earlier builds wrote it: a row per record.
fn first_schema(path: &std::path::Path) {
    let connection = rusqlite::Connection::open(path).unwrap();
    connection
        .execute_batch(
            "PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL;
             CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
             CREATE TABLE log (id INTEGER PRIMARY KEY, key BLOB NOT NULL, value BLOB,
                 create_revision INTEGER NOT NULL, version INTEGER NOT NULL, lease INTEGER NOT NULL);
             CREATE TABLE lease (id INTEGER PRIMARY KEY, ttl INTEGER NOT NULL, deadline INTEGER NOT NULL);
             INSERT INTO meta VALUES ('schema', 1), ('cluster_id', 7), ('member_id', 8), ('compact_revision', 3), ('clean', 1);
             INSERT INTO lease VALUES (5, 600, 9000000000000);",
        )
        .unwrap();
    let mut insert = connection.prepare("INSERT INTO log VALUES (?1, ?2, ?3, ?4, ?5, ?6)").unwrap();
    let id = |revision: i64, sub: i64| revision << 20 | sub;
    for revision in 2..2000_i64 {
        let (key, value) = (format!("/k/{:04}", revision % 700), format!("value {revision}"));
        let version = (revision - 2) / 700 + 1;
        let create = revision - 700 * (version - 1);
        insert.execute((id(revision, 0), key.as_bytes(), value.as_bytes(), create, version, 0)).unwrap();
    }
    insert.execute((id(2000, 0), &b"/leased"[..], &b"x"[..], 2000, 1, 5)).unwrap();
    insert.execute((id(2000, 1), &b"/k/0002"[..], Option::<&[u8]>::None, 0, 0, 0)).unwrap();
}

#[tokio::test]
async fn a_file_of_the_first_schema_is_rewritten_and_keeps_everything() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    first_schema(&path);
    for _ in 0..2 {
        let store = Store::open(StoreOptions::sqlite(&path)).await.unwrap();
        let status = store.status().await.unwrap();
        assert_eq!((status.cluster_id, status.member_id), (7, 8));
        assert_eq!((status.revision, status.compact_revision), (Revision(2000), Revision(3)));
        let kv = store.get(b"/k/0003").unwrap();
        assert_eq!((&kv.value[..], kv.create_revision, kv.version), (&b"value 1403"[..], Revision(3), 3));
        let past = store.range(RangeRequest::new(KeyRange::key("/k/0003")).at(Revision(1000))).await.unwrap();
        assert_eq!(past.kvs[0].value, "value 703");
        assert!(store.get(b"/k/0002").is_none());
        assert_eq!(store.lease_time_to_live(5, true).unwrap().keys, ["/leased"]);
        store.close().await.unwrap();
    }
    let connection = rusqlite::Connection::open(&path).unwrap();
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema WHERE name = 'log'", [], |row| row.get(0)).unwrap();
    assert_eq!(tables, 0);
}

#[tokio::test]
async fn compactions_and_restarts_change_nothing_that_can_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let options = StoreOptions::sqlite(folder.path().join("state.db"));
    let mut next = crate::test_random::numbers();
    let mut model: std::collections::BTreeMap<String, Vec<u8>> = Default::default();
    for round in 0..8 {
        let store = Store::open(options.clone()).await.unwrap();
        for _ in 0..10 {
            // Batches of all sizes, so that runs have all sizes too.
            let mut waits = Vec::new();
            for _ in 0..1 + next(60) {
                let key = format!("/k/{:03}", next(150));
                let op = match next(3) {
                    0 if model.remove(&key).is_some() => {
                        Op::Delete(DeleteRequest { range: KeyRange::key(key), prev_kv: false })
                    }
                    _ => {
                        let value = noise(1 + next(700));
                        model.insert(key.clone(), value.clone());
                        Op::Put(PutRequest::new(key, value))
                    }
                };
                waits.push(store.txn(Txn::new().then(op)));
            }
            futures_util::future::try_join_all(waits).await.unwrap();
            if next(3) == 0 {
                let behind = Revision(next(100) as u64);
                let revision = Revision(store.current_revision().0 - behind.0.min(store.current_revision().0 - 1));
                let _ = store.compact(revision, next(2) == 0).await;
            }
        }
        if round % 3 == 2 {
            store.defragment().await.unwrap();
        }
        let at = store.current_revision();
        store.close().await.unwrap();
        let store = Store::open(options.clone()).await.unwrap();
        assert_eq!(store.current_revision(), at);
        let all = store.range(RangeRequest::new(KeyRange::all())).await.unwrap();
        let seen = all.kvs.into_iter().map(|kv| (String::from_utf8(kv.key.to_vec()).unwrap(), kv.value.to_vec()));
        assert_eq!(seen.collect::<std::collections::BTreeMap<_, _>>(), model, "round {round}");
        let (hash, snapshot) = (store.hash(Revision(0)).await.unwrap(), store.snapshot().await.unwrap());
        assert_eq!((hash.revision, snapshot.summary().keys), (at, model.len() as u64));
        store.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_of_all_history_see_one_although_compaction_moves_on_with_every_page() {
    let interrupt = Interrupt::default();
    let log = FaultyLog { interrupt: interrupt.clone(), ..FaultyLog::default() };
    let store = Store::over(Box::new(log), &StoreOptions::default()).unwrap();
    for i in 0..4 * limits::LOG_PAGE_RECORDS {
        let key = format!("/k/{}", i % 100);
        match i % 17 {
            0 => drop(store.delete(KeyRange::key(key)).await.unwrap()),
            _ => drop(store.put(PutRequest::new(key, i.to_string())).await.unwrap()),
        }
    }
    store.compact(Revision(300), true).await.unwrap();
    let expected = store.hash(Revision(0)).await.unwrap();
    let (interrupted, physical) = (Arc::new(AtomicUsize::new(0)), Arc::new(OnceLock::new()));
    let set = interrupt.set(Box::new({
        let (interrupted, physical, handle) =
            (interrupted.clone(), physical.clone(), tokio::runtime::Handle::current());
        let store = store.clone();
        move || {
            let number = interrupted.fetch_add(1, Ordering::SeqCst);
            assert!(number < 100, "reading comes to an end");
            handle.block_on(async {
                put(&store, "/k/1", "later").await.unwrap();
                let newest = store.current_revision();
                match number {
                    0 => {
                        let store = store.clone();
                        let task = tokio::spawn(async move { store.compact(newest, true).await });
                        physical.set(std::sync::Mutex::new(Some(task))).unwrap();
                    }
                    _ => store.compact(newest, false).await.unwrap(),
                }
                // Behind each write comes a slice of removal, before the next one.
                for value in ["1", "2", "3"] {
                    put(&store, "/k/2", value).await.unwrap();
                }
            });
        }
    }));
    assert!(set.is_ok());
    let snapshot = store.snapshot().await.unwrap();
    assert!(interrupted.load(Ordering::SeqCst) >= 4, "pages");
    assert!(store.compact_revision() > expected.revision, "compaction went on");
    let task = physical.get().unwrap().lock().unwrap().take().unwrap();
    let removed = tokio::time::timeout(Duration::from_secs(60), task).await;
    removed.expect("removal goes on behind the snapshot").unwrap().unwrap();

    let folder = tempfile::tempdir().unwrap();
    let (path, target) = (folder.path().join("s.db"), folder.path().join("restored.db"));
    snapshot.save(&path).unwrap();
    Archive::open(&path, false).unwrap().restore(&target, false).unwrap();
    let restored = Store::open(StoreOptions::sqlite(target)).await.unwrap();
    assert_eq!(restored.hash(Revision(0)).await.unwrap(), expected);
    restored.close().await.unwrap();
    // A hash is not overtaken either.
    store.hash(Revision(0)).await.unwrap();
}

#[tokio::test]
async fn a_watcher_that_fell_out_of_the_ring_reads_every_event_from_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(StoreOptions::sqlite(folder.path().join("s.db"))).await.unwrap();
    let request = WatchRequest::new(KeyRange::prefix("/k/"), Revision(0)).with_prev_kv();
    let mut watcher = store.watch(request).unwrap();
    // Values large enough that the ring holds only a part of them.
    let value = noise(limits::RING_BYTES_MAX / 64);
    let total = 200;
    let writes = (0..total).map(|i| {
        let (store, value) = (store.clone(), value.clone());
        async move { store.put(PutRequest::new(format!("/k/{}", i % 7), value)).await.unwrap() }
    });
    futures_util::future::join_all(writes).await;
    let mut seen = Vec::new();
    while seen.len() < total {
        let WatchMessage::Events(events) = watcher.next().await.unwrap() else { continue };
        for event in &events {
            assert_eq!(event.prev_kv.is_none(), event.is_create());
            seen.push(event.kv.mod_revision.0);
        }
    }
    assert_eq!(seen, (2..2 + total as u64).collect::<Vec<_>>());

    // And one that compaction overtook is told so.
    let mut late = store.watch(WatchRequest::new(KeyRange::all(), Revision(2))).unwrap();
    store.compact(Revision(100), true).await.unwrap();
    let error = late.next().await.err().unwrap();
    assert!(matches!(error, Error::Compacted { compact_revision: Revision(100) }), "{error:?}");
    store.close().await.unwrap();
}

#[tokio::test]
async fn the_file_shrinks_after_compaction_and_the_wal_stays_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.db");
    let store = Store::open(StoreOptions::sqlite(&path)).await.unwrap();
    let value = noise(64 * 1024);
    for _ in 0..600 {
        store.put(PutRequest::new("/same", value.clone())).await.unwrap();
    }
    let grown = store.status().await.unwrap();
    assert!(grown.size_in_use > 30 << 20, "{grown:?}");
    store.compact(store.current_revision(), true).await.unwrap();
    store.defragment().await.unwrap();
    let shrunk = store.status().await.unwrap();
    assert!(shrunk.size_in_use < 1 << 20, "{shrunk:?}");
    let file = std::fs::metadata(&path).unwrap().len();
    assert!(file < 2 << 20, "{file}");
    let wal = std::fs::metadata(folder.path().join("s.db-wal")).unwrap().len();
    assert!(wal <= limits::WAL_BUSY_BYTES + (4 << 20), "{wal}");
    assert_eq!(store.get(b"/same").unwrap().version, 600);
    store.close().await.unwrap();
}

#[tokio::test]
async fn retention_compacts_by_itself() {
    let options = StoreOptions::memory().retention(Duration::from_millis(100));
    let store = Store::open(options).await.unwrap();
    put(&store, "a", "1").await.unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while store.compact_revision() == Revision(0) {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
        put(&store, "a", "2").await.unwrap();
    }
    assert_eq!(store.get(b"a").unwrap().value, "2");
}

#[tokio::test]
async fn events_share_leases_and_go_away() {
    let store = Store::open(StoreOptions::memory()).await.unwrap();
    for key in ["/e/1", "/e/2"] {
        store.put_with_ttl(key, "x", Duration::from_secs(3600)).await.unwrap();
    }
    let leases = store.leases();
    assert_eq!(leases.len(), 1);
    // Somebody revokes the shared lease: the next event gets a new one.
    store.lease_revoke(leases[0]).await.unwrap();
    assert!(store.get(b"/e/1").is_none() && store.get(b"/e/2").is_none());
    store.put_with_ttl("/e/3", "x", Duration::from_secs(3600)).await.unwrap();
    assert!(store.get(b"/e/3").unwrap().lease != leases[0]);
}
