//! A real cluster of the built binary: one server and, if wanted, one agent, as
//! two hosts joined by a cable.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

use crate::{
    Host, Kubectl, eventually,
    host::{child_of, text},
    image,
};

/// Addresses of the two hosts.
pub const SERVER_ADDRESS: &str = "10.99.0.1";
pub const AGENT_ADDRESS: &str = "10.99.0.2";
/// How full the disk of the machine is that runs the tests must not end their pods.
const THRESHOLDS: &str = "--kubelet-arg=eviction-hard=memory.available<1Mi";
/// How long a node may take to become Ready on a busy machine.
const READY_LIMIT: Duration = Duration::from_secs(120);
/// How long Skiff may take to end after a signal.
const STOP_LIMIT: Duration = Duration::from_secs(40);

/// How to build a cluster.
#[derive(Clone, Debug, Default)]
pub struct ClusterOptions {
    pub agent: bool,
    /// The server runs no node: an API server with its controllers.
    pub without_nodes: bool,
    pub server_arguments: Vec<String>,
    /// The test server's program, for images that need it.
    pub agnhost: Option<PathBuf>,
}

/// A running cluster; everything of it ends when dropped.
pub struct Cluster {
    pub server: Host,
    pub agent: Option<Host>,
    server_process: Option<Process>,
    agent_process: Option<Process>,
    pub options: ClusterOptions,
    pub folder: PathBuf,
    pub binary: PathBuf,
    /// From starting the server to its node being Ready.
    pub cold_start: Duration,
    _removed_last: Folder,
}

impl Cluster {
    /// Where everything of this process' cluster is.
    pub fn folder() -> PathBuf {
        PathBuf::from(format!("/tmp/skiff-test-{}", std::process::id()))
    }

    /// Starts everything and waits until all nodes are Ready.
    pub fn start(options: ClusterOptions) -> Result<Cluster> {
        let binary = binary()?;
        let folder = Cluster::folder();
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
                    "ip link add eth0 type veth peer name eth0p && ip link set eth0p up && \
                     ip addr add {SERVER_ADDRESS}/24 dev eth0 && ip link set eth0 up && ip route add default dev eth0"
                ))?;
            }
        }
        let cold_start = Duration::ZERO;
        let (server_process, agent_process) = (None, None);
        let _removed_last = Folder(folder.clone());
        let mut cluster = Cluster {
            server,
            agent,
            server_process,
            agent_process,
            options,
            folder,
            binary,
            cold_start,
            _removed_last,
        };
        for host in cluster.hosts() {
            let images = host.folder.join("data/agent/images");
            image::write_busybox(&images.join("busybox.tar"))?;
            if let Some(program) = &cluster.options.agnhost {
                image::write_agnhost(&host.folder.join("data/agent/images/agnhost.tar"), program)?;
            }
        }
        let begun = Instant::now();
        cluster.start_server()?;
        if cluster.options.without_nodes {
            cluster.wait_serving()?;
        } else {
            cluster.wait_ready("server")?;
        }
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
            .args(["--config", "/dev/null", "--node-ip", SERVER_ADDRESS, THRESHOLDS, "--write-kubeconfig"])
            .arg(self.kubeconfig())
            .args(self.options.without_nodes.then_some("--disable-agent"))
            .args(&self.options.server_arguments);
        self.server_process = Some(Process::spawn(command, &host.folder.join("log"))?);
        Ok(())
    }

    pub fn start_agent(&mut self) -> Result<()> {
        let token = self.token()?;
        let host = self.agent()?;
        let mut command = host.command(&self.binary);
        command
            .args(["agent", "--verbose", "--data-dir"])
            .arg(host.folder.join("data"))
            .args(["--config", "/dev/null", "--node-ip", AGENT_ADDRESS, THRESHOLDS, "--token", &token])
            .args(["--server", &format!("https://{SERVER_ADDRESS}:6443")]);
        self.agent_process = Some(Process::spawn(command, &host.folder.join("log"))?);
        Ok(())
    }

    /// `kill -9` of the server process, as a crash would.
    pub fn kill_server(&mut self) -> Result<()> {
        self.server_process.take().context("the server is not running")?.end("KILL").map(drop)
    }

    pub fn kill_agent(&mut self) -> Result<()> {
        self.agent_process.take().context("the agent is not running")?.end("KILL").map(drop)
    }

    /// SIGTERM, as a service manager would; waits for the end.
    pub fn stop_server(&mut self) -> Result<()> {
        stopped(self.server_process.take().context("the server is not running")?)
    }

    pub fn stop_agent(&mut self) -> Result<()> {
        stopped(self.agent_process.take().context("the agent is not running")?)
    }

    /// The token by which agents join.
    pub fn token(&self) -> Result<String> {
        let token = fs::read_to_string(self.server.folder.join("data/server/node-token")).context("read node token")?;
        Ok(token.trim().to_owned())
    }

    /// The second host; an error in a cluster without one.
    pub fn agent(&self) -> Result<&Host> {
        self.agent.as_ref().context("this cluster has no agent")
    }

    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        [Some(&self.server), self.agent.as_ref()].into_iter().flatten()
    }

    /// Waits until a pod of the namespace with this label is Ready; returns it.
    pub fn wait_pod(&self, namespace: &str, selector: &str) -> Result<Value> {
        let pods = self.kubectl().in_namespace(namespace).wait_pods(selector, 1)?;
        pods.into_iter().next().context("one pod")
    }

    /// Runs a test in a namespace of its own, which is deleted afterwards. An
    /// error tells what was in it.
    pub fn in_namespace(&mut self, name: &str, test: impl FnOnce(&mut Cluster, &Kubectl) -> Result<()>) -> Result<()> {
        self.kubectl().run(&["create", "namespace", name])?;
        let kubectl = self.kubectl().in_namespace(name);
        let result = test(self, &kubectl).map_err(|error| {
            let state = |what: &[&str]| kubectl.run(what).unwrap_or_else(|error| error.to_string());
            let events = ["get", "events", "-o", "custom-columns=O:.involvedObject.name,R:.reason,M:.message"];
            let state = format!("\n{}{}", state(&["get", "all", "-o", "wide"]), state(&events));
            anyhow!("{error:#}{state}")
        });
        let deleted = self.kubectl().run(&["delete", "namespace", name, "--timeout=60s"]);
        result.and(deleted.map(drop))
    }

    /// Runs the binary on the server's host with its data folder.
    pub fn skiff(&self, arguments: &[&str]) -> Command {
        let mut command = self.server.command(&self.binary);
        command
            .args(arguments)
            .env("SKIFF_DATA_DIR", self.server.folder.join("data"))
            .env("SKIFF_WRITE_KUBECONFIG", self.kubeconfig())
            .env("PATH", path_with_kubectl());
        command
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    pub fn kubectl(&self) -> Kubectl {
        let (host_pid, program) = (self.server.pid(), self.kubectl_program());
        Kubectl { host_pid, program, kubeconfig: self.kubeconfig(), namespace: None }
    }

    /// kubectl of the payload, else the one that `SKIFF_KUBECTL` names, else the host's.
    fn kubectl_program(&self) -> PathBuf {
        let payload = self.server.folder.join("data/data/current/bin/kubectl");
        if payload.exists() {
            return payload;
        }
        std::env::var_os("SKIFF_KUBECTL").map_or_else(|| PathBuf::from("kubectl"), PathBuf::from)
    }

    /// Waits until the API server is ready and pods can be created in its first namespace.
    fn wait_serving(&self) -> Result<()> {
        eventually("the API server is ready", READY_LIMIT, || {
            if !self.kubeconfig().exists() {
                bail!("no kubeconfig yet");
            }
            self.kubectl().run(&["get", "--raw", "/readyz"])?;
            self.kubectl().get(&["serviceaccount", "default", "--namespace", "default"])
        })
        .map(drop)
        .map_err(|error| error.context(self.last_log_lines()))
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
            format!("--- {}\n{}\n", host.name, lines[lines.len().saturating_sub(15)..].join("\n"))
        };
        self.hosts().map(tail).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for process in [self.agent_process.take(), self.server_process.take()].into_iter().flatten() {
            // Already ended is as good.
            let _ = process.end("KILL");
        }
        let keep = std::env::var_os("SKIFF_TEST_KEEP").is_some();
        if keep {
            eprintln!("kept {}", self.folder.display());
            return;
        }
        for host in self.hosts() {
            let data = host.folder.join("data");
            let _ = host.command(&self.binary).args(["killall", "--data-dir"]).arg(&data).output();
        }
    }
}

