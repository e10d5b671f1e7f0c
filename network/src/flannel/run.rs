//! The life of the overlay on one node.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use futures_util::FutureExt;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{ConfigMap, Node};
use serde_json::json;
use skiff_api::{GroupVersionResource, Object};
use skiff_client::{Client, ClientError, Patch, Snapshot, Store, StoreEvent, Subscription};
use skiff_host::{
    netlink::{Netlink, NetlinkError},
    nftables::NftError,
    sysctl::{self, SysctlError},
};
use tokio::{task::JoinError, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{
    config::{Backend, CONFIG_MAP_KEY, CONFIG_MAP_NAME, CONFIG_MAP_NAMESPACE, NetConf, NetConfError, NetworkConfig},
    device::{self, DeviceError, Uplink},
    kernel,
    lease::{self, FamilyLease, Lease},
    masquerade, node_files,
    plan::{self, Local, LocalFamily, Plan},
};
use crate::limits::{RETRY_MAX, RETRY_MIN, jittered};

/// How long a fresh cluster may take to create the ConfigMap before the flags' settings are used.
const CONFIG_MAP_WAIT: Duration = Duration::from_secs(10);
const CONFIG_MAP_RETRY: Duration = Duration::from_millis(100);

/// Why the overlay is not (or no longer) in order; the runner tries again.
#[derive(Debug, thiserror::Error)]
pub enum FlannelError {
    #[error("the snapshot holds no nodes")]
    NoNodes,
    #[error("the store of nodes has closed")]
    Closed,
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error(transparent)]
    Nft(#[from] NftError),
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    #[error(transparent)]
    Write(#[from] node_files::WriteError),
    #[error(transparent)]
    NetConf(#[from] NetConfError),
    #[error("read {path}: {source}")]
    NetConfFile { path: String, source: std::io::Error },
    #[error("announce this node: {0}")]
    Announce(ClientError),
    #[error("read ConfigMap {CONFIG_MAP_NAMESPACE}/{CONFIG_MAP_NAME}: {0}")]
    ConfigMap(ClientError),
    #[error("pod subnets {0:?} are in none of the cluster's networks")]
    Subnet(Vec<IpNet>),
    #[error(transparent)]
    Join(#[from] JoinError),
}

/// Runs the overlay until cancelled. Failures are reported and tried again with
/// back-off; what works stays in place meanwhile, also after the end.
pub async fn run(config: NetworkConfig, client: Client, snapshot: Snapshot, token: CancellationToken) {
    let config = Arc::new(config);
    let mut delay = RETRY_MIN;
    loop {
        let session = Session { config: &config, client: &client, snapshot: &snapshot };
        let outcome = tokio::select! {
            () = token.cancelled() => return,
            outcome = session.run() => outcome,
        };
        match outcome {
            Ok(()) => delay = RETRY_MIN,
            Err(error) => {
                tracing::warn!(component = "flannel", %error, "overlay is not in order, trying again");
                tokio::select! {
                    () = token.cancelled() => return,
                    () = sleep(jittered(delay)) => {}
                }
                delay = (delay * 2).min(RETRY_MAX);
            }
        }
    }
}

struct Session<'a> {
    config: &'a Arc<NetworkConfig>,
    client: &'a Client,
    snapshot: &'a Snapshot,
}

/// What was set up for the node's current subnets.
struct Ready {
    local: Local,
    lease: Lease,
    vni: u32,
    mtu: u32,
    tunnels: Vec<u32>,
}

impl Session<'_> {
    /// Returns without error when the node's subnets have changed: start over.
    async fn run(&self) -> Result<(), FlannelError> {
        let nodes = self.snapshot.store_of::<Node>().ok_or(FlannelError::NoNodes)?;
        let mut events = nodes.subscribe();
        nodes.wait_synced().await;
        let assigned = self.wait_for_subnets(&nodes, &mut events).await?;
        let net_conf = self.net_conf().await?;
        let has_network = |net: &IpNet| net_conf.networks.iter().any(|network| network.contains(net));
        let subnets: Vec<IpNet> = assigned.iter().copied().filter(has_network).collect();
        if subnets.is_empty() {
            return Err(FlannelError::Subnet(assigned));
        }
        let ready = {
            let (config, net_conf, subnets) = (Arc::clone(self.config), net_conf.clone(), subnets.clone());
            tokio::task::spawn_blocking(move || set_up(&config, &net_conf, &subnets)).await??
        };
        tracing::info!(
            component = "flannel",
            backend = ready.local.backend,
            ?subnets,
            mtu = ready.mtu,
            "pod network is ready"
        );
        self.follow(&nodes, &mut events, &assigned, &ready).await
    }

    async fn wait_for_subnets(&self, nodes: &Store, events: &mut Subscription) -> Result<Vec<IpNet>, FlannelError> {
        let mut is_told = false;
        loop {
            let subnets = nodes.get("", &self.config.node_name).map(|node| lease::pod_cidrs(&node)).unwrap_or_default();
            if !subnets.is_empty() {
                return Ok(subnets);
            }
            if !is_told {
                is_told = true;
                tracing::info!(component = "flannel", node = %self.config.node_name, "waiting for a pod subnet");
            }
            events.next().await.ok_or(FlannelError::Closed)?;
        }
    }

    /// The user's file, else the ConfigMap, else what the flags say.
    async fn net_conf(&self) -> Result<NetConf, FlannelError> {
        if let Some(path) = &self.config.net_conf_file {
            let text = std::fs::read_to_string(path)
                .map_err(|source| FlannelError::NetConfFile { path: path.display().to_string(), source })?;
            return Ok(NetConf::parse(&text)?);
        }
        let from_flags = NetConf { networks: self.config.cluster_cidrs.clone(), backend: self.config.backend.clone() };
        let deadline = tokio::time::Instant::now() + CONFIG_MAP_WAIT;
        let resource = GroupVersionResource::of::<ConfigMap>();
        loop {
            let error = match self.client.get(&resource, Some(CONFIG_MAP_NAMESPACE), CONFIG_MAP_NAME).await {
                Ok(map) => return net_conf_of(&map).map_or(Ok(from_flags), |text| Ok(NetConf::parse(&text)?)),
                Err(error) => error,
            };
            let may_appear = matches!(error.reason(), Some(skiff_api::Reason::NotFound | skiff_api::Reason::Forbidden));
            if !may_appear {
                return Err(FlannelError::ConfigMap(error));
            }
            if tokio::time::Instant::now() >= deadline {
                tracing::warn!(component = "flannel", %error, "no overlay configuration in the cluster, using flags");
                return Ok(from_flags);
            }
            sleep(CONFIG_MAP_RETRY).await;
        }
    }

    async fn follow(
        &self,
        nodes: &Store,
        events: &mut Subscription,
        assigned: &[IpNet],
        ready: &Ready,
    ) -> Result<(), FlannelError> {
        let mut leases = leases_of(nodes);
        let mut have = {
            let tunnels = ready.tunnels.clone();
            tokio::task::spawn_blocking(move || kernel::read(&mut Netlink::route()?, &tunnels)).await??
        };
        self.announce(nodes, ready).await?;
        loop {
            have = bring_in_line(have, plan::compile(&leases, &ready.local)).await?;
            let mut is_own_changed = false;
            loop {
                let changed = match events.next().await.ok_or(FlannelError::Closed)? {
                    StoreEvent::Resync => {
                        is_own_changed = true;
                        leases = leases_of(nodes);
                        true
                    }
                    StoreEvent::Applied { new, .. } => {
                        is_own_changed |= new.meta.name == self.config.node_name;
                        update(&mut leases, &new)
                    }
                    StoreEvent::Deleted(node) => leases.remove(&node.meta.name).is_some(),
                };
                // Take everything that has arrived meanwhile into one change.
                let more = changed && take_waiting(events, nodes, &mut leases);
                is_own_changed |= more;
                if changed || is_own_changed {
                    break;
                }
            }
            if is_own_changed {
                let current = nodes.get("", &self.config.node_name).map(|node| lease::pod_cidrs(&node));
                if current.is_some_and(|current| current != assigned) {
                    tracing::info!(component = "flannel", "the node's pod subnets have changed");
                    return Ok(());
                }
                self.announce(nodes, ready).await?;
            }
        }
    }

    /// Writes the annotations that are missing or different; a node object that is gone will come back.
    async fn announce(&self, nodes: &Store, ready: &Ready) -> Result<(), FlannelError> {
        let Some(node) = nodes.get("", &self.config.node_name) else { return Ok(()) };
        let wanted = ready.lease.annotations(ready.vni);
        let missing: BTreeMap<_, _> =
            wanted.into_iter().filter(|(name, value)| node.meta.annotations.get(name) != Some(value)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let patch = Patch::Merge(json!({"metadata": {"annotations": missing}}));
        let resource = GroupVersionResource::of::<Node>();
        match self.client.patch(&resource, None, &self.config.node_name, None, &patch).await {
            Err(error) if !error.is_not_found() => Err(FlannelError::Announce(error)),
            _ => Ok(()),
        }
    }
}

fn net_conf_of(map: &Object) -> Option<String> {
    map.typed::<ConfigMap>().ok()?.data.as_ref()?.get(CONFIG_MAP_KEY).cloned()
}

fn leases_of(nodes: &Store) -> BTreeMap<String, Lease> {
    let nodes = nodes.list(None);
    nodes.iter().filter_map(|node| Some((node.meta.name.clone(), Lease::of(node)?))).collect()
}

/// Returns whether the node's lease is another one now; heartbeats are not.
fn update(leases: &mut BTreeMap<String, Lease>, node: &Object) -> bool {
    let name = &node.meta.name;
    match Lease::of(node) {
        Some(lease) if leases.get(name) == Some(&lease) => false,
        Some(lease) => {
            leases.insert(name.clone(), lease);
            true
        }
        None => leases.remove(name).is_some(),
    }
}

/// Returns whether events were taken, so that the own node must be looked at too.
fn take_waiting(events: &mut Subscription, nodes: &Store, leases: &mut BTreeMap<String, Lease>) -> bool {
    let mut taken = false;
    while let Some(Some(event)) = events.next().now_or_never() {
        taken = true;
        match event {
            StoreEvent::Resync => *leases = leases_of(nodes),
            StoreEvent::Applied { new, .. } => drop(update(leases, &new)),
            StoreEvent::Deleted(node) => drop(leases.remove(&node.meta.name)),
        }
    }
    taken
}

async fn bring_in_line(have: Plan, want: Plan) -> Result<Plan, FlannelError> {
    if have == want {
        return Ok(want);
    }
    let apply = move || kernel::apply(&mut Netlink::route()?, &have, &want).map(|()| want);
    Ok(tokio::task::spawn_blocking(apply).await??)
}

/// Device, address, translation rules and files for the node's subnets.
fn set_up(config: &NetworkConfig, net_conf: &NetConf, subnets: &[IpNet]) -> Result<Ready, FlannelError> {
    let mut netlink = Netlink::route()?;
    let mut ready = Ready {
        local: Local {
            node_name: config.node_name.clone(),
            backend: net_conf.backend.name().to_owned(),
            ..Local::default()
        },
        lease: Lease { backend: net_conf.backend.name().to_owned(), ..Lease::default() },
        vni: 0,
        mtu: u32::MAX,
        tunnels: Vec::new(),
    };
    for subnet in subnets {
        let is_v4 = subnet.addr().is_ipv4();
        let node_ip: Option<IpAddr> = config.node_ips.iter().copied().find(|ip| ip.is_ipv4() == is_v4);
        let uplink = device::find_uplink(&mut netlink, config.interface.as_deref(), node_ip, is_v4)?;
        if let Some(uplink) = uplink {
            ready.add_family(&mut netlink, &net_conf.backend, &uplink, *subnet)?;
        }
        let forwarding = if is_v4 { "net/ipv4/ip_forward" } else { "net/ipv6/conf/all/forwarding" };
        sysctl::set(forwarding, "1")?;
    }
    if ready.mtu == u32::MAX {
        return Err(FlannelError::Subnet(subnets.to_vec()));
    }
    config.nft.apply(&masquerade::script(&config.table_suffix, &net_conf.networks, subnets))?;
    node_files::write(config, &net_conf.networks, subnets, ready.mtu)?;
    Ok(ready)
}

impl Ready {
    fn add_family(
        &mut self,
        netlink: &mut Netlink,
        backend: &Backend,
        uplink: &Uplink,
        subnet: IpNet,
    ) -> Result<(), FlannelError> {
        let (tunnel, mtu) = match backend {
            Backend::Vxlan(vxlan) => {
                self.vni = vxlan.vni;
                self.local.direct_routing = vxlan.direct_routing;
                let node_name = self.local.node_name.clone();
                let tunnel = device::ensure_tunnel(netlink, vxlan, uplink, subnet, &node_name)?;
                (Some(tunnel), device::tunnel_mtu(vxlan, uplink))
            }
            Backend::HostGw => (None, uplink.link.mtu),
        };
        self.mtu = self.mtu.min(mtu);
        self.tunnels.extend(tunnel.as_ref().map(|link| link.index));
        let local = LocalFamily {
            tunnel: tunnel.as_ref().map(|link| link.index),
            link: uplink.link.index,
            neighbours: uplink.networks.clone(),
        };
        let lease = FamilyLease { subnet, public_ip: uplink.public_ip, vtep_mac: tunnel.map(|link| link.mac) };
        if subnet.addr().is_ipv4() {
            (self.local.v4, self.lease.v4) = (Some(local), Some(lease));
        } else {
            (self.local.v6, self.lease.v6) = (Some(local), Some(lease));
        }
        Ok(())
    }
}
