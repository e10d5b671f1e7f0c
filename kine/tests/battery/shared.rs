//! Several stores over one database: one history, no lost event, nothing done twice.

use std::sync::Arc;
use std::time::Duration;

use skiff_kine::*;
use tokio::time::{Instant, timeout};

use crate::gate::Gate;
use crate::servers::{self, Server};

/// Generous, for hosts that are slow; what is waited for is an event each time.
const PATIENCE: Duration = Duration::from_secs(60);

async fn open(url: &str) -> Store {
    Store::open(StoreOptions::database(servers::database(url))).await.unwrap()
}

fn put(key: &str, value: &str) -> PutRequest {
    PutRequest::new(key.to_owned(), value.to_owned())
}

/// The next `count` events of everything from `start` on.
async fn watched(store: &Store, start: u64, count: usize) -> Vec<Arc<Event>> {
    let mut watcher = store.watch(WatchRequest::new(KeyRange::all(), Revision(start))).unwrap();
    take(&mut watcher, count).await
}

async fn take(watcher: &mut Watcher, count: usize) -> Vec<Arc<Event>> {
    let mut events = Vec::new();
    while events.len() < count {
        match timeout(PATIENCE, watcher.next()).await.expect("events in time").unwrap() {
            WatchMessage::Events(more) => events.extend(more),
            WatchMessage::Progress(_) => {}
        }
    }
    assert_eq!(events.len(), count);
    events
}

async fn one_history(url: &str) {
    let (a, b) = (open(url).await, open(url).await);
    let total = 100;
    let write = |store: Store, name: &'static str| async move {
        for i in 0..total {
            store.put(put(&format!("{name}/{}", i % 7), &i.to_string())).await.unwrap();
        }
    };
    let from_a = watched(&a, 2, 2 * total);
    let from_b = watched(&b, 2, 2 * total);
    let (_, _, from_a, from_b) = tokio::join!(write(a.clone(), "a"), write(b.clone(), "b"), from_a, from_b);
    let revisions: Vec<u64> = from_a.iter().map(|event| event.kv.mod_revision.0).collect();
    assert_eq!(revisions, (2..2 + 2 * total as u64).collect::<Vec<_>>(), "dense, in order, nothing twice");
    assert_eq!(from_a, from_b, "with the same values, versions and previous values");
    let all = || RangeRequest::new(KeyRange::all());
    assert_eq!(a.range(all()).await.unwrap(), b.range(all()).await.unwrap());
    assert_eq!(a.hash(Revision(0)).await.unwrap(), b.hash(Revision(0)).await.unwrap());
    // Who opens it later reads the same.
    let c = open(url).await;
    assert_eq!(c.hash(Revision(0)).await.unwrap(), a.hash(Revision(0)).await.unwrap());
    for store in [a, b, c] {
        store.close().await.unwrap();
    }
}

async fn increments_lose_none(url: &str) {
    let stores = [open(url).await, open(url).await, open(url).await];
    stores[0].put(put("n", "0")).await.unwrap();
    let increment = |store: Store| async move {
        loop {
            let kv = store.range(RangeRequest::new(KeyRange::key("n"))).await.unwrap().kvs.remove(0);
            let n: u64 = std::str::from_utf8(&kv.value).unwrap().parse().unwrap();
            let unchanged = Compare::mod_revision("n", kv.mod_revision);
            let txn = Txn::new().when(unchanged).then(Op::Put(put("n", &(n + 1).to_string())));
            if store.txn(txn).await.unwrap().succeeded {
                return;
            }
        }
    };
    futures_util::future::join_all((0..30).map(|i| increment(stores[i % 3].clone()))).await;
    for store in &stores {
        let kv = store.range(RangeRequest::new(KeyRange::key("n"))).await.unwrap().kvs.remove(0);
        assert_eq!((kv.value.as_ref(), kv.mod_revision), (&b"30"[..], Revision(32)));
    }
}

