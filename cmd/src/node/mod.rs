//! Makes this host a node: the same on a server and on an agent.

use std::path::Path;

use anyhow::{Result, bail};
use ipnet::IpNet;
use skiff_client::{Client, Snapshot};
use skiff_apiserver::ApiServer;

use crate::{config::{AgentSettings, ServerSettings}, payload::Binaries, pki::{KeyAndCertificate, ServerPki}, progress::Progress, supervision::Supervision, supervisor::ClusterConfig};

/// Whether this process may do what a node needs.
pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}
pub fn check_host() -> Result<()> { skiff_host::cgroup::Cgroups::detect()?; Ok(()) }
pub async fn killall(_data_dir: &Path, _dry_run: bool) -> Result<()> { bail!("x") }
pub struct Cluster { pub cluster_cidr: IpNet }
impl Cluster { pub fn from_config(c: &ClusterConfig) -> Result<Cluster> { Ok(Cluster{cluster_cidr: c.cluster_cidr.parse()?}) } }
pub struct NodeIdentity { pub client: Client, pub serving: KeyAndCertificate, pub client_ca_pem: String, pub system_image: String }
pub async fn start(_: &AgentSettings, _: &Cluster, _: NodeIdentity, _: Snapshot, _: Binaries, _: &Progress, _: &mut Supervision) -> Result<()> { bail!("x") }
pub async fn start_on_server(_: &ServerSettings, _: &ServerPki, _: &ApiServer, _: Binaries, _: &Progress, _: &mut Supervision) -> Result<()> { bail!("x") }
