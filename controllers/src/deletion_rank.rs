//! Which of several equal pods is given up first when a workload shrinks.

use std::{cmp::Ordering, collections::HashMap};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use crate::{pod, seen::Seen};

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Sorts pods so that those to delete first come first: upstream's order.
/// `per_node` counts active pods of the whole workload on each node.
pub fn sort(mut pods: Vec<Seen<Pod>>, per_node: &HashMap<String, usize>, now: Timestamp) -> Vec<Seen<Pod>> {
    pods.sort_by(|a, b| compare(a, b, per_node, now));
    pods
}

fn compare(a: &Seen<Pod>, b: &Seen<Pod>, per_node: &HashMap<String, usize>, now: Timestamp) -> Ordering {
    let (node_a, node_b) = (pod::node_name(&a.typed), pod::node_name(&b.typed));
    let crowd = |node: &str| per_node.get(node).copied().unwrap_or(0);
    (!node_a.is_empty())
        .cmp(&!node_b.is_empty())
        .then_with(|| phase_rank(&a.typed).cmp(&phase_rank(&b.typed)))
        .then_with(|| pod::is_ready(&a.typed).cmp(&pod::is_ready(&b.typed)))
        .then_with(|| cost(a).cmp(&cost(b)))
        .then_with(|| crowd(node_b).cmp(&crowd(node_a)))
        .then_with(|| younger_first(pod::ready_since(&a.typed), pod::ready_since(&b.typed), now))
        .then_with(|| pod::restarts(&b.typed).cmp(&pod::restarts(&a.typed)))
        .then_with(|| younger_first(created(a), created(b), now))
        .then_with(|| a.uid().cmp(b.uid()))
}

fn phase_rank(pod: &Pod) -> u8 {
    match pod::phase(pod) {
        "Running" => 2,
        "Unknown" => 1,
        _ => 0,
    }
}

fn cost(pod: &Seen<Pod>) -> i32 {
    pod.meta().annotations.get(DELETION_COST).and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn created(pod: &Seen<Pod>) -> Option<Timestamp> {
    pod.meta().creation_timestamp.as_deref().and_then(crate::write::parse_time)
}

/// Ages are compared by their order of magnitude, so that among pods of about
/// the same age chance decides and not the wish to keep the oldest node busy.
fn younger_first(a: Option<Timestamp>, b: Option<Timestamp>, now: Timestamp) -> Ordering {
    let rank = |at: Timestamp| {
        let age = now.duration_since(at).as_nanos().max(1);
        age.ilog2()
    };
    match (a, b) {
        (Some(a), Some(b)) => rank(a).cmp(&rank(b)),
        // Unknown age counts as youngest.
        (None, Some(_)) => Ordering::Less,
        (Some(_), None) => Ordering::Greater,
        (None, None) => Ordering::Equal,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};
    use skiff_api::Object;

    use super::*;

    fn pod(name: &str, body: Value) -> Seen<Pod> {
        let mut value = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "uid": name}});
        value["spec"] = body["spec"].clone();
        value["status"] = body["status"].clone();
        if let Some(cost) = body["cost"].as_str() {
            value["metadata"]["annotations"] = json!({DELETION_COST: cost});
        }
        Seen::new(Arc::new(Object::from_value(&value).unwrap())).unwrap()
    }

    fn running(ready: bool) -> Value {
        json!({"spec": {"nodeName": "n", "containers": []}, "status": {"phase": "Running",
            "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]}})
    }

    #[test]
    fn unassigned_then_pending_then_unready_then_cheap_pods_go_first() {
        let mut cheap = running(true);
        cheap["cost"] = "-5".into();
        let pods = vec![
            pod("ready", running(true)),
            pod("cheap", cheap),
            pod("unready", running(false)),
            pod("pending", json!({"spec": {"nodeName": "n", "containers": []}, "status": {"phase": "Pending"}})),
            pod("unassigned", json!({"spec": {"containers": []}, "status": {"phase": "Pending"}})),
        ];
        let sorted = sort(pods, &HashMap::new(), Timestamp::UNIX_EPOCH);
        let names: Vec<&str> = sorted.iter().map(Seen::name).collect();
        assert_eq!(names, ["unassigned", "pending", "unready", "cheap", "ready"]);
    }
}
