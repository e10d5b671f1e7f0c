//! Where a node keeps things, and how its things are named on a host that may
//! carry several Skiffs.

use std::path::{Path, PathBuf};

use skiff_agent::containerd::ContainerdConfig;

use crate::config::{cgroup_root, instance_of};

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

    /// The layout of the node that runs here or ran last, as [`Layout::record`] left it.
    pub fn recorded(data_dir: &Path) -> std::io::Result<Layout> {
        match std::fs::read_to_string(record(data_dir)) {
            Ok(root) => Ok(Layout::new(data_dir, root.trim_end())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Ok(Layout::new(data_dir, &cgroup_root(data_dir)))
            }
            Err(error) => Err(error),
        }
    }

    /// Keeps what a later `killall` cannot derive from the data folder.
    pub fn record(&self) -> std::io::Result<()> {
        let file = record(&self.data_dir);
        std::fs::create_dir_all(self.data_dir.join("agent"))?;
        let temporary = file.with_extension("tmp");
        std::fs::write(&temporary, format!("{}\n", self.cgroup_root))?;
        std::fs::rename(temporary, file)
    }

    /// Whether a node ever ran with this data folder.
    pub fn has_run(&self) -> bool {
        record(&self.data_dir).exists()
    }

    /// Whether the parent cgroup was made for this Skiff alone.
    pub fn owns_cgroup_root(&self) -> bool {
        !self.instance.is_empty() && self.cgroup_root == cgroup_root(&self.data_dir)
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

fn record(data_dir: &Path) -> PathBuf {
    data_dir.join("agent/cgroup-root")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn killall_knows_the_cgroup_root_that_was_given_by_hand() {
        let folder = tempfile::tempdir().unwrap();
        let default = Layout::recorded(folder.path()).unwrap();
        assert!(default.owns_cgroup_root() && !default.has_run(), "{default:?}");
        Layout::new(folder.path(), "/machine/pods").record().unwrap();
        let recorded = Layout::recorded(folder.path()).unwrap();
        assert_eq!(recorded.cgroup_root, "/machine/pods");
        assert!(recorded.has_run());
        assert!(!recorded.owns_cgroup_root(), "somebody else made it");
    }
}
