//! Writes as fast as the disk allows: `load FILE CLIENTS SECONDS`.
//!
//! Each client creates or updates keys of 48 bytes with values of 1 KiB by compare and swap, as
//! an API server does, and waits for each answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use skiff_kine::{Compare, KeyRange, Op, PutRequest, RangeRequest, Revision, Store, StoreOptions, Txn};

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, clients, seconds] = &arguments[..] else {
        return Err("usage: load FILE CLIENTS SECONDS".into());
    };
    let (clients, seconds): (usize, u64) = (clients.parse()?, seconds.parse()?);
    let store = Store::open(StoreOptions::sqlite(file)).await?;
    let until = Instant::now() + Duration::from_secs(seconds);
    let done = Arc::new(AtomicU64::new(0));
    let work = (0..clients).map(|client| tokio::spawn(write(store.clone(), client, until, done.clone())));
    let mut latencies = Vec::new();
    for result in futures_util::future::join_all(work).await {
        latencies.extend(result??);
    }
    latencies.sort_unstable();
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize];
    println!(
        "{clients} clients: {} writes/s, p50 {:?}, p99 {:?}, p99.9 {:?}, max {:?}",
        done.load(Ordering::Relaxed) / seconds,
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0),
    );
    println!("{:?}", store.status().await?);
    store.close().await?;
    Ok(())
}

async fn write(
    store: Store,
    client: usize,
    until: Instant,
    done: Arc<AtomicU64>,
) -> Result<Vec<Duration>, skiff_kine::Error> {
    let mut latencies = Vec::new();
    let mut revisions = [Revision(0); 100];
    for n in (0..100).cycle() {
        let started = Instant::now();
        if started >= until {
            break;
        }
        let key = format!("/registry/configmaps/default/client-{client:04}-{n:06}");
        let txn = Txn::new()
            .when(Compare::mod_revision(key.clone(), revisions[n]))
            .then(Op::Put(PutRequest::new(key.clone(), vec![b'x'; 1024])))
            .otherwise(Op::Range(RangeRequest::new(KeyRange::key(key))));
        let response = store.txn(txn).await?;
        if response.succeeded {
            revisions[n] = response.revision;
        }
        latencies.push(started.elapsed());
        done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(latencies)
}
