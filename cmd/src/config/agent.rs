//! What a node is told, in typed form.

use std::{net::IpAddr, path::PathBuf};

use skiff_agent::EvictionThresholds;

use super::server::secret;
use crate::flags::{Settings, SettingsError};

/// The data folder when none is given; only it may use unsuffixed names on the host.
pub const DEFAULT_DATA_DIR: &str = "/var/lib/skiff";

/// Settings that make a node, on a server or on an agent.
#[derive(Clone, Debug)]
pub struct AgentSettings {
    pub data_dir: PathBuf,
    pub node_name: String,
    pub node_ip: IpAddr,
    pub labels: Vec<(String, String)>,
    /// `key=value:Effect`, checked by the node agent.
    pub taints: Vec<String>,
    pub max_pods: u32,
    pub kubelet_port: u16,
    pub eviction: EvictionThresholds,
    pub resolv_conf: PathBuf,
    pub cgroup_root: String,
    pub prefer_host_binaries: bool,
    pub pause_image: Option<String>,
    pub system_default_registry: Option<String>,
    pub snapshotter: String,
    pub flannel_interface: Option<String>,
    /// Only for `skiff agent`.
    pub server_url: Option<String>,
    pub token: Option<String>,
}

impl AgentSettings {
    pub fn from(settings: &Settings) -> Result<AgentSettings, SettingsError> {
        let data_dir: PathBuf = settings.required("data-dir")?;
        if !data_dir.is_absolute() {
            return Err(SettingsError::new("data-dir", format!("{} is not an absolute path", data_dir.display())));
        }
        Ok(AgentSettings {
            node_name: node_name(settings)?,
            node_ip: node_ip(settings)?,
            labels: labels(settings)?,
            taints: taints(settings)?,
            max_pods: settings.required("max-pods")?,
            kubelet_port: settings.required("kubelet-port")?,
            eviction: super::kubelet_args::eviction(settings)?,
            resolv_conf: settings.required("resolv-conf")?,
            cgroup_root: settings.text("cgroup-root").map_or_else(|| cgroup_root(&data_dir), str::to_owned),
            prefer_host_binaries: settings.switch("prefer-host-bin"),
            pause_image: settings.text("pause-image").map(str::to_owned),
            system_default_registry: settings.text("system-default-registry").map(str::to_owned),
            snapshotter: settings.required("snapshotter")?,
            flannel_interface: settings.text("flannel-iface").map(str::to_owned),
            server_url: server_url(settings)?,
            token: secret(settings)?,
            data_dir,
        })
    }
}

/// A short text that differs between data folders, for names of things that all
/// Skiffs of a host share; empty for the default folder.
pub fn instance_of(data_dir: &std::path::Path) -> String {
    if data_dir == std::path::Path::new(DEFAULT_DATA_DIR) {
        return String::new();
    }
    let digest = ring::digest::digest(&ring::digest::SHA256, data_dir.as_os_str().as_encoded_bytes());
    skiff_api::hex::encode(&digest.as_ref()[..4])
}

/// The default of `--cgroup-root`.
pub fn cgroup_root(data_dir: &std::path::Path) -> String {
    match instance_of(data_dir).as_str() {
        "" => "/".to_owned(),
        instance => format!("/skiff-{instance}"),
    }
}

fn node_name(settings: &Settings) -> Result<String, SettingsError> {
    let name = match settings.text("node-name") {
        Some(name) => name.to_owned(),
        None => rustix_hostname()?,
    };
    let lower = name.to_lowercase();
    if skiff_api::names::dns1123_subdomain(&lower).is_empty() {
        Ok(lower)
    } else {
        let message = format!("{name:?} is not a DNS name; give one of letters, digits, '-' and '.'");
        Err(SettingsError::new("node-name", message))
    }
}

fn rustix_hostname() -> Result<String, SettingsError> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_err(|error| SettingsError::new("node-name", format!("read the host name: {error}")))?;
    Ok(name.trim().to_owned())
}

fn node_ip(settings: &Settings) -> Result<IpAddr, SettingsError> {
    if let Some(given) = settings.many("node-ip").first() {
        return given.parse().map_err(|error| SettingsError::new("node-ip", format!("{given:?}: {error}")));
    }
    skiff_host::address::default_address()
        .ok_or_else(|| SettingsError::new("node-ip", "this host has no address but loopback; give one"))
}

fn labels(settings: &Settings) -> Result<Vec<(String, String)>, SettingsError> {
    let split = |label: String| match label.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(SettingsError::new("node-label", format!("{label:?} is not of the form key=value"))),
    };
    settings.many("node-label").into_iter().map(split).collect()
}

fn taints(settings: &Settings) -> Result<Vec<String>, SettingsError> {
    let taints = settings.many("node-taint");
    for taint in &taints {
        let effect = taint.rsplit_once(':').map(|(_, effect)| effect);
        if !matches!(effect, Some("NoSchedule" | "PreferNoSchedule" | "NoExecute")) {
            let message = format!("{taint:?} is not of the form key=value:NoSchedule|PreferNoSchedule|NoExecute");
            return Err(SettingsError::new("node-taint", message));
        }
    }
    Ok(taints)
}

fn server_url(settings: &Settings) -> Result<Option<String>, SettingsError> {
    let Some(url) = settings.text("server") else { return Ok(None) };
    let url = url.trim_end_matches('/');
    let valid = url.strip_prefix("https://").is_some_and(|rest| !rest.is_empty() && !rest.contains('/'));
    if valid {
        Ok(Some(url.to_owned()))
    } else {
        Err(SettingsError::new("server", format!("{url:?} is not of the form https://HOST:6443")))
    }
}
