//! Stops everything that the agent started: pods, shims, containerd, mounts.

use std::{fs, path::Path};

use skiff_host::{cgroup::Cgroups, mount, process};

use super::{
    ContainerdConfig,
    supervisor::{find_running, stop},
};
use crate::AgentError;

/// Ends containerd, its shims and all containers below `cgroup_root`, and
/// unmounts what they left below the given directories. Data stays.
pub async fn kill_all(config: &ContainerdConfig, cgroup_root: &str, pods_dir: &Path) -> Result<(), AgentError> {
    if let Some(pid) = find_running(&config.config_file) {
        stop(pid).await?;
    }
    for pid in shims(&config.socket) {
        let path = format!("/proc/{pid}");
        process::kill_now(pid).map_err(AgentError::io("kill shim", path))?;
    }
    if let Ok(cgroups) = Cgroups::detect() {
        let group = crate::cgroups::kubepods(cgroup_root);
        for attempt in 0..50 {
            match cgroups.remove(&group) {
                Ok(()) => break,
                Err(error) if attempt == 49 => return Err(error.into()),
                // Killed processes need a moment to leave their group, and nothing announces it.
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
            }
        }
    }
    for directory in [&config.state, &config.root, &pods_dir.to_path_buf()] {
        for point in mount::mounts_below(directory).map_err(AgentError::io("list mounts below", directory))? {
            mount::unmount(&point).map_err(AgentError::io("unmount", &point))?;
        }
    }
    Ok(())
}

/// Shims serve one containerd and carry its socket among their arguments.
fn shims(socket: &Path) -> Vec<u32> {
    let socket = socket.to_string_lossy();
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            let name = process::executable(*pid);
            name.is_some_and(|path| path.to_string_lossy().contains("containerd-shim"))
                && process::arguments(*pid).iter().any(|argument| *argument == socket)
        })
        .collect()
}
