//! A policy and its binding for tests.

use serde_json::{Value, json};

use crate::admission::testing::Case;

/// Policy `p` over configmaps (unless the spec says otherwise) with binding `b`, and objects to refer to.
pub fn policy_case(kind: &str, mut spec: Value, mut binding: Value) -> Case {
    const GROUP: &str = "admissionregistration.k8s.io";
    let (policies, bindings) = match kind {
        "mutating" => ("mutatingadmissionpolicies", "mutatingadmissionpolicybindings"),
        _ => ("validatingadmissionpolicies", "validatingadmissionpolicybindings"),
    };
    if spec["matchConstraints"].is_null() {
        spec["matchConstraints"] = json!({"resourceRules": [{"operations": ["CREATE"], "apiGroups": [""],
            "apiVersions": ["v1"], "resources": ["configmaps"]}]});
    }
    binding["policyName"] = json!("p");
    let limits =
        json!({"metadata": {"name": "limits", "namespace": "ns", "labels": {"kind": "limits"}}, "data": {"max": "3"}});
    Case::new()
        .with("", "namespaces", json!({"metadata": {"name": "ns", "labels": {"a": "b"}}}))
        .with("", "configmaps", limits)
        .with(GROUP, policies, json!({"metadata": {"name": "p"}, "spec": spec}))
        .with(GROUP, bindings, json!({"metadata": {"name": "b"}, "spec": binding}))
}
