//! Makes this host a node: the same on a server and on an agent.

mod killall;
mod kubelet;
mod layout;
mod milestones;

use std::{net::IpAddr, time::Duration};

use anyhow::{Context, Result};
use ipnet::IpNet;
use skiff_agent::{Agent, AgentConfig, RuntimeConfig};
use skiff_apiserver::{ApiServer, UserInfo};
use skiff_client::{Client, Snapshot};
use skiff_host::{cgroup::Cgroups, nftables::Nft};
use skiff_network::{flannel, proxy};

pub use killall::killall;
pub use layout::Layout;
use milestones::Milestones;

use crate::{
    config::{AgentSettings, ServerSettings},
    payload::Binaries,
    pki::{KeyAndCertificate, Leaf, ServerPki},
    progress::Progress,
    supervision::Supervision,
    supervisor::ClusterConfig,
    system_image::{self, UpstreamImages},
};

/// How long a fresh node may take before a person is told what is missing.
const READY_PATIENCE: Duration = Duration::from_secs(60);

/// Facts of the cluster that a node needs.
pub struct Cluster {
    pub cluster_cidr: IpNet,
    pub cluster_dns: IpAddr,
    pub cluster_domain: String,
    /// `None`: another network plugin is brought by the user.
    pub backend: Option<flannel::Backend>,
}

impl Cluster {
    /// From what a server told.
    pub fn from_config(config: &ClusterConfig) -> Result<Cluster> {
        Ok(Cluster {
            cluster_cidr: config.cluster_cidr.parse().context("clusterCidr")?,
            cluster_dns: config.cluster_dns.parse().context("clusterDns")?,
            cluster_domain: config.cluster_domain.clone(),
            backend: flannel::Backend::from_name(&config.flannel_backend),
        })
    }
}

/// Who the node is.
pub struct NodeIdentity {
    /// Speaks as `system:node:<name>`.
    pub client: Client,
    /// The kubelet's serving certificate.
    pub serving: KeyAndCertificate,
    /// Whose client certificates the kubelet accepts.
    pub client_ca_pem: String,
    /// Reference of the system image.
    pub system_image: String,
}

/// Whether this process may do what a node needs.
pub fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// What no node can do without, told before anything is started.
pub fn check_host() -> Result<()> {
    Cgroups::detect()?;
    Ok(())
}

/// Makes a node of the server's own host: its client needs no socket, and its
/// stores are the API server's.
pub async fn start_on_server(
    settings: &ServerSettings,
    pki: &ServerPki,
    server: &ApiServer,
    binaries: Binaries,
    progress: &Progress,
    supervision: &mut Supervision,
) -> Result<()> {
    let node = &settings.node;
    let user = UserInfo::new(format!("system:node:{}", node.node_name), &["system:nodes"]);
    let names = vec![node.node_name.clone(), "localhost".to_owned(), "127.0.0.1".to_owned(), node.node_ip.to_string()];
    let leaf = Leaf::server(&format!("system:node:{}", node.node_name), &names);
    let folder = node.data_dir.join("agent");
    let identity = NodeIdentity {
        client: server.client(user, "kubelet"),
        serving: KeyAndCertificate::load_or_issue(&folder, "serving-kubelet", &pki.server_ca, &leaf)?,
        client_ca_pem: pki.client_ca.certificate_pem.clone(),
        system_image: system_image::write(&folder.join("images"))?.reference,
    };
    let cluster = Cluster {
        cluster_cidr: settings.cluster_cidr,
        cluster_dns: settings.cluster_dns,
        cluster_domain: settings.cluster_domain.clone(),
        backend: flannel::Backend::from_name(settings.flannel_backend.name()),
    };
    start(node, &cluster, identity, server.snapshot(), binaries, progress, supervision).await
}

