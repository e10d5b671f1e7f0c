//! What may change in a pod after creation: almost nothing of `spec`, and a
//! little more through `resize` and `ephemeralcontainers`.

use serde_json::Value;
use skiff_api::Cause;

use super::{qos, validation};
use crate::registry::{
    validation::{Errors, Path},
    value::{child, copy_field, field, int, list, remove, text},
};

const FIXED: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,\
     `spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),\
     `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
/// Paths of changed fields shown in an error.
const SHOWN_CHANGES_MAX: usize = 10;

/// An ordinary update.
pub fn update(new: &Value, old: &Value) -> Vec<Cause> {
    let mut errors = Errors::new();
    errors.extend(validation::pod(new));
    let spec = Path::new("spec");
    let (new, old) = (&new["spec"], &old["spec"]);
    if list(new, "containers").len() != list(old, "containers").len() {
        errors.forbidden(&spec.child("containers"), "pod updates may not add or remove containers");
        return errors.into_causes();
    }
    if list(new, "initContainers").len() != list(old, "initContainers").len() {
        errors.forbidden(&spec.child("initContainers"), "pod updates may not add or remove containers");
        return errors.into_causes();
    }
    deadline(&mut errors, &spec, new, old);
    only_added_tolerations(&mut errors, &spec, new, old);
    let gated = !list(old, "schedulingGates").is_empty();
    gates(&mut errors, &spec, new, old);
    if gated {
        node_selector_additions(&mut errors, &spec, new, old);
    }
    let changed = if new == old { Vec::new() } else { changes(&with_allowed_changes_undone(new, old, gated), old) };
    if !changed.is_empty() {
        errors.forbidden(&spec, format!("{FIXED}\n{}", changed.join("\n")));
    }
    errors.into_causes()
}

fn deadline(errors: &mut Errors, spec: &Path<'_>, new: &Value, old: &Value) {
    let path = spec.child("activeDeadlineSeconds");
    match (int(new, "activeDeadlineSeconds"), int(old, "activeDeadlineSeconds")) {
        (Some(new), Some(old)) if new > old => {
            errors.invalid(&path, new, "must be less than or equal to previous value");
        }
        (None, Some(_)) => {
            errors.invalid(&path, &new["activeDeadlineSeconds"], "must not update from a positive integer to nil value")
        }
        _ => {}
    }
}

fn only_added_tolerations(errors: &mut Errors, spec: &Path<'_>, new: &Value, old: &Value) {
    let same =
        |a: &Value, b: &Value| ["key", "operator", "value", "effect"].iter().all(|name| text(a, name) == text(b, name));
    let new = list(new, "tolerations");
    let kept = list(old, "tolerations").iter().all(|old| new.iter().any(|new| same(new, old)));
    if !kept {
        errors.forbidden(
            &spec.child("tolerations"),
            "existing toleration can not be modified except its tolerationSeconds",
        );
    }
}

fn gates(errors: &mut Errors, spec: &Path<'_>, new: &Value, old: &Value) {
    let old = list(old, "schedulingGates");
    for gate in list(new, "schedulingGates") {
        if !old.contains(gate) {
            let name = text(gate, "name");
            errors.forbidden(
                &spec.child("schedulingGates"),
                format!("only deletion is allowed, but found new scheduling gate '{name}'"),
            );
        }
    }
}

fn node_selector_additions(errors: &mut Errors, spec: &Path<'_>, new: &Value, old: &Value) {
    let kept = old["nodeSelector"]
        .as_object()
        .into_iter()
        .flatten()
        .all(|(key, value)| new["nodeSelector"].get(key) == Some(value));
    if !kept {
        errors.invalid(
            &spec.child("nodeSelector"),
            &new["nodeSelector"],
            "only additions to spec.nodeSelector are allowed (no mutations or deletions)",
        );
    }
}

/// The new spec with every permitted change taken back: what still differs is forbidden.
fn with_allowed_changes_undone(new: &Value, old: &Value, gated: bool) -> Value {
    let mut spec = new.clone();
    for name in ["containers", "initContainers"] {
        let Some(containers) = spec.get_mut(name).and_then(Value::as_array_mut) else { continue };
        for (container, old) in containers.iter_mut().zip(list(old, name)) {
            copy_field(container, old, "image");
        }
    }
    for name in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        copy_field(&mut spec, old, name);
    }
    if gated {
        copy_field(&mut spec, old, "nodeSelector");
        let affinity = child(&mut spec, "affinity");
        match field(&old["affinity"], "nodeAffinity") {
            Some(_) => copy_field(affinity, &old["affinity"], "nodeAffinity"),
            None => drop(remove(affinity, "nodeAffinity")),
        }
    }
    let grace = "terminationGracePeriodSeconds";
    if int(old, grace).is_some_and(|seconds| seconds < 0) && int(new, grace) == Some(1) {
        copy_field(&mut spec, old, grace);
    }
    spec
}

/// Paths of fields that differ, absent and empty values being the same.
pub fn changes(new: &Value, old: &Value) -> Vec<String> {
    let mut paths = Vec::new();
    collect(new, old, "spec".to_owned(), &mut paths);
    paths
}

