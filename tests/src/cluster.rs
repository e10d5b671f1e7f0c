//! A real cluster of the built binary: one server and, if wanted, one agent, as
//! two hosts joined by a cable.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{Host, Kubectl, eventually, image};

/// Addresses of the two hosts.
pub const SERVER_ADDRESS: &str = "10.99.0.1";
pub const AGENT_ADDRESS: &str = "10.99.0.2";
/// How long a node may take to become Ready on a busy machine.
const READY_LIMIT: Duration = Duration::from_secs(120);

/// How to build a cluster.
#[derive(Clone, Debug, Default)]
pub struct ClusterOptions {
    pub agent: bool,
    pub server_arguments: Vec<String>,
}

/// A running cluster; everything of it ends when dropped.
pub struct Cluster {
    pub server: Host,
    pub agent: Option<Host>,
    server_process: Option<Child>,
    agent_process: Option<Child>,
    pub options: ClusterOptions,
    folder: PathBuf,
    pub binary: PathBuf,
    /// From starting the server to its node being Ready.
    pub cold_start: Duration,
}

impl Cluster {
    /// Starts everything and waits until all nodes are Ready.
    pub fn start(options: ClusterOptions) -> Result<Cluster> {
        let binary = binary()?;
        let folder = PathBuf::from(format!("/tmp/skiff-test-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let server = Host::new("server", &folder.join("server"))?;
        let agent = if options.agent { Some(Host::new("agent", &folder.join("agent"))?) } else { None };
        match &agent {
            Some(agent) => {
                let (a, b) = (format!("{SERVER_ADDRESS}/24"), format!("{AGENT_ADDRESS}/24"));
                Host::connect((&server, &a), (agent, &b))?;
            }
            None => {
                server.shell(&format!(
                    "ip link add eth0 type dummy 2>/dev/null || ip link add eth0 type veth peer name eth0p && \
                     ip addr add {SERVER_ADDRESS}/24 dev eth0 && ip link set eth0 up && ip route add default dev eth0"
                ))?;
            }
        }
        let cold_start = Duration::ZERO;
        let (server_process, agent_process) = (None, None);
        let mut cluster = Cluster { server, agent, server_process, agent_process, options, folder, binary, cold_start };
        for host in [Some(&cluster.server), cluster.agent.as_ref()].into_iter().flatten() {
            image::write_busybox(&host.folder.join("data/agent/images/busybox.tar"))?;
        }
        let begun = Instant::now();
        cluster.start_server()?;
        cluster.wait_ready("server")?;
        cluster.cold_start = begun.elapsed();
        if cluster.agent.is_some() {
            cluster.start_agent()?;
            cluster.wait_ready("agent")?;
        }
        Ok(cluster)
    }

    /// Starts the server process; its output goes to a log file.
    pub fn start_server(&mut self) -> Result<()> {
        let host = &self.server;
        let mut command = host.command(&self.binary);
        command
            .args(["server", "--verbose", "--data-dir"])
            .arg(host.folder.join("data"))
            .args(["--config", "/dev/null", "--node-ip", SERVER_ADDRESS, "--write-kubeconfig"])
            .arg(self.kubeconfig())
            .args(&self.options.server_arguments);
        self.server_process = Some(spawn(command, &host.folder.join("log"))?);
        Ok(())
    }

    pub fn start_agent(&mut self) -> Result<()> {
        let token = fs::read_to_string(self.server.folder.join("data/server/node-token")).context("read node token")?;
        let host = self.agent.as_ref().context("this cluster has no agent")?;
        let mut command = host.command(&self.binary);
        command
            .args(["agent", "--verbose", "--data-dir"])
            .arg(host.folder.join("data"))
            .args(["--config", "/dev/null", "--node-ip", AGENT_ADDRESS, "--token", token.trim()])
            .args(["--server", &format!("https://{SERVER_ADDRESS}:6443")]);
        self.agent_process = Some(spawn(command, &host.folder.join("log"))?);
        Ok(())
    }

    /// `kill -9` of the server process, as a crash would.
    pub fn kill_server(&mut self) -> Result<()> {
        kill(&mut self.server_process)
    }

    pub fn kill_agent(&mut self) -> Result<()> {
        kill(&mut self.agent_process)
    }

    /// SIGTERM, as a service manager would; waits for the end.
    pub fn stop_server(&mut self) -> Result<()> {
        let mut process = self.server_process.take().context("the server is not running")?;
        Command::new("kill").arg(process.id().to_string()).status()?;
        let status = process.wait()?;
        if !status.success() {
            bail!("the server ended with {status} on SIGTERM");
        }
        Ok(())
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    pub fn kubectl(&self) -> Kubectl {
        let payload = self.server.folder.join("data/data/current/bin/kubectl");
        let program = if payload.exists() { payload } else { PathBuf::from("kubectl") };
        Kubectl { host_pid: self.server.pid(), program, kubeconfig: self.kubeconfig() }
    }

    /// Waits for a node's Ready condition.
    pub fn wait_ready(&self, node: &str) -> Result<()> {
        eventually(&format!("node {node} is Ready"), READY_LIMIT, || {
            if !self.kubeconfig().exists() {
                bail!("no kubeconfig yet");
            }
            let node = self.kubectl().get(&["node", node])?;
            let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let ready = conditions.iter().find(|condition| condition["type"] == "Ready").cloned().unwrap_or_default();
            if ready["status"] == "True" { Ok(()) } else { bail!("Ready is {ready}") }
        })
        .map_err(|error| error.context(self.last_log_lines()))
    }

    /// The end of both logs, for failures.
    pub fn last_log_lines(&self) -> String {
        let tail = |host: &Host| {
            let text = fs::read_to_string(host.folder.join("log")).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            format!("--- {}\n{}\n", host.name, lines[lines.len().saturating_sub(40)..].join("\n"))
        };
        [Some(&self.server), self.agent.as_ref()].into_iter().flatten().map(tail).collect()
    }

    /// Waits until a pod of the namespace with this label is Ready; returns it.
    pub fn wait_pod(&self, namespace: &str, selector: &str) -> Result<Value> {
        eventually(&format!("a pod {selector} in {namespace} is Ready"), Duration::from_secs(90), || {
            let pods = self.kubectl().get(&["pods", "-n", namespace, "-l", selector])?;
            let pods = pods["items"].as_array().cloned().unwrap_or_default();
            pods.iter().find(|pod| is_ready(pod)).cloned().with_context(|| describe(&pods))
        })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for process in [&mut self.agent_process, &mut self.server_process] {
            // Already ended is as good.
            let _ = kill(process);
        }
        if std::thread::panicking() || std::env::var_os("SKIFF_TEST_KEEP").is_some() {
            eprintln!("kept {}", self.folder.display());
            return;
        }
        for host in [Some(&self.server), self.agent.as_ref()].into_iter().flatten() {
            let data = host.folder.join("data");
            let _ = host.command(&self.binary).args(["killall", "--data-dir"]).arg(&data).output();
        }
    }
}

/// Whether a pod's Ready condition is true.
pub fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.is_some_and(|conditions| {
        conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    })
}

fn describe(pods: &[Value]) -> String {
    let one = |pod: &Value| {
        format!("{} {} {}", pod["metadata"]["name"], pod["status"]["phase"], pod["status"]["containerStatuses"])
    };
    format!("{} pods: {}", pods.len(), pods.iter().map(one).collect::<Vec<_>>().join("; "))
}

/// The binary with its payload, built by `cargo xtask dist`.
pub fn binary() -> Result<PathBuf> {
    let path = match std::env::var_os("SKIFF_BINARY") {
        Some(path) => PathBuf::from(path),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/dist/skiff"),
    };
    path.canonicalize().with_context(|| format!("{} does not exist: cargo xtask dist", path.display()))
}

fn spawn(mut command: Command, log: &Path) -> Result<Child> {
    let log = File::options().create(true).append(true).open(log)?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    command.spawn().context("start skiff")
}

fn kill(process: &mut Option<Child>) -> Result<()> {
    if let Some(mut process) = process.take() {
        process.kill()?;
        process.wait()?;
    }
    Ok(())
}
