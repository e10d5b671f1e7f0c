//! SIGKILL under load, again and again, on one file.
//!
//! Goal: no acknowledged write is lost, no acknowledged revision is given twice, no deleted key comes back, history stays
//! dense, and watches resume exactly. Method: this binary starts itself as a writer that reports
//! each acknowledged write on its standard output; the parent kills it at a random moment, opens
//! the file and compares. `KINE_CRASH_ROUNDS` sets the number of rounds.

mod durability;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use durability::{Acknowledged, acknowledgement, verify};
use skiff_kine::*;

const FILE: &str = "KINE_CRASH_FILE";
const ROUND: &str = "KINE_CRASH_ROUND";
const WRITERS: usize = 16;

/// The process that is killed. Without the variables it is a test that has nothing to do.
#[test]
fn child_writes_until_killed() {
    let (Ok(file), Ok(round)) = (std::env::var(FILE), std::env::var(ROUND)) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Store::open(StoreOptions::sqlite(PathBuf::from(file))).await.unwrap();
        let writers = (0..WRITERS).map(|writer| durability::write(store.clone(), round.clone(), writer, None));
        futures_util::future::join_all(writers).await;
    });
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
        acknowledged.extend(acknowledgement(&line));
        let kill_at = killed_at.get_or_insert_with(|| Instant::now() + delay);
        if Instant::now() >= *kill_at {
            let _ = child.kill();
        }
    }
    child.wait().unwrap();
    acknowledged
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
        current = verify(&file, &acknowledged, current).await.unwrap_or_else(|error| panic!("round {round}: {error}"));
    }
    println!("{rounds} rounds, {total} acknowledged writes, revision {current}");
}
