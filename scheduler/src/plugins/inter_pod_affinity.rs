//! Pods that want to be near or far from other pods.

use std::{collections::HashMap, sync::Arc};

use super::{Plugin, Rejection, SCORE_MAX, View};
use crate::{
    node_info::NodeInfo,
    pod_info::{Labels, PodInfo, PodTerm},
};

/// How much preferences of pods that are already there count, for required affinity.
const HARD_POD_AFFINITY_WEIGHT: i64 = 1;

/// Matching pods per (topology key, value).
type Counts = HashMap<(String, String), i64>;

/// What one pod's terms, and those of pods already placed, find.
pub struct Prepared {
    /// Places that existing pods refuse to share with this one.
    refused: Counts,
    /// Places with pods this one must be near; per required term.
    near: Vec<Counts>,
    far: Counts,
    /// The pod matches all its own terms, so the first of a group may start anywhere.
    matches_self: bool,
    keys_near: Vec<String>,
    keys_far: Vec<String>,
    is_idle: bool,
}

impl Prepared {
    pub fn new(pod: &PodInfo, view: &View) -> Prepared {
        let mut prepared = Prepared {
            refused: Counts::new(),
            near: vec![Counts::new(); pod.required_affinity.len()],
            far: Counts::new(),
            matches_self: false,
            keys_near: pod.required_affinity.iter().map(|term| term.topology_key.clone()).collect(),
            keys_far: pod.required_anti_affinity.iter().map(|term| term.topology_key.clone()).collect(),
            is_idle: !view.has_anti_affinity
                && pod.required_affinity.is_empty()
                && pod.required_anti_affinity.is_empty(),
        };
        if prepared.is_idle {
            return prepared;
        }
        let own_namespace = view.namespace_labels(pod.namespace());
        prepared.matches_self = pod.required_affinity.iter().all(|term| term.matches(pod, &own_namespace));
        let mut namespaces = Namespaces { view, known: HashMap::new() };
        for node in view.nodes {
            for other in &node.pods {
                for term in &other.required_anti_affinity {
                    if term.matches(pod, &own_namespace) {
                        count(&mut prepared.refused, term, node, 1);
                    }
                }
                if pod.required_affinity.is_empty() && pod.required_anti_affinity.is_empty() {
                    continue;
                }
                let labels = namespaces.labels(other.namespace());
                // Affinity needs a pod that matches all terms, as upstream.
                if pod.required_affinity.iter().all(|term| term.matches(other, labels)) {
                    for (term, counts) in pod.required_affinity.iter().zip(&mut prepared.near) {
                        count(counts, term, node, 1);
                    }
                }
                for term in &pod.required_anti_affinity {
                    if term.matches(other, labels) {
                        count(&mut prepared.far, term, node, 1);
                    }
                }
            }
        }
        prepared
    }

    pub fn filter(&self, _: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        if self.is_idle {
            return Ok(());
        }
        if !self.is_near(node) {
            let reason = "node(s) didn't match pod affinity rules";
            return Err(Rejection::firm(Plugin::InterPodAffinity, reason));
        }
        let at = |counts: &Counts, key: &str| {
            node.labels()
                .get(key)
                .is_some_and(|value| counts.get(&(key.to_owned(), value.clone())).is_some_and(|count| *count > 0))
        };
        if self.keys_far.iter().any(|key| at(&self.far, key)) {
            let reason = "node(s) didn't match pod anti-affinity rules";
            return Err(Rejection::new(Plugin::InterPodAffinity, reason));
        }
        let refused =
            self.refused.iter().any(|((key, value), count)| *count > 0 && node.labels().get(key) == Some(value));
        if refused {
            let reason = "node(s) didn't satisfy existing pods anti-affinity rules";
            return Err(Rejection::new(Plugin::InterPodAffinity, reason));
        }
        Ok(())
    }

    fn is_near(&self, node: &NodeInfo) -> bool {
        let mut all = true;
        for (key, counts) in self.keys_near.iter().zip(&self.near) {
            let Some(value) = node.labels().get(key) else { return false };
            all &= counts.get(&(key.clone(), value.clone())).is_some_and(|count| *count > 0);
        }
        all || (self.matches_self && self.near.iter().all(HashMap::is_empty))
    }

    /// Sums of weights of preferences, this pod's and those of pods in place.
    pub fn score(&self, pod: &PodInfo, nodes: &[&Arc<NodeInfo>], view: &View) -> Vec<i64> {
        let own_preferences = !pod.preferred_affinity.is_empty() || !pod.preferred_anti_affinity.is_empty();
        if !own_preferences && !view.has_affinity {
            return vec![0; nodes.len()];
        }
        let mut sums = Counts::new();
        let own_namespace = view.namespace_labels(pod.namespace());
        let mut namespaces = Namespaces { view, known: HashMap::new() };
        for node in view.nodes {
            for other in &node.pods {
                let labels = namespaces.labels(other.namespace());
                for (terms, sign) in [(&pod.preferred_affinity, 1), (&pod.preferred_anti_affinity, -1)] {
                    for term in terms.iter().filter(|term| term.matches(other, labels)) {
                        count(&mut sums, term, node, sign * i64::from(term.weight));
                    }
                }
                for (terms, sign) in [(&other.preferred_affinity, 1), (&other.preferred_anti_affinity, -1)] {
                    for term in terms.iter().filter(|term| term.matches(pod, &own_namespace)) {
                        count(&mut sums, term, node, sign * i64::from(term.weight));
                    }
                }
                for term in other.required_affinity.iter().filter(|term| term.matches(pod, &own_namespace)) {
                    count(&mut sums, term, node, HARD_POD_AFFINITY_WEIGHT);
                }
            }
        }
        let scores: Vec<i64> = nodes
            .iter()
            .map(|node| {
                let here = sums.iter().filter(|((key, value), _)| node.labels().get(key) == Some(value));
                here.map(|(_, sum)| *sum).sum()
            })
            .collect();
        let (lowest, highest) = (scores.iter().copied().min().unwrap_or(0), scores.iter().copied().max().unwrap_or(0));
        let range = highest - lowest;
        scores.iter().map(|score| if range == 0 { 0 } else { SCORE_MAX * (score - lowest) / range }).collect()
    }
}

fn count(counts: &mut Counts, term: &PodTerm, node: &NodeInfo, by: i64) {
    if let Some(value) = node.labels().get(&term.topology_key) {
        *counts.entry((term.topology_key.clone(), value.clone())).or_insert(0) += by;
    }
}

/// Labels of namespaces, looked up once per decision.
struct Namespaces<'a> {
    view: &'a View<'a>,
    known: HashMap<String, Labels>,
}

impl Namespaces<'_> {
    fn labels(&mut self, namespace: &str) -> &Labels {
        if !self.known.contains_key(namespace) {
            self.known.insert(namespace.to_owned(), self.view.namespace_labels(namespace));
        }
        &self.known[namespace]
    }
}
