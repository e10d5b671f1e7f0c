//! A file system that is really full.
//!
//! Goal: reads go on, writes fail and say why, the process lives, and it recovers by itself when
//! space comes back. Method: this binary starts itself in a mount namespace of its own, on a tmpfs
//! of 16 MiB of which a filler takes a part; the filler goes away in the middle.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use skiff_kine::*;

const FOLDER: &str = "KINE_FULL_FOLDER";
const SCRIPT: &str = r#"mount -t tmpfs -o size=16m tmpfs "$KINE_FULL_FOLDER" && exec "$0" --exact "$1" --nocapture"#;

#[test]
fn on_a_full_disk_reads_go_on_and_writes_fail_until_there_is_space() {
    let folder = tempfile::tempdir().unwrap();
    let is_root = Command::new("id").arg("-u").output().unwrap().stdout == b"0\n";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private"]);
    if !is_root {
        command.arg("--map-root-user");
    }
    let output = command
        .args(["sh", "-c", SCRIPT])
        .arg(std::env::current_exe().unwrap())
        .arg("child_fills_its_disk")
        .env(FOLDER, folder.path())
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && shown.contains("recovered"),
        "{shown}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Without the variable it is a test that has nothing to do.
#[test]
fn child_fills_its_disk() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(fill(&PathBuf::from(folder)));
    println!("recovered");
}

async fn fill(folder: &Path) {
    let filler = folder.join("filler");
    // So much that its end leaves no place for the copy of the log into the file: the store opens all the same.
    std::fs::write(&filler, vec![0; 6 << 20]).unwrap();
    let options = StoreOptions::sqlite(folder.join("state.db"));
    let store = Store::open(options.clone()).await.unwrap();
    let mut watcher = store.watch(WatchRequest::new(KeyRange::all(), Revision(2))).unwrap();
    let mut value = vec![0; 64 * 1024];
    rand::fill(&mut value[..]);
    let put = |i: u32| store.put(PutRequest::new(format!("/k/{i:04}"), value.clone()));
    let mut written = 0;
    let error = loop {
        match put(written).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 1000, "a disk of 16 MiB takes no 64 MiB");
    };
    assert!(matches!(error, Error::Write(_)) && error.to_string().contains("full"), "{error}");
    // Nothing changed, everything can be read: now, in the past, and by watchers.
    let revision = store.current_revision();
    assert_eq!(revision, Revision(u64::from(written) + 1));
    for _ in 0..3 {
        assert!(matches!(put(9999).await, Err(Error::Write(_))));
    }
    let all = store.range(RangeRequest::new(KeyRange::prefix("/k/"))).await.unwrap();
    assert_eq!(all.kvs.len(), written as usize);
    let past = RangeRequest::new(KeyRange::prefix("/k/")).at(Revision(5));
    assert_eq!(store.range(past).await.unwrap().count, 4);
    let mut seen = 0;
    while seen < written as usize {
        let WatchMessage::Events(events) = watcher.next().await.unwrap() else { continue };
        seen += events.len();
    }
    // A snapshot has no place here either, and says so.
    assert!(matches!(store.snapshot().await, Err(Error::Snapshot(_))));
    // Space comes back: no restart, no revision lost or skipped.
    std::fs::remove_file(&filler).unwrap();
    let mut tries = 0;
    let next = loop {
        match put(written).await {
            Ok(response) => break response.revision,
            Err(error) => assert!(tries < 600, "{error}"),
        }
        tries += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!(next, revision.next());
    store.close().await.unwrap();
    let store = Store::open(options).await.unwrap();
    assert_eq!(store.current_revision(), next);
    assert!(store.get(b"/k/9999").is_none(), "what was refused is not there");
    store.close().await.unwrap();
}
