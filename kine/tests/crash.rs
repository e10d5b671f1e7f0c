//! SIGKILL under load, again and again, on one file.
//!
//! Goal: no acknowledged write is lost, no acknowledged revision is given twice, history stays
//! dense, and watches resume exactly. Method: this binary starts itself as a writer that reports
//! each acknowledged write on its standard output; the parent kills it at a random moment, opens
//! the file and compares. `KINE_CRASH_ROUNDS` sets the number of rounds.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use skiff_kine::*;

const FILE: &str = "KINE_CRASH_FILE";
const ROUND: &str = "KINE_CRASH_ROUND";
const WRITERS: usize = 16;

/// An acknowledged write: key, value, revision.
type Acknowledged = (String, String, u64);

/// The process that is killed. Without the variables it is a test that has nothing to do.
#[test]
fn child_writes_until_killed() {
    let (Ok(file), Ok(round)) = (std::env::var(FILE), std::env::var(ROUND)) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Store::open(StoreOptions::sqlite(PathBuf::from(file))).await.unwrap();
        let writers = (0..WRITERS).map(|writer| write_for_ever(store.clone(), round.clone(), writer));
        futures_util::future::join_all(writers).await;
    });
}

async fn write_for_ever(store: Store, round: String, writer: usize) {
    for n in 0_u64.. {
        let key = format!("w/{writer}");
        let value = format!("{round}-{n}-{}", "x".repeat((n as usize * 37) % 3000));
        let revision = if n % 50 == 49 {
            let revision = Revision(store.current_revision().0.saturating_sub(300));
            // Several writers compact at once; the loser's error is as good.
            let _ = store.compact(revision, false).await;
            continue;
        } else if n % 10 == 9 {
            let txn = Txn::new()
                .then(Op::Put(PutRequest::new(key.clone(), value.clone())))
                .then(Op::Put(PutRequest::new(format!("{key}/twin"), value.clone())));
            store.txn(txn).await.unwrap().revision
        } else {
            store.put(PutRequest::new(key.clone(), value.clone())).await.unwrap().revision
        };
        let mut out = std::io::stdout().lock();
        writeln!(out, "ack {key} {value} {revision}").unwrap();
        out.flush().unwrap();
    }
}

fn run_and_kill(file: &Path, round: u64) -> Vec<Acknowledged> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_writes_until_killed", "--nocapture"])
        .env(FILE, file)
        .env(ROUND, round.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    // A different moment each time: after the first acknowledgement, 20 to 400 ms.
    let delay = Duration::from_millis(20 + round * 7919 % 380);
    let mut killed_at: Option<Instant> = None;
    let mut acknowledged = Vec::new();
    for line in output.lines() {
        let Ok(line) = line else { break };
        // The last line may be cut short, or share its line with the harness: then it is not counted.
        let words: Vec<&str> = line.split(' ').collect();
        if let ["ack", key, value, revision] = words[..]
            && let Ok(revision) = revision.parse()
        {
            acknowledged.push((key.to_owned(), value.to_owned(), revision));
        }
        let kill_at = killed_at.get_or_insert_with(|| Instant::now() + delay);
        if Instant::now() >= *kill_at {
            let _ = child.kill();
        }
    }
    child.wait().unwrap();
    acknowledged
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

async fn verify(file: &Path, acknowledged: &[Acknowledged], before: u64) -> u64 {
    let store = Store::open(StoreOptions::sqlite(file)).await.unwrap();
    let current = store.current_revision().0;
    let compacted = store.compact_revision().0;
    let history = history(&store).await;
    // Dense: what lies above the compact revision is all there, each revision once.
    let expected: Vec<u64> = (compacted.max(1) + 1..=current).collect();
    let seen: Vec<u64> = history.keys().copied().filter(|revision| *revision > compacted.max(1)).collect();
    assert_eq!(seen, expected);
    for (key, value, revision) in acknowledged {
        assert!(*revision > before, "revision {revision} was already given in an earlier round");
        assert!(*revision <= current, "acknowledged revision {revision} is lost, current is {current}");
        if *revision > compacted {
            let found = history[revision].iter().any(|e| e.kv.key == *key && e.kv.value == *value);
            assert!(found, "{key} at {revision} is not what was acknowledged");
        }
    }
    let last: BTreeMap<&str, &Acknowledged> = acknowledged.iter().map(|entry| (entry.0.as_str(), entry)).collect();
    for (key, (_, value, revision)) in last {
        let kv = store.get(key.as_bytes()).expect("an acknowledged key exists");
        assert!(kv.mod_revision.0 >= *revision);
        if kv.mod_revision.0 == *revision {
            assert_eq!(kv.value, value);
        }
    }
    let next = store.put(PutRequest::new("verifier", "x")).await.unwrap().revision;
    assert_eq!(next.0, current + 1);
    store.close().await.unwrap();
    next.0
}

#[tokio::test]
async fn killed_at_any_moment_it_loses_nothing_it_acknowledged() {
    let rounds = std::env::var("KINE_CRASH_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(12);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state.db");
    let mut current = 1;
    let mut total = 0;
    for round in 0..rounds {
        let acknowledged = run_and_kill(&file, round);
        assert!(!acknowledged.is_empty(), "the child wrote nothing in round {round}");
        total += acknowledged.len();
        current = verify(&file, &acknowledged, current).await;
    }
    println!("{rounds} rounds, {total} acknowledged writes, revision {current}");
}
