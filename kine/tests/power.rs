//! The power goes, and with it everything that was not synced.
//!
//! Goal: what was acknowledged is there after a power cut at any moment. A killed process does not show that: the
//! system still has its writes. Method: this binary starts itself as a writer under strace, which records every
//! write, sync, truncation and acknowledgement in order. From the record the files are made as a disk would have them
//! after a cut at a chosen moment: everything synced, and of the rest nothing, or some sectors of some writes, in any
//! order. Then the store is opened and compared with what had been acknowledged by then.
//! That the method finds a store that does not sync is a test of its own. `KINE_POWER_CUTS` sets the number of cuts.

mod disk;
mod durability;

use std::path::{Path, PathBuf};
use std::process::Command;

use disk::{Disk, Random, Record, Syncs};
use durability::{acknowledgement, verify};
use skiff_kine::*;

const FILE: &str = "KINE_POWER_FILE";
const WRITERS: usize = 4;
const WRITES: u64 = 60;

/// The process that is recorded. Without the variable it is a test that has nothing to do.
#[test]
fn child_writes_for_the_record() {
    let Ok(file) = std::env::var(FILE) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Store::open(StoreOptions::sqlite(PathBuf::from(file))).await.unwrap();
        let write = |round: &str, writer| durability::write(store.clone(), round.to_owned(), writer, Some(WRITES));
        futures_util::future::join_all((0..WRITERS).map(|writer| write("a", writer))).await;
        // In the middle of it: everything is copied back and the log begins anew.
        store.defragment().await.unwrap();
        futures_util::future::join_all((0..WRITERS).map(|writer| write("b", writer))).await;
        store.close().await.unwrap();
    });
}

/// What the writer did, in order. The folder must be the one the record speaks of.
fn record(folder: &Path) -> Vec<Record> {
    let trace = folder.join("trace");
    let output = Command::new("strace")
        .args(["-f", "-y", "-xx", "-s", "1000000", "-o"])
        .arg(&trace)
        .args([
            "-e",
            "trace=openat,write,pwrite64,pwritev,ftruncate,fallocate,fsync,fdatasync,sync_file_range,rename,unlink",
        ])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "child_writes_for_the_record", "--nocapture"])
        .env(FILE, folder.join("state.db"))
        .output()
        .expect("strace is installed: cargo xtask setup --tests");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    disk::parse(&std::fs::read_to_string(trace).unwrap(), folder)
}

/// Cuts the power at a moment, and says what is wrong with what is left.
async fn cut(records: &[Record], at: usize, syncs: Syncs, random: &mut Random) -> Result<(), String> {
    let mut disk = Disk::new(syncs);
    let mut acknowledged = Vec::new();
    for record in &records[..at] {
        match record {
            Record::Said(line) => acknowledged.extend(acknowledgement(line.trim_end())),
            record => disk.take(record),
        }
    }
    let folder = tempfile::tempdir().unwrap();
    disk.leave(folder.path(), random);
    let file = folder.path().join("state.db");
    if !file.exists() && acknowledged.is_empty() {
        return Ok(());
    }
    verify(&file, &acknowledged, 0).await.map(drop)
}

#[tokio::test]
async fn after_a_power_cut_at_any_moment_everything_acknowledged_is_there() {
    let cuts = std::env::var("KINE_POWER_CUTS").ok().and_then(|n| n.parse().ok()).unwrap_or(60);
    let folder = tempfile::tempdir().unwrap();
    let records = record(folder.path());
    let said = records.iter().filter(|record| matches!(record, Record::Said(_))).count();
    assert!(said > WRITERS * WRITES as usize, "only {said} acknowledgements are on record");
    let mut random = Random::new(7);
    for _ in 0..cuts {
        let at = 1 + random.below(records.len());
        if let Err(error) = cut(&records, at, Syncs::Honoured, &mut random).await {
            panic!("power cut behind {at} of {} steps: {error}", records.len());
        }
    }
    // Every acknowledgement is a moment of its own: that is when a lost write would show.
    let moments = records.iter().enumerate().filter(|(_, record)| matches!(record, Record::Said(_)));
    for (at, _) in moments.step_by((said / cuts).max(1)) {
        if let Err(error) = cut(&records, at + 1, Syncs::Honoured, &mut random).await {
            panic!("power cut right behind an acknowledgement, step {at}: {error}");
        }
    }
    let lost = {
        let mut lost = 0;
        for _ in 0..20 {
            let at = records.len() / 4 + random.below(records.len() * 3 / 4);
            lost += usize::from(cut(&records, at, Syncs::Ignored, &mut random).await.is_err());
        }
        lost
    };
    assert!(lost > 0, "without syncs nothing was lost: the method finds nothing");
}
