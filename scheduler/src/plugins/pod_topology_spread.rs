//! Spreads the pods of a workload over nodes and zones.

use std::{collections::HashMap, sync::Arc};

use k8s_openapi::api::{
    apps::v1::{ReplicaSet, StatefulSet},
    core::v1::{ReplicationController, Service, TopologySpreadConstraint},
};
use skiff_api::Selector;

use super::{Plugin, Rejection, SCORE_MAX, View, taint_toleration::untolerated};
use crate::{
    node_info::NodeInfo,
    pod_info::{PodInfo, selector_of, with_label_keys},
};

const HOSTNAME: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";

struct Constraint {
    topology_key: String,
    max_skew: i64,
    min_domains: i64,
    selector: Selector,
    honours_affinity: bool,
    honours_taints: bool,
}

impl Constraint {
    fn new(raw: &TopologySpreadConstraint, pod: &PodInfo) -> Constraint {
        let keys = (raw.match_label_keys.as_deref(), None);
        Constraint {
            topology_key: raw.topology_key.clone(),
            max_skew: i64::from(raw.max_skew),
            min_domains: i64::from(raw.min_domains.unwrap_or(1)),
            selector: with_label_keys(raw.label_selector.as_ref(), keys, pod.labels()),
            honours_affinity: raw.node_affinity_policy.as_deref() != Some("Ignore"),
            honours_taints: raw.node_taints_policy.as_deref() == Some("Honor"),
        }
    }

    /// Whether pods on this node count.
    fn includes(&self, pod: &PodInfo, node: &NodeInfo) -> bool {
        (!self.honours_affinity || pod.allows_node(node.name(), node.labels()))
            && (!self.honours_taints || untolerated(pod, node).is_none())
    }

    fn count(&self, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let pods = node.pods.iter();
        pods.filter(|other| {
            !other.is_deleting() && other.namespace() == pod.namespace() && self.selector.matches(other.labels())
        })
        .count() as i64
    }
}

struct Required {
    constraint: Constraint,
    /// Matching pods per topology value.
    counts: HashMap<String, i64>,
    lowest: i64,
    matches_self: bool,
}

/// Constraints of one pod with the present state.
pub struct Prepared {
    required: Vec<Required>,
    preferred: Vec<Constraint>,
    /// Whether the preferences are the system's own, which forgive missing labels.
    is_default: bool,
}

impl Prepared {
    pub fn new(pod: &PodInfo, view: &View) -> Prepared {
        let raw = pod.spec().and_then(|spec| spec.topology_spread_constraints.as_deref()).unwrap_or_default();
        let (hard, soft): (Vec<_>, Vec<_>) =
            raw.iter().partition(|constraint| constraint.when_unsatisfiable != "ScheduleAnyway");
        let keys: Vec<&str> = hard.iter().map(|constraint| constraint.topology_key.as_str()).collect();
        let required = hard.iter().map(|raw| Required::new(Constraint::new(raw, pod), &keys, pod, view)).collect();
        let is_default = raw.is_empty();
        let preferred =
            if is_default { defaults(pod, view) } else { soft.iter().map(|raw| Constraint::new(raw, pod)).collect() };
        Prepared { required, preferred, is_default }
    }

    pub fn filter(&self, _: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        for required in &self.required {
            let Some(value) = node.labels().get(&required.constraint.topology_key) else {
                let reason = "node(s) didn't match pod topology spread constraints (missing required label)";
                return Err(Rejection::firm(Plugin::PodTopologySpread, reason));
            };
            let count = required.counts.get(value).copied().unwrap_or(0);
            if count + i64::from(required.matches_self) - required.lowest > required.constraint.max_skew {
                let reason = "node(s) didn't match pod topology spread constraints";
                return Err(Rejection::new(Plugin::PodTopologySpread, reason));
            }
        }
        Ok(())
    }

