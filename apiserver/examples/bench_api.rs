//! Costs of the API server itself: `cargo xtask bench api`.
//!
//! One server on the memory backend, driven in this process by a user whom RBAC
//! must let in, with all admission plugins; requests go through the whole chain
//! (flow control, authorization, decoding, admission, managed fields,
//! validation, watch caches), but not through TLS and HTTP framing. CPU is that
//! of the process, so the little that the driver does is counted too.

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use base64::Engine;
use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use skiff_apiserver::{ApiServer, Config, MemoryBackend, TokenIssuer, UserInfo, VersionInfo, body};
use tokio_util::sync::CancellationToken;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Clock ticks of /proc; the same on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;
/// Bytes of a pod as it is sent.
const POD_BYTES: usize = 4096;
const PODS_LISTED: usize = 10_000;
const WATCHERS: usize = 1000;
const EVENTS: usize = 1000;
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
        let random = ring::rand::SystemRandom::new();
        let algorithm = &ring::signature::ECDSA_P256_SHA256_FIXED_SIGNING;
        let key = ring::signature::EcdsaKeyPair::generate_pkcs8(algorithm, &random).map_err(|_| "generate key")?;
        let key = base64::engine::general_purpose::STANDARD.encode(key.as_ref());
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{key}\n-----END PRIVATE KEY-----\n");
        let stop = CancellationToken::new();
        let config = Config {
            backend: Arc::new(MemoryBackend::default()),
            client_ca: Vec::new(),
            request_header_ca: Vec::new(),
            request_header_names: Vec::new(),
            anonymous: false,
            tokens: Vec::new(),
            token_issuer: Arc::new(TokenIssuer::new("https://kubernetes.default.svc", Vec::new(), &pem, &[])?),
            service_cidrs: vec!["10.43.0.0/16".parse()?],
            node_ports: 30000..=32767,
            server_address: "127.0.0.1:6443".to_owned(),
            version: VersionInfo::default(),
            proxy: None,
            health_checks: Vec::new(),
        };
        let server = ApiServer::new(config, stop.clone())?;
        let running = server.clone();
        tokio::spawn(async move { running.run().await });
        server.ready().await;
        let administrator = UserInfo::new("admin", &["system:masters"]);
        let bootstrap = skiff_apiserver::bootstrap::Bootstrap {
            client_ca_pem: String::new(),
            request_header_ca_pem: String::new(),
            service_cidrs: vec!["10.43.0.0/16".parse()?],
            advertise_address: "192.0.2.1".parse()?,
            advertise_port: 6443,
        };
        bootstrap.run(&server.client(administrator.clone(), "bench")).await?;
        let mut bench = Bench { server, user: administrator, stop };
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

/// A pod of [`POD_BYTES`].
fn pod(name: &str) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "bench"}},
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
    pod
}

async fn requests(bench: &Bench) -> Result<()> {
    const ROUNDS: usize = 4000;
    let pods = format!("{NAMESPACE}/pods");
    let begun = Cpu::now()?;
    for number in 0..ROUNDS {
        bench.create(&pods, &pod(&format!("pod-{number}"))).await?;
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
    for number in 0..PODS_LISTED {
        bench.create(&pods, &pod(&format!("pod-{number}"))).await?;
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

async fn watch(bench: &Bench) -> Result<()> {
    let maps = format!("{NAMESPACE}/configmaps");
    let mut watchers = tokio::task::JoinSet::new();
    for _ in 0..WATCHERS {
        let mut body = bench.open("GET", &format!("{maps}?watch=1"), "", Bytes::new()).await?;
        watchers.spawn(async move {
            let (mut seen, mut lags) = (0, Vec::new());
            let mut text = Vec::new();
            while seen < EVENTS {
                let Some(Ok(frame)) = body.frame().await else { break };
                let Ok(data) = frame.into_data() else { continue };
                text.extend_from_slice(&data);
                while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = text.drain(..=end).collect();
                    let sent = line.windows(6).rposition(|window| window == b"sent\":");
                    let digits: String = sent
                        .map(|at| {
                            line[at + 7..].iter().take_while(|byte| byte.is_ascii_digit()).map(|b| char::from(*b))
                        })
                        .map(Iterator::collect)
                        .unwrap_or_default();
                    if let Ok(sent) = digits.parse::<u128>() {
                        lags.push(now_us().saturating_sub(sent));
                        seen += 1;
                    }
                }
            }
            lags
        });
    }
    let (begun, wall) = (Cpu::now()?, Instant::now());
    let pause = Duration::from_secs(1) / u32::try_from(EVENTS)?;
    let mut next = tokio::time::interval(pause);
    for number in 0..EVENTS {
        next.tick().await;
        let object = json!({"metadata": {"name": format!("map-{number}")}, "data": {"sent": now_us().to_string()}});
        bench.create(&maps, &object).await?;
    }
    let mut lags: Vec<u128> = Vec::with_capacity(WATCHERS * EVENTS);
    while let Some(result) = watchers.join_next().await {
        lags.extend(result?);
    }
    let (cpu, wall) = (begun.seconds()?, wall.elapsed().as_secs_f64());
    lags.sort_unstable();
    println!(
        "{WATCHERS} watchers, {EVENTS} events: {} delivered in {wall:.2} s with {cpu:.2} s of CPU, {:.2} us each; \
         lag p50 {:.1} ms, p99 {:.1} ms (goal 50)",
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

fn now_us() -> u128 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_micros())
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
