//! Taints that a pod does not tolerate keep it off a node, or make the node less welcome.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Taint, Toleration};
pub use skiff_client::node_selector::tolerates;

use super::{Plugin, Rejection, normalise};
use crate::{node_info::NodeInfo, pod_info::PodInfo};

fn is_tolerated(taint: &Taint, tolerations: &[Toleration]) -> bool {
    let taint = (taint.key.as_str(), taint.value.as_deref().unwrap_or_default(), taint.effect.as_str());
    tolerations.iter().any(|toleration| tolerates(toleration, taint))
}

/// The first taint that keeps the pod away.
pub fn untolerated<'a>(pod: &PodInfo, node: &'a NodeInfo) -> Option<&'a Taint> {
    node.taints()
        .iter()
        .filter(|taint| taint.effect == "NoSchedule" || taint.effect == "NoExecute")
        .find(|taint| !is_tolerated(taint, pod.tolerations()))
}

pub fn filter(pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
    let Some(taint) = untolerated(pod, node) else { return Ok(()) };
    let value = taint.value.as_deref().unwrap_or_default();
    let reason = format!("node(s) had untolerated taint {{{}: {value}}}", taint.key);
    Err(Rejection::firm(Plugin::TaintToleration, reason))
}

pub fn score(pod: &PodInfo, nodes: &[&Arc<NodeInfo>]) -> Vec<i64> {
    let tolerations: Vec<Toleration> = pod
        .tolerations()
        .iter()
        .filter(|toleration| matches!(toleration.effect.as_deref(), None | Some("" | "PreferNoSchedule")))
        .cloned()
        .collect();
    let counts = nodes.iter().map(|node| {
        let taints = node.taints().iter().filter(|taint| taint.effect == "PreferNoSchedule");
        taints.filter(|taint| !is_tolerated(taint, &tolerations)).count() as i64
    });
    normalise(counts.collect(), true)
}
