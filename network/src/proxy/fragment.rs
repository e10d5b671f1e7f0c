//! One service's share of the ruleset.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

/// A lookup structure of the table's frame; one per address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lookup {
    /// Address, protocol, port to the chain that picks an endpoint.
    Services,
    /// Protocol, port of any address of the node.
    NodePorts,
    /// What to do with packets for services that nobody can answer.
    NoEndpoints,
    NoEndpointNodePorts,
    /// All cluster addresses.
    ClusterIps,
    /// Endpoints on this node, paired with themselves.
    Hairpin,
}

impl Lookup {
    pub const ALL: [Lookup; 6] = [
        Lookup::Services,
        Lookup::NodePorts,
        Lookup::NoEndpoints,
        Lookup::NoEndpointNodePorts,
        Lookup::ClusterIps,
        Lookup::Hairpin,
    ];

    /// Name of the nftables map or set.
    pub fn name(self, family: Family) -> &'static str {
        match (self, family) {
            (Lookup::Services, Family::V4) => "services4",
            (Lookup::Services, Family::V6) => "services6",
            (Lookup::NodePorts, Family::V4) => "node_ports4",
            (Lookup::NodePorts, Family::V6) => "node_ports6",
            (Lookup::NoEndpoints, Family::V4) => "no_endpoints4",
            (Lookup::NoEndpoints, Family::V6) => "no_endpoints6",
            (Lookup::NoEndpointNodePorts, Family::V4) => "no_endpoint_node_ports4",
            (Lookup::NoEndpointNodePorts, Family::V6) => "no_endpoint_node_ports6",
            (Lookup::ClusterIps, Family::V4) => "cluster_ips4",
            (Lookup::ClusterIps, Family::V6) => "cluster_ips6",
            (Lookup::Hairpin, Family::V4) => "hairpin4",
            (Lookup::Hairpin, Family::V6) => "hairpin6",
        }
    }
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const ALL: [Family; 2] = [Family::V4, Family::V6];

    pub fn of(address: IpAddr) -> Family {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// `ip` or `ip6`, as packet rules say it.
    pub fn keyword(self) -> &'static str {
        match self {
            Family::V4 => "ip",
            Family::V6 => "ip6",
        }
    }

    /// The type of an address.
    pub fn address_type(self) -> &'static str {
        match self {
            Family::V4 => "ipv4_addr",
            Family::V6 => "ipv6_addr",
        }
    }

    /// Distinguishes names.
    pub fn digit(self) -> char {
        match self {
            Family::V4 => '4',
            Family::V6 => '6',
        }
    }
}

/// Key of an element: where, and the key's text.
pub type ElementKey = (Lookup, Family, String);

/// Where clients of a UDP service port send to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Frontend {
    Address(SocketAddr),
    NodePort(Family, u16),
}

/// All that one service adds to the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fragment {
    /// Rules by chain name.
    pub chains: BTreeMap<String, Vec<String>>,
    /// Sets that remember clients, by name, with their declaration.
    pub sets: BTreeMap<String, String>,
    /// Elements of the shared lookups; `None` where the lookup is a set.
    pub elements: BTreeMap<ElementKey, Option<String>>,
    /// UDP frontends and where their flows may go, to find flows that must not go on.
    pub udp: BTreeMap<Frontend, BTreeSet<SocketAddr>>,
}
