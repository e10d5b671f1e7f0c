//! Decisions over small clusters: who is taken, who is refused, and in what words.

use serde_json::{Value, json};
use skiff_api::Object;
use skiff_client::Snapshot;

use super::*;
use crate::{
    cache::Cache,
    preemption::{Preemption, preempt},
};

struct Cluster {
    cache: Cache,
    world: Snapshot,
    nominated: Nominated,
}

fn node(name: &str, cpu: &str, extra: Value) -> Arc<Object> {
    let mut value = json!({"apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "uid": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {}, "status": {"allocatable": {"cpu": cpu, "memory": "4Gi", "pods": "110"}}});
    merge(&mut value, extra);
    Arc::new(Object::from_value(&value).unwrap())
}

fn pod(name: &str, cpu: &str, extra: Value) -> Arc<PodInfo> {
    let mut value = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "uid": name, "namespace": "d", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}]}});
    merge(&mut value, extra);
    Arc::new(PodInfo::new(Arc::new(Object::from_value(&value).unwrap())).unwrap())
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

fn cluster(nodes: Vec<Arc<Object>>, placed: Vec<(Arc<PodInfo>, &str)>) -> Cluster {
    let mut cache = Cache::default();
    for node in nodes {
        cache.put_node(node);
    }
    for (pod, node) in placed {
        cache.put_pod(pod, node);
    }
    Cluster { cache, world: Snapshot::new(), nominated: Nominated::default() }
}

impl Cluster {
    /// The node's name, or the message.
    fn place(&self, pod: &PodInfo) -> String {
        match schedule(pod, &self.cache.view(&self.world), &self.nominated, 1) {
            Decision::Node { name, .. } => name,
            Decision::Nowhere(diagnosis) => diagnosis.message(),
        }
    }

    /// Node and victims, or the message.
    fn preempt(&self, pod: &PodInfo) -> String {
        let view = self.cache.view(&self.world);
        let Decision::Nowhere(diagnosis) = schedule(pod, &view, &self.nominated, 1) else {
            return "placed".to_owned();
        };
        match preempt(pod, &view, &diagnosis, &self.nominated) {
            Preemption::Victims { node, victims } => {
                let names: Vec<&str> = victims.iter().map(|victim| victim.name()).collect();
                format!("{node}: {}", names.join(","))
            }
            Preemption::Useless(why) => why,
        }
    }
}

fn two_nodes(placed: Vec<(Arc<PodInfo>, &str)>) -> Cluster {
    cluster(vec![node("n1", "2", json!({})), node("n2", "2", json!({}))], placed)
}

#[test]
fn the_emptier_node_is_chosen() {
    let cluster = two_nodes(vec![(pod("a", "1", json!({})), "n1")]);
    assert_eq!(cluster.place(&pod("b", "500m", json!({}))), "n2");
}

#[test]
fn refusals_are_counted_by_reason() {
    let mut nodes = vec![node("n1", "1", json!({})), node("n2", "1", json!({}))];
    nodes.push(node("n3", "8", json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}})));
    nodes.push(node("n4", "8", json!({"spec": {"unschedulable": true}})));
    let message = cluster(nodes, Vec::new()).place(&pod("a", "2", json!({})));
    let expected = "0/4 nodes are available: 1 node(s) had untolerated taint {k: v}, \
        1 node(s) were unschedulable, 2 Insufficient cpu.";
    assert_eq!(message, expected);
}

#[test]
fn without_nodes_the_message_says_so() {
    let message = cluster(Vec::new(), Vec::new()).place(&pod("a", "1", json!({})));
    assert_eq!(message, "no nodes available to schedule pods");
}

#[test]
fn node_selector_and_affinity_by_name_hold() {
    let cluster = two_nodes(Vec::new());
    let selects = json!({"spec": {"nodeSelector": {"kubernetes.io/hostname": "n2"}}});
    assert_eq!(cluster.place(&pod("a", "1", selects)), "n2");
    let affinity = json!({"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
        {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}]}}}}});
    assert_eq!(cluster.place(&pod("a", "1", affinity)), "n1");
}

