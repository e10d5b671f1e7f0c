//! Node selector and node affinity: required ones filter, preferred ones score.

use std::sync::Arc;

use super::{Plugin, Rejection, normalise};
use crate::{node_info::NodeInfo, pod_info::PodInfo};

pub fn filter(pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
    if pod.allows_node(node.name(), node.labels()) {
        return Ok(());
    }
    Err(Rejection::firm(Plugin::NodeAffinity, "node(s) didn't match Pod's node affinity/selector"))
}

pub fn score(pod: &PodInfo, nodes: &[&Arc<NodeInfo>]) -> Vec<i64> {
    let sums = nodes.iter().map(|node| {
        let terms = pod.preferred_nodes.iter();
        let met = terms.filter(|(_, term)| term.matches(node.name(), node.labels()));
        met.map(|(weight, _)| i64::from(*weight)).sum()
    });
    normalise(sums.collect(), false)
}
