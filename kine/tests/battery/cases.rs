//! Keys, transactions, leases, compaction.

use std::time::Duration;

use skiff_kine::*;

use crate::target::{Target, bytes};

async fn keys(target: &dyn Target, request: RangeRequest) -> Vec<String> {
    let kvs = target.range(request).await.unwrap().kvs;
    kvs.into_iter().map(|kv| String::from_utf8(kv.key.to_vec()).unwrap()).collect()
}

fn put(key: &str, value: &str) -> Op {
    Op::Put(PutRequest::new(bytes(key), bytes(value)))
}

fn get(key: &str) -> Op {
    Op::Range(RangeRequest::new(KeyRange::key(bytes(key))))
}

fn delete(range: KeyRange) -> Op {
    Op::Delete(DeleteRequest { range, prev_kv: false })
}

fn compare(range: KeyRange, result: CompareResult, target: CompareTarget) -> Compare {
    Compare { range, result, target }
}

async fn holds(target: &dyn Target, compare: Compare) -> bool {
    // With a write in the branch that does not run, so that the writer decides.
    let txn = Txn::new().when(compare).then(get("a")).otherwise(get("a"));
    let read = target.txn(txn.clone()).await.unwrap().succeeded;
    let nested = Txn::new().when(Compare::mod_revision("none", Revision(7))).then(put("x", ""));
    let written = target.txn(txn.then(Op::Txn(nested))).await.unwrap().succeeded;
    assert_eq!(read, written);
    read
}

pub async fn an_empty_store_is_at_revision_one(target: &dyn Target) {
    assert_eq!(target.revision().await, Revision(1));
    assert!(target.get("a").await.is_none());
}

pub async fn puts_count_revisions_and_versions(target: &dyn Target) {
    assert_eq!(target.put("a", "1").await, Revision(2));
    assert_eq!(target.put("b", "1").await, Revision(3));
    assert_eq!(target.put("a", "2").await, Revision(4));
    let kv = target.get("a").await.unwrap();
    assert_eq!((kv.value.as_ref(), kv.version), (&b"2"[..], 2));
    assert_eq!((kv.create_revision, kv.mod_revision), (Revision(2), Revision(4)));
    assert_eq!(target.revision().await, Revision(4));
}

pub async fn a_key_created_again_begins_a_new_generation(target: &dyn Target) {
    target.put("a", "1").await;
    target.put("a", "2").await;
    assert_eq!(target.delete("a").await, Revision(4));
    assert!(target.get("a").await.is_none());
    target.put("a", "3").await;
    let kv = target.get("a").await.unwrap();
    assert_eq!((kv.version, kv.create_revision, kv.mod_revision), (1, Revision(5), Revision(5)));
}

pub async fn ranges_cover_what_they_say(target: &dyn Target) {
    for key in ["a", "a/1", "a/2", "b", "c"] {
        target.put(key, key).await;
    }
    let of = |range| RangeRequest::new(range);
    assert_eq!(keys(target, of(KeyRange::key("a"))).await, ["a"]);
    assert_eq!(keys(target, of(KeyRange::prefix("a/"))).await, ["a/1", "a/2"]);
    assert_eq!(keys(target, of(KeyRange::prefix("a"))).await, ["a", "a/1", "a/2"]);
    assert_eq!(keys(target, of(KeyRange::between("a/2", "c"))).await, ["a/2", "b"]);
    assert_eq!(keys(target, of(KeyRange::from("b"))).await, ["b", "c"]);
    assert_eq!(keys(target, of(KeyRange::all())).await.len(), 5);
    assert!(keys(target, of(KeyRange::between("c", "a"))).await.is_empty());
    let response = target.range(of(KeyRange::prefix("a")).keys_only()).await.unwrap();
    assert!(response.kvs.iter().all(|kv| kv.value.is_empty() && kv.version == 1));
    let empty = target.range(of(KeyRange::key(""))).await;
    assert_eq!(empty.unwrap_err(), "etcdserver: key is not provided");
}

