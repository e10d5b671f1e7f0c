//! The strategy of pods.

use serde_json::{Value, json};
use skiff_api::Cause;

use super::{defaults, qos, update, validation};
use crate::registry::{
    meta,
    strategy::{Operation, RequestContext, Strategy},
    value::{child, copy_field, field, int, items, items_mut, list, remove, set, text},
};

/// Pods: fixed after creation, deleted gracefully.
pub struct PodStrategy;

impl Strategy for PodStrategy {
    fn default(&self, _op: Operation<'_>, object: &mut Value) {
        defaults::pod(object);
    }

    /// Being bound to a node is not a change its owner made: as upstream, it makes no generation.
    fn bumps_generation(&self, old: &Value, new: &Value) -> bool {
        if !meta::spec_differs(old, new) {
            return false;
        }
        let is_bound = |pod: &Value| pod["spec"]["nodeName"].as_str().is_some_and(|node| !node.is_empty());
        if is_bound(old) || !is_bound(new) {
            return true;
        }
        let mut unbound = json!({"spec": new["spec"]});
        copy_field(child(&mut unbound, "spec"), &old["spec"], "nodeName");
        meta::spec_differs(&json!({"spec": old["spec"]}), &unbound)
    }

    fn prepare(&self, context: &RequestContext<'_>, op: Operation<'_>, object: &mut Value) {
        match op {
            Operation::Create => create(context, object),
            Operation::Subresource { name: "ephemeralcontainers", old } => {
                let containers = field(&object["spec"], "ephemeralContainers").cloned().unwrap_or_else(|| json!([]));
                restore(object, old);
                set(child(object, "spec"), "ephemeralContainers", containers);
            }
            Operation::Subresource { name: "resize", old } => resize(object, old),
            Operation::Status { old } => {
                // A status writer neither frees nor gives away the pod, nor changes its class.
                copy_field(child(object, "metadata"), &old["metadata"], "ownerReferences");
                let status = child(object, "status");
                if text(status, "qosClass").is_empty() {
                    copy_field(status, &old["status"], "qosClass");
                }
            }
            Operation::Update { .. } | Operation::Subresource { .. } | Operation::Delete => {}
        }
    }

    fn validate(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &Value) -> Vec<Cause> {
        match op {
            Operation::Create => validation::pod(object),
            Operation::Update { old } => update::update(object, old),
            Operation::Subresource { name: "ephemeralcontainers", old } => update::ephemeral_containers(object, old),
            Operation::Subresource { name: "resize", old } => update::resize(object, old),
            Operation::Status { .. } | Operation::Subresource { .. } | Operation::Delete => Vec::new(),
        }
    }

    fn warnings(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &Value) -> Vec<String> {
        match op {
            Operation::Create | Operation::Update { .. } => warnings(&object["spec"], "spec"),
            _ => Vec::new(),
        }
    }

    fn grace_period(&self, object: &Value, requested: Option<i64>) -> Option<i64> {
        let spec = &object["spec"];
        let unscheduled = text(spec, "nodeName").is_empty();
        let finished = matches!(text(&object["status"], "phase"), "Succeeded" | "Failed");
        if unscheduled || finished {
            return Some(0);
        }
        let seconds = requested.or_else(|| int(spec, "terminationGracePeriodSeconds")).unwrap_or(0);
        Some(if seconds < 0 { 1 } else { seconds })
    }
}

/// A new pod is pending, has its class, and knows whether it is gated.
fn create(context: &RequestContext<'_>, pod: &mut Value) {
    let class = qos::class(&pod["spec"]);
    let mut status = json!({"phase": "Pending", "qosClass": class});
    if !list(&pod["spec"], "schedulingGates").is_empty() {
        status["conditions"] = json!([{
            "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
            "lastProbeTime": null, "lastTransitionTime": seconds(context.now),
        }]);
    }
    set(pod, "status", status);
    match_label_keys(pod);
}

/// RFC 3339 with whole seconds.
pub fn seconds(now: jiff::Timestamp) -> String {
    jiff::Timestamp::from_second(now.as_second()).unwrap_or(now).to_string()
}

/// `matchLabelKeys` of affinity terms and spread constraints become
/// requirements on the values that the pod has at creation.
fn match_label_keys(pod: &mut Value) {
    let labels = pod["metadata"]["labels"].clone();
    let spec = child(pod, "spec");
    for constraint in items(spec, "topologySpreadConstraints") {
        merge_keys(constraint, &labels, "matchLabelKeys", "In");
    }
    let Some(affinity) = spec.get_mut("affinity") else { return };
    for kind in ["podAffinity", "podAntiAffinity"] {
        let Some(pods) = affinity.get_mut(kind) else { continue };
        for term in items(pods, "requiredDuringSchedulingIgnoredDuringExecution") {
            merge_keys(term, &labels, "matchLabelKeys", "In");
            merge_keys(term, &labels, "mismatchLabelKeys", "NotIn");
        }
        for weighted in items(pods, "preferredDuringSchedulingIgnoredDuringExecution") {
            let Some(term) = weighted.get_mut("podAffinityTerm") else { continue };
            merge_keys(term, &labels, "matchLabelKeys", "In");
            merge_keys(term, &labels, "mismatchLabelKeys", "NotIn");
        }
    }
}