async fn reads_see_what_was_written_elsewhere_before(url: &str) {
    let (a, b) = (open(url).await, open(url).await);
    for i in 0..50 {
        let written = a.put(put("k", &i.to_string())).await.unwrap().revision;
        let read = b.range(RangeRequest::new(KeyRange::key("k"))).await.unwrap();
        assert_eq!((read.kvs[0].mod_revision, read.revision), (written, written));
        let txn = b.txn(Txn::new().when(Compare::mod_revision("k", written))).await.unwrap();
        assert!(txn.succeeded, "a transaction that only reads, too");
        let at = b.range(RangeRequest::new(KeyRange::key("k")).at(written)).await.unwrap();
        assert_eq!(at.kvs, read.kvs);
    }
}

/// How soon a watcher on one store sees a write of another, at the median.
async fn delay(url: &str) -> Duration {
    let (a, b) = (open(url).await, open(url).await);
    let mut watcher = a.watch(WatchRequest::new(KeyRange::all(), Revision(0))).unwrap();
    let mut delays = Vec::new();
    for i in 0..20 {
        b.put(put("k", &i.to_string())).await.unwrap();
        let written = Instant::now();
        take(&mut watcher, 1).await;
        delays.push(written.elapsed());
    }
    delays.sort();
    delays[10]
}

async fn compaction_is_seen_everywhere(url: &str) {
    let (a, b) = (open(url).await, open(url).await);
    let mut idle = b.watch(WatchRequest::new(KeyRange::key("other"), Revision(0))).unwrap();
    for i in 0..20 {
        a.put(put("k", &i.to_string())).await.unwrap();
    }
    let from_start = watched(&b, 2, 20).await;
    assert_eq!(from_start.len(), 20);
    a.compact(Revision(15), true).await.unwrap();
    let old = b.range(RangeRequest::new(KeyRange::all()).at(Revision(10)));
    // A read that the log can no longer answer must not be answered with less.
    b.put(put("x", "")).await.unwrap();
    assert!(matches!(old.await, Err(Error::Compacted { compact_revision: Revision(15) })));
    assert_eq!(b.compact_revision(), Revision(15));
    let refused = b.watch(WatchRequest::new(KeyRange::all(), Revision(10)));
    assert!(matches!(refused, Err(Error::Compacted { .. })));
    assert_eq!(watched(&b, 15, 8).await.len(), 8, "15 to 22");
    assert!(matches!(b.compact(Revision(15), false).await, Err(Error::Compacted { .. })));
    b.put(put("other", "")).await.unwrap();
    assert_eq!(take(&mut idle, 1).await[0].kv.mod_revision, Revision(23), "a watch in the present goes on");
    let hashes = (a.hash(Revision(0)).await.unwrap(), b.hash(Revision(0)).await.unwrap());
    assert_eq!(hashes.0, hashes.1);
}