pub async fn limit_cuts_and_count_does_not(target: &dyn Target) {
    for i in 0..10 {
        target.put(&format!("k{i}"), "").await;
    }
    let request = RangeRequest::new(KeyRange::prefix("k"));
    let response = target.range(request.clone().limit(3)).await.unwrap();
    assert_eq!((response.kvs.len(), response.more, response.count), (3, true, 10));
    let response = target.range(request.clone().limit(10)).await.unwrap();
    assert_eq!((response.kvs.len(), response.more, response.count), (10, false, 10));
    let response = target.range(request.count_only()).await.unwrap();
    assert_eq!((response.kvs.len(), response.more, response.count), (0, false, 10));
}

pub async fn ranges_sort_by_every_target(target: &dyn Target) {
    for (key, value) in [("a", "3"), ("b", "2"), ("c", "1"), ("b", "2"), ("a", "3"), ("a", "3")] {
        target.put(key, value).await;
    }
    let sorted = |sort_target, sort_order| {
        let request = RangeRequest::new(KeyRange::all());
        keys(target, RangeRequest { sort_target, sort_order, ..request })
    };
    use SortOrder::{Ascend, Descend, None};
    assert_eq!(sorted(SortTarget::Key, None).await, ["a", "b", "c"]);
    assert_eq!(sorted(SortTarget::Key, Descend).await, ["c", "b", "a"]);
    assert_eq!(sorted(SortTarget::Version, Ascend).await, ["c", "b", "a"]);
    assert_eq!(sorted(SortTarget::Create, Descend).await, ["c", "b", "a"]);
    assert_eq!(sorted(SortTarget::Mod, Ascend).await, ["c", "b", "a"]);
    assert_eq!(sorted(SortTarget::Mod, None).await, ["c", "b", "a"]);
    assert_eq!(sorted(SortTarget::Value, Ascend).await, ["c", "b", "a"]);
    let request = RangeRequest { sort_order: Descend, ..RangeRequest::new(KeyRange::all()).limit(2) };
    let response = target.range(request).await.unwrap();
    assert_eq!((response.kvs[0].key.as_ref(), response.more, response.count), (&b"c"[..], true, 3));
}

pub async fn ranges_filter_by_revision_but_count_everything(target: &dyn Target) {
    for key in ["a", "b", "c"] {
        target.put(key, "1").await;
    }
    target.put("a", "2").await;
    let request = RangeRequest::new(KeyRange::all());
    let by = |f: fn(&mut RangeRequest)| {
        let mut request = request.clone();
        f(&mut request);
        request
    };
    assert_eq!(keys(target, by(|r| r.min_mod_revision = Revision(4))).await, ["a", "c"]);
    assert_eq!(keys(target, by(|r| r.max_mod_revision = Revision(3))).await, ["b"]);
    assert_eq!(keys(target, by(|r| r.min_create_revision = Revision(3))).await, ["b", "c"]);
    assert_eq!(keys(target, by(|r| r.max_create_revision = Revision(2))).await, ["a"]);
    let response = target.range(by(|r| r.max_mod_revision = Revision(3))).await.unwrap();
    assert_eq!(response.count, 3);
    let limited = by(|r| {
        r.min_mod_revision = Revision(4);
        r.limit = 1;
    });
    let response = target.range(limited).await.unwrap();
    assert_eq!((response.kvs.len(), response.more), (1, true));
}

