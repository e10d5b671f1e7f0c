//! Validation of where a pod may run: node selector, affinity, tolerations,
//! topology spread, scheduling gates.

use serde_json::Value;

use crate::registry::{
    validation::{Errors, Path, formats, numbers, selector},
    value::{field, int, list, text},
};

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// Everything of a pod spec at `path` that the scheduler reads.
pub fn all(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    crate::registry::validation::meta::labels(errors, &path.child("nodeSelector"), &spec["nodeSelector"]);
    if let Some(affinity) = field(spec, "affinity") {
        self::affinity(errors, &path.child("affinity"), affinity);
    }
    tolerations(errors, &path.child("tolerations"), list(spec, "tolerations"));
    spread(errors, &path.child("topologySpreadConstraints"), list(spec, "topologySpreadConstraints"));
    let gates = list(spec, "schedulingGates");
    let gates_path = path.child("schedulingGates");
    for (i, gate) in gates.iter().enumerate() {
        let path = gates_path.index(i);
        let name = text(gate, "name");
        errors.invalid_all(&path.child("name"), name, formats::qualified_name(name));
        if gates[..i].iter().any(|other| text(other, "name") == name) {
            errors.duplicate(&path, name);
        }
    }
}

fn affinity(errors: &mut Errors, path: &Path<'_>, affinity: &Value) {
    if let Some(node) = field(affinity, "nodeAffinity") {
        let path = path.child("nodeAffinity");
        if let Some(required) = field(node, "requiredDuringSchedulingIgnoredDuringExecution") {
            node_selector(errors, &path.child("requiredDuringSchedulingIgnoredDuringExecution"), required);
        }
        let preferred = path.child("preferredDuringSchedulingIgnoredDuringExecution");
        for (i, term) in list(node, "preferredDuringSchedulingIgnoredDuringExecution").iter().enumerate() {
            let path = preferred.index(i);
            weight(errors, &path, term);
            node_selector_term(errors, &path.child("preference"), &term["preference"]);
        }
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let Some(pods) = field(affinity, kind) else { continue };
        let path = path.child(kind);
        let required = path.child("requiredDuringSchedulingIgnoredDuringExecution");
        for (i, term) in list(pods, "requiredDuringSchedulingIgnoredDuringExecution").iter().enumerate() {
            pod_affinity_term(errors, &required.index(i), term);
        }
        let preferred = path.child("preferredDuringSchedulingIgnoredDuringExecution");
        for (i, term) in list(pods, "preferredDuringSchedulingIgnoredDuringExecution").iter().enumerate() {
            let path = preferred.index(i);
            weight(errors, &path, term);
            pod_affinity_term(errors, &path.child("podAffinityTerm"), &term["podAffinityTerm"]);
        }
    }
}

fn weight(errors: &mut Errors, path: &Path<'_>, term: &Value) {
    let weight = int(term, "weight").unwrap_or(0);
    if !(1..=100).contains(&weight) {
        errors.invalid(&path.child("weight"), weight, "must be in the range 1-100");
    }
}

/// A `NodeSelector`, as in required node affinity and persistent volumes.
pub fn node_selector(errors: &mut Errors, path: &Path<'_>, node_selector: &Value) {
    let terms = list(node_selector, "nodeSelectorTerms");
    if terms.is_empty() {
        errors.required(&path.child("nodeSelectorTerms"), "must have at least one node selector term");
    }
    let terms_path = path.child("nodeSelectorTerms");
    for (i, term) in terms.iter().enumerate() {
        node_selector_term(errors, &terms_path.index(i), term);
    }
}

fn node_selector_term(errors: &mut Errors, path: &Path<'_>, term: &Value) {
    let expressions = path.child("matchExpressions");
    for (i, requirement) in list(term, "matchExpressions").iter().enumerate() {
        node_requirement(errors, &expressions.index(i), requirement);
    }
    let fields = path.child("matchFields");
    for (i, requirement) in list(term, "matchFields").iter().enumerate() {
        let path = fields.index(i);
        let values = list(requirement, "values");
        match text(requirement, "operator") {
            "In" | "NotIn" if values.len() != 1 => {
                errors.required(
                    &path.child("values"),
                    "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
                );
            }
            "In" | "NotIn" => {}
            other => errors.invalid(&path.child("operator"), other, "not a valid selector operator"),
        }
        if text(requirement, "key") != "metadata.name" {
            errors.invalid(&path.child("key"), text(requirement, "key"), "not a valid field selector key");
        }
    }
}

