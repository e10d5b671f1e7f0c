//! Starts, adopts and restarts containerd.
//!
//! containerd leads its own session and is never stopped when we stop: pods go
//! on. On start we look for a process that runs with our configuration file;
//! it is adopted when the file would not change and the program is the same,
//! and replaced otherwise (its shims, and so the containers, survive that too).

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use skiff_host::process;
use tokio_util::sync::CancellationToken;

use super::config::{ContainerdConfig, Detected, parse_version};
use crate::{AgentError, cri::Cri, limits};

/// A running containerd.
pub struct Containerd {
    config: ContainerdConfig,
    program: PathBuf,
    pid: u32,
    /// Ours to reap; absent when adopted.
    child: Option<Child>,
}

impl Containerd {
    /// Adopts a running containerd or starts one, and waits until it answers.
    pub async fn start(config: ContainerdConfig) -> Result<Containerd, AgentError> {
        let program = find(&config, "containerd")?;
        let text = config.render(&detect(&config, &program)?);
        let running = find_running(&config.config_file);
        if let Some(pid) = running {
            if fs::read_to_string(&config.config_file).is_ok_and(|have| have == text)
                && process::executable(pid).as_deref() == fs::canonicalize(&program).ok().as_deref()
            {
                tracing::info!(component = "containerd", pid, "adopting running containerd");
                let adopted = Containerd { config, program, pid, child: None };
                adopted.wait_ready().await?;
                return Ok(adopted);
            }
            tracing::info!(component = "containerd", pid, "configuration or program changed, replacing containerd");
            stop(pid).await?;
        }
        prepare(&config, &text)?;
        let child = spawn(&config, &program)?;
        let started = Containerd { pid: child.id(), config, program, child: Some(child) };
        started.wait_ready().await?;
        Ok(started)
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Restarts containerd whenever it ends, until `token` is cancelled; then leaves it running.
    pub async fn supervise(mut self, token: CancellationToken) {
        let mut backoff = limits::CONTAINERD_BACKOFF_FIRST;
        loop {
            let began = tokio::time::Instant::now();
            tokio::select! {
                () = token.cancelled() => return,
                waited = process::wait_for_exit(self.pid) => {
                    if let Err(error) = waited {
                        tracing::error!(component = "containerd", %error, "cannot watch the process");
                        tokio::time::sleep(limits::CONTAINERD_BACKOFF_MAX).await;
                        if process::is_alive(self.pid) {
                            continue;
                        }
                    }
                }
            }
            let status = self.child.as_mut().and_then(|child| child.wait().ok());
            tracing::error!(component = "containerd", pid = self.pid, ?status,
                log = %self.config.log_file.display(), "containerd ended, restarting");
            if began.elapsed() > limits::CONTAINERD_BACKOFF_MAX {
                backoff = limits::CONTAINERD_BACKOFF_FIRST;
            }
            loop {
                tokio::select! {
                    () = token.cancelled() => return,
                    () = tokio::time::sleep(backoff) => {}
                }
                backoff = (backoff * 2).min(limits::CONTAINERD_BACKOFF_MAX);
                match spawn(&self.config, &self.program) {
                    Ok(child) => {
                        self.pid = child.id();
                        self.child = Some(child);
                        break;
                    }
                    Err(error) => tracing::error!(component = "containerd", %error, "restart"),
                }
            }
        }
    }

    /// The socket appears some time after the start, and CRI a moment after the
    /// socket: connecting is the only way to learn of it.
    async fn wait_ready(&self) -> Result<(), AgentError> {
        let cri = Cri::new(&self.config.socket)?;
        let deadline = tokio::time::Instant::now() + limits::CONTAINERD_START_TIMEOUT;
        loop {
            match cri.version().await {
                Ok(version) => {
                    tracing::info!(component = "containerd", version = version.runtime_version, "runtime is ready");
                    return Ok(());
                }
                Err(error) => {
                    if !process::is_alive(self.pid) {
                        return Err(AgentError::Containerd(format!("ended while starting: {}", self.log_tail())));
                    }
                    if tokio::time::Instant::now() > deadline {
                        return Err(AgentError::Containerd(format!("not ready in time: {error}")));
                    }
                }
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    fn log_tail(&self) -> String {
        let text = fs::read_to_string(&self.config.log_file).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(3).collect();
        format!("{} (whole log: {})", lines.join(" | "), self.config.log_file.display())
    }
}

fn find(config: &ContainerdConfig, name: &str) -> Result<PathBuf, AgentError> {
    config
        .find_program(name)
        .ok_or_else(|| AgentError::Containerd(format!("program {name} not found in {}", config.search_path())))
}

fn detect(config: &ContainerdConfig, program: &Path) -> Result<Detected, AgentError> {
    let output = Command::new(program).arg("--version").output().map_err(AgentError::io("run", program))?;
    let output = String::from_utf8_lossy(&output.stdout).into_owned();
    let version =
        parse_version(&output).ok_or_else(|| AgentError::Containerd(format!("version not understood: {output:?}")))?;
    find(config, "containerd-shim-runc-v2")?;
    let restrict_oom_score_adj = !process::has_capability(process::CAP_SYS_RESOURCE);
    if restrict_oom_score_adj {
        tracing::warn!(
            component = "containerd",
            "CAP_SYS_RESOURCE is missing: containers keep our own oom_score_adj as the lowest"
        );
    }
    fs::create_dir_all(&config.root).map_err(AgentError::io("create", &config.root))?;
    let snapshotter = config.snapshotter_in_use().unwrap_or_default();
    if snapshotter == "native" && config.snapshotter.is_none() {
        tracing::warn!(component = "containerd", root = %config.root.display(),
            "overlayfs does not work here: falling back to the native snapshotter, which copies files");
    }
    let in_user_namespace = process::in_user_namespace();
    Ok(Detected { version, snapshotter, runc: find(config, "runc")?, in_user_namespace, restrict_oom_score_adj })
}

fn prepare(config: &ContainerdConfig, text: &str) -> Result<(), AgentError> {
    let directories = [
        Some(config.root.as_path()),
        Some(config.state.as_path()),
        Some(config.cni_conf_dir.as_path()),
        Some(config.registry_config_dir.as_path()),
        config.socket.parent(),
        config.config_file.parent(),
        config.log_file.parent(),
    ];
    for directory in directories.into_iter().flatten() {
        fs::create_dir_all(directory).map_err(AgentError::io("create", directory))?;
    }
    fs::write(&config.config_file, text).map_err(AgentError::io("write", &config.config_file))
}

fn spawn(config: &ContainerdConfig, program: &Path) -> Result<Child, AgentError> {
    let log = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&config.log_file)
        .map_err(AgentError::io("open", &config.log_file))?;
    let errors = log.try_clone().map_err(AgentError::io("open", &config.log_file))?;
    let mut command = Command::new(program);
    command
        .arg("--config")
        .arg(&config.config_file)
        .env("PATH", config.search_path())
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors);
    process::detach(&mut command);
    let child = command.spawn().map_err(AgentError::io("start", program))?;
    tracing::info!(component = "containerd", pid = child.id(), program = %program.display(), "started");
    Ok(child)
}

/// The process that runs containerd with this configuration file.
pub(super) fn find_running(config_file: &Path) -> Option<u32> {
    let wanted = config_file.to_string_lossy();
    let entries = fs::read_dir("/proc").ok()?;
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| process::executable(*pid).is_some_and(|path| is_containerd(&path)))
        .find(|pid| process::arguments(*pid).iter().any(|argument| *argument == wanted))
}

/// The kernel marks a program whose file was replaced meanwhile.
fn is_containerd(executable: &Path) -> bool {
    let name = executable.file_name().unwrap_or_default().to_string_lossy();
    name.trim_end_matches(" (deleted)") == "containerd"
}

/// Ends containerd (not its shims): SIGTERM, and SIGKILL when that does not help.
pub(super) async fn stop(pid: u32) -> Result<(), AgentError> {
    let proc_path = PathBuf::from(format!("/proc/{pid}"));
    let fail = |error: io::Error| AgentError::io("stop process", &proc_path)(error);
    process::terminate(pid).map_err(fail)?;
    if tokio::time::timeout(limits::CONTAINERD_STOP_TIMEOUT, process::wait_for_exit(pid)).await.is_err() {
        process::kill_now(pid).map_err(fail)?;
        process::wait_for_exit(pid).await.map_err(fail)?;
    }
    Ok(())
}