pub async fn the_past_can_be_read_at_every_revision(target: &dyn Target) {
    target.put("a", "1").await;
    target.put("a", "2").await;
    target.delete("a").await;
    target.put("a", "3").await;
    let mut seen = Vec::new();
    for revision in 1..=5 {
        let request = RangeRequest::new(KeyRange::key("a")).at(Revision(revision));
        let response = target.range(request).await.unwrap();
        assert_eq!(response.revision, Revision(5), "the header is of now");
        seen.push(response.kvs.first().map(|kv| (kv.value.clone(), kv.version)));
    }
    let version = |value, version| Some((bytes(value), version));
    assert_eq!(seen, [None, version("1", 1), version("2", 2), None, version("3", 1)]);
    let future = RangeRequest::new(KeyRange::key("a")).at(Revision(6));
    let error = target.range(future.clone()).await.unwrap_err();
    assert_eq!(error, "etcdserver: mvcc: required revision is a future revision");
    let error = target.txn(Txn::new().then(Op::Range(future)).then(put("b", ""))).await.unwrap_err();
    assert_eq!(error, "etcdserver: mvcc: required revision is a future revision");
    // Inside a transaction too, values of the past included.
    let past = RangeRequest::new(KeyRange::all()).at(Revision(3));
    let response = target.txn(Txn::new().then(put("b", "")).then(Op::Range(past))).await.unwrap();
    let OpResponse::Range(range) = &response.responses[1] else { panic!("{response:?}") };
    assert_eq!((range.kvs[0].value.as_ref(), range.count), (&b"2"[..], 1));
}

pub async fn puts_can_keep_value_or_lease(target: &dyn Target) {
    let (lease, _) = target.lease_grant(0, 60).await.unwrap();
    let first = PutRequest { lease, ..PutRequest::new("a", "1") };
    assert_eq!(target.put_request(first).await.unwrap().prev_kv, None);
    let keep_lease = PutRequest { ignore_lease: true, prev_kv: true, ..PutRequest::new("a", "2") };
    let prev = target.put_request(keep_lease).await.unwrap().prev_kv.unwrap();
    assert_eq!((prev.value.as_ref(), prev.version, prev.lease), (&b"1"[..], 1, lease));
    let kv = target.get("a").await.unwrap();
    assert_eq!((kv.value.as_ref(), kv.lease), (&b"2"[..], lease));
    let keep_value = PutRequest { ignore_value: true, ..PutRequest::new("a", "") };
    target.put_request(keep_value).await.unwrap();
    let kv = target.get("a").await.unwrap();
    assert_eq!((kv.value.as_ref(), kv.lease, kv.version), (&b"2"[..], 0, 3));
    for put in [
        PutRequest { ignore_value: true, ..PutRequest::new("none", "") },
        PutRequest { ignore_lease: true, ..PutRequest::new("none", "") },
    ] {
        let error = target.put_request(put).await.unwrap_err();
        assert_eq!(error, "etcdserver: key not found");
    }
    let both = PutRequest { ignore_value: true, ..PutRequest::new("a", "x") };
    assert_eq!(target.put_request(both).await.unwrap_err(), "etcdserver: value is provided");
    let both = PutRequest { ignore_lease: true, lease, ..PutRequest::new("a", "x") };
    assert_eq!(target.put_request(both).await.unwrap_err(), "etcdserver: lease is provided");
    let unknown = PutRequest { lease: 77, ..PutRequest::new("a", "x") };
    assert_eq!(target.put_request(unknown).await.unwrap_err(), "etcdserver: requested lease not found");
}

pub async fn deletions_answer_what_they_deleted(target: &dyn Target) {
    for key in ["a/1", "a/2", "b"] {
        target.put(key, key).await;
    }
    let all_a = DeleteRequest { range: KeyRange::prefix("a/"), prev_kv: true };
    let response = target.delete_request(all_a.clone()).await.unwrap();
    assert_eq!((response.deleted, target.revision().await), (2, Revision(5)));
    assert_eq!(response.prev_kvs.iter().map(|kv| kv.value.clone()).collect::<Vec<_>>(), ["a/1", "a/2"]);
    let response = target.delete_request(all_a).await.unwrap();
    assert_eq!((response.deleted, response.prev_kvs.len()), (0, 0));
    assert_eq!(target.revision().await, Revision(5), "nothing deleted, no revision taken");
    assert_eq!(keys(target, RangeRequest::new(KeyRange::all())).await, ["b"]);
    let empty = DeleteRequest { range: KeyRange::key(""), prev_kv: false };
    assert_eq!(target.delete_request(empty).await.unwrap_err(), "etcdserver: key is not provided");
}