fn node_requirement(errors: &mut Errors, path: &Path<'_>, requirement: &Value) {
    let values = list(requirement, "values");
    match text(requirement, "operator") {
        "In" | "NotIn" if values.is_empty() => {
            errors.required(&path.child("values"), "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            errors
                .forbidden(&path.child("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
        }
        "Gt" | "Lt" if values.len() != 1 => {
            errors.required(&path.child("values"), "must be specified single value when `operator` is 'Lt' or 'Gt'");
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => errors.invalid(&path.child("operator"), other, "not a valid selector operator"),
    }
    let key = text(requirement, "key");
    errors.invalid_all(&path.child("key"), key, formats::qualified_name(key));
}

fn pod_affinity_term(errors: &mut Errors, path: &Path<'_>, term: &Value) {
    selector::label_selector(errors, &path.child("labelSelector"), &term["labelSelector"]);
    selector::label_selector(errors, &path.child("namespaceSelector"), &term["namespaceSelector"]);
    let namespaces = path.child("namespaces");
    for name in list(term, "namespaces").iter().filter_map(Value::as_str) {
        errors.invalid_all(&namespaces, name, formats::dns_label(name));
    }
    topology_key(errors, &path.child("topologyKey"), text(term, "topologyKey"));
}

fn topology_key(errors: &mut Errors, path: &Path<'_>, key: &str) {
    if key.is_empty() {
        errors.required(path, "can not be empty");
    } else {
        errors.invalid_all(path, key, formats::qualified_name(key));
    }
}

/// Tolerations of a pod or a runtime class.
pub fn tolerations(errors: &mut Errors, path: &Path<'_>, tolerations: &[Value]) {
    for (i, toleration) in tolerations.iter().enumerate() {
        let path = path.index(i);
        let (key, value) = (text(toleration, "key"), text(toleration, "value"));
        let (operator, effect) = (text(toleration, "operator"), text(toleration, "effect"));
        if !key.is_empty() {
            errors.invalid_all(&path.child("key"), key, formats::qualified_name(key));
        }
        if key.is_empty() && operator != "Exists" {
            errors.invalid(
                &path.child("operator"),
                operator,
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            );
        }
        if field(toleration, "tolerationSeconds").is_some() && effect != "NoExecute" {
            errors.invalid(&path.child("effect"), effect, "effect must be 'NoExecute' when `tolerationSeconds` is set");
        }
        match operator {
            "" | "Equal" => errors.invalid_all(&path.child("operator"), value, formats::label_value(value)),
            "Exists" if !value.is_empty() => {
                errors.invalid(&path.child("operator"), toleration, "value must be empty when `operator` is 'Exists'");
            }
            "Exists" => {}
            "Gt" | "Lt" => {
                if value.parse::<i64>().is_err() {
                    errors.invalid(
                        &path.child("value"),
                        value,
                        "value must be an integer when `operator` is 'Gt' or 'Lt'",
                    );
                }
            }
            other => errors.not_supported(&path.child("operator"), other, &["Equal", "Exists"]),
        }
        if !effect.is_empty() && !EFFECTS.contains(&effect) {
            errors.not_supported(&path.child("effect"), effect, &EFFECTS);
        }
    }
}

fn spread(errors: &mut Errors, path: &Path<'_>, constraints: &[Value]) {
    for (i, constraint) in constraints.iter().enumerate() {
        let path = path.index(i);
        if int(constraint, "maxSkew").unwrap_or(0) <= 0 {
            errors.invalid(
                &path.child("maxSkew"),
                int(constraint, "maxSkew").unwrap_or(0),
                "must be greater than zero",
            );
        }
        topology_key(errors, &path.child("topologyKey"), text(constraint, "topologyKey"));
        let when = text(constraint, "whenUnsatisfiable");
        if !["DoNotSchedule", "ScheduleAnyway"].contains(&when) {
            errors.not_supported(&path.child("whenUnsatisfiable"), when, &["DoNotSchedule", "ScheduleAnyway"]);
        }
        let pair = (text(constraint, "topologyKey"), when);
        if constraints[..i].iter().any(|other| (text(other, "topologyKey"), text(other, "whenUnsatisfiable")) == pair) {
            let shown = format!("{{{}, {}}}", pair.0, pair.1);
            errors.duplicate(&path.child("{topologyKey, whenUnsatisfiable}"), shown.as_str());
        }
        if let Some(domains) = field(constraint, "minDomains") {
            numbers::positive(errors, &path.child("minDomains"), domains);
            if when != "DoNotSchedule" {
                errors.invalid(
                    &path.child("minDomains"),
                    domains,
                    format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {when}"),
                );
            }
        }
        for name in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            if let Some(policy) = field(constraint, name).and_then(Value::as_str) {
                errors.one_of(&path.child(name), policy, &["Honor", "Ignore"]);
            }
        }
        selector::label_selector(errors, &path.child("labelSelector"), &constraint["labelSelector"]);
    }
}

/// Taints of a node.
pub fn taints(errors: &mut Errors, path: &Path<'_>, taints: &[Value]) {
    for (i, taint) in taints.iter().enumerate() {
        let path = path.index(i);
        let (key, value, effect) = (text(taint, "key"), text(taint, "value"), text(taint, "effect"));
        errors.invalid_all(&path.child("key"), key, formats::qualified_name(key));
        errors.invalid_all(&path.child("value"), value, formats::label_value(value));
        if effect.is_empty() {
            errors.required(&path.child("effect"), "");
        } else if !EFFECTS.contains(&effect) {
            errors.not_supported(&path.child("effect"), effect, &EFFECTS);
        }
        if taints[..i].iter().any(|other| text(other, "key") == key && text(other, "effect") == effect) {
            errors.duplicate(&path, taint);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::validation::lines;
    use serde_json::json;

    #[test]
    fn wrong_scheduling_fields_are_named() {
        let mut errors = Errors::new();
        let spec = json!({
            "tolerations": [{"operator": "Exists"}, {"key": "a", "operator": "Equal", "tolerationSeconds": 3}, {"value": "x"}],
            "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "X"}],
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}}});
        all(&mut errors, &Path::new("spec"), &spec);
        let fields: Vec<String> = errors.into_causes().into_iter().map(|cause| cause.field).collect();
        assert_eq!(
            fields,
            [
                "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms",
                "spec.tolerations[1].effect",
                "spec.tolerations[2].operator",
                "spec.topologySpreadConstraints[0].whenUnsatisfiable"
            ]
        );
    }

    #[test]
    fn equal_taints_are_duplicates() {
        let mut errors = Errors::new();
        let taints =
            [json!({"key": "a", "effect": "NoSchedule"}), json!({"key": "a", "effect": "NoSchedule", "value": "b"})];
        super::taints(&mut errors, &Path::new("taints"), &taints);
        assert!(lines(errors.into_causes())[0].starts_with("taints[1]: Duplicate value"));
    }
}
