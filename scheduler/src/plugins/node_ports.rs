//! A port of a node is given to one pod only.

use super::{Plugin, Rejection};
use crate::{node_info::NodeInfo, pod_info::PodInfo};

pub fn filter(pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
    let taken = node.pods.iter().flat_map(|pod| &pod.host_ports);
    if pod.host_ports.is_empty() || !taken.into_iter().any(|have| pod.host_ports.iter().any(|want| want.clashes(have)))
    {
        return Ok(());
    }
    Err(Rejection::new(Plugin::NodePorts, "node(s) didn't have free ports for the requested pod ports"))
}
