//! Snapshots across the border: stock etcdctl takes, checks and restores ours into a real etcd,
//! and we restore what a real etcd saved.

use std::path::Path;

use skiff_kine::grpc::{ClientTls, fetch_snapshot};
use skiff_kine::*;
use tempfile::TempDir;
use tokio::task::block_in_place;

use crate::etcd::start_with;
use crate::etcdctl::run;
use crate::grpc::{Remote, etcd, real_etcd, serve, sqlite};
use crate::target::{Target, bytes};

/// Enough for trees of several levels, with a compacted past, deletions, leases and large values.
async fn fill(target: &dyn Target) {
    for i in 0..600 {
        let value = "v".repeat((i * 37) % 3000);
        target.put(&format!("/registry/pods/{:03}", i % 250), &value).await;
        if i % 7 == 0 {
            target.delete(&format!("/registry/pods/{:03}", i % 250)).await;
        }
        if i == 400 {
            let revision = target.revision().await;
            target.compact(Revision(revision.0 - 20)).await.unwrap();
        }
    }
    for lease in [77, -3] {
        target.lease_grant(lease, 500).await.unwrap();
        let put = PutRequest { lease, ..PutRequest::new(bytes(&format!("/leased/{lease}")), "x") };
        target.put_request(put).await.unwrap();
    }
    target.put("/large", &"L".repeat(1_000_000)).await;
    target.txn(Txn::new().then(put("/multi/a")).then(put("/multi/b"))).await.unwrap();
}

fn put(key: &'static str) -> Op {
    Op::Put(PutRequest::new(key, "1"))
}

/// Everything that can be read now and at a few revisions of the past.
async fn seen(target: &dyn Target) -> (Vec<RangeResponse>, Vec<String>, Vec<(i64, i64, Vec<bytes::Bytes>)>) {
    let current = target.revision().await.0;
    let mut ranges = Vec::new();
    let mut errors = Vec::new();
    for at in [current, current - 1, current - 100, current - 200, 3, 2] {
        match target.range(RangeRequest::new(KeyRange::all()).at(Revision(at))).await {
            Ok(range) => ranges.push(range),
            Err(error) => errors.push(error),
        }
    }
    let mut leases = Vec::new();
    for id in target.leases().await.unwrap() {
        let mut lease = target.lease_time_to_live(id).await.unwrap();
        lease.keys.sort();
        assert!((400..=500).contains(&lease.ttl), "{lease:?}");
        leases.push((id, lease.granted_ttl, lease.keys));
    }
    leases.sort();
    (ranges, errors, leases)
}

/// A real etcd over a restored snapshot.
async fn restored_etcd(snapshot: &Path, flags: &'static [&'static str]) -> Remote {
    let folder = tempfile::tempdir().unwrap();
    let started = start_with(folder, &[], |data_dir, peer| {
        let cluster = format!("default={peer}");
        let (snapshot, data_dir) = (snapshot.to_str().unwrap(), data_dir.to_owned());
        let restore = ["snapshot", "restore", snapshot, "--data-dir", data_dir.to_str().unwrap(), "--name", "default"];
        let peers = ["--initial-cluster", &cluster, "--initial-advertise-peer-urls", peer];
        let shown = block_in_place(|| run("none", &[&restore[..], &peers, flags].concat(), ""));
        assert!(shown.starts_with('0'), "{shown}");
        data_dir
    });
    etcd(started.await).await
}

