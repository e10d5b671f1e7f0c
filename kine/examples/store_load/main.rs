//! Load on an etcd endpoint, ours or etcd's: `store_load ENDPOINT SHAPE CLIENTS CONNECTIONS SECONDS [KEYS] [VALUES] [RATE]`.
//!
//! Speaks gRPC only and knows nothing of the server. Keys have 48 bytes and values 1 KiB; writes
//! are the transactions of an API server: they compare the revision of the last change. Prints
//! `begin` when the warm-up is over, and one line of JSON at the end.

mod admin;
mod values;
mod watch;

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use skiff_kine::grpc::pb::etcdserverpb as pb;
use skiff_kine::grpc::pb::etcdserverpb::kv_client::KvClient;
use tonic::transport::{Channel, Endpoint};

use values::Values;

type Failure = Box<dyn Error + Send + Sync>;

/// Keys that `fill` writes, if not said otherwise.
const KEYS: &str = "100000";
/// Keys each client of `update` and `churn` works on.
const LEARNED_KEYS: usize = 20;
/// Keys each client of `flood` works on, as a node's lease is written again and again.
const FLOODED_KEYS: usize = 100;
/// How often `garbage` writes every key.
const GARBAGE_ROUNDS: usize = 2;
const PAGE: i64 = 500;
const USAGE: &str = "usage: store_load ENDPOINT fill|create|update|churn|flood|garbage|get|list|watch|compact|ready CLIENTS CONNECTIONS SECONDS \
                     [KEYS [object|noise [RATE]]]";
const WARM_UP: Duration = Duration::from_secs(2);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [endpoint, shape, clients, connections, seconds, options @ ..] = &arguments[..] else {
        return Err(USAGE.into());
    };
    let option = |at: usize, otherwise: &str| options.get(at).cloned().unwrap_or_else(|| otherwise.to_owned());
    let (clients, connections): (usize, usize) = (clients.parse()?, connections.parse()?);
    let values = Values::new(&option(1, "object")).ok_or(USAGE)?;
    let rate: u64 = option(2, "0").parse()?;
    match shape.as_str() {
        "ready" => return admin::ready(endpoint, Duration::from_secs(seconds.parse()?)).await,
        "compact" => return admin::compact(endpoint).await,
        _ => {}
    }
    let mut channels = Vec::new();
    for _ in 0..connections {
        channels.push(Endpoint::from_shared(endpoint.clone())?.tcp_nodelay(true).connect().await?);
    }
    if shape == "watch" {
        return watch::run(&channels, clients, rate, Duration::from_secs(seconds.parse()?), values).await;
    }
    // Those two end when their work is done, not at a time.
    let is_bounded = matches!(shape.as_str(), "fill" | "garbage");
    let begin = Instant::now() + if is_bounded { Duration::ZERO } else { WARM_UP };
    let end = begin + Duration::from_secs(seconds.parse()?);
    let pace = (rate > 0).then(|| Duration::from_secs_f64(clients as f64 / rate as f64));
    let keys = option(0, KEYS).parse()?;
    let run = Arc::new(Run { shape: shape.clone(), clients, begin, end, keys, pace, values });
    let mut work = tokio::task::JoinSet::new();
    for client in 0..clients {
        let kv = KvClient::new(channels[client % connections].clone()).max_decoding_message_size(64 << 20);
        work.spawn(Client { kv, number: client, run: run.clone(), latencies: Vec::new() }.work());
    }
    tokio::time::sleep_until(begin.into()).await;
    println!("begin");
    let mut latencies = Vec::new();
    while let Some(done) = work.join_next().await {
        latencies.extend(done??);
    }
    let until = if is_bounded { Instant::now() } else { end };
    let elapsed = Instant::now().min(until).max(begin + Duration::from_millis(1)).duration_since(begin);
    latencies.sort_unstable();
    let at =
        |share: f64| latencies.get((latencies.len().saturating_sub(1) as f64 * share) as usize).copied().unwrap_or(0);
    println!(
        "{}",
        serde_json::json!({
            "operations": latencies.len(),
            "seconds": elapsed.as_secs_f64(),
            "p50_us": at(0.5), "p99_us": at(0.99), "p999_us": at(0.999),
        })
    );
    Ok(())
}

struct Run {
    shape: String,
    clients: usize,
    begin: Instant,
    end: Instant,
    keys: usize,
    /// Time from one operation of a client to its next, if there is a rate to keep.
    pace: Option<Duration>,
    values: Values,
}

struct Client {
    kv: KvClient<Channel>,
    number: usize,
    run: Arc<Run>,
    /// Microseconds of operations that began after the warm-up.
    latencies: Vec<u32>,
}

fn key(kind: &str, n: usize) -> Bytes {
    let key = format!("/registry/{kind}/namespace-{:04}/name-", n % 100);
    let width = 48 - key.len();
    Bytes::from(format!("{key}{n:0width$}"))
}

