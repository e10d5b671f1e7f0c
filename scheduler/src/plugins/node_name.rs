//! Holds a pod to the node it names itself. Such pods normally never reach the
//! scheduler; the check guards against races.

use super::{Plugin, Rejection};
use crate::{node_info::NodeInfo, pod_info::PodInfo};

pub fn filter(pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
    let wanted = pod.node_name();
    if wanted.is_empty() || wanted == node.name() {
        return Ok(());
    }
    Err(Rejection::firm(Plugin::NodeName, "node(s) didn't match the requested node name"))
}