/// The folder outlives the hosts, whose mounts lie in it.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        if std::env::var_os("SKIFF_TEST_KEEP").is_none() {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// A Skiff process inside a host, together with the command that entered it.
pub struct Process {
    entered: Child,
    pid: u32,
}

impl Process {
    /// Starts a command of [`Host::command`] that writes to a log.
    pub fn spawn(mut command: Command, log: &Path) -> Result<Process> {
        let log = File::options().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let entered = command.spawn().context("start skiff")?;
        let pid = eventually("skiff runs", Duration::from_secs(5), || child_of(entered.id()))?;
        Ok(Process { entered, pid })
    }

    /// Its id as this machine counts.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends a signal and waits for the end.
    pub fn end(mut self, signal: &str) -> Result<std::process::ExitStatus> {
        let sent = Command::new("kill").args([&format!("-{signal}"), &self.pid.to_string()]).output()?;
        text(&format!("kill -{signal} {}", self.pid), sent)?;
        let status = eventually("skiff ends", STOP_LIMIT, || self.entered.try_wait()?.context("still running"));
        if status.is_err() {
            self.entered.kill()?;
        }
        status
    }
}

fn stopped(process: Process) -> Result<()> {
    let status = process.end("TERM")?;
    if !status.success() {
        bail!("skiff ended with {status} on SIGTERM");
    }
    Ok(())
}

/// `PATH` with the folder of `SKIFF_KUBECTL` in front.
fn path_with_kubectl() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    match std::env::var_os("SKIFF_KUBECTL").map(PathBuf::from) {
        Some(kubectl) => format!("{}:{path}", kubectl.parent().unwrap_or(&kubectl).display()),
        None => path,
    }
}

/// The binary with its payload, built by `cargo xtask dist`.
pub fn binary() -> Result<PathBuf> {
    let path = match std::env::var_os("SKIFF_BINARY") {
        Some(path) => PathBuf::from(path),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/dist/skiff"),
    };
    path.canonicalize().with_context(|| format!("{} does not exist: cargo xtask dist", path.display()))
}
