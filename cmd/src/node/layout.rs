//! Where a node keeps things, and how its things are named on a host that may
//! carry several Skiffs.

use std::path::{Path, PathBuf};

use skiff_agent::containerd::ContainerdConfig;

use crate::config::instance_of;

/// Names by which containerd calls the CNI plugin: ours, and the one it uses for `lo`.
pub const CNI_NAMES: [&str; 2] = ["skiff-cni", "loopback"];

/// Paths and names of one node.
#[derive(Clone, Debug)]
pub struct Layout {
    pub data_dir: PathBuf,
    /// Distinguishes this Skiff from others of the host; empty for the default data folder.
    pub instance: String,
    /// Sockets and what must not survive a boot.
    pub run_dir: PathBuf,
    /// Parent cgroup of pods.
    pub cgroup_root: String,
}

impl Layout {
    pub fn new(data_dir: &Path, cgroup_root: &str) -> Layout {
        let instance = instance_of(data_dir);
        let run_dir = if instance.is_empty() { "/run/skiff".to_owned() } else { format!("/run/skiff-{instance}") };
        Layout { data_dir: data_dir.to_owned(), run_dir: run_dir.into(), cgroup_root: cgroup_root.to_owned(), instance }
    }

    /// containerd with everything but images and tools filled in.
    pub fn containerd(&self) -> ContainerdConfig {
        ContainerdConfig::below(&self.data_dir, &self.run_dir)
    }

    pub fn cni_data_dir(&self) -> PathBuf {
        self.data_dir.join("agent/cni/networks")
    }

    /// Container logs: where tools look for them, or our own folder beside another Skiff.
    pub fn pod_log_dir(&self) -> PathBuf {
        if self.instance.is_empty() { "/var/log/pods".into() } else { self.data_dir.join("agent/logs/pods") }
    }

    pub fn pods_dir(&self) -> PathBuf {
        self.data_dir.join("agent/kubelet/pods")
    }

    /// flannel's well-known file, or one of our own beside another Skiff.
    pub fn subnet_file(&self) -> PathBuf {
        let folder =
            if self.instance.is_empty() { PathBuf::from("/run/flannel") } else { self.run_dir.join("flannel") };
        folder.join("subnet.env")
    }

    /// Name of the pods' bridge.
    pub fn bridge(&self) -> &'static str {
        "cni0"
    }

    /// Puts the CNI plugin (this binary under its other name) where containerd looks.
    pub fn link_cni_plugin(&self) -> std::io::Result<()> {
        let folder = self.containerd().cni_bin_dir;
        std::fs::create_dir_all(&folder)?;
        // A link, not a copy: an upgraded binary brings its own plugin.
        let target = std::fs::read_link("/proc/self/exe")?;
        for name in CNI_NAMES {
            let temporary = folder.join(format!(".{name}.tmp"));
            // Left over from an interrupted start, if it is there at all.
            let _ = std::fs::remove_file(&temporary);
            std::os::unix::fs::symlink(&target, &temporary)?;
            std::fs::rename(&temporary, folder.join(name))?;
        }
        Ok(())
    }
}
