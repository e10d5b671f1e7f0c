//! The store beside Debian's etcd, in one run: `cargo xtask bench store [SECONDS]`.
//!
//! Both servers run at once over loopback TCP without TLS, each on a folder of its own on the same
//! file system, and both sync before they acknowledge. One load generator (an example of the
//! store) drives them in turn, the order changing with every row; a server that is not driven
//! rests. CPU and bytes written are those of the server process in the measured time.

use std::{
    fs::{self, File, OpenOptions},
    io::{BufRead, BufReader},
    net::{TcpListener, TcpStream},
    os::unix::fs::FileExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::shell::{find, root, run};

/// Shape, clients, connections: the procedures of an API server's store.
const ROWS: &[(&str, u32, u32)] = &[
    ("create", 1, 1),
    ("create", 64, 8),
    ("create", 256, 16),
    ("create", 1000, 100),
    ("update", 64, 8),
    ("update", 256, 16),
    ("update", 1000, 100),
    ("churn", 256, 16),
    ("get", 1, 1),
    ("get", 64, 8),
    ("get", 256, 16),
    ("list", 1, 1),
    ("list", 64, 8),
];
/// Clock ticks of /proc; the same on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// What the load generator says at the end.
#[derive(Deserialize)]
struct Load {
    operations: u64,
    seconds: f64,
    p50_us: u64,
    p99_us: u64,
}

struct Measured {
    rate: f64,
    p50_us: u64,
    p99_us: u64,
    cpu_us: f64,
    bytes: f64,
}

/// Runs every row and prints a table for docs/performance.md.
pub fn store(seconds: Option<&str>) -> Result<()> {
    let seconds: u64 = seconds.unwrap_or("10").parse().context("how many seconds per row?")?;
    if find("etcd").is_none() {
        bail!("etcd is missing; cargo xtask setup --tests installs it");
    }
    run("cargo", &["build", "--release", "-p", "skiff-kine", "--example", "serve", "--example", "store_load"])?;
    let folder = root().join(format!("target/bench-store-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let result = compare(&folder, seconds);
    fs::remove_dir_all(&folder).context("clean up")?;
    result
}

fn compare(folder: &Path, seconds: u64) -> Result<()> {
    println!(
        "fdatasync of 4 KiB on this file system: {:.0}/s; {seconds} s per row and side\n",
        syncs_per_second(folder)?
    );
    let servers = [Server::ours(folder)?, Server::etcd(folder)?];
    for server in &servers {
        load(&server.url, "fill", 64, 8, 0, &mut || Ok(()))?;
    }
    println!(
        "| shape | clients | ours op/s | etcd op/s | ratio | p50 ours / etcd ms | p99 ours / etcd ms | CPU ours / etcd µs/op | ratio | bytes ours / etcd per op |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for (i, (shape, clients, connections)) in ROWS.iter().copied().enumerate() {
        let measure = |server: &Server| server.measure(shape, clients, connections, seconds);
        let (ours, etcd) = if i % 2 == 0 {
            let ours = measure(&servers[0])?;
            (ours, measure(&servers[1])?)
        } else {
            let etcd = measure(&servers[1])?;
            (measure(&servers[0])?, etcd)
        };
        let ms = |us: u64| us as f64 / 1e3;
        println!(
            "| {shape} | {clients} | {:.0} | {:.0} | **{:.2}** | {:.2} / {:.2} | {:.2} / {:.2} | {:.0} / {:.0} | {:.2} | {:.0} / {:.0} |",
            ours.rate,
            etcd.rate,
            ours.rate / etcd.rate,
            ms(ours.p50_us),
            ms(etcd.p50_us),
            ms(ours.p99_us),
            ms(etcd.p99_us),
            ours.cpu_us,
            etcd.cpu_us,
            ours.cpu_us / etcd.cpu_us,
            ours.bytes,
            etcd.bytes,
        );
    }
    Ok(())
}

/// A server under load, ended with this value.
struct Server {
    child: Child,
    url: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        // Only what this value started, and it may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn ours(folder: &Path) -> Result<Server> {
        let address = free_address()?;
        let mut command = Command::new(example("serve")?);
        command.arg(folder.join("state.db")).arg(&address);
        Server::start(command, &address)
    }

    /// Tuned as the comparison demands: room enough, everything else as it comes.
    fn etcd(folder: &Path) -> Result<Server> {
        let (address, peer) = (free_address()?, format!("http://{}", free_address()?));
        let url = format!("http://{address}");
        let mut command = Command::new(find("etcd").context("etcd")?);
        command
            .args(["--name", "default", "--quota-backend-bytes", "8589934592", "--data-dir"])
            .arg(folder.join("etcd"))
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")]);
        Server::start(command, &address)
    }

    fn start(mut command: Command, address: &str) -> Result<Server> {
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("start a server")?;
        let server = Server { child, url: format!("http://{address}") };
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(address).is_err() {
            if Instant::now() > deadline {
                bail!("nothing listens on {address}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        // etcd listens before it has elected itself.
        std::thread::sleep(Duration::from_secs(2));
        Ok(server)
    }

    fn measure(&self, shape: &str, clients: u32, connections: u32, seconds: u64) -> Result<Measured> {
        let pid = self.child.id();
        let mut before = None;
        let load = load(&self.url, shape, clients, connections, seconds, &mut || {
            before = Some(Usage::read(pid)?);
            Ok(())
        })?;
        let (before, after) = (before.context("the load did not begin")?, Usage::read(pid)?);
        let operations = load.operations.max(1) as f64;
        Ok(Measured {
            rate: load.operations as f64 / load.seconds,
            p50_us: load.p50_us,
            p99_us: load.p99_us,
            cpu_us: (after.cpu_seconds - before.cpu_seconds) * 1e6 / operations,
            bytes: (after.written_bytes - before.written_bytes) / operations,
        })
    }
}

/// Runs the load generator; `begin` is called when its warm-up is over.
fn load(
    url: &str,
    shape: &str,
    clients: u32,
    connections: u32,
    seconds: u64,
    begin: &mut dyn FnMut() -> Result<()>,
) -> Result<Load> {
    let mut child = Command::new(example("store_load")?)
        .args([url, shape, &clients.to_string(), &connections.to_string(), &seconds.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .context("start the load generator")?;
    let mut last = String::new();
    for line in BufReader::new(child.stdout.take().context("its output")?).lines() {
        last = line?;
        if last == "begin" {
            begin()?;
        }
    }
    if !child.wait()?.success() {
        bail!("{shape} with {clients} clients on {url} failed");
    }
    serde_json::from_str(&last).with_context(|| format!("the load generator said {last:?}"))
}

/// The newest build for this or the host's target.
fn example(name: &str) -> Result<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root().join("target"))? {
        found.push(entry?.path().join("release/examples").join(name));
    }
    found.push(root().join("target/release/examples").join(name));
    let newest = found.into_iter().filter_map(|path| Some((fs::metadata(&path).ok()?.modified().ok()?, path))).max();
    newest.map(|(_, path)| path).with_context(|| format!("example {name} is not built"))
}

fn free_address() -> Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

fn syncs_per_second(folder: &Path) -> Result<f64> {
    let path = folder.join("sync");
    let file: File = OpenOptions::new().create(true).truncate(true).write(true).open(&path)?;
    let begun = Instant::now();
    let mut syncs = 0_u64;
    while begun.elapsed() < Duration::from_secs(2) {
        file.write_all_at(&[1; 4096], (syncs % 256) * 4096)?;
        file.sync_data()?;
        syncs += 1;
    }
    fs::remove_file(path)?;
    Ok(syncs as f64 / begun.elapsed().as_secs_f64())
}

struct Usage {
    cpu_seconds: f64,
    written_bytes: f64,
}

impl Usage {
    fn read(pid: u32) -> Result<Usage> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let fields: Vec<&str> = stat.rsplit_once(") ").context("stat")?.1.split(' ').collect();
        let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok()).context("stat");
        let io = fs::read_to_string(format!("/proc/{pid}/io"))?;
        let written = io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).context("write_bytes")?;
        Ok(Usage { cpu_seconds: (ticks(11)? + ticks(12)?) / TICKS_PER_SECOND, written_bytes: written.parse()? })
    }
}