impl Client {
    async fn work(mut self) -> Result<Vec<u32>, Failure> {
        let mut own: Vec<usize> = (self.number..self.run.keys).step_by(self.run.clients).collect();
        match self.run.shape.as_str() {
            // Their revisions must be learned during the warm-up.
            "update" | "churn" => own.truncate(LEARNED_KEYS),
            "flood" => own.truncate(FLOODED_KEYS),
            _ => {}
        }
        let mut due = Instant::now();
        let mut revisions = vec![0_i64; own.len()];
        let mut after = key("configmaps", 0);
        for n in 0.. {
            let mut started = Instant::now();
            if let Some(pace) = self.run.pace {
                due += pace;
                tokio::time::sleep_until(due.into()).await;
                // Time is taken from when the operation was to begin.
                started = due;
            }
            let at = n % own.len();
            let over = match self.run.shape.as_str() {
                "fill" => n == own.len(),
                "garbage" => n == own.len() * GARBAGE_ROUNDS,
                _ => started >= self.run.end,
            };
            if over {
                break;
            }
            let counted = match self.run.shape.as_str() {
                "fill" => self.swap(key("configmaps", own[at]), &mut revisions[at], true).await?,
                "create" => {
                    let unique =
                        (std::process::id() as usize % 100_000) * 1_000_000_000 + n * self.run.clients + self.number;
                    self.swap(key("secrets", unique), &mut 0, true).await?
                }
                "garbage" => {
                    let (key, value) = (key("configmaps", own[at]), self.run.values.get(n));
                    self.kv.put(pb::PutRequest { key, value, ..Default::default() }).await.map(|_| true)?
                }
                "update" | "flood" => self.swap(key("configmaps", own[at]), &mut revisions[at], true).await?,
                // Nine updates, one deletion; the next update creates the key again.
                "churn" => self.swap(key("configmaps", own[at]), &mut revisions[at], n % 10 != 9).await?,
                "get" => {
                    self.page(key("configmaps", own[(n * 7919) % own.len()]), Bytes::new(), 0).await.map(|_| true)?
                }
                "list" => {
                    let end = Bytes::from_static(b"/registry/configmaps0");
                    let last = self.page(after, end, PAGE).await?;
                    after = last.unwrap_or_else(|| Bytes::from_static(b"/registry/configmaps/"));
                    true
                }
                other => return Err(format!("no shape {other:?}").into()),
            };
            if counted && started >= self.run.begin {
                self.latencies.push(u32::try_from(started.elapsed().as_micros()).unwrap_or(u32::MAX));
            }
        }
        Ok(self.latencies)
    }

    /// Writes or deletes if the last change is `revision`; otherwise learns which it is.
    async fn swap(&mut self, key: Bytes, revision: &mut i64, put: bool) -> Result<bool, Failure> {
        use pb::compare::{CompareResult, CompareTarget, TargetUnion};
        use pb::request_op::Request;
        let compare = pb::Compare {
            result: CompareResult::Equal.into(),
            target: CompareTarget::Mod.into(),
            key: key.clone(),
            target_union: Some(TargetUnion::ModRevision(*revision)),
            ..Default::default()
        };
        let then = match put {
            true => Request::RequestPut(pb::PutRequest {
                key: key.clone(),
                value: self.run.values.get(self.latencies.len() + self.number),
                ..Default::default()
            }),
            false => Request::RequestDeleteRange(pb::DeleteRangeRequest { key: key.clone(), ..Default::default() }),
        };
        let otherwise = Request::RequestRange(pb::RangeRequest { key, ..Default::default() });
        let op = |request| pb::RequestOp { request: Some(request) };
        let txn = pb::TxnRequest { compare: vec![compare], success: vec![op(then)], failure: vec![op(otherwise)] };
        let answer = self.kv.txn(txn).await?.into_inner();
        if answer.succeeded {
            *revision = if put { answer.header.map_or(0, |header| header.revision) } else { 0 };
            return Ok(true);
        }
        let found = match answer.responses.into_iter().next().and_then(|op| op.response) {
            Some(pb::response_op::Response::ResponseRange(range)) => range.kvs.into_iter().next(),
            _ => None,
        };
        *revision = found.map_or(0, |kv| kv.mod_revision);
        Ok(false)
    }

    /// Reads one key or a page; answers where the next page begins, if there is one.
    async fn page(&mut self, key: Bytes, range_end: Bytes, limit: i64) -> Result<Option<Bytes>, Failure> {
        let request = pb::RangeRequest { key, range_end, limit, ..Default::default() };
        let answer = self.kv.range(request).await?.into_inner();
        if answer.kvs.is_empty() {
            return Err("a read found nothing: fill first".into());
        }
        let last = answer.kvs.last().filter(|_| answer.more);
        Ok(last.map(|kv| [&kv.key[..], b"\0"].concat().into()))
    }
}
