//! containerd's configuration file, for releases 1.6 to 2.x.
//!
//! Release 1.x reads version 2 of the format, release 2.x version 3. The text
//! depends only on this configuration, so an unchanged text means that a
//! running containerd can be adopted.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

/// Everything about the containerd that this agent runs.
#[derive(Clone, Debug)]
pub struct ContainerdConfig {
    /// Persistent data: images, snapshots, metadata.
    pub root: PathBuf,
    /// Volatile data: running tasks.
    pub state: PathBuf,
    pub socket: PathBuf,
    pub config_file: PathBuf,
    pub log_file: PathBuf,
    pub cni_bin_dir: PathBuf,
    pub cni_conf_dir: PathBuf,
    pub sandbox_image: String,
    /// Searched before `PATH` for containerd, runc, the shim and host tools.
    pub bin_dirs: Vec<PathBuf>,
    /// `hosts.toml` directories of registries.
    pub registry_config_dir: PathBuf,
    /// `overlayfs`, `native`, ...; `None` picks the best that works.
    pub snapshotter: Option<String>,
}

/// What the running system adds to the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detected {
    /// First two numbers of containerd's version.
    pub version: (u64, u64),
    pub snapshotter: String,
    pub runc: PathBuf,
    /// We are root only in our own user namespace, where some kernel settings are read-only.
    pub in_user_namespace: bool,
    /// Lowering `oom_score_adj` is refused to us, so it must not be tried.
    pub restrict_oom_score_adj: bool,
}

impl ContainerdConfig {
    /// The usual layout below a data directory.
    pub fn below(data_dir: &Path, run_dir: &Path) -> ContainerdConfig {
        let agent = data_dir.join("agent");
        ContainerdConfig {
            root: agent.join("containerd"),
            state: run_dir.join("containerd"),
            socket: run_dir.join("containerd/containerd.sock"),
            config_file: agent.join("etc/containerd/config.toml"),
            log_file: agent.join("containerd/containerd.log"),
            cni_bin_dir: agent.join("cni/bin"),
            cni_conf_dir: agent.join("etc/cni/net.d"),
            sandbox_image: "skiff/system:latest".to_owned(),
            bin_dirs: Vec::new(),
            registry_config_dir: agent.join("etc/containerd/certs.d"),
            snapshotter: None,
        }
    }

    /// The `PATH` of containerd and everything it starts.
    pub fn search_path(&self) -> String {
        let host = std::env::var("PATH").unwrap_or_default();
        let own = self.bin_dirs.iter().map(|dir| dir.display().to_string());
        let fallback = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned();
        own.chain([host, fallback]).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(":")
    }

    /// The first executable of this name in [`ContainerdConfig::search_path`].
    pub fn find_program(&self, name: &str) -> Option<PathBuf> {
        self.search_path().split(':').map(|dir| Path::new(dir).join(name)).find(|path| path.is_file())
    }

    /// The snapshotter that image archives are unpacked with: as configured, or as the running
    /// system allows.
    pub fn snapshotter_in_use(&self) -> Option<String> {
        let detect = || if skiff_host::mount::supports_overlay(&self.root) { "overlayfs" } else { "native" };
        Some(self.snapshotter.clone().unwrap_or_else(|| detect().to_owned()))
    }

    /// The text of the configuration file.
    pub(super) fn render(&self, detected: &Detected) -> String {
        if detected.version.0 >= 2 { self.render_v3(detected) } else { self.render_v2(detected) }
    }

    fn common(&self, version: u32) -> String {
        format!(
            "version = {version}\nroot = {root}\nstate = {state}\n\n[grpc]\naddress = {socket}\n\n\
             [plugins.\"io.containerd.internal.v1.opt\"]\npath = {opt}\n\n",
            root = quote(&self.root),
            state = quote(&self.state),
            socket = quote(&self.socket),
            opt = quote(self.root.join("opt")),
        )
    }

    fn render_v2(&self, detected: &Detected) -> String {
        let cri = "plugins.\"io.containerd.grpc.v1.cri\"";
        let mut text = self.common(2);
        let _ = write!(
            text,
            "[{cri}]\nstream_server_address = \"127.0.0.1\"\nstream_server_port = \"0\"\n\
             sandbox_image = {image}\nrestrict_oom_score_adj = {restrict}\nenable_unprivileged_ports = {sysctls}\n\
             enable_unprivileged_icmp = {sysctls}\ntolerate_missing_hugetlb_controller = true\n\n\
             [{cri}.cni]\nbin_dir = {bin}\nconf_dir = {conf}\n\n\
             [{cri}.containerd]\nsnapshotter = {snapshotter}\ndefault_runtime_name = \"runc\"\n\
             disable_snapshot_annotations = true\n\n{runtime}\
             [{cri}.registry]\nconfig_path = {certs}\n",
            image = quote(&self.sandbox_image),
            restrict = detected.restrict_oom_score_adj,
            sysctls = !detected.in_user_namespace,
            bin = quote(&self.cni_bin_dir),
            conf = quote(&self.cni_conf_dir),
            snapshotter = quote(&detected.snapshotter),
            runtime = self.runtime(&format!("{cri}.containerd"), detected),
            certs = quote(&self.registry_config_dir),
        );
        text
    }

