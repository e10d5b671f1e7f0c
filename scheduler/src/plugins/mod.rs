//! The plugins: each filters nodes, scores them, or both. One per file.
//!
//! A plugin sees one pod against a [`View`]. What it must know of all nodes
//! together (how many matching pods per zone, say) it works out once per pod in
//! `prepare`, so that looking at one node is cheap.

pub mod image_locality;
pub mod inter_pod_affinity;
pub mod node_affinity;
pub mod node_name;
pub mod node_ports;
pub mod node_resources;
pub mod node_unschedulable;
pub mod pod_topology_spread;
pub mod taint_toleration;
pub mod volume_binding;

use std::sync::Arc;

use skiff_client::Snapshot;

use crate::{
    node_info::NodeInfo,
    pod_info::{Labels, PodInfo},
};

/// Highest score of a node in one plugin.
pub const SCORE_MAX: i64 = 100;

/// Everything a decision may look at.
#[derive(Clone, Copy)]
pub struct View<'a> {
    pub nodes: &'a [Arc<NodeInfo>],
    /// Objects besides nodes and pods: namespaces, services, claims, budgets.
    pub world: &'a Snapshot,
    /// Whether any pod on any node has required anti-affinity; most clusters have none.
    pub has_anti_affinity: bool,
    /// Whether any pod on any node has pod affinity of any sort.
    pub has_affinity: bool,
}

impl View<'_> {
    pub fn namespace_labels(&self, namespace: &str) -> Labels {
        let object = self.world.object::<k8s_openapi::api::core::v1::Namespace>("", namespace);
        object.map(|namespace| namespace.meta.labels.clone()).unwrap_or_default()
    }
}

/// The plugins, also as the cause of a rejection: a waiting pod is woken only
/// by what can change the mind of the plugin that rejected it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Plugin {
    NodeUnschedulable,
    NodeName,
    TaintToleration,
    NodeAffinity,
    NodePorts,
    NodeResourcesFit,
    PodTopologySpread,
    InterPodAffinity,
    VolumeBinding,
}

/// Why a plugin refuses a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub plugin: Plugin,
    pub reasons: Vec<String>,
    /// Whether removing pods from the node could help.
    pub resolvable: bool,
}

impl Rejection {
    /// Removing pods could help.
    pub fn new(plugin: Plugin, reason: impl Into<String>) -> Rejection {
        Rejection { plugin, reasons: vec![reason.into()], resolvable: true }
    }

    /// Nothing that is done to pods can help.
    pub fn firm(plugin: Plugin, reason: impl Into<String>) -> Rejection {
        Rejection { plugin, reasons: vec![reason.into()], resolvable: false }
    }
}

/// What the plugins prepared for one pod.
pub struct Prepared {
    spread: pod_topology_spread::Prepared,
    affinity: inter_pod_affinity::Prepared,
    volumes: volume_binding::Prepared,
}

impl Prepared {
    /// A rejection here rejects the pod on every node.
    pub fn new(pod: &PodInfo, view: &View) -> Result<Prepared, Rejection> {
        Ok(Prepared {
            volumes: volume_binding::Prepared::new(pod, view)?,
            spread: pod_topology_spread::Prepared::new(pod, view),
            affinity: inter_pod_affinity::Prepared::new(pod, view),
        })
    }

    /// Asks every filter; the first refusal counts, as in upstream.
    pub fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        node_unschedulable::filter(pod, node)?;
        node_name::filter(pod, node)?;
        taint_toleration::filter(pod, node)?;
        node_affinity::filter(pod, node)?;
        node_ports::filter(pod, node)?;
        node_resources::filter(pod, node)?;
        self.volumes.filter(node)?;
        self.spread.filter(pod, node)?;
        self.affinity.filter(pod, node)
    }

    /// Weighted scores of nodes that passed the filters, in their order.
    pub fn score(&self, pod: &PodInfo, nodes: &[&Arc<NodeInfo>], view: &View) -> Vec<i64> {
        let mut total = vec![0; nodes.len()];
        let mut add = |weight: i64, scores: Vec<i64>| {
            for (sum, score) in total.iter_mut().zip(scores) {
                *sum += weight * score;
            }
        };
        add(3, taint_toleration::score(pod, nodes));
        add(2, node_affinity::score(pod, nodes));
        add(1, nodes.iter().map(|node| node_resources::least_allocated(pod, node)).collect());
        add(1, nodes.iter().map(|node| node_resources::balanced_allocation(pod, node)).collect());
        add(2, self.spread.score(pod, nodes, view));
        add(2, self.affinity.score(pod, nodes, view));
        add(1, image_locality::score(pod, nodes, view));
        total
    }

    /// Changes that must be written before the pod is bound to `node`.
    pub fn volumes(&self) -> &volume_binding::Prepared {
        &self.volumes
    }
}

/// Stretches scores so that the best gets [`SCORE_MAX`]; `reverse` when less is better.
pub fn normalise(mut scores: Vec<i64>, reverse: bool) -> Vec<i64> {
    let highest = scores.iter().copied().max().unwrap_or(0);
    for score in &mut scores {
        let share = if highest == 0 { 0 } else { *score * SCORE_MAX / highest };
        *score = if reverse { SCORE_MAX - share } else { share };
    }
    scores
}