pub async fn compares_look_at_every_target(target: &dyn Target) {
    let (lease, _) = target.lease_grant(0, 60).await.unwrap();
    target.put("a", "1").await;
    target.put_request(PutRequest { lease, ..PutRequest::new("a", "5") }).await.unwrap();
    use CompareResult::{Equal, Greater, Less, NotEqual};
    let a = |result, compare_target| holds(target, compare(KeyRange::key("a"), result, compare_target));
    assert!(a(Equal, CompareTarget::Version(2)).await);
    assert!(a(Greater, CompareTarget::Version(1)).await && !a(Greater, CompareTarget::Version(2)).await);
    assert!(a(Equal, CompareTarget::CreateRevision(2)).await);
    assert!(a(Less, CompareTarget::CreateRevision(3)).await);
    assert!(a(Equal, CompareTarget::ModRevision(3)).await);
    assert!(a(NotEqual, CompareTarget::ModRevision(2)).await);
    assert!(a(Equal, CompareTarget::Value(bytes("5"))).await);
    assert!(a(Greater, CompareTarget::Value(bytes("49"))).await);
    assert!(a(Less, CompareTarget::Value(bytes("50"))).await);
    assert!(a(Equal, CompareTarget::Lease(lease)).await);
    let none = |result, compare_target| holds(target, compare(KeyRange::key("none"), result, compare_target));
    assert!(none(Equal, CompareTarget::Version(0)).await);
    assert!(none(Equal, CompareTarget::ModRevision(0)).await);
    assert!(none(Equal, CompareTarget::Lease(0)).await);
    assert!(!none(Equal, CompareTarget::Value(bytes(""))).await, "no key, no value");
    assert!(!none(NotEqual, CompareTarget::Value(bytes("x"))).await);
}

pub async fn compares_over_a_range_hold_for_every_key(target: &dyn Target) {
    target.put("a/1", "x").await;
    target.put("a/2", "y").await;
    let range = |result, value: &str| {
        let target_value = CompareTarget::Value(bytes(value));
        holds(target, compare(KeyRange::prefix("a/"), result, target_value))
    };
    assert!(range(CompareResult::Greater, "w").await);
    assert!(!range(CompareResult::Greater, "x").await);
    let version = CompareTarget::Version(1);
    assert!(holds(target, compare(KeyRange::prefix("a/"), CompareResult::Equal, version)).await);
    let none = compare(KeyRange::prefix("z/"), CompareResult::Equal, CompareTarget::Version(0));
    assert!(holds(target, none).await);
}

pub async fn operations_of_a_transaction_share_a_revision_and_see_each_other(target: &dyn Target) {
    target.put("old", "1").await;
    let txn = Txn::new()
        .then(get("a"))
        .then(put("a", "1"))
        .then(get("a"))
        .then(put("b", "2"))
        .then(delete(KeyRange::key("old")))
        .then(Op::Range(RangeRequest::new(KeyRange::all())));
    let response = target.txn(txn).await.unwrap();
    assert!(response.succeeded);
    assert_eq!(response.revision, Revision(3));
    let counts: Vec<usize> = response
        .responses
        .iter()
        .filter_map(|response| match response {
            OpResponse::Range(range) => Some(range.count),
            _ => None,
        })
        .collect();
    assert_eq!(counts, [0, 1, 2]);
    let OpResponse::Range(range) = &response.responses[5] else { panic!("{response:?}") };
    assert!(range.kvs.iter().all(|kv| kv.mod_revision == Revision(3)));
    assert_eq!(target.revision().await, Revision(3));
    let read = target.txn(Txn::new().then(get("a")).otherwise(put("a", "9"))).await.unwrap();
    assert_eq!(read.revision, Revision(3), "a transaction that only read takes no revision");
}

