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
    let keys = option(0, KEYS).parse()?;
    let mut clients_ready = tokio::task::JoinSet::new();
    for number in 0..clients {
        let kv = KvClient::new(channels[number % connections].clone()).max_decoding_message_size(64 << 20);
        let own = own_keys(shape, (number..keys).step_by(clients));
        clients_ready.spawn(
            Client { kv, number, revisions: vec![0; own.len()], own, latencies: Vec::new() }.learn(shape.clone()),
        );
    }
    let mut ready = Vec::new();
    while let Some(client) = clients_ready.join_next().await {
        ready.push(client??);
    }
    // Those two end when their work is done, not at a time.
    let is_bounded = matches!(shape.as_str(), "fill" | "garbage");
    let begin = Instant::now() + if is_bounded { Duration::ZERO } else { WARM_UP };
    let end = begin + Duration::from_secs(seconds.parse()?);
    let pace = (rate > 0).then(|| Duration::from_secs_f64(clients as f64 / rate as f64));
    let run = Arc::new(Run { shape: shape.clone(), clients, begin, end, pace, values });
    let mut work = tokio::task::JoinSet::new();
    for client in ready {
        work.spawn(client.work(run.clone()));
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
    /// Time from one operation of a client to its next, if there is a rate to keep.
    pace: Option<Duration>,
    values: Values,
}

struct Client {
    kv: KvClient<Channel>,
    number: usize,
    /// The keys it works on, and when each was last changed.
    own: Vec<usize>,
    revisions: Vec<i64>,
    /// Microseconds of operations that began after the warm-up.
    latencies: Vec<u32>,
}

/// Shapes that swap work on few keys of their own, over and over.
fn own_keys(shape: &str, all: impl Iterator<Item = usize>) -> Vec<usize> {
    match shape {
        "update" | "churn" => all.take(LEARNED_KEYS).collect(),
        "flood" => all.take(FLOODED_KEYS).collect(),
        _ => all.collect(),
    }
}

fn key(kind: &str, n: usize) -> Bytes {
    let key = format!("/registry/{kind}/namespace-{:04}/name-", n % 100);
    let width = 48 - key.len();
    Bytes::from(format!("{key}{n:0width$}"))
}

impl Client {
    /// Learns the revisions of the keys it will swap.
    async fn learn(mut self, shape: String) -> Result<Client, Failure> {
        if matches!(shape.as_str(), "update" | "churn" | "flood") {
            for at in 0..self.own.len() {
                let request = pb::RangeRequest { key: key("configmaps", self.own[at]), ..Default::default() };
                let answer = self.kv.range(request).await?.into_inner();
                self.revisions[at] = answer.kvs.first().map_or(0, |kv| kv.mod_revision);
            }
        }
        Ok(self)
    }

    async fn work(mut self, run: Arc<Run>) -> Result<Vec<u32>, Failure> {
        let (own, mut revisions) = (std::mem::take(&mut self.own), std::mem::take(&mut self.revisions));
        // Spread over the time between two operations of one client.
        let mut due = Instant::now() + run.pace.unwrap_or_default().mul_f64(self.number as f64 / run.clients as f64);
        let mut after = key("configmaps", 0);
        for n in 0.. {
            let mut started = Instant::now();
            if let Some(pace) = run.pace {
                due += pace;
                tokio::time::sleep_until(due.into()).await;
                // Time is taken from when the operation was to begin.
                started = due;
            }
            let at = n % own.len();
            let over = match run.shape.as_str() {
                "fill" => n == own.len(),
                "garbage" => n == own.len() * GARBAGE_ROUNDS,
                _ => started >= run.end,
            };
            if over {
                break;
            }
            let value = run.values.get(n + self.number);
            let counted = match run.shape.as_str() {
                "fill" => self.swap(key("configmaps", own[at]), &mut revisions[at], Some(value)).await?,
                "create" => {
                    let unique =
                        (std::process::id() as usize % 100_000) * 1_000_000_000 + n * run.clients + self.number;
                    self.swap(key("secrets", unique), &mut 0, Some(value)).await?
                }
                "garbage" => {
                    let key = key("configmaps", own[at]);
                    self.kv.put(pb::PutRequest { key, value, ..Default::default() }).await.map(|_| true)?
                }
                "update" | "flood" => self.swap(key("configmaps", own[at]), &mut revisions[at], Some(value)).await?,
                // Nine updates, one deletion; the next update creates the key again.
                "churn" => {
                    self.swap(key("configmaps", own[at]), &mut revisions[at], (n % 10 != 9).then_some(value)).await?
                }
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
            if counted && started >= run.begin {
                self.latencies.push(u32::try_from(started.elapsed().as_micros()).unwrap_or(u32::MAX));
            }
        }
        Ok(self.latencies)
    }

    /// Writes or deletes if the last change is `revision`; otherwise learns which it is.
    async fn swap(&mut self, key: Bytes, revision: &mut i64, put: Option<Bytes>) -> Result<bool, Failure> {
        use pb::compare::{CompareResult, CompareTarget, TargetUnion};
        use pb::request_op::Request;
        let compare = pb::Compare {
            result: CompareResult::Equal.into(),
            target: CompareTarget::Mod.into(),
            key: key.clone(),
            target_union: Some(TargetUnion::ModRevision(*revision)),
            ..Default::default()
        };
        let is_put = put.is_some();
        let then = match put {
            Some(value) => Request::RequestPut(pb::PutRequest { key: key.clone(), value, ..Default::default() }),
            None => Request::RequestDeleteRange(pb::DeleteRangeRequest { key: key.clone(), ..Default::default() }),
        };
        let otherwise = Request::RequestRange(pb::RangeRequest { key, ..Default::default() });
        let op = |request| pb::RequestOp { request: Some(request) };
        let txn = pb::TxnRequest { compare: vec![compare], success: vec![op(then)], failure: vec![op(otherwise)] };
        let answer = self.kv.txn(txn).await?.into_inner();
        if answer.succeeded {
            *revision = if is_put { answer.header.map_or(0, |header| header.revision) } else { 0 };
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
