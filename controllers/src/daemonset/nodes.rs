//! Which nodes a daemon belongs on.

use k8s_openapi::api::core::v1::{Node, PodSpec, Toleration};
use serde_json::{Value, json};
use skiff_api::Object;
use skiff_client::node_selector::{NodeTerm, allows, required_terms, tolerates};

use crate::seen::Seen;

/// Taints that every daemon tolerates: (key, effect).
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
const NETWORK_UNAVAILABLE: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

/// What a node is to a daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fit {
    /// A pod should be there.
    pub should_run: bool,
    /// A pod that is there may stay.
    pub may_stay: bool,
}

/// The demands of one daemon.
pub struct Demands {
    spec: PodSpec,
    required: Option<Vec<NodeTerm>>,
    tolerations: Vec<Toleration>,
}

impl Demands {
    pub fn new(spec: &PodSpec) -> Demands {
        let mut tolerations = spec.tolerations.clone().unwrap_or_default();
        tolerations.extend(added(spec).map(|(key, effect)| Toleration {
            key: Some(key.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some(effect.to_owned()),
            ..Toleration::default()
        }));
        Demands { required: required_terms(spec), spec: spec.clone(), tolerations }
    }

    pub fn fit(&self, node: &Seen<Node>) -> Fit {
        let named = self.spec.node_name.as_deref().unwrap_or_default();
        let allowed = (named.is_empty() || named == node.name())
            && allows(&self.spec, self.required.as_deref(), node.name(), &node.meta().labels);
        if !allowed {
            return Fit { should_run: false, may_stay: false };
        }
        let taints = node.typed.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
        let untolerated = |effect: &str| {
            taints.iter().filter(|taint| taint.effect == effect).any(|taint| {
                let taint = (taint.key.as_str(), taint.value.as_deref().unwrap_or_default(), effect);
                !self.tolerations.iter().any(|toleration| tolerates(toleration, taint))
            })
        };
        let evicts = untolerated("NoExecute");
        Fit { should_run: !evicts && !untolerated("NoSchedule"), may_stay: !evicts }
    }
}

fn added(spec: &PodSpec) -> impl Iterator<Item = (&'static str, &'static str)> {
    let on_host = spec.host_network == Some(true);
    TOLERATED.into_iter().chain(on_host.then_some(NETWORK_UNAVAILABLE))
}

/// Adds to a pod what ties it to its node and lets it live there.
pub fn assign(pod: &mut Value, typed: &PodSpec, node: &str) {
    // The controller has checked the template's own terms; the name replaces them.
    pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] = json!({
        "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}],
    });
    let mut tolerations = pod["spec"]["tolerations"].as_array().cloned().unwrap_or_default();
    for (key, effect) in added(typed) {
        let toleration = json!({"key": key, "operator": "Exists", "effect": effect});
        if !tolerations.contains(&toleration) {
            tolerations.push(toleration);
        }
    }
    pod["spec"]["tolerations"] = tolerations.into();
}

/// Whether a change of a node can change what daemons belong on it.
pub fn is_relevant_change(new: &Object, old: &Object) -> bool {
    let (Ok(a), Ok(b)) = (new.typed::<Node>(), old.typed::<Node>()) else { return true };
    let spec = |node: &Node| node.spec.as_ref().map(|spec| (spec.taints.clone(), spec.unschedulable));
    new.meta.labels != old.meta.labels || spec(&a) != spec(&b)
}