    fn render_v3(&self, detected: &Detected) -> String {
        let runtime = "plugins.\"io.containerd.cri.v1.runtime\"";
        let images = "plugins.\"io.containerd.cri.v1.images\"";
        // 2.1 made a list of it, and later releases refuse the old name.
        let bin = match detected.version {
            (2, 0) => format!("bin_dir = {}", quote(&self.cni_bin_dir)),
            _ => format!("bin_dirs = [{}]", quote(&self.cni_bin_dir)),
        };
        let mut text = self.common(3);
        let _ = write!(
            text,
            "[plugins.\"io.containerd.grpc.v1.cri\"]\nstream_server_address = \"127.0.0.1\"\n\
             stream_server_port = \"0\"\n\n\
             [{images}]\nsnapshotter = {snapshotter}\ndisable_snapshot_annotations = true\n\n\
             [{images}.pinned_images]\nsandbox = {image}\n\n[{images}.registry]\nconfig_path = {certs}\n\n\
             [{runtime}]\nrestrict_oom_score_adj = {restrict}\nenable_unprivileged_ports = {sysctls}\n\
             enable_unprivileged_icmp = {sysctls}\ntolerate_missing_hugetlb_controller = true\n\n\
             [{runtime}.cni]\n{bin}\nconf_dir = {conf}\n\n\
             [{runtime}.containerd]\ndefault_runtime_name = \"runc\"\n\n{options}",
            image = quote(&self.sandbox_image),
            restrict = detected.restrict_oom_score_adj,
            sysctls = !detected.in_user_namespace,
            bin = bin,
            conf = quote(&self.cni_conf_dir),
            snapshotter = quote(&detected.snapshotter),
            certs = quote(&self.registry_config_dir),
            options = self.runtime(&format!("{runtime}.containerd"), detected),
        );
        text
    }

    fn runtime(&self, section: &str, detected: &Detected) -> String {
        format!(
            "[{section}.runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"\n\n\
             [{section}.runtimes.runc.options]\nBinaryName = {}\nSystemdCgroup = false\n\n",
            quote(&detected.runc),
        )
    }
}

/// A TOML basic string.
fn quote(text: impl AsRef<std::ffi::OsStr>) -> String {
    let text = text.as_ref().to_string_lossy();
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => {
                quoted.push('\\');
                quoted.push(character);
            }
            control if control.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(control));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

/// The first two numbers in the answer of `containerd --version`.
pub(super) fn parse_version(version_output: &str) -> Option<(u64, u64)> {
    let word = version_output.split_whitespace().nth(2)?;
    let mut numbers = word.trim_start_matches('v').split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detected(version: (u64, u64)) -> Detected {
        Detected {
            version,
            in_user_namespace: false,
            snapshotter: "overlayfs".into(),
            runc: PathBuf::from("/x/runc"),
            restrict_oom_score_adj: true,
        }
    }

    #[test]
    fn version_output_of_distributions_and_upstream_is_understood() {
        assert_eq!(parse_version("containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1"), Some((1, 6)));
        assert_eq!(parse_version("containerd github.com/containerd/containerd/v2 v2.1.4 75cb2b7"), Some((2, 1)));
        assert_eq!(parse_version("garbage"), None);
    }

    #[test]
    fn each_release_line_gets_its_format_with_all_settings() {
        let config = ContainerdConfig::below(Path::new("/d"), Path::new("/r"));
        let old = config.render(&detected((1, 6)));
        assert!(old.starts_with("version = 2\n") && old.contains("sandbox_image = \"skiff/system:latest\""));
        let new = config.render(&detected((2, 1)));
        assert!(new.starts_with("version = 3\n") && new.contains("pinned_images]\nsandbox = "));
        assert!(new.contains("bin_dirs = [\"/d/agent/cni/bin\"]"));
        assert!(config.render(&detected((2, 0))).contains("bin_dir = \"/d/agent/cni/bin\""));
        for text in [old, new] {
            assert!(text.contains("restrict_oom_score_adj = true"));
            assert!(text.contains("BinaryName = \"/x/runc\""));
            assert!(text.contains("conf_dir = \"/d/agent/etc/cni/net.d\""));
        }
    }

    #[test]
    fn paths_are_quoted() {
        assert_eq!(quote("a\"b\\c"), "\"a\\\"b\\\\c\"");
    }
}
