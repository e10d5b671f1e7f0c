//! A server under load, and what it uses.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::shell::{find, root};

/// Clock ticks of /proc; the same on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;
const START_DEADLINE: Duration = Duration::from_secs(120);

/// What the load generator says at the end.
#[derive(Clone, Copy, Deserialize)]
pub struct Load {
    pub operations: u64,
    pub seconds: f64,
    pub p50_us: u64,
    pub p99_us: u64,
    pub p999_us: u64,
    /// Writes per second behind the events of `watch`.
    #[serde(default)]
    pub writes: f64,
    /// Only from the generator that is the server too.
    #[serde(default)]
    pub cpu_us: f64,
}

/// What one run of a load came to.
#[derive(Clone, Copy)]
pub struct Measured {
    pub load: Load,
    /// Operations per second.
    pub rate: f64,
    /// Per operation.
    pub cpu_us: f64,
    pub bytes: f64,
}

/// A shape of load: what, by how many, over how many connections.
#[derive(Clone, Copy)]
pub struct Shape {
    pub name: &'static str,
    pub clients: u32,
    pub connections: u32,
    pub values: &'static str,
    /// Operations per second; 0 for as many as go.
    pub rate: u32,
}

impl Shape {
    pub const fn new(name: &'static str, clients: u32, connections: u32) -> Shape {
        Shape { name, clients, connections, values: "object", rate: 0 }
    }

    pub const fn of(self, values: &'static str) -> Shape {
        Shape { values, ..self }
    }

    pub const fn at(self, rate: u32) -> Shape {
        Shape { rate, ..self }
    }
}

/// Which program serves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Ours,
    Etcd,
}

/// A server, ended with this value.
pub struct Server {
    kind: Kind,
    folder: PathBuf,
    child: Child,
    pub url: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        // Only what this value started, and it may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts a server on a folder, which may hold what an earlier one left, and waits until it answers.
    pub fn start(kind: Kind, folder: &Path) -> Result<Server> {
        fs::create_dir_all(folder)?;
        let address = free_address()?;
        let url = format!("http://{address}");
        let mut command = match kind {
            Kind::Ours => {
                let mut command = Command::new(example("serve")?);
                command.arg(folder.join("state.db")).arg(&address);
                command
            }
            Kind::Etcd => etcd(folder, &url)?,
        };
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("start a server")?;
        let server = Server { kind, folder: folder.to_owned(), child, url };
        server.ready()?;
        Ok(server)
    }

    /// Until a linearizable read is answered.
    fn ready(&self) -> Result<()> {
        generate(&self.url, Shape::new("ready", 1, 1), START_DEADLINE.as_secs(), None, &mut || Ok(())).map(drop)
    }

    /// Ends it by SIGKILL and starts it again; answers how long it took to answer.
    pub fn restart(&mut self) -> Result<Duration> {
        self.child.kill()?;
        self.child.wait()?;
        let begun = Instant::now();
        let next = Server::start(self.kind, &self.folder)?;
        let took = begun.elapsed();
        *self = next;
        Ok(took)
    }

    /// Runs a load against it and says what that used.
    pub fn measure(&self, shape: Shape, seconds: u64, keys: Option<u64>) -> Result<Measured> {
        let mut before = None;
        let load = generate(&self.url, shape, seconds, keys, &mut || {
            before = Some(self.usage()?);
            Ok(())
        })?;
        let (before, after) = (before.context("the load did not begin")?, self.usage()?);
        let operations = load.operations.max(1) as f64;
        Ok(Measured {
            load,
            rate: load.operations as f64 / load.seconds,
            cpu_us: (after.cpu_seconds - before.cpu_seconds) * 1e6 / operations,
            bytes: (after.written_bytes - before.written_bytes) / operations,
        })
    }

    /// Bytes of memory it holds.
    pub fn resident(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").trim().parse::<u64>().context("VmRSS")? * 1024)
    }

    /// Bytes of its files.
    pub fn stored(&self) -> Result<u64> {
        fn size(path: &Path) -> Result<u64> {
            let meta = fs::metadata(path)?;
            if !meta.is_dir() {
                use std::os::unix::fs::MetadataExt;
                return Ok(meta.blocks() * 512);
            }
            fs::read_dir(path)?.map(|entry| size(&entry?.path())).sum()
        }
        size(&self.folder)
    }

    fn usage(&self) -> Result<Usage> {
        let pid = self.child.id();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let fields: Vec<&str> = stat.rsplit_once(") ").context("stat")?.1.split(' ').collect();
        let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok()).context("stat");
        let io = fs::read_to_string(format!("/proc/{pid}/io"))?;
        let written = io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).context("write_bytes")?;
        Ok(Usage { cpu_seconds: (ticks(11)? + ticks(12)?) / TICKS_PER_SECOND, written_bytes: written.parse()? })
    }
}

struct Usage {
    cpu_seconds: f64,
    written_bytes: f64,
}

/// Tuned as the comparison demands: room enough, everything else as it comes.
fn etcd(folder: &Path, url: &str) -> Result<Command> {
    let peer = format!("http://{}", free_address()?);
    let mut command = Command::new(find("etcd").context("etcd")?);
    command
        .args(["--name", "default", "--quota-backend-bytes", "8589934592", "--data-dir"])
        .arg(folder.join("etcd"))
        .args(["--listen-client-urls", url, "--advertise-client-urls", url])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("default={peer}")]);
    Ok(command)
}

/// Runs the load generator; `begin` is called when its warm-up is over.
fn generate(
    url: &str,
    shape: Shape,
    seconds: u64,
    keys: Option<u64>,
    begin: &mut dyn FnMut() -> Result<()>,
) -> Result<Load> {
    let keys = keys.unwrap_or(super::KEYS).to_string();
    let numbers = [shape.clients.to_string(), shape.connections.to_string(), seconds.to_string()];
    let mut command = Command::new(example("store_load")?);
    command.args([url, shape.name]).args(numbers).args([&keys, shape.values, &shape.rate.to_string()]);
    let load =
        last_line(command, begin).with_context(|| format!("{} by {} clients on {url}", shape.name, shape.clients))?;
    serde_json::from_str(&load).with_context(|| format!("the load generator said {load:?}"))
}

/// Runs the store and its load in one process.
pub fn in_process(folder: &Path, clients: u32, seconds: u64) -> Result<Load> {
    let mut command = Command::new(example("load")?);
    command.arg(folder.join("in-process.db")).args([clients.to_string(), seconds.to_string()]);
    let load = last_line(command, &mut || Ok(()))?;
    serde_json::from_str(&load).with_context(|| format!("the load generator said {load:?}"))
}

fn last_line(mut command: Command, begin: &mut dyn FnMut() -> Result<()>) -> Result<String> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("start the load generator")?;
    let mut last = String::new();
    for line in BufReader::new(child.stdout.take().context("its output")?).lines() {
        last = line?;
        if last == "begin" {
            begin()?;
        }
    }
    if !child.wait()?.success() {
        bail!("the load generator failed");
    }
    Ok(last)
}

/// The newest build for this or the host's target.
fn example(name: &str) -> Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let mut found = vec![target.join("release/examples").join(name)];
    for entry in fs::read_dir(&target)? {
        found.push(entry?.path().join("release/examples").join(name));
    }
    let age =
        |path: PathBuf| -> Option<(SystemTime, PathBuf)> { Some((fs::metadata(&path).ok()?.modified().ok()?, path)) };
    let newest = found.into_iter().filter_map(age).max();
    newest.map(|(_, path)| path).with_context(|| format!("example {name} is not built"))
}

fn free_address() -> Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}
