//! Many clients at once on few keys: linearizable, revisions in the order of time, watches complete.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use skiff_kine::*;
use tokio::time::timeout;

use crate::linear::{Action, Operation, State, is_linearizable};
use crate::random::Random;
use crate::target::{Target, bytes};

const CLIENTS: u64 = 8;
const OPERATIONS: u64 = 60;
const KEYS: u64 = 3;

/// One operation with the revision of its answer, and whether that is the revision of a change.
struct Done {
    key: String,
    operation: Operation,
    revision: Revision,
    changed: bool,
}

fn text(value: &[u8]) -> String {
    String::from_utf8(value.to_vec()).unwrap()
}

async fn get(target: &dyn Target, key: &str) -> (State, Revision) {
    let response = target.range(RangeRequest::new(KeyRange::key(bytes(key)))).await.unwrap();
    (response.kvs.first().map(|kv| text(&kv.value)), response.revision)
}

async fn swap(target: &dyn Target, key: &str, expected: &State, new: &str) -> (Result<(), State>, Revision) {
    let guard = match expected {
        Some(value) => Compare {
            range: KeyRange::key(bytes(key)),
            result: CompareResult::Equal,
            target: CompareTarget::Value(bytes(value)),
        },
        None => Compare::mod_revision(bytes(key), Revision(0)),
    };
    let txn = Txn::new()
        .when(guard)
        .then(Op::Put(PutRequest::new(bytes(key), bytes(new))))
        .otherwise(Op::Range(RangeRequest::new(KeyRange::key(bytes(key)))));
    let response = target.txn(txn).await.unwrap();
    match &response.responses[0] {
        OpResponse::Put(_) => (Ok(()), response.revision),
        OpResponse::Range(range) => (Err(range.kvs.first().map(|kv| text(&kv.value))), response.revision),
        other => panic!("{other:?}"),
    }
}

async fn client(target: &dyn Target, number: u64) -> Vec<Done> {
    let mut random = Random(number);
    let mut known: BTreeMap<String, State> = BTreeMap::new();
    let mut done = Vec::new();
    for n in 0..OPERATIONS {
        let key = format!("c/{}", random.below(KEYS));
        let new = format!("{number}-{n}");
        let called = Instant::now();
        let (action, revision, changed) = match random.below(10) {
            0..=2 => {
                let put = PutRequest::new(bytes(&key), bytes(&new));
                let revision = target.put_request(put).await.unwrap().revision;
                known.insert(key.clone(), Some(new.clone()));
                (Action::Put(new), revision, true)
            }
            3..=5 => {
                let (seen, revision) = get(target, &key).await;
                known.insert(key.clone(), seen.clone());
                (Action::Get(seen), revision, false)
            }
            6..=8 => {
                let expected = known.get(&key).cloned().flatten();
                let (answer, revision) = swap(target, &key, &expected, &new).await;
                known.insert(key.clone(), answer.clone().map_or_else(|seen| seen, |()| Some(new.clone())));
                let changed = answer.is_ok();
                (Action::Swap { expected, new, answer }, revision, changed)
            }
            _ => {
                let delete = DeleteRequest { range: KeyRange::key(bytes(&key)), prev_kv: false };
                let response = target.delete_request(delete).await.unwrap();
                let was_there = response.deleted > 0;
                known.insert(key.clone(), None);
                (Action::Delete(was_there), response.revision, was_there)
            }
        };
        let operation = Operation { called, returned: Instant::now(), action };
        done.push(Done { key, operation, revision, changed });
    }
    done
}

pub async fn concurrent_histories_are_linearizable_and_watched_whole(target: &dyn Target) {
    let start = target.revision().await.next();
    let mut watch = target.watch(WatchRequest::new(KeyRange::prefix("c/"), start)).await.unwrap();
    let done: Vec<Done> =
        join_all((1..=CLIENTS).map(|number| client(target, number))).await.into_iter().flatten().collect();
    for key in (0..KEYS).map(|key| format!("c/{key}")) {
        let operations: Vec<Operation> =
            done.iter().filter(|done| done.key == key).map(|done| done.operation.clone()).collect();
        assert!(operations.len() > 50);
        assert!(is_linearizable(&operations), "no order explains the answers on {key}: {operations:#?}");
    }
    // Revisions follow time, for reads too, and no two changes share one.
    let mut changes: BTreeMap<Revision, &Done> = BTreeMap::new();
    for change in done.iter().filter(|done| done.changed) {
        assert!(changes.insert(change.revision, change).is_none(), "revision {} was given twice", change.revision);
    }
    for earlier in done.iter().filter(|done| done.changed) {
        for later in done.iter().filter(|later| later.operation.called > earlier.operation.returned) {
            let in_order =
                if later.changed { later.revision > earlier.revision } else { later.revision >= earlier.revision };
            assert!(in_order, "{} was answered after {}", later.revision, earlier.revision);
        }
    }
    // The watch saw each change once, in order, as it was.
    let mut expected = changes.iter();
    let mut seen = 0;
    while seen < changes.len() {
        for event in timeout(Duration::from_secs(60), watch.next()).await.unwrap().unwrap() {
            let (revision, change) = expected.next().expect("an event too many");
            assert_eq!((event.kv.mod_revision, &event.kv.key[..]), (*revision, change.key.as_bytes()));
            match &change.operation.action {
                Action::Put(new) | Action::Swap { new, .. } => assert_eq!(text(&event.kv.value), *new),
                _ => assert_eq!(event.kind, EventKind::Delete),
            }
            seen += 1;
        }
    }
}
