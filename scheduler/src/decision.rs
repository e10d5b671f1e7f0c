//! The decision for one pod: a node, or why there is none. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use crate::{
    limits::NODES_ALWAYS_CHECKED,
    node_info::NodeInfo,
    plugins::{Plugin, Prepared, Rejection, View},
    pod_info::PodInfo,
};

/// What becomes of a pod.
pub enum Decision {
    Node { name: String, prepared: Box<Prepared> },
    Nowhere(Diagnosis),
}

/// Why no node takes a pod.
#[derive(Debug, Default)]
pub struct Diagnosis {
    pub nodes: usize,
    /// The reason that holds for all nodes alike.
    pub everywhere: Option<Rejection>,
    /// Reason per node, by its index in the view.
    pub per_node: Vec<(usize, Rejection)>,
}

impl Diagnosis {
    /// Upstream's sentence: how many nodes refuse, and why.
    pub fn message(&self) -> String {
        if self.nodes == 0 {
            return "no nodes available to schedule pods".to_owned();
        }
        let reasons: Vec<&String> = match &self.everywhere {
            Some(rejection) => {
                return format!("0/{} nodes are available: {}.", self.nodes, rejection.reasons.join(", "));
            }
            None => self.per_node.iter().flat_map(|(_, rejection)| &rejection.reasons).collect(),
        };
        format!("0/{} nodes are available: {}.", self.nodes, histogram(reasons.into_iter().map(String::as_str)))
    }

    /// The plugins that stand in the way.
    pub fn plugins(&self) -> BTreeSet<Plugin> {
        let rejections = self.per_node.iter().map(|(_, rejection)| rejection).chain(&self.everywhere);
        rejections.map(|rejection| rejection.plugin).collect()
    }
}

/// `1 reason, 3 other reason`, in the order upstream prints.
pub fn histogram<'a>(reasons: impl Iterator<Item = &'a str>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in reasons {
        *counts.entry(reason).or_insert(0) += 1;
    }
    let mut parts: Vec<String> = counts.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    parts.sort();
    parts.join(", ")
}

/// Pods that were promised a node once others have left it, by node.
#[derive(Default)]
pub struct Nominated(HashMap<String, Vec<Arc<PodInfo>>>);

impl Nominated {
    pub fn set(&mut self, pod: &Arc<PodInfo>, node: &str) {
        self.remove(pod.uid());
        if !node.is_empty() {
            self.0.entry(node.to_owned()).or_default().push(Arc::clone(pod));
        }
    }

    pub fn remove(&mut self, uid: &str) {
        self.0.retain(|_, pods| {
            pods.retain(|pod| pod.uid() != uid);
            !pods.is_empty()
        });
    }

    /// Promises on a node that `pod` must respect.
    fn before<'a>(&'a self, pod: &'a PodInfo, node: &str) -> impl Iterator<Item = &'a Arc<PodInfo>> {
        let pods = self.0.get(node).into_iter().flatten();
        pods.filter(|other| other.priority() >= pod.priority() && other.uid() != pod.uid())
    }

    /// Filters a node with and without the pods promised to it: it must do in both cases.
    pub fn filter(&self, prepared: &Prepared, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        if !self.0.is_empty() {
            let mut promised = self.before(pod, node.name()).peekable();
            if promised.peek().is_some() {
                let mut fuller = node.clone();
                promised.for_each(|other| fuller.add(Arc::clone(other)));
                prepared.filter(pod, &fuller)?;
            }
        }
        prepared.filter(pod, node)
    }
}

/// Decides for one pod. `turn` spreads the start of the search and breaks ties.
pub fn schedule(pod: &PodInfo, view: &View, nominated: &Nominated, turn: u64) -> Decision {
    let mut diagnosis = Diagnosis { nodes: view.nodes.len(), ..Diagnosis::default() };
    let prepared = match Prepared::new(pod, view) {
        Ok(prepared) => prepared,
        Err(rejection) => {
            diagnosis.everywhere = Some(rejection);
            return Decision::Nowhere(diagnosis);
        }
    };
    let mut feasible: Vec<&Arc<NodeInfo>> = Vec::new();
    let enough = enough_nodes(view.nodes.len());
    let start = if view.nodes.len() > NODES_ALWAYS_CHECKED { turn as usize % view.nodes.len() } else { 0 };
    for offset in 0..view.nodes.len() {
        let index = (start + offset) % view.nodes.len();
        let node = &view.nodes[index];
        match nominated.filter(&prepared, pod, node) {
            Ok(()) => feasible.push(node),
            Err(rejection) => diagnosis.per_node.push((index, rejection)),
        }
        if feasible.len() >= enough {
            break;
        }
    }
    let promised = [Some(pod.nominated_node()), prepared.volumes().selected_node()];
    let kept = feasible.iter().find(|node| promised.contains(&Some(node.name())));
    let chosen = match (kept, feasible.as_slice()) {
        (Some(node), _) => node.name(),
        (None, []) => return Decision::Nowhere(diagnosis),
        (None, [only]) => only.name(),
        (None, several) => best(several, &prepared.score(pod, several, view), turn).name(),
    };
    Decision::Node { name: chosen.to_owned(), prepared: Box::new(prepared) }
}

/// The node with the highest score; among equals `turn` decides.
fn best<'a>(nodes: &[&'a Arc<NodeInfo>], scores: &[i64], turn: u64) -> &'a Arc<NodeInfo> {
    let highest = scores.iter().copied().max().unwrap_or(0);
    let top: Vec<usize> = (0..nodes.len()).filter(|index| scores[*index] == highest).collect();
    // A multiplicative hash: neighbouring turns must not favour neighbours.
    let spin = (turn.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) as usize;
    nodes[top[spin % top.len()]]
}

/// How many feasible nodes are enough to choose from, as upstream: all of few,
/// half of many, a twentieth of very many.
fn enough_nodes(total: usize) -> usize {
    if total < NODES_ALWAYS_CHECKED {
        return total.max(1);
    }
    let percent = 50usize.saturating_sub(total / 125).max(5);
    (total * percent / 100).max(NODES_ALWAYS_CHECKED)
}

#[cfg(test)]
#[path = "decision_tests.rs"]
mod tests;
