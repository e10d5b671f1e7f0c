//! Kinds of the control plane: their API.

use anyhow::Result;
use serde_json::{Value, json};

use crate::{
    context::Context,
    operations::{Operations, three},
};

crate::rows! { "api-machinery";
    "API priority and fairness" {
        "should support FlowSchema API operations" => flow_schema,
        "should support PriorityLevelConfiguration API operations" => priority_level,
    }
    "MutatingAdmissionPolicy" {
        "should support MutatingAdmissionPolicy API operations" => mutating_policy,
        "should support MutatingAdmissionPolicyBinding API operations" => |c| binding(c, "MutatingAdmissionPolicyBinding", "mutatingadmissionpolicybindings"),
    }
    "StorageVersionMigration CRUD Tests" {
        "storagemigration.k8s.io/v1 StorageVersionMigration" => migration,
    }
    "ValidatingAdmissionPolicy" {
        "should support ValidatingAdmissionPolicy API operations" => validating_policy,
        "should support ValidatingAdmissionPolicyBinding API operations" => |c| binding(c, "ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings"),
    }
}

const ADMISSION: &str = "admissionregistration.k8s.io/v1";

async fn run(
    context: &Context,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    body: Value,
    status: Option<Value>,
) -> Result<()> {
    Operations { version, kind, plural, namespace: None, objects: three(&body), status }.run(context).await
}

fn condition() -> Value {
    json!({"conditions": [{"type": "E2E", "status": "True", "reason": "Set", "message": "by a test",
        "lastTransitionTime": "2025-01-01T00:00:00Z"}]})
}

async fn flow_schema(context: Context) -> Result<()> {
    let body = json!({"spec": {"matchingPrecedence": 10000, "priorityLevelConfiguration": {"name": "global-default"},
        "distinguisherMethod": {"type": "ByUser"}, "rules": [{"subjects": [{"kind": "User", "user": {"name": "example-e2e"}}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]}]}});
    run(&context, "flowcontrol.apiserver.k8s.io/v1", "FlowSchema", "flowschemas", body, Some(condition())).await
}

async fn priority_level(context: Context) -> Result<()> {
    let body = json!({"spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 2, "limitResponse": {"type": "Reject"}}}});
    let (kind, plural) = ("PriorityLevelConfiguration", "prioritylevelconfigurations");
    run(&context, "flowcontrol.apiserver.k8s.io/v1", kind, plural, body, Some(condition())).await
}

fn constraints() -> Value {
    json!({"resourceRules": [{"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE"],
        "resources": ["deployments"]}], "namespaceSelector": {"matchLabels": {"e2e-no": "such"}}})
}

async fn validating_policy(context: Context) -> Result<()> {
    let body = json!({"spec": {"matchConstraints": constraints(), "validations": [{"expression": "object.spec.replicas <= 100"}]}});
    let (kind, plural) = ("ValidatingAdmissionPolicy", "validatingadmissionpolicies");
    run(&context, ADMISSION, kind, plural, body, Some(condition())).await
}

async fn mutating_policy(context: Context) -> Result<()> {
    let expression = "Object{metadata: Object.metadata{annotations: {'e2e': 'yes'}}}";
    let body = json!({"spec": {"matchConstraints": constraints(), "reinvocationPolicy": "Never", "failurePolicy": "Fail",
        "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}]}});
    run(&context, ADMISSION, "MutatingAdmissionPolicy", "mutatingadmissionpolicies", body, None).await
}

async fn binding(context: Context, kind: &'static str, plural: &'static str) -> Result<()> {
    let mut body = json!({"spec": {"policyName": "no-such-policy", "matchResources": {"namespaceSelector": {"matchLabels": {"e2e-no": "such"}}}}});
    if kind.starts_with("Validating") {
        body["spec"]["validationActions"] = json!(["Deny"]);
    }
    run(&context, ADMISSION, kind, plural, body, None).await
}

async fn migration(context: Context) -> Result<()> {
    let body = json!({"spec": {"resource": {"group": "apps", "resource": "deployments"}}});
    let (kind, plural) = ("StorageVersionMigration", "storageversionmigrations");
    run(&context, "storagemigration.k8s.io/v1", kind, plural, body, Some(condition())).await
}
