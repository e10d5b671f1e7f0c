//! Everything the node agent must be told; plain data.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Taint;
use skiff_client::{Client, Snapshot};

use crate::{containerd::ContainerdConfig, eviction_thresholds::EvictionThresholds, images::ImportReport};

/// Where the container runtime is.
#[derive(Clone, Debug)]
pub enum RuntimeConfig {
    /// A containerd that we run.
    Supervised(Box<ContainerdConfig>),
    /// The CRI socket of one that somebody else runs.
    External(PathBuf),
}

/// The configuration of [`crate::run`].
#[derive(Clone)]
pub struct AgentConfig {
    pub node_name: String,
    /// Addresses of this node inside the cluster, the preferred family first.
    pub node_ips: Vec<IpAddr>,
    pub external_ips: Vec<IpAddr>,
    pub hostname: String,
    /// `<scheme>://<id>` of a cloud provider, if any.
    pub provider_id: Option<String>,
    /// Root of all persistent data; ours is below `agent/`.
    pub data_dir: PathBuf,
    /// Container logs; `None` means `/var/log/pods`.
    pub pod_log_dir: Option<PathBuf>,
    /// Static pods; `None` means `<data_dir>/agent/pod-manifests`.
    pub static_pod_dir: Option<PathBuf>,
    /// Image archives; `None` means `<data_dir>/agent/images`.
    pub image_archive_dir: Option<PathBuf>,
    pub runtime: RuntimeConfig,
    /// Speaks to the API as this node.
    pub client: Client,
    /// Stores shared with the API server in the same process; where it has services they are not watched again.
    pub snapshot: Option<Snapshot>,
    pub cluster_dns: Vec<IpAddr>,
    pub cluster_domain: String,
    /// The host's resolver configuration that pods inherit.
    pub resolv_conf: PathBuf,
    /// Control group below which `kubepods` is made; empty means the root.
    pub cgroup_root: String,
    /// Port of the kubelet API of this node, as written into the node status.
    pub kubelet_port: u16,
    pub labels: BTreeMap<String, String>,
    /// Taints set when the node registers for the first time.
    pub taints: Vec<Taint>,
    pub max_pods: u32,
    /// Processes of one pod at most; negative means no limit.
    pub pod_pids_max: i64,
    /// For example `v1.37.0+skiff1`.
    pub kubelet_version: String,
    pub eviction: EvictionThresholds,
}

impl AgentConfig {
    /// A configuration with the usual settings.
    pub fn new(node_name: &str, data_dir: PathBuf, runtime: RuntimeConfig, client: Client) -> AgentConfig {
        AgentConfig {
            node_name: node_name.to_owned(),
            node_ips: Vec::new(),
            external_ips: Vec::new(),
            hostname: node_name.to_owned(),
            provider_id: None,
            data_dir,
            pod_log_dir: None,
            static_pod_dir: None,
            image_archive_dir: None,
            runtime,
            client,
            snapshot: None,
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".to_owned(),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            cgroup_root: String::new(),
            kubelet_port: 10250,
            labels: BTreeMap::new(),
            taints: Vec::new(),
            max_pods: 110,
            pod_pids_max: -1,
            kubelet_version: "v1.37.0".to_owned(),
            eviction: EvictionThresholds::default(),
        }
    }

    pub fn pod_log_dir(&self) -> PathBuf {
        self.pod_log_dir.clone().unwrap_or_else(|| PathBuf::from("/var/log/pods"))
    }

    pub fn pods_dir(&self) -> PathBuf {
        self.data_dir.join("agent/kubelet/pods")
    }

    pub fn static_pod_dir(&self) -> PathBuf {
        self.static_pod_dir.clone().unwrap_or_else(|| self.data_dir.join("agent/pod-manifests"))
    }

    pub fn image_archive_dir(&self) -> PathBuf {
        self.image_archive_dir.clone().unwrap_or_else(|| self.data_dir.join("agent/images"))
    }

    pub fn seccomp_dir(&self) -> PathBuf {
        self.data_dir.join("agent/kubelet/seccomp")
    }
}

/// What the agent reports while it comes up and runs.
#[derive(Clone, Debug)]
pub enum AgentEvent {
    RuntimeReady {
        version: String,
    },
    ImageArchive(ImportReport),
    ImagesImported,
    NodeRegistered,
    /// The node's Ready condition changed.
    NodeReady(bool),
    PodRunning {
        namespace: String,
        name: String,
        at: Timestamp,
    },
}

/// Receives [`AgentEvent`]s; must not block.
pub type EventSinkFn = Arc<dyn Fn(AgentEvent) + Send + Sync>;
