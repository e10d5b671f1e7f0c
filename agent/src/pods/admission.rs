//! May this node run the pod? Pure; asked once per pod.
//!
//! The scheduler asked the same before, but others may have come in between,
//! and pods can name a node without the scheduler.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use k8s_openapi::{
    api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, Pod},
    apimachinery::pkg::api::resource::Quantity,
};

use super::spec;
use crate::{container_config::resources::pod_requirements, quantity};

/// The reason of a refusal that other labels of the node could lift.
pub const LABELS_DO_NOT_MATCH: &str = "NodeAffinity";

/// A refusal; both texts go into the pod's status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub reason: String,
    pub message: String,
}

/// The node as admission sees it.
pub struct NodeState<'a> {
    pub name: &'a str,
    pub labels: &'a BTreeMap<String, String>,
    pub allocatable: &'a BTreeMap<String, Quantity>,
    /// Accepted pods that have not ended, without the one in question.
    pub others: &'a [Arc<Pod>],
}

/// Accepts or refuses a pod.
pub fn admit(pod: &Pod, node: &NodeState<'_>) -> Result<(), Rejection> {
    check_os(pod)?;
    check_resources(pod, node)?;
    if !matches_node(pod, node) {
        return Err(predicate(LABELS_DO_NOT_MATCH, "node(s) didn't match Pod's node affinity/selector"));
    }
    check_ports(pod, node.others)
}

fn predicate(name: &str, why: &str) -> Rejection {
    Rejection { reason: name.to_owned(), message: format!("Predicate {name} failed: {why}") }
}

fn check_os(pod: &Pod) -> Result<(), Rejection> {
    let selector = spec::spec(pod).node_selector.as_ref();
    if let Some(os) = selector.and_then(|selector| selector.get("kubernetes.io/os")).filter(|os| *os != "linux") {
        let message = format!("Failed to admit pod as the `kubernetes.io/os` label doesn't match node label: {os}");
        return Err(Rejection { reason: "PodOSSelectorNodeLabelDoesNotMatch".to_owned(), message });
    }
    match &spec::spec(pod).os {
        Some(os) if os.name != "linux" => Err(Rejection {
            reason: "PodOSNotSupported".to_owned(),
            message: "Failed to admit pod as the OS field doesn't match node OS".to_owned(),
        }),
        _ => Ok(()),
    }
}

fn check_resources(pod: &Pod, node: &NodeState<'_>) -> Result<(), Rejection> {
    let insufficient = |name: &str, requested: i64, used: i64, capacity: i64| Rejection {
        reason: format!("OutOf{name}"),
        message: format!(
            "Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}"
        ),
    };
    let pods = node.allocatable.get("pods").and_then(quantity::value).unwrap_or(i64::MAX);
    let count = i64::try_from(node.others.len()).unwrap_or(i64::MAX);
    if count + 1 > pods {
        return Err(insufficient("pods", 1, count, pods));
    }
    let others: Vec<BTreeMap<String, i64>> = node.others.iter().map(|other| pod_requirements(other).0).collect();
    for (name, requested) in pod_requirements(pod).0.into_iter().filter(|(_, requested)| *requested > 0) {
        let capacity = node.allocatable.get(&name).and_then(quantity::milli).unwrap_or_default();
        let used: i64 = others.iter().filter_map(|other| other.get(&name)).sum();
        if used.saturating_add(requested) > capacity {
            // CPU is counted in thousandths in the message, everything else in units.
            let shown = |milli: i64| if name == "cpu" { milli } else { milli / 1000 };
            return Err(insufficient(&name, shown(requested), shown(used), shown(capacity)));
        }
    }
    Ok(())
}

fn host_ports(pod: &Pod) -> Vec<(String, String, i32)> {
    let all = spec::init_containers(pod).iter().filter(|c| spec::is_restartable_init(c)).chain(spec::containers(pod));
    all.flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            let host_port = port.host_port.filter(|port| *port > 0)?;
            let ip = port.host_ip.clone().filter(|ip| !ip.is_empty()).unwrap_or_else(|| "0.0.0.0".to_owned());
            Some((port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()), ip, host_port))
        })
        .collect()
}

fn check_ports(pod: &Pod, others: &[Arc<Pod>]) -> Result<(), Rejection> {
    let wanted = host_ports(pod);
    if wanted.is_empty() {
        return Ok(());
    }
    let taken: HashSet<(String, String, i32)> = others.iter().flat_map(|other| host_ports(other)).collect();
    let clash = wanted.iter().any(|(protocol, ip, port)| {
        taken.iter().any(|(other_protocol, other_ip, other_port)| {
            let same_ip = ip == other_ip || [ip, other_ip].iter().any(|ip| *ip == "0.0.0.0" || *ip == "::");
            protocol == other_protocol && port == other_port && same_ip
        })
    });
    if clash {
        return Err(predicate("NodePorts", "node(s) didn't have free ports for the requested pod ports"));
    }
    Ok(())
}