/// Starts network and node agent, and waits until the node is Ready.
pub async fn start(
    settings: &AgentSettings,
    cluster: &Cluster,
    identity: NodeIdentity,
    snapshot: Snapshot,
    binaries: Binaries,
    progress: &Progress,
    supervision: &mut Supervision,
) -> Result<()> {
    let (serving, client_ca_pem) = (identity.serving.clone(), identity.client_ca_pem.clone());
    let layout = Layout::new(&settings.data_dir, &settings.cgroup_root);
    layout.record().context("record the layout of the node")?;
    layout.link_cni_plugin().context("install the CNI plugin")?;
    let nft = Nft::new(binaries.require("nft")?);
    let token = supervision.stage("node", Duration::from_secs(10));
    if let Some(backend) = cluster.backend.clone() {
        let config = network_config(settings, cluster, &layout, backend, nft.clone());
        let (client, snapshot, token) = (identity.client.with_user_agent("flannel"), snapshot.clone(), token.clone());
        supervision.spawn("pod network", async move {
            flannel::run(config, client, snapshot, token).await;
            Ok(())
        });
    }
    let config = proxy::ProxyConfig {
        node_name: settings.node_name.clone(),
        cluster_cidrs: vec![cluster.cluster_cidr],
        nft,
        table_suffix: String::new(),
        localhost_node_ports: true,
    };
    supervision.spawn("service proxy", {
        let (snapshot, token) = (snapshot.clone(), token.clone());
        async move {
            proxy::run(config, snapshot, token).await;
            Ok(())
        }
    });
    let milestones = Milestones::new(progress);
    let (sink, patience) = (milestones.sink(), tokio::time::timeout(READY_PATIENCE, milestones.wait_ready()));
    let config = agent_config(settings, cluster, &layout, identity, snapshot, &binaries)?;
    let kubelet = kubelet::listen(settings.kubelet_port, &serving, &client_ca_pem).await?;
    supervision.spawn("node agent", async move {
        let agent = Agent::start(config, sink, token.clone()).await?;
        tokio::join!(kubelet.serve(agent.backend(), token), agent.wait());
        Ok(())
    });
    tokio::select! {
        ended = patience => match ended {
            Ok(()) => milestones.end(&settings.node_name),
            Err(_) => {
                milestones.end("not Ready yet; `skiff kubectl describe node` says why, and -v shows what is going on");
            }
        },
        error = supervision.failed() => return Err(error),
    }
    Ok(())
}

fn network_config(
    settings: &AgentSettings,
    cluster: &Cluster,
    layout: &Layout,
    backend: flannel::Backend,
    nft: Nft,
) -> flannel::NetworkConfig {
    flannel::NetworkConfig {
        node_name: settings.node_name.clone(),
        node_ips: vec![settings.node_ip],
        interface: settings.flannel_interface.clone(),
        cluster_cidrs: vec![cluster.cluster_cidr],
        backend,
        net_conf_file: None,
        cni_conf_dir: layout.containerd().cni_conf_dir,
        cni_data_dir: layout.cni_data_dir(),
        subnet_file: layout.subnet_file(),
        bridge: layout.bridge().to_owned(),
        nft,
        table_suffix: String::new(),
    }
}

fn agent_config(
    settings: &AgentSettings,
    cluster: &Cluster,
    layout: &Layout,
    identity: NodeIdentity,
    snapshot: Snapshot,
    binaries: &Binaries,
) -> Result<AgentConfig> {
    let mut containerd = layout.containerd();
    let upstream = settings.system_default_registry.as_deref().map(|registry| UpstreamImages(registry).pause());
    containerd.sandbox_image = settings.pause_image.clone().or(upstream).unwrap_or(identity.system_image);
    containerd.bin_dirs = binaries.folders().to_vec();
    containerd.snapshotter = Some(settings.snapshotter.clone());
    let runtime = RuntimeConfig::Supervised(Box::new(containerd));
    let mut config = AgentConfig::new(&settings.node_name, settings.data_dir.clone(), runtime, identity.client);
    config.node_ips = vec![settings.node_ip];
    config.pod_log_dir = Some(layout.pod_log_dir());
    config.snapshot = Some(snapshot);
    config.cluster_dns = vec![cluster.cluster_dns];
    config.cluster_domain = cluster.cluster_domain.clone();
    config.resolv_conf = settings.resolv_conf.clone();
    config.cgroup_root = layout.cgroup_root.clone();
    config.kubelet_port = settings.kubelet_port;
    config.labels = settings.labels.iter().cloned().collect();
    config.taints = settings.taints.iter().map(|taint| taint_of(taint)).collect();
    config.max_pods = settings.max_pods;
    config.eviction = settings.eviction.clone();
    config.kubelet_version = crate::version::VERSION.to_owned();
    Ok(config)
}

/// `key=value:Effect`; the form was checked when the flag was read.
fn taint_of(text: &str) -> k8s_openapi::api::core::v1::Taint {
    let (rest, effect) = text.rsplit_once(':').unwrap_or((text, "NoSchedule"));
    let (key, value) = rest.split_once('=').map_or((rest, None), |(key, value)| (key, Some(value.to_owned())));
    k8s_openapi::api::core::v1::Taint { key: key.to_owned(), value, effect: effect.to_owned(), time_added: None }
}