#[test]
fn a_taken_host_port_refuses_unless_address_or_protocol_differ() {
    let port = |ip: &str, protocol: &str| {
        json!({"spec": {"containers": [{"name": "c", "ports":
            [{"containerPort": 1, "hostPort": 80, "hostIP": ip, "protocol": protocol}]}]}})
    };
    let cluster = cluster(vec![node("n1", "2", json!({}))], vec![(pod("a", "1", port("10.0.0.1", "TCP")), "n1")]);
    assert_eq!(cluster.place(&pod("b", "1", port("10.0.0.2", "TCP"))), "n1");
    assert_eq!(cluster.place(&pod("b", "1", port("10.0.0.1", "UDP"))), "n1");
    let message = cluster.place(&pod("b", "1", port("0.0.0.0", "TCP")));
    assert!(message.contains("1 node(s) didn't have free ports for the requested pod ports"), "{message}");
}

fn anti_affinity() -> Value {
    json!({"spec": {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
        [{"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": "kubernetes.io/hostname"}]}}}})
}

#[test]
fn anti_affinity_works_in_both_directions() {
    let cluster = two_nodes(vec![(pod("a", "1", anti_affinity()), "n1")]);
    assert_eq!(cluster.place(&pod("b", "1", json!({}))), "n2", "the placed pod refuses company");
    assert_eq!(cluster.place(&pod("b", "1", anti_affinity())), "n2");
}

#[test]
fn the_first_pod_of_a_group_with_affinity_to_itself_is_placed() {
    let near = json!({"spec": {"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
        [{"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": "kubernetes.io/hostname"}]}}}});
    assert!(["n1", "n2"].contains(&two_nodes(Vec::new()).place(&pod("a", "1", near.clone())).as_str()));
    let other = json!({"metadata": {"labels": {"app": "other"}}});
    let cluster = two_nodes(vec![(pod("a", "100m", json!({})), "n2"), (pod("o", "0", other), "n1")]);
    assert_eq!(cluster.place(&pod("b", "1", near)), "n2");
}

#[test]
fn a_hard_spread_constraint_keeps_the_skew() {
    let spread = json!({"spec": {"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "web"}}}]}});
    let cluster = two_nodes(vec![(pod("a", "100m", json!({})), "n2")]);
    assert_eq!(cluster.place(&pod("b", "100m", spread)), "n1");
}

#[test]
fn preemption_takes_the_least_important_pods_and_spares_what_it_can() {
    let priority = |priority: i32| json!({"spec": {"priority": priority}});
    let cluster = two_nodes(vec![
        (pod("a", "1", priority(10)), "n1"),
        (pod("b", "1", priority(5)), "n1"),
        (pod("c", "2", priority(20)), "n2"),
    ]);
    assert_eq!(cluster.preempt(&pod("x", "1", priority(100))), "n1: b");
    assert_eq!(
        cluster.preempt(&pod("x", "1", priority(1))),
        "preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod."
    );
    assert_eq!(
        cluster.preempt(&pod("x", "4", priority(100))),
        "preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
    );
}

#[test]
fn room_promised_to_a_more_important_pod_is_not_given_away() {
    let mut cluster = cluster(vec![node("n1", "2", json!({}))], Vec::new());
    let important = pod("x", "2", json!({"spec": {"priority": 100}}));
    cluster.nominated.set(&important, "n1");
    assert!(cluster.place(&pod("b", "1", json!({}))).contains("Insufficient cpu"));
    assert_eq!(cluster.place(&important), "n1");
}

/// A guard against accidental slowness, far above the real cost of a few microseconds.
#[test]
fn a_decision_on_two_nodes_is_quick() {
    let cluster = two_nodes((0..20).map(|index| (pod(&format!("p{index}"), "10m", json!({})), "n1")).collect());
    let pod = pod("x", "100m", json!({}));
    let start = std::time::Instant::now();
    for _ in 0..1000 {
        assert_eq!(cluster.place(&pod), "n2");
    }
    let each = start.elapsed() / 1000;
    assert!(each < std::time::Duration::from_millis(1), "{each:?} per decision");
}