fn merge_keys(term: &mut Value, labels: &Value, keys_field: &str, operator: &str) {
    if field(term, "labelSelector").is_none() {
        return;
    }
    let keys: Vec<String> = list(term, keys_field).iter().filter_map(Value::as_str).map(str::to_owned).collect();
    for key in keys {
        if let Some(value) = labels.get(&key).cloned() {
            items_mut(child(term, "labelSelector"), "matchExpressions")
                .push(json!({"key": key, "operator": operator, "values": [value]}));
        }
    }
}

/// Takes everything back but `metadata.managedFields` and `metadata.resourceVersion`.
fn restore(object: &mut Value, old: &Value) {
    let kept: Vec<(&str, Option<Value>)> =
        ["managedFields", "resourceVersion"].map(|name| (name, object["metadata"].get(name).cloned())).into();
    *object = old.clone();
    let metadata = child(object, "metadata");
    for (name, value) in kept {
        match value {
            Some(value) => set(metadata, name, value),
            None => drop(remove(metadata, name)),
        }
    }
}

fn resize(object: &mut Value, old: &Value) {
    let asked = object["spec"].clone();
    restore(object, old);
    let spec = child(object, "spec");
    for list_name in ["containers", "initContainers"] {
        for container in items(spec, list_name) {
            let name = text(container, "name").to_owned();
            if let Some(new) = list(&asked, list_name).iter().find(|new| text(new, "name") == name) {
                copy_field(container, new, "resources");
                copy_field(container, new, "resizePolicy");
            }
        }
    }
    if field(&asked, "resources").is_some() {
        copy_field(spec, &asked, "resources");
    }
}

/// Texts about deprecated or doubtful fields of a pod spec at `path`.
pub fn warnings(spec: &Value, path: &str) -> Vec<String> {
    let mut warnings = Vec::new();
    if int(spec, "terminationGracePeriodSeconds").is_some_and(|seconds| seconds < 0) {
        warnings.push(format!(
            "{path}.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1"
        ));
    }
    for list_name in ["initContainers", "containers"] {
        for (i, container) in list(spec, list_name).iter().enumerate() {
            let mut seen: Vec<&str> = Vec::new();
            for (j, variable) in list(container, "env").iter().enumerate() {
                let name = text(variable, "name");
                if seen.contains(&name) {
                    warnings.push(format!("{path}.{list_name}[{i}].env[{j}]: hides previous definition of \"{name}\", which may be unexpected"));
                }
                seen.push(name);
            }
        }
    }
    for (i, volume) in list(spec, "volumes").iter().enumerate() {
        if field(volume, "gitRepo").is_some() {
            warnings
                .push(format!("{path}.volumes[{i}].gitRepo: deprecated in v1.11, and disabled by default in v1.33+"));
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grace_depends_on_where_the_pod_is() {
        let strategy = PodStrategy;
        let pod = |node: &str, phase: &str| json!({"spec": {"nodeName": node, "terminationGracePeriodSeconds": 30}, "status": {"phase": phase}});
        assert_eq!(strategy.grace_period(&pod("", "Pending"), Some(10)), Some(0));
        assert_eq!(strategy.grace_period(&pod("n", "Running"), None), Some(30));
        assert_eq!(strategy.grace_period(&pod("n", "Running"), Some(5)), Some(5));
        assert_eq!(strategy.grace_period(&pod("n", "Running"), Some(-1)), Some(1));
        assert_eq!(strategy.grace_period(&pod("n", "Failed"), None), Some(0));
    }

    #[test]
    fn resize_takes_only_resources() {
        let old = json!({"metadata": {"name": "p", "resourceVersion": "1"}, "spec": {"hostname": "h", "containers": [{"name": "c", "image": "a"}]}});
        let mut new = json!({"metadata": {"name": "p", "resourceVersion": "1", "labels": {"x": "y"}}, "spec": {"containers": [{"name": "c", "image": "b", "resources": {"limits": {"cpu": "1"}}}]}});
        resize(&mut new, &old);
        assert_eq!(
            new,
            json!({"metadata": {"name": "p", "resourceVersion": "1"}, "spec": {"hostname": "h", "containers": [{"name": "c", "image": "a", "resources": {"limits": {"cpu": "1"}}}]}})
        );
    }

    #[test]
    fn label_keys_become_requirements() {
        let mut pod = json!({"metadata": {"labels": {"pod-template-hash": "h"}}, "spec": {"topologySpreadConstraints": [
            {"matchLabelKeys": ["pod-template-hash", "absent"], "labelSelector": {}}]}});
        match_label_keys(&mut pod);
        assert_eq!(
            pod["spec"]["topologySpreadConstraints"][0]["labelSelector"],
            json!({"matchExpressions": [{"key": "pod-template-hash", "operator": "In", "values": ["h"]}]})
        );
    }

    #[test]
    fn binding_makes_no_generation_but_a_change_does() {
        let pod = |node: Option<&str>, image: &str| {
            let mut pod = json!({"metadata": {}, "spec": {"containers": [{"name": "c", "image": image}]}});
            if let Some(node) = node {
                pod["spec"]["nodeName"] = node.into();
            }
            pod
        };
        assert!(!PodStrategy.bumps_generation(&pod(None, "a"), &pod(Some("n"), "a")));
        assert!(!PodStrategy.bumps_generation(&pod(Some(""), "a"), &pod(Some("n"), "a")));
        assert!(PodStrategy.bumps_generation(&pod(None, "a"), &pod(Some("n"), "b")));
        assert!(PodStrategy.bumps_generation(&pod(Some("n"), "a"), &pod(Some("n"), "b")));
    }
}
