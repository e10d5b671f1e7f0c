//! Costs of the API server itself: `cargo xtask bench api`.
//!
//! One server on the memory backend, driven in this process by a user whom RBAC
//! must let in, with all admission plugins; requests go through the whole chain
//! (flow control, authorization, decoding, admission, managed fields,
//! validation, watch caches), but not through TLS and HTTP framing. CPU is that
//! of the process, so the little that the driver does is counted too.

#[path = "setup/config.rs"]
mod config;
#[path = "setup/running.rs"]
mod running;

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use skiff_apiserver::{ApiServer, Config, MemoryBackend, UserInfo, body};
use tokio_util::sync::CancellationToken;

type Result<T> = std::result::Result<T, config::Error>;

/// Clock ticks of /proc; the same on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;
/// Bytes of a pod as it is sent.
const POD_BYTES: usize = 4096;
const PODS_LISTED: usize = 10_000;
const WATCHERS: usize = 1000;
const EVENTS: usize = 5000;
const EVENTS_PER_SECOND: u32 = 1000;
const OBJECTS: usize = 100_000;
const NAMESPACE: &str = "/api/v1/namespaces/bench";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let only = std::env::args().nth(1);
    let wants = |name: &str| only.as_deref().is_none_or(|only| only == name);
    if wants("requests") {
        requests(&Bench::start().await?).await?;
    }
    if wants("list") {
        list(&Bench::start().await?).await?;
    }
    if wants("watch") {
        watch(&Bench::start().await?).await?;
    }
    if wants("memory") {
        memory(&Bench::start().await?).await?;
    }
    Ok(())
}