pub async fn nested_transactions_are_decided_before_anything_runs(target: &dyn Target) {
    let is_new = Compare::mod_revision("a", Revision(0));
    let inner = Txn::new().when(is_new).then(put("inner", "new")).otherwise(put("inner", "old"));
    let txn = Txn::new().then(put("a", "1")).then(Op::Txn(inner));
    let response = target.txn(txn.clone()).await.unwrap();
    let OpResponse::Txn(nested) = &response.responses[1] else { panic!("{response:?}") };
    assert!(nested.succeeded, "the compare saw the state before the put");
    assert_eq!(target.get("inner").await.unwrap().value, "new");
    assert_eq!(target.get("inner").await.unwrap().mod_revision, Revision(2));
    target.txn(txn).await.unwrap();
    assert_eq!(target.get("inner").await.unwrap().value, "old");
}

pub async fn an_invalid_transaction_changes_nothing(target: &dyn Target) {
    target.put("a", "1").await;
    let duplicate = "etcdserver: duplicate key given in txn request";
    let unknown_lease = Op::Put(PutRequest { lease: 77, ..PutRequest::new("c", "") });
    let cases = [
        (Txn::new().then(put("b", "")).then(put("b", "")), duplicate),
        (Txn::new().then(put("b", "")).then(delete(KeyRange::prefix("b"))), duplicate),
        (Txn::new().then(put("b", "")).then(Op::Txn(Txn::new().then(put("b", "")))), duplicate),
        (Txn::new().then(put("b", "")).then(put("", "")), "etcdserver: key is not provided"),
        (Txn::new().then(put("b", "")).then(unknown_lease), "etcdserver: requested lease not found"),
        (
            (0..129).fold(Txn::new(), |txn, i| txn.then(put(&i.to_string(), ""))),
            "etcdserver: too many operations in txn request",
        ),
    ];
    for (txn, message) in cases {
        assert_eq!(target.txn(txn).await.unwrap_err(), message);
    }
    assert_eq!(target.revision().await, Revision(2));
    assert_eq!(keys(target, RangeRequest::new(KeyRange::all())).await, ["a"]);
    let either = Txn::new().then(put("b", "")).otherwise(put("b", ""));
    assert!(target.txn(either).await.is_ok(), "branches exclude each other");
}

pub async fn compaction_forgets_the_past_and_keeps_the_present(target: &dyn Target) {
    for value in ["1", "2", "3"] {
        target.put("a", value).await;
    }
    target.put("gone", "").await;
    target.delete("gone").await;
    target.put("b", "1").await;
    target.compact(Revision(4)).await.unwrap();
    let at = |revision| RangeRequest::new(KeyRange::all()).at(Revision(revision));
    let compacted = "etcdserver: mvcc: required revision has been compacted";
    assert_eq!(target.range(at(3)).await.unwrap_err(), compacted);
    assert_eq!(target.range(at(4)).await.unwrap().kvs[0].value, "3");
    assert_eq!(target.range(at(5)).await.unwrap().count, 2);
    assert_eq!(target.compact(Revision(4)).await.unwrap_err(), compacted);
    assert_eq!(target.compact(Revision(3)).await.unwrap_err(), compacted);
    let error = target.compact(Revision(8)).await.unwrap_err();
    assert_eq!(error, "etcdserver: mvcc: required revision is a future revision");
    target.compact(Revision(7)).await.unwrap();
    let response = target.range(RangeRequest::new(KeyRange::all())).await.unwrap();
    assert_eq!((response.count, response.revision), (2, Revision(7)));
    assert_eq!(target.get("a").await.unwrap().version, 3);
    assert_eq!(target.put("gone", "").await, Revision(8));
    assert_eq!(target.get("gone").await.unwrap().version, 1);
}

