//! Ten thousand watchers at once.
//!
//! Goal: each sees what is its own, whole and in order; one that does not look costs nobody anything; memory per watcher is
//! small and does not grow with what is written. Method: in process, and on one gRPC stream as a client multiplexes them.
//! A file of its own, because memory is that of the process: its two tests run one after the other.

use std::collections::HashMap;
use std::time::Duration;

use skiff_kine::grpc::Listener;
use skiff_kine::grpc::pb::etcdserverpb as pb;
use skiff_kine::grpc::pb::etcdserverpb::watch_client::WatchClient;
use skiff_kine::*;
use tokio::sync::{Mutex, mpsc};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

const WATCHERS: usize = 10_000;
const PREFIXES: usize = 1000;
const ROUNDS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(120);
/// Ample; it must not be a buffer per watcher.
const BYTES_PER_WATCHER: usize = 4096;

static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<usize>().unwrap() * 1024
}

fn key(n: usize, round: usize) -> String {
    format!("/w/{:04}/{round}", n % PREFIXES)
}

async fn write(store: &Store) {
    for round in 0..ROUNDS {
        let puts = (0..PREFIXES).map(|n| store.put(PutRequest::new(key(n, round), "x")));
        for put in futures_util::future::join_all(puts).await {
            put.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_process_each_sees_its_own() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let store = Store::open(StoreOptions::memory()).await.unwrap();
    let before = resident();
    let mut watchers: Vec<Watcher> = (0..WATCHERS)
        .map(|n| {
            let range = KeyRange::prefix(format!("/w/{:04}/", n % PREFIXES));
            store.watch(WatchRequest::new(range, Revision(0))).unwrap()
        })
        .collect();
    let grown = resident().saturating_sub(before);
    assert!(grown < WATCHERS * BYTES_PER_WATCHER, "{} bytes per watcher", grown / WATCHERS);
    // Nobody looks while all of it is written, and one never does.
    write(&store).await;
    let last = watchers.pop().unwrap();
    for (n, watcher) in watchers.iter_mut().enumerate() {
        let mut seen = Vec::new();
        while seen.len() < ROUNDS {
            match timeout(PATIENCE, watcher.next()).await.unwrap().unwrap() {
                WatchMessage::Events(events) => seen.extend(events.iter().map(|event| event.kv.key.clone())),
                WatchMessage::Progress(_) => {}
            }
        }
        assert_eq!(seen, (0..ROUNDS).map(|round| key(n, round)).collect::<Vec<_>>());
    }
    drop((watchers, last));
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_one_stream_each_sees_its_own() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let store = Store::open(StoreOptions::memory()).await.unwrap();
    let token = CancellationToken::new();
    let listener = Listener::tcp("127.0.0.1:0".parse().unwrap(), None).await.unwrap();
    let mut client = WatchClient::connect(listener.url().to_owned()).await.unwrap();
    let serving = tokio::spawn(listener.serve(store.clone(), token.clone()));
    let (requests, asked) = mpsc::channel(64);
    let mut answers = client.watch(ReceiverStream::new(asked)).await.unwrap().into_inner();
    let creating = tokio::spawn(async move {
        for n in 0..WATCHERS {
            let create = pb::WatchCreateRequest {
                key: format!("/w/{:04}/", n % PREFIXES).into(),
                range_end: format!("/w/{:04}0", n % PREFIXES).into(),
                watch_id: n as i64 + 1,
                ..Default::default()
            };
            let request_union = Some(pb::watch_request::RequestUnion::CreateRequest(create));
            requests.send(pb::WatchRequest { request_union }).await.unwrap();
        }
        requests
    });
    for _ in 0..WATCHERS {
        let created = timeout(PATIENCE, answers.message()).await.unwrap().unwrap().unwrap();
        assert!(created.created && !created.canceled, "{created:?}");
    }
    let _requests = creating.await.unwrap();
    let writing = tokio::spawn({
        let store = store.clone();
        async move { write(&store).await }
    });
    let mut seen: HashMap<i64, Vec<String>> = HashMap::new();
    let mut events = 0;
    while events < WATCHERS * ROUNDS {
        let answer = timeout(PATIENCE, answers.message()).await.unwrap().unwrap().unwrap();
        for event in answer.events {
            events += 1;
            let key = String::from_utf8(event.kv.unwrap().key.to_vec()).unwrap();
            seen.entry(answer.watch_id).or_default().push(key);
        }
    }
    writing.await.unwrap();
    for n in 0..WATCHERS {
        let mut expected: Vec<String> = (0..ROUNDS).map(|round| key(n, round)).collect();
        expected.sort();
        assert_eq!(seen.remove(&(n as i64 + 1)).unwrap(), expected, "watch {n}");
    }
    token.cancel();
    serving.await.unwrap().unwrap();
    store.close().await.unwrap();
}
