//! Keeps pods off nodes that are cordoned.

use super::{Plugin, Rejection, taint_toleration::tolerates};
use crate::{node_info::NodeInfo, pod_info::PodInfo};

pub fn filter(pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
    let cordon = ("node.kubernetes.io/unschedulable", "", "NoSchedule");
    if !node.is_unschedulable() || pod.tolerations().iter().any(|toleration| tolerates(toleration, cordon)) {
        return Ok(());
    }
    Err(Rejection::firm(Plugin::NodeUnschedulable, "node(s) were unschedulable"))
}
