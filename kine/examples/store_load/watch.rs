//! Watchers under writes: what is delivered, and how long after the writer had its answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use skiff_kine::grpc::pb::etcdserverpb as pb;
use skiff_kine::grpc::pb::etcdserverpb::kv_client::KvClient;
use skiff_kine::grpc::pb::etcdserverpb::watch_client::WatchClient;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_stream::StreamExt;
use tonic::transport::Channel;

use crate::values::Values;
use crate::{Failure, WARM_UP};

/// Writes under way at once; a store that cannot keep up is measured as that.
const WRITERS_MAX: usize = 256;
const PREFIX: &str = "/registry/events/";

/// When each revision was acknowledged, in microseconds from the start; 0 before that.
struct Acknowledged {
    start: Instant,
    times: Vec<AtomicU64>,
}

impl Acknowledged {
    fn now(&self) -> u64 {
        self.start.elapsed().as_micros() as u64 + 1
    }

    fn slot(&self, revision: i64) -> &AtomicU64 {
        &self.times[revision as usize % self.times.len()]
    }
}

/// Writes `rate` keys a second (0: as fast as it goes) for `length` while `watchers` watch their prefix.
/// Prints events delivered, writes, and the time from acknowledgement to event.
pub async fn run(
    channels: &[Channel],
    watchers: usize,
    rate: u64,
    length: Duration,
    values: Values,
) -> Result<(), Failure> {
    let acknowledged =
        Arc::new(Acknowledged { start: Instant::now(), times: (0..1 << 20).map(|_| AtomicU64::new(0)).collect() });
    let begin = Instant::now() + WARM_UP;
    let end = begin + length;
    let mut watching = JoinSet::new();
    for number in 0..watchers {
        let mut client =
            WatchClient::new(channels[number % channels.len()].clone()).max_decoding_message_size(64 << 20);
        let create = pb::WatchCreateRequest {
            key: PREFIX.into(),
            range_end: "/registry/events0".into(),
            prev_kv: true,
            ..Default::default()
        };
        let request = pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)) };
        let requests = tokio_stream::once(request).chain(tokio_stream::pending());
        let mut events = client.watch(requests).await?.into_inner();
        // The first answer says that the watch stands.
        events.message().await?;
        let acknowledged = acknowledged.clone();
        watching.spawn(async move {
            let mut seen: Vec<(i64, u64)> = Vec::new();
            while let Ok(Some(answer)) = events.message().await {
                let now = acknowledged.now();
                seen.extend(answer.events.iter().filter_map(|event| Some((event.kv.as_ref()?.mod_revision, now))));
                if answer.events.iter().any(|event| event.kv.as_ref().is_some_and(|kv| kv.key.ends_with(b"/last"))) {
                    break;
                }
            }
            seen
        });
    }
    tokio::time::sleep_until(begin.into()).await;
    println!("begin");
    let writes = write(channels, rate, end, &acknowledged, values).await?;
    let elapsed = begin.elapsed();
    let mut client = KvClient::new(channels[0].clone());
    // Who is behind may refuse for a while.
    while client.put(pb::PutRequest { key: format!("{PREFIX}last").into(), ..Default::default() }).await.is_err() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut latencies = Vec::new();
    let mut events = 0;
    while let Some(seen) = watching.join_next().await {
        for (revision, at) in seen? {
            events += 1;
            let acknowledged_at = acknowledged.slot(revision).load(Ordering::Relaxed);
            if acknowledged_at > 0 {
                latencies.push(at.saturating_sub(acknowledged_at));
            }
        }
    }
    let drained = begin.elapsed();
    latencies.sort_unstable();
    let at =
        |share: f64| latencies.get((latencies.len().saturating_sub(1) as f64 * share) as usize).copied().unwrap_or(0);
    println!(
        "{}",
        serde_json::json!({
            "operations": events, "seconds": drained.as_secs_f64(), "writes": writes as f64 / elapsed.as_secs_f64(),
            "p50_us": at(0.5), "p99_us": at(0.99), "p999_us": at(0.999),
        })
    );
    Ok(())
}

async fn write(
    channels: &[Channel],
    rate: u64,
    end: Instant,
    acknowledged: &Arc<Acknowledged>,
    values: Values,
) -> Result<u64, Failure> {
    let turns = Arc::new(Semaphore::new(WRITERS_MAX));
    let begin = Instant::now();
    let mut writing = JoinSet::new();
    let (mut count, mut written) = (0_u64, 0_u64);
    while Instant::now() < end {
        // As many as are due; timers are coarser than a write.
        let due = if rate == 0 { count + 64 } else { (begin.elapsed().as_secs_f64() * rate as f64) as u64 };
        while count < due && Instant::now() < end {
            let turn = turns.clone().acquire_owned().await?;
            let mut client = KvClient::new(channels[count as usize % channels.len()].clone());
            let key = Bytes::from(format!("{PREFIX}namespace-{:04}/event-{:010}", count % 100, count % 5000));
            let put = pb::PutRequest { key, value: values.get(count as usize), ..Default::default() };
            let acknowledged = acknowledged.clone();
            writing.spawn(async move {
                let _turn = turn;
                // A store that is asked for too much refuses some.
                let Ok(answer) = client.put(put).await else { return false };
                let revision = answer.into_inner().header.map_or(0, |header| header.revision);
                acknowledged.slot(revision).store(acknowledged.now(), Ordering::Relaxed);
                true
            });
            count += 1;
        }
        while let Some(was_written) = writing.try_join_next() {
            written += u64::from(was_written?);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    while let Some(was_written) = writing.join_next().await {
        written += u64::from(was_written?);
    }
    Ok(written)
}