async fn leases_are_known_everywhere_and_end_once(url: &str) {
    let (a, b) = (open(url).await, open(url).await);
    let (short, _) = a.lease_grant(0, 8).await.unwrap();
    let (long, _) = a.lease_grant(77, 600).await.unwrap();
    assert!(matches!(b.lease_grant(77, 60).await, Err(Error::LeaseExists)));
    for (store, key) in [(&a, "1"), (&b, "2")] {
        store.put(PutRequest { lease: short, ..put(key, "") }).await.unwrap();
    }
    b.put(PutRequest { lease: long, ..put("3", "") }).await.unwrap();
    // Renewed at both in turn it lives on, whichever of them would have ended it.
    for i in 0..4 {
        let store = if i % 2 == 0 { &a } else { &b };
        assert_eq!(store.lease_renew(short).await.unwrap(), 8);
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    assert_eq!(a.current_revision(), Revision(4));
    let events = watched(&b, 5, 2).await;
    let keys: Vec<_> = events.iter().map(|event| (event.kind, event.kv.key.clone())).collect();
    assert_eq!(keys, [(EventKind::Delete, "1".into()), (EventKind::Delete, "2".into())]);
    assert_eq!(watched(&a, 5, 2).await, events);
    assert!(matches!(b.lease_renew(short).await, Err(Error::LeaseNotFound)));
    assert_eq!(b.lease_revoke(long).await.unwrap(), Revision(6));
    assert!(matches!(a.lease_revoke(long).await, Err(Error::LeaseNotFound)));
    assert!(a.leases().is_empty() && b.leases().is_empty());
    let left = a.range(RangeRequest::new(KeyRange::all())).await.unwrap();
    assert_eq!((left.count, left.revision), (0, Revision(6)), "each lease took one revision to end");
}

async fn the_alarm_is_raised_for_all(url: &str) {
    let (a, b) = (open(url).await, open(url).await);
    a.set_no_space(true).await.unwrap();
    assert!(matches!(b.put(put("k", "")).await, Err(Error::NoSpace)));
    b.set_no_space(false).await.unwrap();
    a.put(put("k", "")).await.unwrap();
}

/// A store whose database was away for a while answers with an error meanwhile, and loses nothing.
async fn outages_are_survived(server: Server, url: String) {
    let (a, b) = (open(&url).await, open(&url).await);
    let mut watcher = a.watch(WatchRequest::new(KeyRange::all(), Revision(2))).unwrap();
    let write = |store: Store| async move {
        let mut written = Vec::new();
        let mut failures = 0;
        while written.len() < 40 {
            match store.put(put("k", &failures.to_string())).await {
                Ok(response) => written.push(response.revision),
                Err(Error::Write(_)) => failures += 1,
                Err(error) => panic!("{error}"),
            }
        }
        (written, failures)
    };
    a.put(put("k", "first")).await.unwrap();
    server.stop();
    let error = a.put(put("k", "")).await.unwrap_err().to_string();
    assert!(error.contains("127.0.0.1") && !error.contains(servers::PASSWORD), "{error}");
    let error = b.range(RangeRequest::new(KeyRange::all())).await.unwrap_err();
    assert!(matches!(error, Error::Read(_)), "{error}");
    server.restart();
    let outages = async {
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let server = &server;
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    server.stop();
                    server.restart();
                });
            });
        }
    };
    let (mut a_wrote, b_wrote, ()) = tokio::join!(write(a.clone()), write(b.clone()), outages);
    a_wrote.0.extend(b_wrote.0);
    a_wrote.0.sort();
    a_wrote.0.dedup();
    assert_eq!(a_wrote.0.len(), 80, "no revision was acknowledged twice");
    // The last restart may still be under way.
    let now = loop {
        match b.range(RangeRequest::new(KeyRange::all())).await {
            Ok(now) => break now,
            Err(Error::Read(_)) => tokio::time::sleep(Duration::from_millis(50)).await,
            Err(error) => panic!("{error}"),
        }
    };
    let total = now.revision.0 - 1;
    let events = take(&mut watcher, usize::try_from(total).unwrap()).await;
    let revisions: Vec<u64> = events.iter().map(|event| event.kv.mod_revision.0).collect();
    assert_eq!(revisions, (2..2 + total).collect::<Vec<_>>(), "every write was seen, once, in order");
    assert!(a_wrote.0.iter().all(|revision| revisions.contains(&revision.0)), "what was acknowledged is there");
    a.close().await.unwrap();
    b.close().await.unwrap();
}

/// The port in an endpoint of this host.
fn port(url: &str) -> u16 {
    let rest = url.split("127.0.0.1:").nth(1).unwrap();
    rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
}

/// A store that was cut off while others compacted what it had not seen is told so, and so are its watchers.
async fn a_store_left_behind_by_compaction_loads_anew(url: &str) {
    let gate = Gate::to(port(url)).await;
    let through = url.replace(&format!("127.0.0.1:{}", port(url)), &gate.address.to_string());
    let (a, b) = (open(url).await, open(&through).await);
    let (gone, _) = a.lease_grant(0, 600).await.unwrap();
    for (key, lease) in [("kept", 0), ("deleted", 0), ("leased", gone)] {
        a.put(PutRequest { lease, ..put(key, "1") }).await.unwrap();
    }
    assert_eq!(watched(&b, 2, 3).await.len(), 3);
    let mut idle = b.watch(WatchRequest::new(KeyRange::prefix("k"), Revision(0))).unwrap();
    let mut later = b.watch(WatchRequest::new(KeyRange::key("later"), Revision(40))).unwrap();
    gate.set_open(false);
    a.delete(KeyRange::key("deleted")).await.unwrap();
    a.lease_revoke(gone).await.unwrap();
    for i in 0..20 {
        a.put(put("kept", &i.to_string())).await.unwrap();
    }
    let newest = a.current_revision();
    a.compact(newest, true).await.unwrap();
    gate.set_open(true);
    let all = || RangeRequest::new(KeyRange::all());
    let seen = timeout(PATIENCE, async {
        loop {
            // Errors are right as long as the way is shut.
            match b.range(all()).await {
                Ok(seen) => return seen,
                Err(error) => assert!(matches!(error, Error::Read(_)), "{error}"),
            }
        }
    });
    assert_eq!(seen.await.unwrap(), a.range(all()).await.unwrap(), "nothing that was deleted meanwhile is left");
    assert!(b.leases().is_empty());
    let missed = timeout(PATIENCE, idle.next()).await.unwrap();
    assert!(matches!(missed, Err(Error::Compacted { .. })), "{missed:?}");
    for i in newest.0..45 {
        b.put(put("later", &i.to_string())).await.unwrap();
    }
    assert_eq!(take(&mut later, 6).await[0].kv.mod_revision, Revision(40), "who waits for the future misses nothing");
    assert_eq!(a.hash(Revision(0)).await.unwrap(), b.hash(Revision(0)).await.unwrap());
}