fn collect(new: &Value, old: &Value, path: String, paths: &mut Vec<String>) {
    if paths.len() >= SHOWN_CHANGES_MAX || new == old || (is_empty(new) && is_empty(old)) {
        return;
    }
    match (new, old) {
        (Value::Object(a), Value::Object(b)) => {
            let mut keys: Vec<&String> = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key))).collect();
            keys.sort();
            for key in keys {
                let (a, b) = (a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null));
                collect(a, b, format!("{path}.{key}"), paths);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                collect(a, b, format!("{path}[{i}]"), paths);
            }
        }
        _ => paths.push(path),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.values().all(is_empty),
        Value::Bool(true) | Value::Number(_) => false,
    }
}

/// `pods/ephemeralcontainers`: existing ones stay as they are, new ones may come.
pub fn ephemeral_containers(new: &Value, old: &Value) -> Vec<Cause> {
    let mut errors = Errors::new();
    errors.extend(validation::pod(new));
    let spec = Path::new("spec");
    let path = spec.child("ephemeralContainers");
    let after = list(&new["spec"], "ephemeralContainers");
    for container in list(&old["spec"], "ephemeralContainers") {
        let name = text(container, "name");
        match after.iter().position(|other| text(other, "name") == name) {
            None => errors.forbidden(&path, format!("existing ephemeral containers \"{name}\" may not be removed\n")),
            Some(i) if !changes(&after[i], container).is_empty() => {
                errors.forbidden(
                    &path.index(i),
                    format!("existing ephemeral containers \"{name}\" may not be changed\n"),
                );
            }
            Some(_) => {}
        }
    }
    errors.into_causes()
}

/// `pods/resize`: only cpu and memory of containers, within the same class.
pub fn resize(new: &Value, old: &Value) -> Vec<Cause> {
    let mut errors = Errors::new();
    errors.extend(validation::pod(new));
    let spec = Path::new("spec");
    let class = text(&old["status"], "qosClass");
    let old_class = if class.is_empty() { qos::class(&old["spec"]) } else { class };
    let new_class = qos::class(&new["spec"]);
    if new_class != old_class {
        errors.invalid(&spec, new_class, "Pod QOS Class may not change as a result of resizing");
    }
    for list_name in ["containers", "initContainers"] {
        let list_path = spec.child(list_name);
        for (i, (new, old)) in list(&new["spec"], list_name).iter().zip(list(&old["spec"], list_name)).enumerate() {
            let path = list_path.index(i);
            for kind in ["requests", "limits"] {
                removed_resources(
                    &mut errors,
                    &path.child("resources").child(kind),
                    kind,
                    &new["resources"][kind],
                    &old["resources"][kind],
                );
            }
        }
    }
    errors.into_causes()
}

fn removed_resources(errors: &mut Errors, path: &Path<'_>, kind: &str, new: &Value, old: &Value) {
    for (name, quantity) in old.as_object().into_iter().flatten() {
        if new.get(name).is_none() {
            errors.forbidden(path, format!("resource {kind} cannot be removed"));
        } else if !matches!(name.as_str(), "cpu" | "memory") && new.get(name) != Some(quantity) {
            errors.forbidden(path, "only cpu and memory resources are mutable");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{core::pod::defaults, validation::lines};
    use serde_json::json;

    fn pod_with(spec: Value) -> Value {
        let mut pod = json!({"spec": {"containers": [{"name": "c", "image": "a"}]}});
        for (key, value) in spec.as_object().unwrap() {
            pod["spec"][key] = value.clone();
        }
        defaults::pod(&mut pod);
        pod
    }

    #[test]
    fn image_tolerations_and_deadline_may_change() {
        let old = pod_with(json!({"activeDeadlineSeconds": 10}));
        let mut new =
            pod_with(json!({"activeDeadlineSeconds": 5, "tolerations": [{"key": "a", "operator": "Exists"}]}));
        new["spec"]["containers"][0]["image"] = json!("b");
        assert_eq!(lines(update(&new, &old)), Vec::<String>::new());
        assert_eq!(
            lines(update(&old, &new)),
            [
                "spec.activeDeadlineSeconds: Invalid value: 10: must be less than or equal to previous value",
                "spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"
            ]
        );
    }

    #[test]
    fn other_changes_are_forbidden_and_named() {
        let old = pod_with(json!({}));
        let new = pod_with(json!({"hostname": "x", "hostNetwork": false}));
        let lines = lines(update(&new, &old));
        assert_eq!(lines.len(), 1);
        assert!(lines[0].starts_with("spec: Forbidden: pod updates may not change fields other than"));
        assert!(lines[0].ends_with("\nspec.hostname"));
    }

    #[test]
    fn a_gated_pod_may_be_narrowed_and_ungated() {
        let old = pod_with(json!({"schedulingGates": [{"name": "g"}]}));
        let new = pod_with(json!({"nodeSelector": {"a": "b"}}));
        assert_eq!(lines(update(&new, &old)), Vec::<String>::new());
        assert_eq!(update(&old, &new).len(), 2, "no new gate, no removed selector");
    }

    #[test]
    fn resize_keeps_the_class() {
        let with = |cpu: &str, limit: Option<&str>| {
            let mut pod = pod_with(json!({}));
            pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": cpu, "memory": "1Gi"}});
            if let Some(limit) = limit {
                pod["spec"]["containers"][0]["resources"]["limits"] = json!({"cpu": limit, "memory": "1Gi"});
            }
            pod
        };
        assert!(resize(&with("2", None), &with("1", None)).is_empty());
        assert_eq!(
            lines(resize(&with("1", Some("1")), &with("1", None))),
            ["spec: Invalid value: \"Guaranteed\": Pod QOS Class may not change as a result of resizing"]
        );
    }
}
