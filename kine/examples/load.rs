//! The store without gRPC: `load FILE CLIENTS SECONDS [object|noise]`.
//!
//! Each client updates keys of 48 bytes with values of 1 KiB by compare and swap, as an API server
//! does, and waits for each answer. Prints one line of JSON; the processor time is that of this process, clients included.

#[path = "store_load/values.rs"]
mod values;

use std::sync::Arc;
use std::time::{Duration, Instant};

use skiff_kine::{Compare, KeyRange, Op, PutRequest, RangeRequest, Revision, Store, StoreOptions, Txn};
use values::Values;

/// Clock ticks of /proc; the same on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;
const KEYS: usize = 100;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, clients, seconds, kind @ ..] = &arguments[..] else {
        return Err("usage: load FILE CLIENTS SECONDS [object|noise]".into());
    };
    let (clients, seconds): (usize, u64) = (clients.parse()?, seconds.parse()?);
    let values = Values::new(kind.first().map_or("object", String::as_str)).ok_or("object or noise")?;
    let values = Arc::new(values);
    let store = Store::open(StoreOptions::sqlite(file)).await?;
    let (begun, cpu_before) = (Instant::now(), cpu_seconds()?);
    let until = begun + Duration::from_secs(seconds);
    let work = (0..clients).map(|client| tokio::spawn(write(store.clone(), client, until, values.clone())));
    let mut latencies = Vec::new();
    for result in futures_util::future::join_all(work).await {
        latencies.extend(result??);
    }
    let (elapsed, cpu) = (begun.elapsed().as_secs_f64(), cpu_seconds()? - cpu_before);
    latencies.sort_unstable();
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize].as_micros() as u64;
    println!(
        "{}",
        serde_json::json!({
            "operations": latencies.len(), "seconds": elapsed, "cpu_us": cpu * 1e6 / latencies.len() as f64,
            "p50_us": at(0.5), "p99_us": at(0.99), "p999_us": at(0.999),
        })
    );
    store.close().await?;
    Ok(())
}

fn cpu_seconds() -> Result<f64, Box<dyn std::error::Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit_once(") ").ok_or("stat")?.1.split(' ').collect();
    let ticks = |at: usize| -> Result<f64, Box<dyn std::error::Error>> { Ok(fields.get(at).ok_or("stat")?.parse()?) };
    Ok((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND)
}

async fn write(
    store: Store,
    client: usize,
    until: Instant,
    values: Arc<Values>,
) -> Result<Vec<Duration>, skiff_kine::Error> {
    let mut latencies = Vec::new();
    let mut revisions = [Revision(0); KEYS];
    for n in 0.. {
        let started = Instant::now();
        if started >= until {
            break;
        }
        let key = format!("/registry/configmaps/default/client-{client:04}-{:06}", n % KEYS);
        let txn = Txn::new()
            .when(Compare::mod_revision(key.clone(), revisions[n % KEYS]))
            .then(Op::Put(PutRequest::new(key.clone(), values.get(n + client))))
            .otherwise(Op::Range(RangeRequest::new(KeyRange::key(key))));
        let response = store.txn(txn).await?;
        if response.succeeded {
            revisions[n % KEYS] = response.revision;
        }
        latencies.push(started.elapsed());
    }
    Ok(latencies)
}
