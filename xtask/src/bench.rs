//! Figures of the release binary: start-up and rest.
//!
//! Wall time on a shared machine says little, so CPU time stands beside it.
//! Memory is PSS: what the processes would free if they ended.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use skiff_tests::{Cluster, ClusterOptions, cluster::binary, eventually};

/// How long a cluster rests before it is measured, and for how long.
const SETTLE: Duration = Duration::from_secs(30);
const WINDOW: Duration = Duration::from_secs(60);
/// Clock ticks of /proc; the same on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// Runs one bench by name.
pub fn bench(name: Option<&str>) -> Result<()> {
    match name {
        Some("start") => start(),
        Some("idle") => idle(),
        None => start().and_then(|()| idle()),
        Some(other) => bail!("no bench {other:?}; there are start, idle and store"),
    }
}

/// From an empty data folder, and again with everything unpacked.
fn start() -> Result<()> {
    println!("binary: {:.1} MB", fs::metadata(binary()?)?.len() as f64 / 1e6);
    let mut cluster = Cluster::start(ClusterOptions::default())?;
    println!("start: empty folder to node Ready     {:.2} s", cluster.cold_start.as_secs_f64());
    let begun = Instant::now();
    cluster.kubectl().run(&[
        "run",
        "first",
        "--image",
        skiff_tests::image::BUSYBOX,
        "--command",
        "--",
        "sleep",
        "9999",
    ])?;
    wait_pod(&cluster, "default", "run=first")?;
    println!("start: pod created to Running         {:.2} s", begun.elapsed().as_secs_f64());
    cluster.stop_server()?;
    let begun = Instant::now();
    cluster.start_server()?;
    eventually("the API answers", Duration::from_secs(30), || cluster.kubectl().run(&["get", "--raw", "/readyz"]))?;
    println!("start: again, to API ready            {:.2} s", begun.elapsed().as_secs_f64());
    Ok(())
}

/// A single node with nothing but cluster DNS, left alone.
fn idle() -> Result<()> {
    let cluster = Cluster::start(ClusterOptions::default())?;
    wait_pod(&cluster, "kube-system", "k8s-app=kube-dns")?;
    std::thread::sleep(SETTLE);
    let processes = own_processes(&cluster)?;
    let before: Vec<Usage> = processes.iter().map(|(pid, _)| Usage::read(*pid)).collect::<Result<_>>()?;
    std::thread::sleep(WINDOW);
    let (mut memory, mut cpu, mut written) = (0.0, 0.0, 0.0);
    for ((pid, name), before) in processes.iter().zip(before) {
        let after = Usage::read(*pid)?;
        let used = (after.cpu_seconds - before.cpu_seconds) / WINDOW.as_secs_f64() * 100.0;
        let bytes = (after.written_bytes - before.written_bytes) / 1e3;
        println!("idle: {name:24} PSS {:6.1} MB  CPU {used:5.2} %  written {bytes:8.1} kB/min", after.pss_bytes / 1e6);
        memory += after.pss_bytes;
        cpu += used;
        written += bytes;
    }
    println!("idle: {:24} PSS {:6.1} MB  CPU {cpu:5.2} %  written {written:8.1} kB/min", "all of Skiff", memory / 1e6);
    Ok(())
}

/// Waits until the pods of a selector exist and are Ready.
fn wait_pod(cluster: &Cluster, namespace: &str, selector: &str) -> Result<()> {
    let wait = ["wait", "--for=condition=Ready", "pod", "-n", namespace, "-l", selector, "--timeout=60s"];
    eventually("a pod is Ready", Duration::from_secs(90), || cluster.kubectl().run(&wait)).map(drop)
}

/// The server, and the system image's processes in pods.
fn own_processes(cluster: &Cluster) -> Result<Vec<(u32, String)>> {
    let mut found = Vec::new();
    let namespace = fs::read_link(format!("/proc/{}/ns/mnt", cluster.server.pid()))?;
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(line) = fs::read(format!("/proc/{pid}/cmdline")) else { continue };
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let runs_binary = fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|program| program == cluster.binary);
        let is_server = runs_binary && line.contains(&cluster.server.folder.display().to_string());
        let is_image = line.starts_with("/pause") || line.starts_with("/coredns");
        let own_namespace = fs::read_link(format!("/proc/{pid}/ns/mnt")).is_ok_and(|found| found == namespace);
        if (is_server && own_namespace) || (is_image && is_in_cluster(cluster, pid)) {
            found.push((
                pid,
                line.split(' ').next().unwrap_or_default().rsplit('/').next().unwrap_or_default().to_owned(),
            ));
        }
    }
    if found.is_empty() {
        bail!("no process of the cluster was found");
    }
    Ok(found)
}

/// Whether a container's process belongs to this cluster: its cgroup carries the instance's name.
fn is_in_cluster(cluster: &Cluster, pid: u32) -> bool {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let config = cluster.server.folder.join("data/agent/etc/containerd/config.toml");
    let config = fs::read_to_string(config).unwrap_or_default();
    let instance = config.split("/run/skiff-").nth(1).map(|rest| rest.chars().take(8).collect::<String>());
    instance.is_some_and(|instance| groups.contains(&instance))
}

struct Usage {
    pss_bytes: f64,
    cpu_seconds: f64,
    written_bytes: f64,
}

impl Usage {
    fn read(pid: u32) -> Result<Usage> {
        let number = |text: &str, name: &str| -> Option<f64> {
            let line = text.lines().find(|line| line.starts_with(name))?;
            line.split_whitespace().nth(1)?.parse().ok()
        };
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let fields: Vec<&str> = stat.rsplit_once(") ").context("stat")?.1.split(' ').collect();
        let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok()).context("stat");
        let io = fs::read_to_string(format!("/proc/{pid}/io"))?;
        Ok(Usage {
            pss_bytes: number(&rollup, "Pss:").context("Pss")? * 1024.0,
            cpu_seconds: (ticks(11)? + ticks(12)?) / TICKS_PER_SECOND,
            written_bytes: number(&io, "write_bytes:").context("write_bytes")?,
        })
    }
}
