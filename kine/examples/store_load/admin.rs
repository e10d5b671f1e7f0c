//! Single requests: is it there, and compaction.

use std::time::{Duration, Instant};

use skiff_kine::grpc::pb::etcdserverpb as pb;
use skiff_kine::grpc::pb::etcdserverpb::kv_client::KvClient;
use tonic::transport::Endpoint;

use crate::Failure;

const PAUSE: Duration = Duration::from_millis(2);

/// Asks until a linearizable read is answered; prints when that was.
pub async fn ready(endpoint: &str, patience: Duration) -> Result<(), Failure> {
    println!("begin");
    let begun = Instant::now();
    let endpoint = Endpoint::from_shared(endpoint.to_owned())?;
    loop {
        let answered = async {
            let mut kv = KvClient::new(endpoint.connect().await?);
            kv.range(pb::RangeRequest { key: "ready".into(), ..Default::default() }).await?;
            Ok::<_, Failure>(())
        };
        match answered.await {
            Ok(()) => break,
            Err(error) if begun.elapsed() > patience => return Err(error),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
    println!(
        "{}",
        serde_json::json!({ "operations": 1, "seconds": begun.elapsed().as_secs_f64(), "p50_us": 0, "p99_us": 0, "p999_us": 0 })
    );
    Ok(())
}

/// Forgets all history; answers when it is gone from disk.
pub async fn compact(endpoint: &str) -> Result<(), Failure> {
    let mut kv = KvClient::new(Endpoint::from_shared(endpoint.to_owned())?.connect().await?);
    let answer = kv.range(pb::RangeRequest { key: "now".into(), ..Default::default() }).await?.into_inner();
    let revision = answer.header.map_or(0, |header| header.revision);
    println!("begin");
    let begun = Instant::now();
    kv.compact(pb::CompactionRequest { revision, physical: true }).await?;
    println!(
        "{}",
        serde_json::json!({ "operations": 1, "seconds": begun.elapsed().as_secs_f64(), "p50_us": 0, "p99_us": 0, "p999_us": 0 })
    );
    Ok(())
}
