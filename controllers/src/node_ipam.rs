//! Gives every node its own range of pod addresses out of the cluster's.
//!
//! One key stands for the whole cluster: the decision looks at all nodes at
//! once, so two nodes can never get the same range.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use k8s_openapi::api::core::v1::Node;
use serde_json::json;
use skiff_client::{Context, Controller, ObjectRef, Outcome, Snapshot, Trigger};

use crate::{seen, write};

/// A range that is cut into equal parts, one per node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterCidr {
    pub network: IpAddr,
    pub prefix_len: u8,
    pub node_prefix_len: u8,
}

impl ClusterCidr {
    /// Reads `10.42.0.0/16`; the parts are /24 for IPv4 and /64 for IPv6 unless given.
    pub fn parse(text: &str, node_prefix_len: Option<u8>) -> Option<ClusterCidr> {
        let (network, prefix_len) = text.split_once('/')?;
        let network: IpAddr = network.parse().ok()?;
        let prefix_len: u8 = prefix_len.parse().ok()?;
        let (bits, usual) = if network.is_ipv4() { (32, 24) } else { (128, 64) };
        let node_prefix_len = node_prefix_len.unwrap_or(usual);
        let fits = prefix_len <= node_prefix_len && node_prefix_len <= bits && node_prefix_len - prefix_len <= 16;
        fits.then_some(ClusterCidr { network, prefix_len, node_prefix_len })
    }

    /// The parts in order.
    fn parts(self) -> impl Iterator<Item = String> {
        let count = 1u32 << (self.node_prefix_len - self.prefix_len);
        (0..count).map(move |index| match self.network {
            IpAddr::V4(network) => {
                let step = index.checked_shl(32 - u32::from(self.node_prefix_len)).unwrap_or(0);
                format!("{}/{}", Ipv4Addr::from(u32::from(network).wrapping_add(step)), self.node_prefix_len)
            }
            IpAddr::V6(network) => {
                let step = u128::from(index).checked_shl(128 - u32::from(self.node_prefix_len)).unwrap_or(0);
                format!("{}/{}", Ipv6Addr::from(u128::from(network).wrapping_add(step)), self.node_prefix_len)
            }
        })
    }
}

pub struct NodeIpamController {
    pub cluster_cidrs: Vec<ClusterCidr>,
}

impl Controller for NodeIpamController {
    fn name(&self) -> &'static str {
        "node-ipam-controller"
    }

    fn event_component(&self) -> &'static str {
        "cidrAllocator"
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![Trigger::new::<Node>(|new, old, _| {
            let needs = new.is_some_and(|node| node.typed::<Node>().is_ok_and(|node| cidrs(&node).is_empty()));
            let frees = new.is_none() && old.is_some();
            if needs || frees { vec![ObjectRef::new("", "cluster")] } else { Vec::new() }
        })]
    }

    fn workers(&self) -> usize {
        1
    }

    fn reconcile(&self, _: &ObjectRef, world: &Snapshot, _: &Context) -> Outcome {
        let mut outcome = Outcome::done();
        let nodes = seen::list::<Node>(world, None);
        let mut used: HashSet<String> = nodes.iter().flat_map(|node| cidrs(&node.typed)).collect();
        for node in nodes.iter().filter(|node| cidrs(&node.typed).is_empty() && !node.is_deleting()) {
            let chosen: Vec<String> =
                self.cluster_cidrs.iter().filter_map(|cidr| cidr.parts().find(|part| !used.contains(part))).collect();
            if chosen.len() < self.cluster_cidrs.len() {
                let message = format!("Node {} status is now: CIDRNotAvailable", node.name());
                outcome.events.push(write::warning(&node.object, "CIDRNotAvailable", message));
                continue;
            }
            used.extend(chosen.iter().cloned());
            let Some(first) = chosen.first() else { continue };
            let body = json!({"metadata": {"uid": node.uid()}, "spec": {"podCIDR": first, "podCIDRs": chosen}});
            outcome.push(write::strategic::<Node>(&node.object, None, body));
        }
        outcome
    }
}

fn cidrs(node: &Node) -> Vec<String> {
    let Some(spec) = &node.spec else { return Vec::new() };
    match &spec.pod_cidrs {
        Some(cidrs) if !cidrs.is_empty() => cidrs.clone(),
        _ => spec.pod_cidr.clone().filter(|cidr| !cidr.is_empty()).into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_follow_each_other_and_fill_the_range() {
        let cidr = ClusterCidr::parse("10.42.0.0/16", None).unwrap();
        let parts: Vec<String> = cidr.parts().collect();
        assert_eq!((parts[0].as_str(), parts[1].as_str()), ("10.42.0.0/24", "10.42.1.0/24"));
        assert_eq!((parts.len(), parts[255].as_str()), (256, "10.42.255.0/24"));
        let six = ClusterCidr::parse("fd00:42::/56", None).unwrap();
        assert_eq!(six.parts().nth(1).as_deref(), Some("fd00:42:0:1::/64"));
        assert_eq!(ClusterCidr::parse("10.42.0.0/28", None), None);
    }
}