fn save(remote: &Remote, path: &Path) {
    let shown = block_in_place(|| run(&remote.endpoint, &["snapshot", "save", path.to_str().unwrap()], ""));
    assert!(shown.starts_with('0'), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcdctl_saves_checks_and_restores_our_snapshot_into_a_real_etcd() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ours.db");
    let ours = sqlite().await;
    fill(&ours).await;
    save(&ours, &path);
    let summary = Archive::open(&path, false).unwrap().verify().unwrap();
    assert_eq!(summary.revision, ours.revision().await);
    // Hash, revision, total of keys, size: bbolt's own check of every page runs before.
    let status = block_in_place(|| run("none", &["snapshot", "status", path.to_str().unwrap(), "-w", "simple"], ""));
    let fields: Vec<&str> = status.lines().nth(1).expect("a line").split(", ").collect();
    assert_eq!(fields[1], summary.revision.to_string(), "{status}");

    let theirs = restored_etcd(&path, &[]).await;
    assert_eq!(seen(&theirs).await, seen(&ours).await);
    // The etcd goes on from there, and its own snapshot comes back to us.
    let next = theirs.put("/after", "restore").await;
    assert_eq!(next, summary.revision.next());
    let back = folder.path().join("theirs.db");
    save(&theirs, &back);
    let restored = restored(&back).await;
    assert_eq!(seen(&restored).await, seen(&theirs).await);
}

/// Our own face over a restored snapshot.
async fn restored(snapshot: &Path) -> Remote {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("state.db");
    let (_, aside) = Archive::open(snapshot, false).unwrap().restore(&file, false).unwrap();
    assert!(aside.is_none());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "the datastore and its lock");
    serve(StoreOptions::sqlite(file), folder).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_real_etcd_saved_is_restored_here_with_its_history() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("theirs.db");
    let theirs = real_etcd().await;
    fill(&theirs).await;
    save(&theirs, &path);
    let ours = restored(&path).await;
    assert_eq!(seen(&ours).await, seen(&theirs).await);
    assert_eq!(ours.put("/after", "restore").await, theirs.put("/after", "restore").await);
    // Fetched by us rather than by etcdctl it is as good.
    let fetched = folder.path().join("fetched.db");
    fetch_snapshot(&theirs.endpoint, ClientTls::default(), &fetched).await.unwrap();
    let summary = Archive::open(&fetched, false).unwrap().verify().unwrap();
    assert_eq!(summary.revision, theirs.revision().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_store_and_one_whose_last_change_was_compacted_away_go_to_etcd_too() {
    let folder = tempfile::tempdir().unwrap();
    let ours = sqlite().await;
    let path = folder.path().join("empty.db");
    save(&ours, &path);
    assert_eq!(restored_etcd(&path, &[]).await.revision().await, Revision(1));
    ours.put("a", "1").await;
    let last = ours.delete("a").await;
    ours.compact(last).await.unwrap();
    let path = folder.path().join("compacted.db");
    save(&ours, &path);
    let theirs = restored_etcd(&path, &[]).await;
    assert_eq!(theirs.put("b", "1").await, last.next());
    assert_eq!(restored(&path).await.put("b", "1").await, last.next());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_or_cut_snapshot_is_refused_by_name_and_nothing_is_restored() {
    let folder = tempfile::tempdir().unwrap();
    let ours = sqlite().await;
    fill(&ours).await;
    let path = folder.path().join("s.db");
    save(&ours, &path);
    let whole = std::fs::read(&path).unwrap();
    let target = folder.path().join("state.db");
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for (bytes, says) in [
        (&flipped[..], "checksum"),
        (&whole[..whole.len() - 4096], "checksum"),
        (&whole[..whole.len() - 32], "--skip-hash-check"),
        (b"", "checksum"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let error = Archive::open(&path, false).err().expect("refused").to_string();
        assert!(error.contains(says) && error.contains("s.db"), "{error}");
    }
    std::fs::write(&path, &whole[..whole.len() - 32]).unwrap();
    let archive = Archive::open(&path, true).unwrap();
    std::fs::write(&target, "somebody's data").unwrap();
    assert!(matches!(archive.restore(&target, false), Err(ArchiveError::Exists { .. })));
    let (_, aside) = archive.restore(&target, true).unwrap();
    assert_eq!(std::fs::read(aside.unwrap()).unwrap(), b"somebody's data");
    // Nor over a datastore that is open.
    let store = Store::open(StoreOptions::sqlite(&target)).await.unwrap();
    assert!(matches!(archive.restore(&target, true), Err(ArchiveError::Store(Error::InUse { .. }))));
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_are_consistent_while_writes_and_compactions_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(StoreOptions::sqlite(folder.path().join("s.db"))).await.unwrap();
    let (done, mut finished) = tokio::sync::oneshot::channel::<()>();
    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            // Both keys always change together.
            for i in 0_usize.. {
                let value = vec![b'x'; 40 + i % 7];
                let pair = ["/a", "/b"].map(|key| Op::Put(PutRequest::new(key, value.clone())));
                let txn = pair.into_iter().fold(Txn::new(), Txn::then);
                let revision = store.txn(txn).await.unwrap().revision;
                if i % 50 == 49 {
                    store.compact(Revision(revision.0 - 20), false).await.unwrap();
                }
                if finished.try_recv() != Err(tokio::sync::oneshot::error::TryRecvError::Empty) {
                    return;
                }
            }
        }
    });
    for _ in 0..5 {
        let restored = restored_from(&store, folder.path()).await;
        let value = |key: &[u8]| restored.get(key).map(|kv| (kv.value, kv.mod_revision, kv.version));
        assert_eq!(value(b"/a"), value(b"/b"));
        restored.close().await.unwrap();
    }
    done.send(()).unwrap();
    writer.await.unwrap();
    let restored = restored_from(&store, folder.path()).await;
    let before = store.hash(Revision(0)).await.unwrap();
    assert_eq!(restored.hash(Revision(0)).await.unwrap(), before, "the whole history is the same");
}

/// A store over a snapshot of another one, in files that take the place of those before.
async fn restored_from(store: &Store, folder: &Path) -> Store {
    let (path, target) = (folder.join("snapshot"), folder.join("restored"));
    store.snapshot().await.unwrap().save(&path).unwrap();
    let (summary, aside) = Archive::open(&path, false).unwrap().restore(&target, true).unwrap();
    for file in aside.into_iter().chain([path]) {
        std::fs::remove_file(file).unwrap();
    }
    let restored = Store::open(StoreOptions::sqlite(target)).await.unwrap();
    assert_eq!(restored.current_revision(), summary.revision);
    assert_eq!(restored.compact_revision(), summary.compact_revision);
    restored
}