    /// Fewer matching pods in the node's topology is better; large topologies weigh more.
    pub fn score(&self, pod: &PodInfo, nodes: &[&Arc<NodeInfo>], view: &View) -> Vec<i64> {
        if self.preferred.is_empty() {
            return vec![0; nodes.len()];
        }
        let has_all = |node: &NodeInfo| {
            self.is_default
                || self.preferred.iter().all(|constraint| node.labels().contains_key(&constraint.topology_key))
        };
        let mut sums = vec![0.0; nodes.len()];
        for constraint in &self.preferred {
            let per_node = constraint.topology_key == HOSTNAME;
            let mut counts: HashMap<&str, i64> = HashMap::new();
            for node in nodes.iter().filter(|node| has_all(node)) {
                if let Some(value) = node.labels().get(&constraint.topology_key) {
                    counts.entry(value).or_insert(0);
                }
            }
            let size = if per_node { nodes.iter().filter(|node| has_all(node)).count() } else { counts.len() };
            for node in view.nodes.iter().filter(|node| has_all(node) && constraint.includes(pod, node)) {
                let value = node.labels().get(&constraint.topology_key);
                if let Some(count) = value.and_then(|value| counts.get_mut(value.as_str())) {
                    *count += constraint.count(pod, node);
                }
            }
            let weight = (size as f64 + 2.0).ln();
            for (sum, node) in sums.iter_mut().zip(nodes) {
                if let Some(value) = node.labels().get(&constraint.topology_key) {
                    let count = counts.get(value.as_str()).copied().unwrap_or(0) as f64;
                    *sum += count * weight + (constraint.max_skew - 1) as f64;
                }
            }
        }
        let considered: Vec<i64> =
            sums.iter().zip(nodes).filter(|(_, node)| has_all(node)).map(|(sum, _)| sum.round() as i64).collect();
        let highest = considered.iter().copied().max().unwrap_or(0);
        let lowest = considered.iter().copied().min().unwrap_or(0);
        sums.iter()
            .zip(nodes)
            .map(|(sum, node)| match highest {
                _ if !has_all(node) => 0,
                0 => SCORE_MAX,
                highest => SCORE_MAX * (highest + lowest - sum.round() as i64) / highest,
            })
            .collect()
    }
}

impl Required {
    fn new(constraint: Constraint, keys: &[&str], pod: &PodInfo, view: &View) -> Required {
        let mut counts = HashMap::new();
        for node in view.nodes {
            let has_all = keys.iter().all(|key| node.labels().contains_key(*key));
            if !has_all || !constraint.includes(pod, node) {
                continue;
            }
            if let Some(value) = node.labels().get(&constraint.topology_key) {
                *counts.entry(value.clone()).or_insert(0) += constraint.count(pod, node);
            }
        }
        let enough = counts.len() as i64 >= constraint.min_domains;
        let lowest = if enough { counts.values().copied().min().unwrap_or(0) } else { 0 };
        let matches_self = constraint.selector.matches(pod.labels());
        Required { constraint, counts, lowest, matches_self }
    }
}

/// What holds when a pod says nothing: its service's or owner's pods spread a
/// little over nodes and zones.
fn defaults(pod: &PodInfo, view: &View) -> Vec<Constraint> {
    let Some(selector) = workload_selector(pod, view) else { return Vec::new() };
    [(HOSTNAME, 3), (ZONE, 5)]
        .into_iter()
        .map(|(key, max_skew)| Constraint {
            topology_key: key.to_owned(),
            max_skew,
            min_domains: 1,
            selector: selector.clone(),
            honours_affinity: true,
            honours_taints: false,
        })
        .collect()
}

/// The pods that belong with this one: those of its services together with those of its owner.
fn workload_selector(pod: &PodInfo, view: &View) -> Option<Selector> {
    let mut requirements = Vec::new();
    for service in view.world.list::<Service>(Some(pod.namespace())) {
        let Some(labels) = service.spec.as_ref().and_then(|spec| spec.selector.as_ref()) else { continue };
        let selector = Selector::from_labels(labels);
        if !labels.is_empty() && selector.matches(pod.labels()) {
            requirements.extend(selector.requirements().iter().cloned());
        }
    }
    if let Some(owner) = pod.object.meta.controller() {
        let (namespace, name) = (pod.namespace(), owner.name.as_str());
        let of_owner = match owner.kind.as_str() {
            "ReplicaSet" => {
                view.world.get::<ReplicaSet>(namespace, name).map(|set| selector_of(Some(&set.spec.selector)))
            }
            "StatefulSet" => {
                view.world.get::<StatefulSet>(namespace, name).map(|set| selector_of(Some(&set.spec.selector)))
            }
            "ReplicationController" => view
                .world
                .get::<ReplicationController>(namespace, name)
                .and_then(|set| set.spec.as_ref()?.selector.as_ref().map(Selector::from_labels)),
            _ => None,
        };
        requirements.extend(of_owner.iter().flat_map(|selector| selector.requirements().iter().cloned()));
    }
    if requirements.is_empty() { None } else { Selector::new(requirements).ok() }
}
