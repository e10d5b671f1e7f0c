//! A real containerd in a directory of its own, with one image made on the spot and one pod on the host's network.
//!
//! Needs root, containerd, runc and a static busybox.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use async_trait::async_trait;
use skiff_agent::cri::{Cri, v1};
use skiff_agent::server::backend::{BackendError, Container, LogSource, PodRef, Sandbox, StreamSet, StreamingBackend};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

const IMAGE: &str = "skiff.test/busybox:1";
const BUSYBOX: &str = "/bin/busybox";

/// A running containerd.
pub struct Containerd {
    directory: tempfile::TempDir,
    child: Child,
    pub cri: Cri,
}

impl Containerd {
    pub async fn start() -> Self {
        let directory = tempfile::Builder::new().prefix("skiff-ctr").tempdir().expect("a directory");
        let root = directory.path().to_owned();
        let config = root.join("config.toml");
        std::fs::write(&config, configuration(&root)).expect("writes");
        let log = std::fs::File::create(root.join("log")).expect("creates");
        let child = Command::new("containerd")
            .arg("--config")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("containerd starts");
        let cri = Cri::new(&root.join("s")).expect("a client");
        let containerd = Containerd { directory, child, cri };
        let ready = async {
            while containerd.cri.version().await.is_err() {
                sleep(Duration::from_millis(50)).await;
            }
        };
        if timeout(Duration::from_secs(30), ready).await.is_err() {
            panic!("containerd does not answer:\n{}", std::fs::read_to_string(root.join("log")).unwrap_or_default());
        }
        containerd.import_image().await;
        containerd
    }

    async fn import_image(&self) {
        let archive = self.directory.path().join("image.tar");
        std::fs::write(&archive, image_archive()).expect("writes");
        let socket = self.directory.path().join("s");
        let import = Command::new("ctr")
            .arg("--address")
            .arg(socket)
            .args(["--namespace", "k8s.io", "images", "import", "--snapshotter", "native"])
            .arg(&archive)
            .output()
            .await
            .expect("ctr runs");
        assert!(import.status.success(), "{}", String::from_utf8_lossy(&import.stderr));
        timeout(Duration::from_secs(10), async {
            while self.cri.image_status(IMAGE).await.ok().flatten().is_none() {
                sleep(Duration::from_millis(20)).await;
            }
        })
        .await
        .expect("the image is known");
    }

    /// Starts a pod on the host's network whose only container runs `command`.
    pub async fn run_pod(&self, name: &str, command: &[&str]) -> RunningPod {
        let options = v1::NamespaceOption {
            network: v1::NamespaceMode::Node as i32,
            pid: v1::NamespaceMode::Container as i32,
            ..Default::default()
        };
        let security = v1::LinuxSandboxSecurityContext { namespace_options: Some(options), ..Default::default() };
        let linux = v1::LinuxPodSandboxConfig { security_context: Some(security), ..Default::default() };
        let logs = self.directory.path().join("logs").join(name);
        std::fs::create_dir_all(&logs).expect("creates");
        let metadata =
            v1::PodSandboxMetadata { name: name.into(), uid: name.into(), namespace: "default".into(), attempt: 0 };
        let sandbox_config = v1::PodSandboxConfig {
            metadata: Some(metadata),
            log_directory: logs.display().to_string(),
            linux: Some(linux),
            ..Default::default()
        };
        let sandbox = self.cri.run_pod_sandbox(sandbox_config.clone(), "").await.expect("a sandbox");
        let config = v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: "main".into(), attempt: 0 }),
            image: Some(v1::ImageSpec { image: IMAGE.into(), ..Default::default() }),
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            log_path: "0.log".into(),
            stdin: true,
            linux: Some(v1::LinuxContainerConfig::default()),
            ..Default::default()
        };
        let container = self.cri.create_container(&sandbox, config, sandbox_config).await.expect("a container");
        self.cri.start_container(&container).await.expect("the container starts");
        RunningPod { cri: self.cri.clone(), name: name.into(), sandbox, container, log: logs.join("0.log") }
    }

    /// Removes what runs, then containerd and its directory.
    pub async fn stop(mut self) {
        for sandbox in self.cri.list_pod_sandboxes().await.expect("lists") {
            self.cri.stop_pod_sandbox(&sandbox.id).await.expect("stops");
            self.cri.remove_pod_sandbox(&sandbox.id).await.expect("removes");
        }
        self.child.kill().await.expect("containerd ends");
    }
}

impl Drop for Containerd {
    /// A test that failed leaves nothing behind: shims and mounts are known by the directory in their names.
    fn drop(&mut self) {
        let root = self.directory.path().display().to_string();
        let run = |program: &str, arguments: &[&str]| std::process::Command::new(program).args(arguments).status();
        for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let name = process.file_name().to_string_lossy().into_owned();
            let command = std::fs::read_to_string(process.path().join("cmdline")).unwrap_or_default();
            if name.parse::<u32>().is_ok() && command.contains("containerd-shim") && command.contains(&root) {
                let children = format!("/proc/{name}/task/{name}/children");
                let children = std::fs::read_to_string(children).unwrap_or_default();
                for id in children.split_whitespace().chain([name.as_str()]) {
                    let _ = run("kill", &["-9", id]);
                }
            }
        }
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        for point in mounts.lines().rev().filter_map(|line| line.split(' ').nth(1)).filter(|p| p.starts_with(&root)) {
            let _ = run("umount", &["-l", point]);
        }
    }
}