pub async fn leases_hold_their_keys_until_revoked(target: &dyn Target) {
    let (lease, ttl) = target.lease_grant(1234, 60).await.unwrap();
    assert_eq!((lease, ttl), (1234, 60));
    assert_eq!(target.lease_grant(1234, 60).await.unwrap_err(), "etcdserver: lease already exists");
    let error = target.lease_grant(0, 9_000_000_001).await.unwrap_err();
    assert_eq!(error, "etcdserver: too large lease TTL");
    let (other, _) = target.lease_grant(0, 30).await.unwrap();
    assert_ne!(other, 0);
    for key in ["a", "b", "c"] {
        target.put_request(PutRequest { lease, ..PutRequest::new(bytes(key), "") }).await.unwrap();
    }
    target.put_request(PutRequest { lease: other, ..PutRequest::new("b", "") }).await.unwrap();
    target.put("c", "").await;
    let held = target.lease_time_to_live(lease).await.unwrap();
    assert_eq!(held.keys, ["a"], "b went to the other lease, c left");
    assert!(held.granted_ttl == 60 && (50..=60).contains(&held.ttl));
    let mut leases = target.leases().await.unwrap();
    leases.sort_unstable();
    let mut expected = vec![lease, other];
    expected.sort_unstable();
    assert_eq!(leases, expected);
    let before = target.revision().await;
    target.lease_revoke(lease).await.unwrap();
    assert_eq!(target.revision().await, before.next(), "revoking takes one revision");
    assert_eq!(keys(target, RangeRequest::new(KeyRange::all())).await, ["b", "c"]);
    let not_found = "etcdserver: requested lease not found";
    assert_eq!(target.lease_revoke(lease).await.unwrap_err(), not_found);
    assert_eq!(target.lease_time_to_live(lease).await.unwrap_err(), not_found);
    assert_eq!(target.lease_keep_alive(lease).await.unwrap_err(), not_found);
}

pub async fn a_lease_that_runs_out_takes_its_keys_along(target: &dyn Target) {
    // Long enough for what comes next, also on a busy host.
    let seconds = 5;
    let started = tokio::time::Instant::now();
    let (lease, ttl) = target.lease_grant(0, seconds).await.unwrap();
    assert_eq!(ttl, seconds);
    target.put_request(PutRequest { lease, ..PutRequest::new("a", "1") }).await.unwrap();
    target.put_request(PutRequest { lease, ..PutRequest::new("b", "1") }).await.unwrap();
    let mut watch = target.watch(WatchRequest::new(KeyRange::all(), Revision(4))).await.unwrap();
    let events = tokio::time::timeout(Duration::from_secs(60), watch.next()).await.unwrap().unwrap();
    let lived = started.elapsed();
    assert!(lived > Duration::from_secs(4), "{lived:?}");
    assert_eq!(events.len(), 2, "both keys in one revision");
    assert!(events.iter().all(|event| event.kind == EventKind::Delete));
    assert!(target.leases().await.unwrap().is_empty());
}

pub async fn a_lease_kept_alive_stays(target: &dyn Target) {
    // The pauses are together longer than it lives, and each leaves a busy host much time.
    let (lease, ttl) = target.lease_grant(0, 10).await.unwrap();
    target.put_request(PutRequest { lease, ..PutRequest::new("a", "1") }).await.unwrap();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert_eq!(target.lease_keep_alive(lease).await.unwrap(), ttl);
    }
    assert!(target.get("a").await.is_some());
    assert_eq!(target.revision().await, Revision(2), "renewals take no revision");
}

pub async fn concurrent_increments_lose_none(target: &dyn Target) {
    target.put("n", "0").await;
    let increment = || async {
        loop {
            let kv = target.get("n").await.unwrap();
            let n: u64 = std::str::from_utf8(&kv.value).unwrap().parse().unwrap();
            let unchanged = Compare::mod_revision("n", kv.mod_revision);
            let txn = Txn::new().when(unchanged).then(put("n", &(n + 1).to_string()));
            let response = target.txn(txn).await.unwrap();
            if response.succeeded {
                return response.revision;
            }
        }
    };
    let mut revisions = futures_util::future::join_all((0..40).map(|_| increment())).await;
    revisions.sort_unstable();
    assert_eq!(revisions, (3..43).map(Revision).collect::<Vec<_>>());
    assert_eq!(target.get("n").await.unwrap().value, "40");
}