/// Snapshots of one store hold one history, whatever the other one compacts and removes meanwhile.
async fn snapshots_are_not_overtaken_by_another_server(url: &str) {
    const GROUPS: usize = 15;
    let (a, b) = (open(url).await, open(url).await);
    // All keys of a group change together; all groups together take several pages.
    let write = |store: Store, group: usize, value: usize| async move {
        let ops = (0..limits::TXN_OPS_MAX).map(|i| Op::Put(put(&format!("{group:02}/{i:03}"), &value.to_string())));
        store.txn(ops.fold(Txn::new(), Txn::then)).await.unwrap().revision
    };
    for group in 0..GROUPS {
        write(b.clone(), group, 0).await;
    }
    let (done, mut finished) = tokio::sync::oneshot::channel::<()>();
    let compacting = tokio::spawn(async move {
        let mut rounds = 0;
        while finished.try_recv() == Err(tokio::sync::oneshot::error::TryRecvError::Empty) {
            rounds += 1;
            let revision = write(b.clone(), rounds % GROUPS, rounds).await;
            // The other store has often not seen this yet, and has to load everything anew then.
            b.compact(revision, true).await.unwrap();
        }
        b.close().await.unwrap();
        rounds
    });
    let folder = tempfile::tempdir().unwrap();
    let (path, target) = (folder.path().join("snapshot"), folder.path().join("restored"));
    let mut points = Vec::new();
    for _ in 0..3 {
        let snapshot = a.snapshot().await.unwrap();
        snapshot.save(&path).unwrap();
        let (summary, _) = Archive::open(&path, false).unwrap().restore(&target, true).unwrap();
        let restored = Store::open(StoreOptions::sqlite(&target)).await.unwrap();
        let all = restored.range(RangeRequest::new(KeyRange::all())).await.unwrap();
        assert_eq!((all.count, summary.keys as usize), (GROUPS * limits::TXN_OPS_MAX, all.count));
        for group in all.kvs.chunks(limits::TXN_OPS_MAX) {
            assert!(group.iter().all(|kv| (&kv.value, kv.mod_revision) == (&group[0].value, group[0].mod_revision)));
        }
        assert_eq!(restored.compact_revision(), summary.compact_revision);
        restored.close().await.unwrap();
        std::fs::remove_file(&path).unwrap();
        points.push(summary.compact_revision);
    }
    done.send(()).unwrap();
    let rounds = timeout(PATIENCE, compacting).await.unwrap().unwrap();
    assert!(rounds > 0 && points.is_sorted(), "{points:?}");
    assert!(*points.last().unwrap() > Revision(0), "there were compactions meanwhile");
    a.close().await.unwrap();
}

