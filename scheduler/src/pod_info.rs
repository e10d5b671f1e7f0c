//! A pod with everything about it that decisions read, worked out once.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    api::core::v1::{Pod, PodAffinityTerm, PodSpec, Toleration, WeightedPodAffinityTerm},
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use skiff_api::{
    DecodeError, Object, Selector,
    selector::{Operator, Requirement},
};

use skiff_client::node_selector::{self, required_terms};

use crate::resources::{self, Resources};

pub use skiff_client::node_selector::NodeTerm;

/// Labels of pods and nodes.
pub type Labels = BTreeMap<String, String>;

/// A port that a pod takes on its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    pub ip: String,
    pub protocol: String,
    pub port: i32,
}

impl HostPort {
    /// Two ports clash when protocol and number agree and one address covers the other.
    pub fn clashes(&self, other: &HostPort) -> bool {
        let any = |ip: &str| ip.is_empty() || ip == "0.0.0.0" || ip == "::";
        self.port == other.port
            && self.protocol == other.protocol
            && (any(&self.ip) || any(&other.ip) || self.ip == other.ip)
    }
}

/// Which other pods a pod wants near or far, and how near.
#[derive(Clone, Debug)]
pub struct PodTerm {
    pub namespaces: Vec<String>,
    pub namespace_selector: Option<Selector>,
    pub selector: Selector,
    pub topology_key: String,
    /// For preferences; 0 for requirements.
    pub weight: i32,
}

impl PodTerm {
    fn new(term: &PodAffinityTerm, weight: i32, namespace: &str, labels: &Labels) -> PodTerm {
        let mut namespaces = term.namespaces.clone().unwrap_or_default();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.push(namespace.to_owned());
        }
        let keys = (term.match_label_keys.as_deref(), term.mismatch_label_keys.as_deref());
        PodTerm {
            namespaces,
            namespace_selector: term.namespace_selector.as_ref().map(|selector| selector_of(Some(selector))),
            selector: with_label_keys(term.label_selector.as_ref(), keys, labels),
            topology_key: term.topology_key.clone(),
            weight,
        }
    }

    /// Whether `pod` is meant; `namespace_labels` are those of its namespace.
    pub fn matches(&self, pod: &PodInfo, namespace_labels: &Labels) -> bool {
        let namespace = self.namespaces.iter().any(|namespace| namespace == pod.namespace())
            || self.namespace_selector.as_ref().is_some_and(|selector| selector.matches(namespace_labels));
        namespace && self.selector.matches(pod.labels())
    }
}

/// A selector that does not parse matches nothing; the API accepts only those that do.
pub fn selector_of(selector: Option<&LabelSelector>) -> Selector {
    Selector::from_object(selector).unwrap_or_else(|_| Selector::nothing())
}

/// A selector narrowed by the pod's own values of some labels. The API server
/// writes these keys into the selector itself; doing it twice does no harm.
pub fn with_label_keys(
    selector: Option<&LabelSelector>,
    (same, other): (Option<&[String]>, Option<&[String]>),
    labels: &Labels,
) -> Selector {
    let base = selector_of(selector);
    let mut requirements = base.requirements().to_vec();
    for (keys, operator) in [(same, Operator::In), (other, Operator::NotIn)] {
        for key in keys.unwrap_or_default() {
            if let Some(value) = labels.get(key) {
                requirements.push(Requirement { key: key.clone(), operator, values: vec![value.clone()] });
            }
        }
    }
    if requirements.len() == base.requirements().len() {
        return base;
    }
    Selector::new(requirements).unwrap_or_else(|_| Selector::nothing())
}

/// A pod as the scheduler sees it.
#[derive(Clone)]
pub struct PodInfo {
    pub object: Arc<Object>,
    pub pod: Arc<Pod>,
    pub requests: Resources,
    pub assumed_requests: Resources,
    pub host_ports: Vec<HostPort>,
    /// Alternatives of required node affinity; `None` when there is no such requirement.
    pub required_nodes: Option<Vec<NodeTerm>>,
    pub preferred_nodes: Vec<(i32, NodeTerm)>,
    pub required_affinity: Vec<PodTerm>,
    pub required_anti_affinity: Vec<PodTerm>,
    pub preferred_affinity: Vec<PodTerm>,
    pub preferred_anti_affinity: Vec<PodTerm>,
}