fn configuration(root: &Path) -> String {
    let root = root.display();
    format!(
        r#"version = 2
root = "{root}/root"
state = "{root}/state"
[grpc]
  address = "{root}/s"
[ttrpc]
  address = "{root}/t"
[plugins."io.containerd.internal.v1.opt"]
  path = "{root}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{IMAGE}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{root}/cni/bin"
    conf_dir = "{root}/cni/conf"
"#
    )
}

/// An image that holds busybox and its usual names, as `docker save` writes it.
fn image_archive() -> Vec<u8> {
    let mut layer = tar::Builder::new(Vec::new());
    let mut directory = tar::Header::new_gnu();
    directory.set_entry_type(tar::EntryType::Directory);
    directory.set_mode(0o755);
    directory.set_size(0);
    for name in ["bin/", "tmp/"] {
        layer.append_data(&mut directory.clone(), name, std::io::empty()).expect("appends");
    }
    layer.append_path_with_name(BUSYBOX, "bin/busybox").expect("appends");
    for name in ["sh", "cat", "sleep", "stty", "wc", "echo", "true"] {
        let mut link = tar::Header::new_gnu();
        link.set_entry_type(tar::EntryType::Symlink);
        link.set_size(0);
        link.set_mode(0o777);
        layer.append_link(&mut link, format!("bin/{name}"), "busybox").expect("appends");
    }
    let layer = layer.into_inner().expect("a layer");
    let digest: String =
        ring::digest::digest(&ring::digest::SHA256, &layer).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = serde_json::json!({
        "architecture": architecture, "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Entrypoint": ["/bin/busybox", "sleep", "100000"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
    });
    let manifest = serde_json::json!([{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]);
    let mut archive = tar::Builder::new(Vec::new());
    let files = [
        ("layer.tar", layer),
        ("config.json", config.to_string().into_bytes()),
        ("manifest.json", manifest.to_string().into_bytes()),
    ];
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, &bytes[..]).expect("appends");
    }
    archive.into_inner().expect("an archive")
}

/// The one pod of a test; also its backend.
#[derive(Clone)]
pub struct RunningPod {
    pub cri: Cri,
    pub name: String,
    pub sandbox: String,
    pub container: String,
    pub log: PathBuf,
}

impl RunningPod {
    fn check(&self, pod: &PodRef) -> Result<(), BackendError> {
        let known = pod.name == self.name && pod.namespace == "default";
        if known { Ok(()) } else { Err(BackendError::NotFound("pod does not exist".into())) }
    }

    fn runtime<T>(result: Result<T, impl std::fmt::Display>) -> Result<T, BackendError> {
        result.map_err(|error| BackendError::Internal(error.to_string()))
    }
}

#[async_trait]
impl StreamingBackend for RunningPod {
    async fn container(&self, pod: &PodRef, container: &str) -> Result<Container, BackendError> {
        self.check(pod)?;
        match container {
            "main" => Ok(Container { id: self.container.clone() }),
            other => Err(BackendError::Internal(format!("container not found ({other:?})"))),
        }
    }

    async fn sandbox(&self, pod: &PodRef) -> Result<Sandbox, BackendError> {
        self.check(pod)?;
        Ok(Sandbox { id: self.sandbox.clone() })
    }

    async fn logs(&self, pod: &PodRef, container: &str, previous: bool) -> Result<LogSource, BackendError> {
        self.check(pod)?;
        if previous {
            let text = format!("previous terminated container {container:?} in pod {:?} not found", pod.name);
            return Err(BackendError::BadRequest(text));
        }
        Ok(LogSource { path: self.log.clone(), container_id: self.container.clone() })
    }

    async fn exited(&self, container_id: &str) {
        // A test may poll; the agent has events.
        while let Ok(status) = self.cri.container_status(container_id).await {
            if status.state() == v1::ContainerState::ContainerExited {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn exec_url(&self, id: &str, command: &[String], streams: StreamSet) -> Result<String, BackendError> {
        let StreamSet { stdin, stdout, stderr, tty } = streams;
        let request = v1::ExecRequest { container_id: id.into(), cmd: command.to_vec(), tty, stdin, stdout, stderr };
        Self::runtime(self.cri.exec(request).await)
    }

    async fn attach_url(&self, id: &str, streams: StreamSet) -> Result<String, BackendError> {
        let StreamSet { stdin, stdout, stderr, tty } = streams;
        Self::runtime(self.cri.attach(v1::AttachRequest { container_id: id.into(), stdin, tty, stdout, stderr }).await)
    }

    async fn port_forward_url(&self, id: &str, ports: &[u16]) -> Result<String, BackendError> {
        let port = ports.iter().map(|&port| i32::from(port)).collect();
        Self::runtime(self.cri.port_forward(v1::PortForwardRequest { pod_sandbox_id: id.into(), port }).await)
    }

    async fn pods(&self) -> Result<Vec<u8>, BackendError> {
        Ok(br#"{"kind":"PodList","apiVersion":"v1","items":[]}"#.to_vec())
    }

    async fn stats(&self, _only_cpu_and_memory: bool) -> Result<Vec<u8>, BackendError> {
        Err(BackendError::NotFound("no stats here".to_owned()))
    }

    async fn metrics(&self, path: &str) -> Option<Vec<u8>> {
        (path == "/metrics").then(|| b"up 1\n".to_vec())
    }
}