fn matches_node(pod: &Pod, node: &NodeState<'_>) -> bool {
    let pod_spec = spec::spec(pod);
    let selector = pod_spec.node_selector.iter().flatten();
    if !selector.clone().all(|(key, value)| node.labels.get(key) == Some(value)) {
        return false;
    }
    let affinity = pod_spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    required.is_none_or(|required| required.node_selector_terms.iter().any(|term| matches_term(term, node)))
}

fn matches_term(term: &NodeSelectorTerm, node: &NodeState<'_>) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    expressions.iter().all(|requirement| matches_requirement(requirement, node.labels.get(&requirement.key)))
        && fields.iter().all(|requirement| {
            let name = node.name.to_owned();
            requirement.key == "metadata.name" && matches_requirement(requirement, Some(&name))
        })
}

fn matches_requirement(requirement: &NodeSelectorRequirement, value: Option<&String>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let number = |text: &String| text.parse::<i64>().ok();
    let compare = |accept: fn(&i64, &i64) -> bool| match (value.and_then(number), values.first().and_then(number)) {
        (Some(have), Some(bound)) => accept(&have, &bound),
        _ => false,
    };
    match requirement.operator.as_str() {
        "In" => value.is_some_and(|value| values.contains(value)),
        "NotIn" => value.is_none_or(|value| !values.contains(value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(i64::gt),
        "Lt" => compare(i64::lt),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
    }

    fn verdict(spec: serde_json::Value, others: Vec<serde_json::Value>) -> Result<(), String> {
        let labels = [("disk".to_owned(), "ssd".to_owned()), ("n".to_owned(), "5".to_owned())].into();
        let quantity = |text: &str| Quantity(text.to_owned());
        let allocatable = [
            ("cpu".to_owned(), quantity("2")),
            ("memory".to_owned(), quantity("1Gi")),
            ("pods".to_owned(), quantity("2")),
        ]
        .into();
        let others: Vec<Arc<Pod>> = others.into_iter().map(|spec| Arc::new(pod(spec))).collect();
        let state = NodeState { name: "node", labels: &labels, allocatable: &allocatable, others: &others };
        admit(&pod(spec), &state).map_err(|rejection| rejection.reason)
    }

    fn cpu(amount: &str) -> serde_json::Value {
        json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": amount}}}]})
    }

    #[test]
    fn resources_must_fit_beside_the_others() {
        assert_eq!(verdict(cpu("1"), vec![cpu("1")]), Ok(()));
        assert_eq!(verdict(cpu("1500m"), vec![cpu("1")]), Err("OutOfcpu".into()));
        assert_eq!(verdict(cpu("0"), vec![cpu("0"), cpu("0")]), Err("OutOfpods".into()));
        let gpu = json!({"containers": [{"name": "c", "resources": {"requests": {"example.com/gpu": "1"}}}]});
        assert_eq!(verdict(gpu, vec![]), Err("OutOfexample.com/gpu".into()));
    }

    #[test]
    fn host_ports_must_be_free() {
        let port = |ip: &str, port: i32, protocol: &str| json!({"containers": [{"name": "c", "ports": [{"containerPort": 1, "hostPort": port, "hostIP": ip, "protocol": protocol}]}]});
        let on = |one, other| verdict(one, vec![other]);
        assert_eq!(on(port("", 80, "TCP"), port("", 80, "TCP")), Err("NodePorts".into()));
        assert_eq!(on(port("", 80, "TCP"), port("1.1.1.1", 80, "TCP")), Err("NodePorts".into()));
        assert_eq!(on(port("2.2.2.2", 80, "TCP"), port("1.1.1.1", 80, "TCP")), Ok(()));
        assert_eq!(on(port("", 80, "UDP"), port("", 80, "TCP")), Ok(()));
    }

    #[test]
    fn selectors_and_affinity_must_match() {
        let affinity = |operator: &str, key: &str, values: serde_json::Value| {
            json!({"containers": [], "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]}}}})
        };
        assert_eq!(verdict(json!({"containers": [], "nodeSelector": {"disk": "ssd"}}), vec![]), Ok(()));
        assert_eq!(
            verdict(json!({"containers": [], "nodeSelector": {"disk": "hdd"}}), vec![]),
            Err("NodeAffinity".into())
        );
        assert_eq!(verdict(affinity("In", "disk", json!(["ssd"])), vec![]), Ok(()));
        assert_eq!(verdict(affinity("NotIn", "disk", json!(["ssd"])), vec![]), Err("NodeAffinity".into()));
        assert_eq!(verdict(affinity("Gt", "n", json!(["4"])), vec![]), Ok(()));
        assert_eq!(verdict(affinity("DoesNotExist", "x", json!(null)), vec![]), Ok(()));
    }

    #[test]
    fn other_operating_systems_are_refused() {
        assert_eq!(
            verdict(json!({"containers": [], "os": {"name": "windows"}}), vec![]),
            Err("PodOSNotSupported".into())
        );
    }
}
