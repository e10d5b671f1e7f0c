//! The mandatory and suggested objects of API priority and fairness.

use serde_json::{Value, json};

use skiff_api::GroupVersionResource;

use super::Wanted;
use crate::registry::value::{name, text_at};

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const API_VERSION: &str = "flowcontrol.apiserver.k8s.io/v1";
/// Objects without which requests cannot be classified.
const MANDATORY: [&str; 2] = ["exempt", "catch-all"];
const AUTO_UPDATE: &str = "apf.kubernetes.io/autoupdate-spec";

/// (name, shares, lendable percent, queues, hand size, queue length); zero queues reject.
const LEVELS: [(&str, u32, u32, u32, u32, u32); 7] = [
    ("system", 30, 33, 64, 6, 50),
    ("node-high", 40, 25, 64, 6, 50),
    ("leader-election", 10, 0, 16, 4, 50),
    ("workload-high", 40, 50, 128, 6, 50),
    ("workload-low", 100, 90, 128, 6, 50),
    ("global-default", 20, 50, 128, 6, 50),
    ("catch-all", 5, 0, 0, 0, 0),
];

const EVERYTHING: &str =
    r#"{"verbs":["*"],"apiGroups":["*"],"resources":["*"],"namespaces":["*"],"clusterScope":true}"#;

/// Every priority level and flow schema.
pub(super) fn objects() -> Vec<Wanted> {
    let mut wanted = vec![Wanted::once(GROUP, "v1", "prioritylevelconfigurations", exempt())];
    wanted.extend(
        LEVELS.iter().map(|level| Wanted::once(GROUP, "v1", "prioritylevelconfigurations", self::level(level))),
    );
    wanted.extend(schemas().into_iter().map(|schema| Wanted::once(GROUP, "v1", "flowschemas", schema)));
    wanted
}

/// What must be written so that the mandatory objects are as they must be, and
/// the suggested ones are there and current unless their owner keeps them.
pub fn missing(schemas: &[Value], levels: &[Value]) -> Vec<(GroupVersionResource, Value)> {
    let mut out = Vec::new();
    for wanted in objects() {
        let present = if &*wanted.resource.resource == "flowschemas" { schemas } else { levels };
        let wanted_name = name(&wanted.object);
        match present.iter().find(|object| name(object) == wanted_name) {
            None => out.push((wanted.resource, wanted.object)),
            Some(object) => {
                let mandatory = MANDATORY.contains(&wanted_name);
                let left_to_us = text_at(object, &["metadata", "annotations", AUTO_UPDATE]) == "true";
                if (mandatory || left_to_us) && !includes(&object["spec"], &wanted.object["spec"]) {
                    let mut repaired = object.clone();
                    repaired["spec"] = wanted.object["spec"].clone();
                    out.push((wanted.resource, repaired));
                }
            }
        }
    }
    out
}

/// Whether everything wanted is there; defaults may be there besides.
fn includes(have: &Value, wanted: &Value) -> bool {
    match (have, wanted) {
        (Value::Object(have), Value::Object(wanted)) => {
            wanted.iter().all(|(key, wanted)| have.get(key).is_some_and(|have| includes(have, wanted)))
        }
        (Value::Array(have), Value::Array(wanted)) => {
            have.len() == wanted.len() && have.iter().zip(wanted).all(|(have, wanted)| includes(have, wanted))
        }
        (have, wanted) => have == wanted,
    }
}

fn metadata(name: &str) -> Value {
    json!({"name": name, "annotations": {AUTO_UPDATE: "true"}})
}