/// Connections that end again and again, at any moment of a write, lose and double nothing.
async fn cut_connections_lose_and_double_nothing(url: &str) {
    let gate = Gate::to(port(url)).await;
    let through = url.replace(&format!("127.0.0.1:{}", port(url)), &gate.address.to_string());
    let (a, b) = (open(url).await, open(&through).await);
    let mut watcher = b.watch(WatchRequest::new(KeyRange::all(), Revision(2))).unwrap();
    let write = |store: Store, name: &'static str| async move {
        let mut acknowledged = Vec::new();
        for i in 0..150 {
            match store.put(put(name, &i.to_string())).await {
                Ok(response) => acknowledged.push((name, i, response.revision)),
                Err(Error::Write(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
        acknowledged
    };
    let (done, finished) = tokio::sync::oneshot::channel::<()>();
    let cuts = async {
        let mut finished = finished;
        for wait in (0..40).map(|i: u64| 40 + i * 37 % 160) {
            // The moments are the point here; nothing is waited for.
            if timeout(Duration::from_millis(wait), &mut finished).await.is_ok() {
                return;
            }
            gate.set_open(false);
            gate.set_open(true);
        }
        let _ = finished.await;
    };
    let writes = async {
        let both = tokio::join!(write(a.clone(), "a"), write(b.clone(), "b"));
        let _ = done.send(());
        both
    };
    let ((from_a, from_b), ()) = tokio::join!(writes, cuts);
    assert_eq!(from_a.len(), 150, "the other store is not disturbed");
    let newest = a.range(RangeRequest::new(KeyRange::all())).await.unwrap().revision;
    let events = take(&mut watcher, usize::try_from(newest.0 - 1).unwrap()).await;
    let revisions: Vec<u64> = events.iter().map(|event| event.kv.mod_revision.0).collect();
    assert_eq!(revisions, (2..=newest.0).collect::<Vec<_>>());
    for (name, value, revision) in from_a.into_iter().chain(from_b) {
        let kv = &events[usize::try_from(revision.0 - 2).unwrap()].kv;
        assert_eq!((kv.key.as_ref(), kv.value.as_ref()), (name.as_bytes(), value.to_string().as_bytes()));
    }
    let mut written: Vec<_> = events.iter().map(|event| (event.kv.key.clone(), event.kv.value.clone())).collect();
    written.sort();
    written.dedup();
    assert_eq!(written.len(), events.len(), "no write took place twice");
}

macro_rules! on_both {
    ($($case:ident,)*) => {
        mod postgres_shared {
            $(#[tokio::test(flavor = "multi_thread")] async fn $case() { super::$case(&crate::servers::postgres_url()).await })*
        }
        mod mariadb_shared {
            $(#[tokio::test(flavor = "multi_thread")] async fn $case() { super::$case(&crate::servers::mariadb_url()).await })*
        }
    };
}

on_both! {
    one_history,
    increments_lose_none,
    reads_see_what_was_written_elsewhere_before,
    compaction_is_seen_everywhere,
    leases_are_known_everywhere_and_end_once,
    the_alarm_is_raised_for_all,
    a_store_left_behind_by_compaction_loads_anew,
    snapshots_are_not_overtaken_by_another_server,
    cut_connections_lose_and_double_nothing,
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_announces_writes() {
    let delay = delay(&servers::postgres_url()).await;
    println!("median delay: {delay:?}");
    // Well below the look it takes after silence: it was told.
    assert!(delay < limits::SQL_LISTEN_INTERVAL / 4, "{delay:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_is_looked_at_often() {
    let delay = delay(&servers::mariadb_url()).await;
    println!("median delay: {delay:?}");
    assert!(delay < limits::SQL_POLL_INTERVAL * 20, "{delay:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_crashes_costs_nothing_that_was_acknowledged() {
    let server = servers::postgres(false);
    let url = servers::postgres_url_of(&server, "crash");
    outages_are_survived(server, url).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mariadb_that_crashes_costs_nothing_that_was_acknowledged() {
    let server = servers::mariadb(false);
    let url = servers::mariadb_url_of(&server, "crash");
    outages_are_survived(server, url).await;
}

#[tokio::test]
async fn endpoints_that_do_not_work_say_why_without_the_password() {
    let cases = [
        (servers::postgres_url().replace("skiff:", "nobody:"), "password authentication failed"),
        (servers::mariadb_url().replace("skiff:", "nobody:"), "Access denied"),
        ("postgres://u:p%40s%3As%2Fw%25rd@127.0.0.1:1/d".to_owned(), "refused"),
        ("mysql://u:p@s:s/w%rd@tcp(127.0.0.1:1)/d".to_owned(), "refused"),
    ];
    for (url, expected) in cases {
        let opened = Store::open(StoreOptions::database(servers::database(&url))).await;
        let error = opened.err().expect("it cannot work").to_string();
        assert!(error.contains(expected) && !error.contains(servers::PASSWORD), "{error}");
    }
}
