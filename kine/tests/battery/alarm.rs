//! The quota and its alarm, with stock etcdctl on a real etcd and on ours.

use std::path::Path;

use skiff_kine::*;
use tokio::task::block_in_place;

use crate::etcd::start_with;
use crate::etcdctl::run;
use crate::grpc::{Remote, etcd, serve};
use crate::target::Target;

const QUOTA: u64 = 4 << 20;

async fn small_etcd() -> Remote {
    let quota = format!("--quota-backend-bytes={QUOTA}");
    let folder = tempfile::tempdir().unwrap();
    etcd(start_with(folder, &[&quota], |folder: &Path, _| folder.to_owned()).await).await
}

async fn small_store() -> Remote {
    let folder = tempfile::tempdir().unwrap();
    serve(StoreOptions::sqlite(folder.path().join("state.db")).quota(QUOTA), folder).await
}

/// Member ids differ; what else is shown must not.
fn without_ids(shown: &str) -> String {
    let words = shown.split_inclusive([' ', '\n']);
    words.map(|word| if word.starts_with("memberID:") { "memberID:<id> " } else { word }).collect()
}

/// Fills the store, and shows what works then, and after space was made.
async fn fill_and_recover(remote: &Remote) -> Vec<(String, String)> {
    // Letters at random: a value that packs well would take long to fill the store.
    let letters = rand::Rng::sample_iter(rand::rng(), rand::distr::Alphanumeric);
    let value: String = letters.take(200_000).map(char::from).collect();
    let mut refused = None;
    for i in 0..100 {
        let shown = block_in_place(|| run(&remote.endpoint, &["put", "big"], &value));
        if !shown.starts_with("0\n") {
            refused = Some((i, shown));
            break;
        }
    }
    let (writes, refused) = refused.expect("the quota is reached");
    assert!((5..60).contains(&writes), "{writes} writes of 200 kB in 4 MiB");
    let revision = remote.revision().await.to_string();
    let commands: [(&[&str], &str); 13] = [
        (&["alarm", "list"], ""),
        (&["put", "small", "x"], ""),
        (&["lease", "grant", "60"], ""),
        (&["txn"], "mod(\"a\") > \"0\"\n\nput a 1\n\nget none\n\n"),
        (&["txn"], "mod(\"a\") = \"0\"\n\ndel none\n\nget none\n\n"),
        (&["get", "small"], ""),
        (&["del", "none"], ""),
        (&["compaction", "--physical", &revision], ""),
        (&["defrag"], ""),
        (&["put", "small", "x"], ""),
        (&["alarm", "disarm"], ""),
        (&["alarm", "list"], ""),
        (&["put", "small", "x"], ""),
    ];
    let mut shown = vec![("refused".to_owned(), refused)];
    for (arguments, input) in commands {
        let answer = block_in_place(|| run(&remote.endpoint, arguments, input));
        // Revision and address are the only numbers in these.
        let said = arguments.join(" ").replace(&revision, "<revision>");
        let answer = without_ids(&answer).replace(&revision, "<revision>").replace(&remote.endpoint, "<endpoint>");
        shown.push((said, answer));
    }
    shown
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_store_shows_the_same_and_recovers_the_same_way() {
    let theirs = fill_and_recover(&small_etcd().await).await;
    let ours = fill_and_recover(&small_store().await).await;
    for (theirs, ours) in theirs.iter().zip(&ours) {
        assert_eq!(theirs, ours);
    }
}

#[tokio::test]
async fn the_alarm_survives_a_restart_and_lasts_until_it_is_disarmed() {
    let folder = tempfile::tempdir().unwrap();
    let options = StoreOptions::sqlite(folder.path().join("state.db")).quota(1 << 20);
    let store = Store::open(options.clone()).await.unwrap();
    let mut value = vec![0; 100_000];
    rand::fill(&mut value[..]);
    let big = || PutRequest::new("big", value.clone());
    let mut last = None;
    let error = loop {
        match store.put(big()).await {
            Ok(response) => last = Some(response.revision),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::NoSpace), "{error}");
    assert!(store.no_space() && store.status().await.unwrap().no_space);
    assert_eq!(Some(store.current_revision()), last, "a refused write takes no revision");
    store.close().await.unwrap();

    let store = Store::open(options).await.unwrap();
    assert!(store.no_space(), "remembered");
    assert!(matches!(store.put(PutRequest::new("a", "")).await, Err(Error::NoSpace)));
    assert_eq!(store.get(b"big").unwrap().value.len(), 100_000);
    // Disarmed before there is space it comes back with the first large write.
    store.set_no_space(false).await.unwrap();
    assert!(matches!(store.put(big()).await, Err(Error::NoSpace)));
    assert!(store.no_space());
    store.delete(KeyRange::key("big")).await.unwrap();
    store.compact(store.current_revision(), true).await.unwrap();
    store.set_no_space(false).await.unwrap();
    store.put(big()).await.unwrap();
    assert!(!store.no_space());
    store.close().await.unwrap();
}
