//! What a writer says it has written, and whether a file opened again still has it.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use rand::Rng;
use rand::distr::Alphanumeric;
use skiff_kine::*;

/// What stands for the value of a deletion.
const DELETED: &str = "-";

/// An acknowledged write: key, value, revision.
pub type Acknowledged = (String, String, u64);

/// The acknowledgement in a line of a writer's output, if there is a whole one.
pub fn acknowledgement(line: &str) -> Option<Acknowledged> {
    match line.split(' ').collect::<Vec<_>>()[..] {
        ["ack", key, value, revision] => Some((key.to_owned(), value.to_owned(), revision.parse().ok()?)),
        _ => None,
    }
}

/// Writes `count` times (for ever if `None`) and says each time on standard output what is acknowledged.
/// Puts, transactions of two, keys that come and go, compactions.
pub async fn write(store: Store, round: String, writer: usize, count: Option<u64>) {
    for n in 0..count.unwrap_or(u64::MAX) {
        let key = format!("w/{writer}");
        let letters = rand::rng().sample_iter(Alphanumeric).take((n as usize * 37) % 3000).map(char::from);
        let value = format!("{round}-{n}-{}", letters.collect::<String>());
        let put = |key: &str| PutRequest::new(key.to_owned(), value.clone());
        let gone = format!("{key}/gone");
        let (key, value, revision) = match n % 50 {
            49 => {
                let revision = Revision(store.current_revision().0.saturating_sub(300));
                // Several writers compact at once; the loser's error is as good.
                let _ = store.compact(revision, false).await;
                continue;
            }
            n if n % 10 == 9 => {
                let txn = Txn::new().then(Op::Put(put(&key))).then(Op::Put(put(&format!("{key}/twin"))));
                let revision = store.txn(txn).await.unwrap().revision;
                (key, value, revision)
            }
            n if n % 10 == 5 => {
                let revision = store.put(put(&gone)).await.unwrap().revision;
                (gone, value, revision)
            }
            n if n % 10 == 7 => {
                let revision = store.delete(KeyRange::key(gone.clone())).await.unwrap().revision;
                (gone, DELETED.to_owned(), revision)
            }
            _ => {
                let revision = store.put(put(&key)).await.unwrap().revision;
                (key, value, revision)
            }
        };
        let mut out = std::io::stdout().lock();
        // One system call, so that nothing else comes between.
        out.write_all(format!("ack {key} {value} {revision}\n").as_bytes()).unwrap();
        out.flush().unwrap();
    }
}

/// Every record from the compact revision on, by revision.
async fn history(store: &Store) -> BTreeMap<u64, Vec<Event>> {
    let start = Revision(store.compact_revision().0.max(1));
    let mut watcher = store.watch(WatchRequest::new(KeyRange::all(), start)).unwrap();
    let progress = watcher.progress();
    progress.request();
    let mut history: BTreeMap<u64, Vec<Event>> = BTreeMap::new();
    loop {
        match watcher.next().await.unwrap() {
            WatchMessage::Events(events) => {
                for event in events {
                    history.entry(event.kv.mod_revision.0).or_default().push(event.as_ref().clone());
                }
            }
            WatchMessage::Progress(_) => return history,
        }
    }
}

fn is(event: &Event, key: &str, value: &str) -> bool {
    let deleted = event.kind == EventKind::Delete;
    event.kv.key == *key && deleted == (value == DELETED) && (deleted || event.kv.value == *value)
}

/// Opens the file and compares it with what was acknowledged; no revision may lie at or below `before`, where an
/// earlier round ended. Answers the revision the file goes on from, or what is wrong.
pub async fn verify(file: &Path, acknowledged: &[Acknowledged], before: u64) -> Result<u64, String> {
    let store = Store::open(StoreOptions::sqlite(file)).await.map_err(|error| error.to_string())?;
    let verdict = compare(&store, acknowledged, before).await;
    store.close().await.map_err(|error| error.to_string())?;
    verdict
}

async fn compare(store: &Store, acknowledged: &[Acknowledged], before: u64) -> Result<u64, String> {
    let current = store.current_revision().0;
    let compacted = store.compact_revision().0;
    let history = history(store).await;
    // Dense: what lies above the compact revision is all there, each revision once.
    let expected: Vec<u64> = (compacted.max(1) + 1..=current).collect();
    let seen: Vec<u64> = history.keys().copied().filter(|revision| *revision > compacted.max(1)).collect();
    if seen != expected {
        return Err(format!("history from {compacted} to {current} has gaps: {seen:?}"));
    }
    for (key, value, revision) in acknowledged {
        if *revision <= before {
            return Err(format!("revision {revision} was already given in an earlier round"));
        }
        if *revision > current {
            return Err(format!("acknowledged revision {revision} is lost, current is {current}"));
        }
        if *revision > compacted && !history[revision].iter().any(|event| is(event, key, value)) {
            return Err(format!("{key} at {revision} is not what was acknowledged"));
        }
    }
    let last: BTreeMap<&str, &Acknowledged> = acknowledged.iter().map(|entry| (entry.0.as_str(), entry)).collect();
    for (key, (_, value, revision)) in last {
        let now = store.get(key.as_bytes());
        let as_acknowledged = match &now {
            Some(kv) if kv.mod_revision.0 == *revision => kv.value == *value,
            // Changed once more, by a write whose answer did not arrive.
            Some(kv) => kv.mod_revision.0 > *revision,
            None => {
                let events = history.iter().filter(|(at, _)| **at >= *revision).flat_map(|(_, events)| events);
                let last = events.filter(|event| event.kv.key == *key).last();
                last.map_or(value == DELETED, |event| event.kind == EventKind::Delete)
            }
        };
        if !as_acknowledged {
            return Err(format!("{key} was left by revision {revision}, and is now {now:?}"));
        }
    }
    let next = store.put(PutRequest::new("verifier", "x")).await.map_err(|error| error.to_string())?.revision;
    if next.0 != current + 1 {
        return Err(format!("after revision {current} came {next}"));
    }
    Ok(next.0)
}