impl PodInfo {
    pub fn new(object: Arc<Object>) -> Result<PodInfo, DecodeError> {
        let pod = object.typed::<Pod>()?;
        let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref());
        let node_affinity = affinity.and_then(|affinity| affinity.node_affinity.as_ref());
        let required_nodes = pod.spec.as_ref().and_then(required_terms);
        let preferred_nodes = node_affinity
            .and_then(|affinity| affinity.preferred_during_scheduling_ignored_during_execution.as_ref())
            .into_iter()
            .flatten()
            .filter_map(|term| Some((term.weight, NodeTerm::new(&term.preference)?)))
            .collect();
        let (namespace, labels) = (object.meta.namespace.as_str(), &object.meta.labels);
        let required = |terms: Option<&Vec<PodAffinityTerm>>| -> Vec<PodTerm> {
            terms.into_iter().flatten().map(|term| PodTerm::new(term, 0, namespace, labels)).collect()
        };
        let preferred = |terms: Option<&Vec<WeightedPodAffinityTerm>>| -> Vec<PodTerm> {
            let terms = terms.into_iter().flatten();
            terms.map(|term| PodTerm::new(&term.pod_affinity_term, term.weight, namespace, labels)).collect()
        };
        let near = affinity.and_then(|affinity| affinity.pod_affinity.as_ref());
        let far = affinity.and_then(|affinity| affinity.pod_anti_affinity.as_ref());
        Ok(PodInfo {
            requests: resources::requests(&pod),
            assumed_requests: resources::assumed_requests(&pod),
            host_ports: host_ports(&pod),
            required_nodes,
            preferred_nodes,
            required_affinity: required(
                near.and_then(|near| near.required_during_scheduling_ignored_during_execution.as_ref()),
            ),
            required_anti_affinity: required(
                far.and_then(|far| far.required_during_scheduling_ignored_during_execution.as_ref()),
            ),
            preferred_affinity: preferred(
                near.and_then(|near| near.preferred_during_scheduling_ignored_during_execution.as_ref()),
            ),
            preferred_anti_affinity: preferred(
                far.and_then(|far| far.preferred_during_scheduling_ignored_during_execution.as_ref()),
            ),
            pod,
            object,
        })
    }

    pub fn uid(&self) -> &str {
        self.object.meta.uid.as_str()
    }

    pub fn namespace(&self) -> &str {
        &self.object.meta.namespace
    }

    pub fn name(&self) -> &str {
        &self.object.meta.name
    }

    pub fn labels(&self) -> &Labels {
        &self.object.meta.labels
    }

    pub fn is_deleting(&self) -> bool {
        self.object.meta.is_deleting()
    }

    pub fn spec(&self) -> Option<&PodSpec> {
        self.pod.spec.as_ref()
    }

    pub fn node_name(&self) -> &str {
        self.spec().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
    }

    pub fn nominated_node(&self) -> &str {
        self.pod.status.as_ref().and_then(|status| status.nominated_node_name.as_deref()).unwrap_or_default()
    }

    pub fn priority(&self) -> i32 {
        self.spec().and_then(|spec| spec.priority).unwrap_or(0)
    }

    pub fn scheduler_name(&self) -> &str {
        self.spec().and_then(|spec| spec.scheduler_name.as_deref()).unwrap_or("default-scheduler")
    }

    pub fn tolerations(&self) -> &[Toleration] {
        self.spec().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default()
    }

    pub fn is_gated(&self) -> bool {
        self.spec().and_then(|spec| spec.scheduling_gates.as_ref()).is_some_and(|gates| !gates.is_empty())
    }

    pub fn is_terminal(&self) -> bool {
        let phase = self.pod.status.as_ref().and_then(|status| status.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    }

    /// Whether the pod's node selector and required node affinity allow a node.
    pub fn allows_node(&self, name: &str, labels: &Labels) -> bool {
        self.spec().is_some_and(|spec| node_selector::allows(spec, self.required_nodes.as_deref(), name, labels))
    }
}

fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            Some(HostPort {
                ip: port.host_ip.clone().unwrap_or_default(),
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                port: port.host_port.filter(|number| *number > 0)?,
            })
        })
        .collect()
}
