//! Taints that a pod does not tolerate keep it off a node, or make the node less welcome.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Taint, Toleration};

use super::{Plugin, Rejection, normalise};
use crate::{node_info::NodeInfo, pod_info::PodInfo};

/// Whether a toleration covers a taint of (key, value, effect).
pub fn tolerates(toleration: &Toleration, (key, value, effect): (&str, &str, &str)) -> bool {
    let wanted_effect = toleration.effect.as_deref().unwrap_or_default();
    if !wanted_effect.is_empty() && wanted_effect != effect {
        return false;
    }
    let wanted_key = toleration.key.as_deref().unwrap_or_default();
    if !wanted_key.is_empty() && wanted_key != key {
        return false;
    }
    let wanted_value = toleration.value.as_deref().unwrap_or_default();
    match toleration.operator.as_deref().unwrap_or_default() {
        // An empty key with Exists covers everything.
        "Exists" => true,
        "" | "Equal" => !wanted_key.is_empty() && wanted_value == value,
        operator @ ("Lt" | "Gt") => match (value.parse::<i64>(), wanted_value.parse::<i64>()) {
            (Ok(have), Ok(limit)) if operator == "Lt" => have < limit,
            (Ok(have), Ok(limit)) => have > limit,
            _ => false,
        },
        _ => false,
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    fn toleration(key: &str, operator: &str, value: &str, effect: &str) -> Toleration {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Toleration {
            key: some(key),
            operator: some(operator),
            value: some(value),
            effect: some(effect),
            toleration_seconds: None,
        }
    }

    #[test]
    fn tolerations_cover_by_key_value_and_effect() {
        let taint = ("k", "v", "NoSchedule");
        assert!(tolerates(&toleration("", "Exists", "", ""), taint));
        assert!(tolerates(&toleration("k", "Exists", "", "NoSchedule"), taint));
        assert!(tolerates(&toleration("k", "", "v", ""), taint));
        assert!(!tolerates(&toleration("k", "Equal", "w", ""), taint));
        assert!(!tolerates(&toleration("k", "Exists", "", "NoExecute"), taint));
        assert!(!tolerates(&toleration("j", "Exists", "", ""), taint));
    }
}
