//! The decision: which routes, neighbours and forwarding entries this node needs.
//!
//! Per remote node and address family, as flannel does it. vxlan: packets for
//! the node's pods go to the first address of its subnet, through the tunnel
//! device; that address has the MAC of the node's tunnel end; frames to that
//! MAC go to the node's public address. Nothing is ever learned or asked for.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use skiff_host::route::{ForwardingEntry, Neighbour, Route};

use super::lease::{FamilyLease, Lease};

/// This node's side of one address family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalFamily {
    /// Index of the tunnel device; absent for plain routes.
    pub tunnel: Option<u32>,
    /// Index of the link between nodes.
    pub link: u32,
    /// Networks on that link: nodes there need no tunnel under direct routing.
    pub neighbours: Vec<IpNet>,
}

/// This node's side of the overlay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Local {
    pub node_name: String,
    pub backend: String,
    pub direct_routing: bool,
    pub v4: Option<LocalFamily>,
    pub v6: Option<LocalFamily>,
}

/// All kernel entries that should exist, and no others of ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub routes: BTreeSet<Route>,
    pub neighbours: BTreeSet<Neighbour>,
    pub forwarding: BTreeSet<ForwardingEntry>,
}

/// Decides from the leases of all nodes, by node name.
pub fn compile(leases: &BTreeMap<String, Lease>, own: &Local) -> Plan {
    let mut plan = Plan::default();
    let others = leases.iter().filter(|(name, lease)| **name != own.node_name && lease.backend == own.backend);
    for (_, lease) in others {
        for (remote, local) in [(&lease.v4, &own.v4), (&lease.v6, &own.v6)] {
            if let (Some(remote), Some(local)) = (remote, local) {
                plan.reach(remote, local, own.direct_routing);
            }
        }
    }
    plan
}

impl Plan {
    fn reach(&mut self, remote: &FamilyLease, local: &LocalFamily, direct_routing: bool) {
        let is_neighbour = local.neighbours.iter().any(|net| net.contains(&remote.public_ip));
        match (local.tunnel, remote.vtep_mac) {
            (Some(tunnel), Some(mac)) if !(direct_routing && is_neighbour) => {
                let gateway: IpAddr = remote.subnet.network();
                let mut route = Route::new(remote.subnet.trunc(), Some(gateway), tunnel);
                route.onlink = true;
                self.routes.insert(route);
                self.neighbours.insert(Neighbour { link: tunnel, address: gateway, mac });
                self.forwarding.insert(ForwardingEntry { link: tunnel, mac, remote: remote.public_ip });
            }
            // A vxlan node that has not announced its MAC yet cannot be reached.
            (Some(_), None) => {}
            _ => {
                self.routes.insert(Route::new(remote.subnet.trunc(), Some(remote.public_ip), local.link));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use skiff_host::link::Mac;

    use super::*;

    fn lease(number: u8, backend: &str) -> Lease {
        Lease {
            backend: backend.into(),
            v4: Some(FamilyLease {
                subnet: format!("10.42.{number}.0/24").parse().unwrap(),
                public_ip: format!("192.0.2.{number}").parse().unwrap(),
                vtep_mac: (backend == "vxlan").then_some(Mac([2, 0, 0, 0, 0, number])),
            }),
            v6: None,
        }
    }

    fn own(backend: &str) -> Local {
        Local {
            node_name: "n1".into(),
            backend: backend.into(),
            direct_routing: false,
            v4: Some(LocalFamily {
                tunnel: (backend == "vxlan").then_some(7),
                link: 2,
                neighbours: vec!["192.0.2.0/24".parse().unwrap()],
            }),
            v6: None,
        }
    }

    fn describe(plan: &Plan) -> Vec<String> {
        let route = |route: &Route| {
            let gateway = route.gateway.unwrap();
            format!("route {} via {gateway} link {} onlink {}", route.destination, route.link, route.onlink)
        };
        let neighbour = |entry: &Neighbour| format!("neighbour {} is {}", entry.address, entry.mac);
        let forward = |entry: &ForwardingEntry| format!("forward {} to {}", entry.mac, entry.remote);
        plan.routes
            .iter()
            .map(route)
            .chain(plan.neighbours.iter().map(neighbour))
            .chain(plan.forwarding.iter().map(forward))
            .collect()
    }

    #[test]
    fn vxlan_reaches_every_other_node_by_three_entries() {
        let leases = (1..=2).map(|number| (format!("n{number}"), lease(number, "vxlan"))).collect();
        assert_eq!(
            describe(&compile(&leases, &own("vxlan"))),
            [
                "route 10.42.2.0/24 via 10.42.2.0 link 7 onlink true",
                "neighbour 10.42.2.0 is 02:00:00:00:00:02",
                "forward 02:00:00:00:00:02 to 192.0.2.2",
            ]
        );
    }

    #[test]
    fn host_gw_and_direct_routing_use_plain_routes() {
        let leases = (1..=2).map(|number| (format!("n{number}"), lease(number, "host-gw"))).collect();
        let expected = ["route 10.42.2.0/24 via 192.0.2.2 link 2 onlink false"];
        assert_eq!(describe(&compile(&leases, &own("host-gw"))), expected);
        let leases = (1..=2).map(|number| (format!("n{number}"), lease(number, "vxlan"))).collect();
        let mut own = own("vxlan");
        own.direct_routing = true;
        assert_eq!(describe(&compile(&leases, &own)), expected);
    }

    #[test]
    fn nodes_of_another_backend_or_without_a_tunnel_end_are_left_out() {
        let mut incomplete = lease(3, "vxlan");
        incomplete.v4.as_mut().unwrap().vtep_mac = None;
        let leases = [("n2".to_owned(), lease(2, "host-gw")), ("n3".to_owned(), incomplete)].into();
        assert_eq!(compile(&leases, &own("vxlan")), Plan::default());
    }
}