struct Bench {
    server: ApiServer,
    user: UserInfo,
    stop: CancellationToken,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Bench {
    /// A server with its bootstrap objects, a namespace and a user with a role.
    async fn start() -> Result<Bench> {
        let stop = CancellationToken::new();
        let config = Config { anonymous: false, ..config::config(MemoryBackend::default())? };
        let server = running::start(config, &stop).await?;
        let mut bench = Bench { server, user: running::administrator(), stop };
        bench.create("/api/v1/namespaces", &json!({"metadata": {"name": "bench"}})).await?;
        bench.create(&format!("{NAMESPACE}/serviceaccounts"), &json!({"metadata": {"name": "default"}})).await?;
        let binding = json!({"metadata": {"name": "bench"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
            "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "bench"}]});
        let bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/bench/rolebindings";
        bench.create(bindings, &binding).await?;
        // Reads its own write, so that the role is in force.
        bench.bytes("GET", &format!("{bindings}/bench"), "", Bytes::new()).await?;
        bench.user = UserInfo::new("bench", &["system:authenticated"]);
        Ok(bench)
    }

    async fn open(&self, method: &str, path: &str, content_type: &str, body: Bytes) -> Result<body::Body> {
        let mut request = Request::builder().method(method).uri(path).header("user-agent", "bench/1.0");
        if !content_type.is_empty() {
            request = request.header("content-type", content_type);
        }
        let response = self.server.handle_as(request.body(body::full(body))?, self.user.clone()).await;
        let (parts, body) = response.into_parts();
        if parts.status.is_success() {
            return Ok(body);
        }
        let text = body.collect().await?.to_bytes();
        Err(format!("{method} {path}: {}: {}", parts.status, String::from_utf8_lossy(&text)).into())
    }

    /// Bytes of the answer, which is thrown away piece by piece.
    async fn bytes(&self, method: &str, path: &str, content_type: &str, body: Bytes) -> Result<usize> {
        let mut answer = self.open(method, path, content_type, body).await?;
        let mut count = 0;
        while let Some(frame) = answer.frame().await {
            count += frame?.data_ref().map_or(0, Bytes::len);
        }
        Ok(count)
    }

    async fn create(&self, path: &str, object: &Value) -> Result<usize> {
        self.bytes("POST", path, "application/json", Bytes::from(object.to_string())).await
    }
}

/// Pods of [`POD_BYTES`], alike but for their names.
struct Pods(Value);

impl Default for Pods {
    fn default() -> Self {
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "", "labels": {"app": "bench"}},
            "spec": {"containers": [
                {"name": "one", "image": "registry.example.com/team/service:1.2.3",
                    "ports": [{"containerPort": 8080, "name": "http"}],
                    "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
                    "env": [{"name": "MODE", "value": "production"}],
                    "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}},
                    "volumeMounts": [{"name": "settings", "mountPath": "/etc/settings"}]}],
                "volumes": [{"name": "settings", "configMap": {"name": "settings"}}]}});
        let mut number = 0;
        while pod.to_string().len() < POD_BYTES {
            let name = format!("VARIABLE_{number}");
            let value = format!("some text of a variable, number {number}");
            if let Some(list) = pod["spec"]["containers"][0]["env"].as_array_mut() {
                list.push(json!({"name": name, "value": value}));
            }
            number += 1;
        }
        Pods(pod)
    }
}

impl Pods {
    fn named(&self, name: &str) -> Bytes {
        let mut pod = self.0.clone();
        pod["metadata"]["name"] = json!(name);
        Bytes::from(pod.to_string())
    }
}

async fn requests(bench: &Bench) -> Result<()> {
    const ROUNDS: usize = 4000;
    let pods = format!("{NAMESPACE}/pods");
    // Made before the clock starts: that is the client's work.
    let bodies = Pods::default();
    let bodies: Vec<Bytes> = (0..ROUNDS).map(|number| bodies.named(&format!("pod-{number}"))).collect();
    let begun = Cpu::now()?;
    for body in bodies {
        bench.bytes("POST", &pods, "application/json", body).await?;
    }
    begun.report("CREATE of a 4 KiB pod", ROUNDS, "goal 150 us")?;
    let begun = Cpu::now()?;
    for number in 0..ROUNDS {
        let patch = json!({"metadata": {"annotations": {"round": number.to_string()}}}).to_string();
        let path = format!("{pods}/pod-{number}");
        bench.bytes("PATCH", &path, "application/merge-patch+json", Bytes::from(patch)).await?;
    }
    begun.report("PATCH of a 4 KiB pod (merge)", ROUNDS, "goal 150 us")?;
    let begun = Cpu::now()?;
    for number in 0..ROUNDS {
        let patch = json!({"metadata": {"annotations": {"round": "s"}}}).to_string();
        let path = format!("{pods}/pod-{number}");
        bench.bytes("PATCH", &path, "application/strategic-merge-patch+json", Bytes::from(patch)).await?;
    }
    begun.report("PATCH of a 4 KiB pod (strategic)", ROUNDS, "goal 150 us")?;
    let begun = Cpu::now()?;
    for number in 0..ROUNDS * 5 {
        bench.bytes("GET", &format!("{pods}/pod-{}", number % ROUNDS), "", Bytes::new()).await?;
    }
    begun.report("GET of a 4 KiB pod", ROUNDS * 5, "goal 25 us")
}

async fn list(bench: &Bench) -> Result<()> {
    const ROUNDS: usize = 20;
    let pods = format!("{NAMESPACE}/pods");
    let bodies = Pods::default();
    for number in 0..PODS_LISTED {
        bench.bytes("POST", &pods, "application/json", bodies.named(&format!("pod-{number}"))).await?;
    }
    bench.bytes("GET", &pods, "", Bytes::new()).await?;
    let (before, begun) = (memory_peak_reset()?, Cpu::now()?);
    let mut bytes = 0;
    for _ in 0..ROUNDS {
        bytes += bench.bytes("GET", &format!("{pods}?resourceVersion=0"), "", Bytes::new()).await?;
    }
    let (cpu, peak) = (begun.seconds()?, status("VmHWM:")?);
    println!(
        "LIST of {PODS_LISTED} pods: {:.1} MB each, {:.2} GB per second of CPU (goal 1), RSS grows by {:.1} MB (goal 10)",
        bytes as f64 / ROUNDS as f64 / 1e6,
        bytes as f64 / cpu / 1e9,
        (peak - before) as f64 / 1e3
    );
    Ok(())
}

/// When each event was sent, in microseconds since the start.
struct Sent {
    start: Instant,
    at: Vec<AtomicU64>,
}

impl Sent {
    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Reads a watch to its last event; how late each one was. Only the last number of a frame is looked for:
    /// events come in order, and the client's work should not be what is measured.
    async fn follow(&self, mut body: body::Body) -> Result<Vec<u64>> {
        const MARK: &[u8] = b"\"number\":\"";
        let mut lags = Vec::with_capacity(self.at.len());
        while lags.len() < self.at.len() {
            let frame = body.frame().await.ok_or("the watch ended")??;
            let Ok(data) = frame.into_data() else { continue };
            let Some(mark) = data.windows(MARK.len()).rposition(|window| window == MARK) else { continue };
            let digits = data[mark + MARK.len()..].iter().take_while(|byte| byte.is_ascii_digit());
            let last = digits.fold(0, |number, digit| number * 10 + usize::from(digit - b'0'));
            let now = self.now();
            let news = self.at.get(lags.len()..=last).ok_or("events out of order")?;
            lags.extend(news.iter().map(|sent| now.saturating_sub(sent.load(Ordering::Relaxed))));
        }
        Ok(lags)
    }
}

async fn watch(bench: &Bench) -> Result<()> {
    let maps = format!("{NAMESPACE}/configmaps");
    let mut watchers = tokio::task::JoinSet::new();
    let sent = Sent { start: Instant::now(), at: (0..EVENTS).map(|_| AtomicU64::default()).collect() };
    let sent = Arc::new(sent);
    for _ in 0..WATCHERS {
        let (sent, body) = (Arc::clone(&sent), bench.open("GET", &format!("{maps}?watch=1"), "", Bytes::new()).await?);
        watchers.spawn(async move { sent.follow(body).await });
    }
    let (begun, wall) = (Cpu::now()?, Instant::now());
    let mut next = tokio::time::interval(Duration::from_secs(1) / EVENTS_PER_SECOND);
    for (number, at) in sent.at.iter().enumerate() {
        next.tick().await;
        at.store(sent.now(), Ordering::Relaxed);
        let object = json!({"metadata": {"name": format!("map-{number}")}, "data": {"number": number.to_string()}});
        bench.create(&maps, &object).await?;
    }
    let mut lags: Vec<u64> = Vec::with_capacity(WATCHERS * EVENTS);
    while let Some(result) = watchers.join_next().await {
        lags.extend(result??);
    }
    let (cpu, wall) = (begun.seconds()?, wall.elapsed().as_secs_f64());
    lags.sort_unstable();
    println!(
        "{WATCHERS} watchers, {EVENTS} events: {} delivered in {wall:.2} s with {cpu:.2} s of CPU (goal 1 core), \
         {:.2} us each; lag p50 {:.1} ms, p99 {:.1} ms (goal 50)",
        lags.len(),
        cpu * 1e6 / lags.len().max(1) as f64,
        lags.get(lags.len() / 2).copied().unwrap_or_default() as f64 / 1e3,
        lags.get(lags.len() * 99 / 100).copied().unwrap_or_default() as f64 / 1e3,
    );
    Ok(())
}

async fn memory(bench: &Bench) -> Result<()> {
    let maps = format!("{NAMESPACE}/configmaps");
    let text = "x".repeat(700);
    let before = status("VmRSS:")?;
    for number in 0..OBJECTS {
        let object = json!({"metadata": {"name": format!("map-{number}")}, "data": {"text": text}});
        bench.create(&maps, &object).await?;
    }
    let stored = bench.bytes("GET", &format!("{maps}?resourceVersion=0"), "", Bytes::new()).await?;
    let grown = (status("VmRSS:")? - before) as f64 * 1e3;
    println!(
        "{OBJECTS} objects of {} bytes: RSS grows by {:.1} times the stored bytes (goal 3); the memory backend's own \
         copy is counted",
        stored / OBJECTS,
        grown / stored as f64
    );
    Ok(())
}

/// A field of `/proc/self/status`, in kB.
fn status(name: &str) -> Result<u64> {
    let text = fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find(|line| line.starts_with(name)).ok_or("no such field")?;
    Ok(line.split_whitespace().nth(1).ok_or("no value")?.parse()?)
}

/// Sets the peak back to what is used now, and returns that.
fn memory_peak_reset() -> Result<u64> {
    fs::write("/proc/self/clear_refs", "5")?;
    status("VmRSS:")
}

/// CPU time of this process at a moment.
struct Cpu(f64);

impl Cpu {
    fn now() -> Result<Cpu> {
        let stat = fs::read_to_string("/proc/self/stat")?;
        let fields: Vec<&str> = stat.rsplit_once(") ").ok_or("stat")?.1.split(' ').collect();
        let ticks = |at: usize| -> Result<f64> { Ok(fields.get(at).ok_or("stat")?.parse()?) };
        Ok(Cpu((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND))
    }

    fn seconds(&self) -> Result<f64> {
        Ok(Cpu::now()?.0 - self.0)
    }

    fn report(&self, what: &str, count: usize, goal: &str) -> Result<()> {
        println!("{what}: {:.1} us of CPU ({goal})", self.seconds()? * 1e6 / count as f64);
        Ok(())
    }
}
