//! Watches.

use std::time::Duration;

use skiff_kine::*;
use tokio::time::timeout;

use crate::target::{Target, Watching, bytes};

/// The next `count` events; a watch that gives none in time has lost them.
async fn take(watch: &mut Box<dyn Watching>, count: usize) -> Vec<Event> {
    let mut events = Vec::new();
    while events.len() < count {
        let next = timeout(Duration::from_secs(60), watch.next());
        events.extend(next.await.expect("events in time").unwrap());
    }
    assert_eq!(events.len(), count);
    events
}

fn shown(events: &[Event]) -> Vec<(String, u64)> {
    let show = |event: &Event| {
        let sign = if event.kind == EventKind::Put { "+" } else { "-" };
        let key = String::from_utf8_lossy(&event.kv.key);
        (format!("{sign}{key}"), event.kv.mod_revision.0)
    };
    events.iter().map(show).collect()
}

fn expected(events: &[(&str, u64)]) -> Vec<(String, u64)> {
    events.iter().map(|(name, revision)| ((*name).to_owned(), *revision)).collect()
}

pub async fn a_watch_sees_what_happens_from_now_on(target: &dyn Target) {
    target.put("a/1", "before").await;
    let of = |range| target.watch(WatchRequest::new(range, Revision(0)));
    let mut prefix = of(KeyRange::prefix("a/")).await.unwrap();
    let mut key = of(KeyRange::key("a/1")).await.unwrap();
    let mut from = of(KeyRange::from("a/2")).await.unwrap();
    target.put("a/1", "1").await;
    target.put("b", "1").await;
    target.put("a/2", "1").await;
    target.delete("a/1").await;
    let events = take(&mut prefix, 3).await;
    assert_eq!(shown(&events), expected(&[("+a/1", 3), ("+a/2", 5), ("-a/1", 6)]));
    assert_eq!((events[0].kv.version, events[0].is_create()), (2, false));
    assert_eq!(events[0].kv.value, "1");
    assert!(events[1].is_create());
    assert_eq!((events[2].kv.version, events[2].kv.create_revision), (0, Revision(0)));
    assert_eq!(shown(&take(&mut key, 2).await), expected(&[("+a/1", 3), ("-a/1", 6)]));
    assert_eq!(shown(&take(&mut from, 2).await), expected(&[("+b", 4), ("+a/2", 5)]));
}

pub async fn a_watch_replays_the_past_in_order(target: &dyn Target) {
    target.put("a", "1").await;
    let txn = Txn::new()
        .then(Op::Put(PutRequest::new("c", "1")))
        .then(Op::Put(PutRequest::new("b", "1")))
        .then(Op::Delete(DeleteRequest { range: KeyRange::key("a"), prev_kv: false }));
    target.txn(txn).await.unwrap();
    target.put("a", "2").await;
    let mut watch = target.watch(WatchRequest::new(KeyRange::all(), Revision(1))).await.unwrap();
    let events = take(&mut watch, 5).await;
    assert_eq!(shown(&events), expected(&[("+a", 2), ("+c", 3), ("+b", 3), ("-a", 3), ("+a", 4)]));
    let mut later = target.watch(WatchRequest::new(KeyRange::all(), Revision(4))).await.unwrap();
    assert_eq!(shown(&take(&mut later, 1).await), expected(&[("+a", 4)]));
}

pub async fn a_watch_begins_in_the_past_and_goes_on_without_a_gap(target: &dyn Target) {
    let total = 300;
    let writes = async {
        for i in 0..total {
            target.put(&format!("k/{}", i % 10), &i.to_string()).await;
        }
    };
    let watches = async {
        while target.revision().await < Revision(30) {
            tokio::task::yield_now().await;
        }
        let request = WatchRequest::new(KeyRange::prefix("k/"), Revision(2));
        let mut watch = target.watch(request).await.unwrap();
        take(&mut watch, total).await
    };
    let (_, events) = tokio::join!(writes, watches);
    let revisions: Vec<u64> = events.iter().map(|event| event.kv.mod_revision.0).collect();
    assert_eq!(revisions, (2..2 + total as u64).collect::<Vec<_>>());
}

