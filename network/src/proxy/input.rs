//! What of Services, EndpointSlices and the own Node matters to packet rules.

use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::{
    core::v1::{Node, Service},
    discovery::v1::EndpointSlice,
};

const LABEL_SERVICE_NAME: &str = "kubernetes.io/service-name";
const LABEL_PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
const LABEL_ZONE: &str = "topology.kubernetes.io/zone";
/// Three hours, upstream's default.
const AFFINITY_SECONDS_DEFAULT: u32 = 10_800;

/// A transport protocol services can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    fn parse(text: Option<&str>) -> Option<Protocol> {
        match text.unwrap_or("TCP") {
            "TCP" => Some(Protocol::Tcp),
            "UDP" => Some(Protocol::Udp),
            "SCTP" => Some(Protocol::Sctp),
            _ => None,
        }
    }

    /// The name in packet rules.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortInput {
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
    pub node_port: Option<u16>,
}

/// A service that has an address in the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceInput {
    pub namespace: String,
    pub name: String,
    pub cluster_ips: Vec<IpAddr>,
    pub external_ips: Vec<IpAddr>,
    pub load_balancer_ips: Vec<IpAddr>,
    pub source_ranges: Vec<IpNet>,
    pub ports: Vec<PortInput>,
    /// Seconds a client stays with its endpoint.
    pub affinity_seconds: Option<u32>,
    pub is_internal_local: bool,
    pub is_external_local: bool,
}

impl ServiceInput {
    /// `None` for services without a cluster address (headless, ExternalName)
    /// and for those that another proxy serves.
    pub fn of(service: &Service) -> Option<ServiceInput> {
        let spec = service.spec.as_ref()?;
        let is_foreign = service.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(LABEL_PROXY_NAME));
        if is_foreign || spec.type_.as_deref() == Some("ExternalName") {
            return None;
        }
        let mut cluster_ips = addresses(spec.cluster_ips.as_deref());
        if cluster_ips.is_empty() {
            cluster_ips.extend(spec.cluster_ip.as_deref().and_then(|ip| ip.parse::<IpAddr>().ok()));
        }
        if cluster_ips.is_empty() {
            return None;
        }
        let affinity_seconds = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
            let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
            let seconds = config.and_then(|config| config.timeout_seconds);
            seconds.and_then(|seconds| u32::try_from(seconds).ok()).unwrap_or(AFFINITY_SECONDS_DEFAULT)
        });
        Some(ServiceInput {
            namespace: service.metadata.namespace.clone().unwrap_or_default(),
            name: service.metadata.name.clone().unwrap_or_default(),
            cluster_ips,
            external_ips: addresses(spec.external_ips.as_deref()),
            load_balancer_ips: load_balancer_ips(service),
            source_ranges: spec
                .load_balancer_source_ranges
                .iter()
                .flatten()
                .filter_map(|range| range.trim().parse().ok())
                .collect(),
            ports: ports(service),
            affinity_seconds,
            is_internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
            is_external_local: spec.external_traffic_policy.as_deref() == Some("Local"),
        })
    }
}

fn addresses(texts: Option<&[String]>) -> Vec<IpAddr> {
    texts.unwrap_or_default().iter().filter_map(|text| text.parse().ok()).collect()
}

fn load_balancer_ips(service: &Service) -> Vec<IpAddr> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|status| status.ingress.as_deref()).unwrap_or_default();
    // Mode Proxy: packets arrive at node ports, not at the balancer's address.
    let is_vip = |mode: Option<&str>| mode.is_none_or(|mode| mode == "VIP");
    ingress
        .iter()
        .filter(|entry| is_vip(entry.ip_mode.as_deref()))
        .filter_map(|entry| entry.ip.as_deref()?.parse().ok())
        .collect()
}

fn ports(service: &Service) -> Vec<PortInput> {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    let number = |number: i32| u16::try_from(number).ok().filter(|number| *number != 0);
    ports
        .iter()
        .filter_map(|port| {
            Some(PortInput {
                name: port.name.clone().unwrap_or_default(),
                protocol: Protocol::parse(port.protocol.as_deref())?,
                port: number(port.port)?,
                node_port: port.node_port.and_then(number),
            })
        })
        .collect()
}

/// One backend address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointInput {
    pub address: IpAddr,
    pub is_ready: bool,
    pub is_serving: bool,
    pub is_terminating: bool,
    pub node: Option<String>,
    /// Zones whose traffic should come here; empty means no hint.
    pub zones: Vec<String>,
}

/// Part of a service's backends, all of one address family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceInput {
    /// Name and number of the ports every endpoint here has.
    pub ports: Vec<(String, Protocol, u16)>,
    pub endpoints: Vec<EndpointInput>,
}

impl SliceInput {
    /// The service a slice belongs to.
    pub fn service_name(slice: &EndpointSlice) -> Option<&str> {
        slice.metadata.labels.as_ref()?.get(LABEL_SERVICE_NAME).map(String::as_str).filter(|name| !name.is_empty())
    }

    pub fn of(slice: &EndpointSlice) -> SliceInput {
        let port = |port: &k8s_openapi::api::discovery::v1::EndpointPort| {
            let number = u16::try_from(port.port?).ok().filter(|number| *number != 0)?;
            Some((port.name.clone().unwrap_or_default(), Protocol::parse(port.protocol.as_deref())?, number))
        };
        SliceInput {
            ports: slice.ports.iter().flatten().filter_map(port).collect(),
            endpoints: slice.endpoints.iter().flatten().filter_map(endpoint).collect(),
        }
    }
}

fn endpoint(endpoint: &k8s_openapi::api::discovery::v1::Endpoint) -> Option<EndpointInput> {
    let conditions = endpoint.conditions.as_ref();
    // Absent conditions mean ready; "serving" defaults to "ready".
    let is_ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
    let hints = endpoint.hints.as_ref().and_then(|hints| hints.for_zones.as_deref()).unwrap_or_default();
    Some(EndpointInput {
        address: endpoint.addresses.first()?.parse().ok()?,
        is_ready,
        is_serving: conditions.and_then(|conditions| conditions.serving).unwrap_or(is_ready),
        is_terminating: conditions.and_then(|conditions| conditions.terminating).unwrap_or(false),
        node: endpoint.node_name.clone(),
        zones: hints.iter().map(|zone| zone.name.clone()).collect(),
    })
}

/// What of this node matters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeView {
    pub name: String,
    pub zone: Option<String>,
    /// Networks of all pods: sources there keep their address.
    pub cluster_cidrs: Vec<IpNet>,
}

impl NodeView {
    /// Takes the zone from the node's labels.
    pub fn with_zone_of(mut self, node: &Node) -> NodeView {
        self.zone = node.metadata.labels.as_ref().and_then(|labels| labels.get(LABEL_ZONE)).cloned();
        self
    }
}
