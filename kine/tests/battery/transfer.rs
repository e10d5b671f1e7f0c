//! One datastore through every engine and back, by snapshots.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use skiff_kine::*;
use tempfile::TempDir;

use crate::target::{Target, bytes};
use crate::{grpc, servers};

/// History with everything that has to survive: generations, tombstones, leases, binary values, a compaction.
async fn furnish(store: &Store) {
    let put = |key: &str, value: &[u8]| PutRequest::new(bytes(key), value.to_vec());
    let (lease, _) = store.lease_grant(4711, 3600).await.unwrap();
    for i in 0..300_u32 {
        store.put(put(&format!("k/{}", i % 50), &[&i.to_be_bytes()[..], b"\0'\\x\xff"].concat())).await.unwrap();
    }
    store.put(PutRequest { lease, ..put("leased", b"1") }).await.unwrap();
    let txn = Txn::new().then(Op::Put(put("a", b""))).then(Op::Put(put("b", b"2")));
    store.txn(txn.then(Op::Delete(DeleteRequest { range: KeyRange::key("k/7"), prev_kv: false }))).await.unwrap();
    store.put(put("large", &vec![7; 1 << 20])).await.unwrap();
    store.compact(Revision(200), true).await.unwrap();
    store.delete(KeyRange::prefix("k/1")).await.unwrap();
}

async fn snapshot(store: &Store, folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    store.snapshot().await.unwrap().save(&path).unwrap();
    path
}

fn archive(path: &Path) -> Arc<Archive> {
    Arc::new(Archive::open(path, false).unwrap())
}

async fn open(url: &str) -> Store {
    Store::open(StoreOptions::database(servers::database(url))).await.unwrap()
}

async fn furnished(folder: &TempDir) -> (HistoryHash, PathBuf) {
    let store = Store::open(StoreOptions::sqlite(folder.path().join("first.db"))).await.unwrap();
    furnish(&store).await;
    let hash = store.hash(Revision(0)).await.unwrap();
    let path = snapshot(&store, folder.path(), "first.snapshot").await;
    store.close().await.unwrap();
    (hash, path)
}

#[tokio::test(flavor = "multi_thread")]
async fn history_goes_through_every_engine_unchanged() {
    let folder = tempfile::tempdir().unwrap();
    let (hash, mut path) = furnished(&folder).await;
    assert_eq!(archive(&path).hash().unwrap(), hash);
    for url in [servers::postgres_url(), servers::mariadb_url()] {
        let database = servers::database(&url);
        let (summary, aside) = archive(&path).restore_database(&database, false, |_| {}).await.unwrap();
        assert_eq!((summary.revision, aside), (hash.revision, None));
        let store = open(&url).await;
        assert_eq!(store.hash(Revision(0)).await.unwrap(), hash);
        assert_eq!(store.lease_time_to_live(4711, true).unwrap().keys, ["leased"]);
        path = snapshot(&store, folder.path(), &format!("{}.snapshot", &url[..5])).await;
        assert_eq!(store.put(PutRequest::new("next", "")).await.unwrap().revision, hash.revision.next());
        store.close().await.unwrap();
    }
    let target = folder.path().join("last.db");
    archive(&path).restore(&target, false).unwrap();
    let store = Store::open(StoreOptions::sqlite(target)).await.unwrap();
    assert_eq!(store.hash(Revision(0)).await.unwrap(), hash);
    store.close().await.unwrap();
}

async fn nothing_is_overwritten_unasked(url: &str) {
    let folder = tempfile::tempdir().unwrap();
    let (hash, path) = furnished(&folder).await;
    let database = servers::database(url);
    let store = open(url).await;
    store.put(PutRequest::new("precious", "1")).await.unwrap();
    let refused = archive(&path).restore_database(&database, false, |_| {}).await;
    assert!(matches!(refused, Err(ArchiveError::NotEmpty { .. })));
    let error = archive(&path).restore_database(&database, true, |_| {}).await.unwrap_err();
    assert!(error.to_string().contains("stop all servers"), "{error}");
    store.close().await.unwrap();
    let refused = archive(&path).restore_database(&database, false, |_| {}).await;
    assert!(matches!(refused, Err(ArchiveError::NotEmpty { .. })));
    let (_, aside) = archive(&path).restore_database(&database, true, |_| {}).await.unwrap();
    assert!(aside.unwrap().starts_with("_replaced_"));
    let store = open(url).await;
    assert_eq!(store.hash(Revision(0)).await.unwrap(), hash);
    assert!(store.get(b"precious").is_none());
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_in_a_postgres_is_overwritten_unasked() {
    nothing_is_overwritten_unasked(&servers::postgres_url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_in_a_mariadb_is_overwritten_unasked() {
    nothing_is_overwritten_unasked(&servers::mariadb_url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_present_goes_to_an_etcd_and_back() {
    let folder = tempfile::tempdir().unwrap();
    let (_, path) = furnished(&folder).await;
    let remote = grpc::real_etcd().await;
    let mut seen = 0;
    let summary = archive(&path).restore_etcd(&remote.client, false, &mut |done| seen = done).await.unwrap();
    assert_eq!(seen, summary.keys);
    assert_eq!(remote.lease_time_to_live(4711).await.unwrap().keys, ["leased"]);
    let refused = archive(&path).restore_etcd(&remote.client, false, &mut |_| {}).await;
    assert!(matches!(refused, Err(ArchiveError::NotEmpty { .. })));
    archive(&path).restore_etcd(&remote.client, true, &mut |_| {}).await.unwrap();
    let back = folder.path().join("etcd.snapshot");
    let endpoints = EtcdEndpoints::parse(&remote.endpoint, &TlsFiles::default()).unwrap().unwrap();
    endpoints.snapshot(&back).await.unwrap();
    let target = folder.path().join("back.db");
    archive(&back).restore(&target, false).unwrap();
    let store = Store::open(StoreOptions::sqlite(target)).await.unwrap();
    let there = remote.range(RangeRequest::new(KeyRange::all())).await.unwrap();
    let here = store.range(RangeRequest::new(KeyRange::all())).await.unwrap();
    assert_eq!((here.kvs, here.count as u64), (there.kvs, summary.keys));
    store.close().await.unwrap();
}
