//! Whether a node has room for a pod, and how well the pod fits in.

use super::{Plugin, Rejection, SCORE_MAX};
use crate::{node_info::NodeInfo, pod_info::PodInfo};

pub fn filter(pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
    let mut rejection = Rejection { plugin: Plugin::NodeResourcesFit, reasons: Vec::new(), resolvable: true };
    if node.pods.len() as i64 + 1 > node.allocatable.pods {
        rejection.reasons.push("Too many pods".to_owned());
        rejection.resolvable &= node.allocatable.pods > 0;
    }
    let mut check = |name: &str, wanted: i64, total: i64, used: i64| {
        if wanted > 0 && wanted > total - used {
            rejection.reasons.push(format!("Insufficient {name}"));
            rejection.resolvable &= wanted <= total;
        }
    };
    let (want, total, used) = (&pod.requests, &node.allocatable, &node.requested);
    check("cpu", want.milli_cpu, total.milli_cpu, used.milli_cpu);
    check("memory", want.memory, total.memory, used.memory);
    check("ephemeral-storage", want.ephemeral_storage, total.ephemeral_storage, used.ephemeral_storage);
    for (name, amount) in &want.scalar {
        let of = |resources: &crate::resources::Resources| resources.scalar.get(name).copied().unwrap_or(0);
        check(name, *amount, of(total), of(used));
    }
    if rejection.reasons.is_empty() { Ok(()) } else { Err(rejection) }
}

/// (wanted with what is there, allocatable) of processor and memory.
fn shares(pod: &PodInfo, node: &NodeInfo, assumed: bool) -> [(i64, i64); 2] {
    let (want, used) =
        if assumed { (&pod.assumed_requests, &node.assumed_requested) } else { (&pod.requests, &node.requested) };
    [
        (want.milli_cpu + used.milli_cpu, node.allocatable.milli_cpu),
        (want.memory + used.memory, node.allocatable.memory),
    ]
}

/// More for nodes with more left.
pub fn least_allocated(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let scores = shares(pod, node, true)
        .map(|(used, total)| if total == 0 || used > total { 0 } else { (total - used) * SCORE_MAX / total });
    scores.iter().sum::<i64>() / scores.len() as i64
}

/// More for nodes whose processor and memory would be used to the same degree.
pub fn balanced_allocation(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let fractions = shares(pod, node, false)
        .map(|(used, total)| if total == 0 { 0.0 } else { (used as f64 / total as f64).min(1.0) });
    let deviation = (fractions[0] - fractions[1]).abs() / 2.0;
    ((1.0 - deviation) * SCORE_MAX as f64) as i64
}