pub async fn a_watch_of_the_future_waits_for_its_revision(target: &dyn Target) {
    let mut watch = target.watch(WatchRequest::new(KeyRange::all(), Revision(4))).await.unwrap();
    for key in ["a", "b", "c"] {
        target.put(key, "").await;
    }
    assert_eq!(shown(&take(&mut watch, 1).await), expected(&[("+c", 4)]));
}

pub async fn watches_show_previous_values_when_asked(target: &dyn Target) {
    target.put("a", "1").await;
    target.put("a", "2").await;
    let request = WatchRequest::new(KeyRange::all(), Revision(2)).with_prev_kv();
    let mut watch = target.watch(request).await.unwrap();
    target.delete("a").await;
    let events = take(&mut watch, 3).await;
    assert_eq!(events[0].prev_kv, None);
    let prev = events[1].prev_kv.as_ref().unwrap();
    assert_eq!((prev.value.as_ref(), prev.version, prev.mod_revision), (&b"1"[..], 1, Revision(2)));
    let prev = events[2].prev_kv.as_ref().unwrap();
    assert_eq!((prev.value.as_ref(), prev.version), (&b"2"[..], 2));
}

pub async fn watches_filter_puts_or_deletions(target: &dyn Target) {
    let all = || WatchRequest::new(KeyRange::all(), Revision(2));
    target.put("a", "1").await;
    target.delete("a").await;
    let mut deletions = target.watch(WatchRequest { no_put: true, ..all() }).await.unwrap();
    let mut puts = target.watch(WatchRequest { no_delete: true, ..all() }).await.unwrap();
    target.put("b", "1").await;
    target.delete("b").await;
    assert_eq!(shown(&take(&mut deletions, 2).await), expected(&[("-a", 3), ("-b", 5)]));
    assert_eq!(shown(&take(&mut puts, 2).await), expected(&[("+a", 2), ("+b", 4)]));
}

pub async fn a_watch_of_the_compacted_past_is_told_where_history_begins(target: &dyn Target) {
    for value in ["1", "2", "3"] {
        target.put("a", value).await;
    }
    target.compact(Revision(3)).await.unwrap();
    let mut watch = target.watch(WatchRequest::new(KeyRange::all(), Revision(2))).await.unwrap();
    let ended = timeout(Duration::from_secs(60), watch.next()).await.unwrap().unwrap_err();
    assert_eq!(ended.compact_revision, Revision(3));
    let mut watch = target.watch(WatchRequest::new(KeyRange::all(), Revision(3))).await.unwrap();
    assert_eq!(shown(&take(&mut watch, 2).await), expected(&[("+a", 3), ("+a", 4)]));
    // The value before has been compacted away; who still has it may show it.
    let request = WatchRequest::new(KeyRange::all(), Revision(3)).with_prev_kv();
    let mut watch = target.watch(request).await.unwrap();
    let events = take(&mut watch, 2).await;
    assert!(events[0].prev_kv.as_ref().is_none_or(|kv| kv.value == "1"));
    assert_eq!(events[1].prev_kv.as_ref().map(|kv| kv.value.clone()), Some(bytes("2")));
}

pub async fn a_deletion_at_the_compact_revision_is_still_seen(target: &dyn Target) {
    target.put("a", "1").await;
    target.put("b", "1").await;
    target.delete("a").await;
    target.put("b", "2").await;
    target.compact(Revision(4)).await.unwrap();
    let mut watch = target.watch(WatchRequest::new(KeyRange::all(), Revision(4))).await.unwrap();
    // etcd before 3.5.18 drops the tombstone; later ones and we keep it.
    if target.keeps_tombstones() {
        assert_eq!(shown(&take(&mut watch, 2).await), expected(&[("-a", 4), ("+b", 5)]));
    } else {
        assert_eq!(shown(&take(&mut watch, 1).await), expected(&[("+b", 5)]));
    }
}