fn exempt() -> Value {
    json!({
        "apiVersion": API_VERSION, "kind": "PriorityLevelConfiguration", "metadata": metadata("exempt"),
        "spec": {"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}},
    })
}

fn level((name, shares, lendable, queues, hand_size, length): &(&str, u32, u32, u32, u32, u32)) -> Value {
    let response = match queues {
        0 => json!({"type": "Reject"}),
        _ => json!({"type": "Queue", "queuing": {"queues": queues, "handSize": hand_size, "queueLengthLimit": length}}),
    };
    json!({
        "apiVersion": API_VERSION, "kind": "PriorityLevelConfiguration", "metadata": metadata(name),
        "spec": {"type": "Limited", "limited": {
            "nominalConcurrencyShares": shares, "lendablePercent": lendable, "limitResponse": response}},
    })
}

fn group(name: &str) -> Value {
    json!({"kind": "Group", "group": {"name": name}})
}

fn user(name: &str) -> Value {
    json!({"kind": "User", "user": {"name": name}})
}

fn everything() -> Value {
    serde_json::from_str(EVERYTHING).unwrap_or_default()
}

fn urls(urls: &[&str]) -> Value {
    json!({"verbs": ["*"], "nonResourceURLs": urls})
}

/// A schema; `by` is `ByUser`, `ByNamespace` or empty.
fn schema(name: &str, level: &str, precedence: u32, by: &str, rules: &[Value]) -> Value {
    let mut spec = json!({
        "priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence, "rules": rules,
    });
    if !by.is_empty() {
        spec["distinguisherMethod"] = json!({"type": by});
    }
    json!({"apiVersion": API_VERSION, "kind": "FlowSchema", "metadata": metadata(name), "spec": spec})
}

/// Who may do what everywhere.
fn all(subjects: Vec<Value>) -> Value {
    json!({"subjects": subjects, "resourceRules": [everything()], "nonResourceRules": [urls(&["*"])]})
}

fn leases(subjects: Vec<Value>) -> Value {
    json!({"subjects": subjects, "resourceRules": [{
        "verbs": ["get", "create", "update"], "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "namespaces": ["*"]}]})
}

fn schemas() -> Vec<Value> {
    let everyone = || vec![group("system:unauthenticated"), group("system:authenticated")];
    let controllers = || vec![user("system:kube-controller-manager"), user("system:kube-scheduler")];
    let node_health = json!({"subjects": [group("system:nodes")], "resourceRules": [
        {"verbs": ["get", "update", "patch"], "apiGroups": [""], "resources": ["nodes", "nodes/status"], "namespaces": ["*"], "clusterScope": true},
        {"verbs": ["get", "update", "patch"], "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "namespaces": ["*"]}]});
    let probes = json!({"subjects": everyone(), "nonResourceRules": [
        {"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]}]});
    vec![
        schema("exempt", "exempt", 1, "", &[all(vec![group("system:masters")])]),
        schema("probes", "exempt", 2, "", &[probes]),
        schema("system-leader-election", "leader-election", 100, "ByUser", &[leases(controllers())]),
        schema(
            "endpoint-controller",
            "workload-high",
            150,
            "ByUser",
            &[json!({"subjects": [user("system:kube-controller-manager")], "resourceRules": [
            {"verbs": ["get", "create", "update"], "apiGroups": [""], "resources": ["endpoints"], "namespaces": ["*"]}]})],
        ),
        schema(
            "workload-leader-election",
            "leader-election",
            200,
            "ByUser",
            &[leases(vec![group("system:serviceaccounts:kube-system")])],
        ),
        schema("system-node-high", "node-high", 400, "ByUser", &[node_health]),
        schema("system-nodes", "system", 500, "ByUser", &[all(vec![group("system:nodes")])]),
        schema(
            "kube-controller-manager",
            "workload-high",
            800,
            "ByNamespace",
            &[all(vec![user("system:kube-controller-manager")])],
        ),
        schema("kube-scheduler", "workload-high", 800, "ByNamespace", &[all(vec![user("system:kube-scheduler")])]),
        schema(
            "kube-system-service-accounts",
            "workload-high",
            900,
            "ByNamespace",
            &[all(vec![group("system:serviceaccounts:kube-system")])],
        ),
        schema("service-accounts", "workload-low", 9000, "ByUser", &[all(vec![group("system:serviceaccounts")])]),
        schema("global-default", "global-default", 9900, "ByUser", &[all(everyone())]),
        schema("catch-all", "catch-all", 10000, "ByUser", &[all(everyone())]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas_name_levels_that_exist() {
        let mut levels: Vec<String> = LEVELS.iter().map(|level| level.0.to_owned()).collect();
        levels.push("exempt".to_owned());
        for schema in schemas() {
            let level = text_at(&schema, &["spec", "priorityLevelConfiguration", "name"]);
            assert!(levels.iter().any(|have| have == level), "{}", name(&schema));
        }
        assert_eq!(everything()["clusterScope"], true);
    }

    #[test]
    fn a_lost_or_changed_object_comes_back_and_an_owners_stays() {
        let all = objects();
        let of = |resource: &str| -> Vec<Value> {
            all.iter()
                .filter(|wanted| wanted.resource.resource == resource)
                .map(|wanted| wanted.object.clone())
                .collect()
        };
        let (mut schemas, mut levels) = (of("flowschemas"), of("prioritylevelconfigurations"));
        assert!(missing(&schemas, &levels).is_empty());
        levels.retain(|level| name(level) != "exempt");
        let own = schemas.iter_mut().find(|schema| name(schema) == "service-accounts").unwrap();
        own["spec"]["matchingPrecedence"] = 77.into();
        own["metadata"]["annotations"][AUTO_UPDATE] = "false".into();
        let changed = schemas.iter_mut().find(|schema| name(schema) == "catch-all").unwrap();
        changed["spec"]["rules"] = json!([]);
        let names: Vec<String> = missing(&schemas, &levels).iter().map(|(_, object)| name(object).to_owned()).collect();
        assert_eq!(names, ["exempt", "catch-all"]);
    }
}
