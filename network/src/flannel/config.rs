//! Settings of the overlay: what the node was started with, and `net-conf.json`.

use std::{net::IpAddr, path::PathBuf};

use ipnet::IpNet;
use serde::Deserialize;
use skiff_host::nftables::Nft;

/// Name and key of the ConfigMap that holds `net-conf.json`.
pub const CONFIG_MAP_NAMESPACE: &str = "kube-system";
pub const CONFIG_MAP_NAME: &str = "kube-flannel-cfg";
pub const CONFIG_MAP_KEY: &str = "net-conf.json";

const VNI_DEFAULT: u32 = 1;
const PORT_DEFAULT: u16 = 8472;

/// What the node component needs to know to run the overlay.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    pub node_name: String,
    /// The node's addresses, at most one per family used.
    pub node_ips: Vec<IpAddr>,
    /// The link between nodes; found by the node address when absent.
    pub interface: Option<String>,
    /// Used when the ConfigMap does not exist.
    pub cluster_cidrs: Vec<IpNet>,
    /// Used when the ConfigMap does not exist.
    pub backend: Backend,
    /// A `net-conf.json` of the user's, in place of the ConfigMap.
    pub net_conf_file: Option<PathBuf>,
    /// Where containerd looks for network configurations.
    pub cni_conf_dir: PathBuf,
    /// Where the CNI plugin keeps its leases.
    pub cni_data_dir: PathBuf,
    /// flannel's `subnet.env`, read by other tools; usually `/run/flannel/subnet.env`.
    pub subnet_file: PathBuf,
    /// Name of the pods' bridge, usually `cni0`.
    pub bridge: String,
    pub nft: Nft,
    /// Distinguishes the nftables tables of several instances; usually empty.
    pub table_suffix: String,
}

/// How packets get to other nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    Vxlan(VxlanBackend),
    /// Plain routes; all nodes share a link.
    HostGw,
}

/// Settings of the vxlan backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VxlanBackend {
    pub vni: u32,
    pub port: u16,
    pub mtu: Option<u32>,
    /// Plain routes to nodes on the same link.
    pub direct_routing: bool,
}

impl Default for Backend {
    fn default() -> Self {
        Backend::Vxlan(VxlanBackend { vni: VNI_DEFAULT, port: PORT_DEFAULT, mtu: None, direct_routing: false })
    }
}

impl Backend {
    /// The value of the backend-type annotation.
    pub fn name(&self) -> &'static str {
        match self {
            Backend::Vxlan(_) => "vxlan",
            Backend::HostGw => "host-gw",
        }
    }

    /// The backend of a flag value.
    pub fn from_name(name: &str) -> Option<Backend> {
        match name {
            "vxlan" => Some(Backend::default()),
            "host-gw" => Some(Backend::HostGw),
            _ => None,
        }
    }
}

/// Why a `net-conf.json` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NetConfError {
    #[error("decode net-conf.json: {0}")]
    Decode(#[from] serde_json::Error),
    #[error("net-conf.json: backend type {0:?} is not one of vxlan, host-gw")]
    Backend(String),
    #[error("net-conf.json: no network for an enabled address family")]
    Network,
}

/// The overlay as the whole cluster sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetConf {
    /// All pods of the cluster, one per family.
    pub networks: Vec<IpNet>,
    pub backend: Backend,
}

#[derive(Deserialize)]
struct RawNetConf {
    #[serde(default, rename = "EnableIPv4")]
    enable_ipv4: Option<bool>,
    #[serde(default, rename = "EnableIPv6")]
    enable_ipv6: bool,
    #[serde(default, rename = "Network")]
    network: Option<IpNet>,
    #[serde(default, rename = "IPv6Network")]
    ipv6_network: Option<IpNet>,
    #[serde(rename = "Backend")]
    backend: Option<RawBackend>,
}

#[derive(Deserialize)]
struct RawBackend {
    #[serde(rename = "Type")]
    kind: String,
    #[serde(default, rename = "VNI")]
    vni: Option<u32>,
    #[serde(default, rename = "Port")]
    port: Option<u16>,
    #[serde(default, rename = "MTU")]
    mtu: Option<u32>,
    #[serde(default, rename = "DirectRouting")]
    direct_routing: bool,
}

impl NetConf {
    pub fn parse(json: &str) -> Result<NetConf, NetConfError> {
        let raw: RawNetConf = serde_json::from_str(json)?;
        let v4 = raw.network.filter(|net| raw.enable_ipv4.unwrap_or(true) && net.addr().is_ipv4());
        let v6 = raw.ipv6_network.filter(|net| raw.enable_ipv6 && net.addr().is_ipv6());
        if (raw.enable_ipv6 && v6.is_none()) || (v4.is_none() && v6.is_none()) {
            return Err(NetConfError::Network);
        }
        let backend = match raw.backend {
            None => Backend::default(),
            Some(backend) => match backend.kind.as_str() {
                "vxlan" => Backend::Vxlan(VxlanBackend {
                    vni: backend.vni.filter(|vni| *vni != 0).unwrap_or(VNI_DEFAULT),
                    port: backend.port.filter(|port| *port != 0).unwrap_or(PORT_DEFAULT),
                    mtu: backend.mtu.filter(|mtu| *mtu != 0),
                    direct_routing: backend.direct_routing,
                }),
                "host-gw" => Backend::HostGw,
                other => return Err(NetConfError::Backend(other.to_owned())),
            },
        };
        Ok(NetConf { networks: v4.into_iter().chain(v6).collect(), backend })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_flannels() {
        let conf = NetConf::parse(r#"{"Network":"10.42.0.0/16","Backend":{"Type":"vxlan"}}"#).unwrap();
        assert_eq!(conf.backend, Backend::default());
        assert_eq!(conf.networks, ["10.42.0.0/16".parse::<IpNet>().unwrap()]);
        let both = NetConf::parse(
            r#"{"Network":"10.42.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:42::/56","Backend":{"Type":"host-gw"}}"#,
        );
        assert_eq!(both.unwrap().networks.len(), 2);
    }

    #[test]
    fn unknown_backends_and_missing_networks_are_refused() {
        let parse = |text: &str| NetConf::parse(text).unwrap_err().to_string();
        assert!(parse(r#"{"Network":"10.0.0.0/8","Backend":{"Type":"udp"}}"#).contains("\"udp\""));
        assert!(parse(r#"{"EnableIPv6":true,"Network":"10.0.0.0/8"}"#).contains("no network"));
        assert!(parse("{").contains("decode"));
    }
}
