//! Policies in the whole chain: the version they are asked about, the plugins
//! that run again after them, and who owns what they set.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{self, Harness};

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";

/// Makes a mutating policy over everything a rule names, bound everywhere.
async fn policy(harness: &Harness, name: &str, rule: Value, expression: &str) {
    let spec = json!({"matchConstraints": {"resourceRules": [rule]}, "reinvocationPolicy": "Never", "mutations":
        [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}]});
    let policy = json!({"metadata": {"name": name}, "spec": spec});
    let made = harness.post(&format!("{GROUP}/mutatingadmissionpolicies"), policy).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let binding = json!({"metadata": {"name": name}, "spec": {"policyName": name}});
    assert_eq!(harness.post(&format!("{GROUP}/mutatingadmissionpolicybindings"), binding).await.code, 201);
}

/// A dry run of a creation, until the policy counts.
async fn mutated(harness: &Harness, path: &str, body: Value, is_mutated: impl Fn(&Value) -> bool) -> Value {
    let started = Instant::now();
    loop {
        let made = harness.post(&format!("{path}?dryRun=All"), body.clone()).await;
        assert_eq!(made.code, 201, "{}", made.body);
        if is_mutated(&made.body) {
            return made.body;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "{}", made.body);
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_policy_is_asked_about_the_version_it_names() {
    let harness = harness::start().await;
    let of_v1 = json!({"apiGroups": ["autoscaling"], "apiVersions": ["v1"], "operations": ["CREATE"],
        "resources": ["horizontalpodautoscalers"]});
    // Only v1 has this field, and the request is for v2.
    let expression = "Object{spec: Object.spec{targetCPUUtilizationPercentage: \
        object.spec.targetCPUUtilizationPercentage + (object.apiVersion == 'autoscaling/v1' ? 5 : 0)}}";
    policy(&harness, "old", of_v1, expression).await;
    let cpu = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}});
    let scaler = json!({"metadata": {"name": "h", "namespace": "n"}, "spec": {"maxReplicas": 3, "metrics": [cpu],
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}}});
    let utilization = |made: &Value| made["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"].as_i64();
    let path = "/apis/autoscaling/v2/namespaces/n/horizontalpodautoscalers";
    let made = mutated(&harness, path, scaler, |made| utilization(made) == Some(55)).await;
    assert_eq!(made["apiVersion"], "autoscaling/v2");
    assert_eq!(made["spec"]["metrics"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn built_in_plugins_see_what_a_policy_added() {
    let harness = harness::start().await;
    let limits = json!({"metadata": {"name": "l", "namespace": "n"}, "spec": {"limits": [
        {"type": "Container", "default": {"cpu": "2"}, "defaultRequest": {"cpu": "1"}}]}});
    assert_eq!(harness.post("/api/v1/namespaces/n/limitranges", limits).await.code, 201);
    let rule = json!({"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]});
    let expression = "Object{spec: Object.spec{containers: [Object.spec.containers{name: 'sidecar', image: 's'}]}}";
    policy(&harness, "sidecar", rule, expression).await;
    let pod =
        json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let has_two = |made: &Value| made["spec"]["containers"].as_array().is_some_and(|all| all.len() == 2);
    let made = mutated(&harness, "/api/v1/namespaces/n/pods", pod, has_two).await;
    let sidecar = &made["spec"]["containers"][1];
    assert_eq!(sidecar["resources"], json!({"limits": {"cpu": "2"}, "requests": {"cpu": "1"}}));
    assert_eq!(sidecar["imagePullPolicy"], "Always", "defaults are filled in as well");
    let mounts = sidecar["volumeMounts"].as_array().map_or(0, Vec::len);
    assert_eq!(mounts, 1, "the token is mounted: {sidecar}");
    let owned = made["metadata"]["managedFields"].to_string();
    assert!(!owned.contains("sidecar"), "what admission adds is owned by nobody: {owned}");
}
