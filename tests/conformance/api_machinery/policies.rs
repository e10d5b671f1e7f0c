//! Admission policies at work.
//!
//! Every row labels its namespace and binds its policy to that label, so that
//! rows do not disturb each other.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::{
    api::{Patch, group},
    context::{Context, LIMIT, eventually},
    operations::unique,
};

crate::rows! { "api-machinery";
    "MutatingAdmissionPolicy" {
        "should mutate a Deployment" => mutate,
        "should mutate a Deployment with annotations" => mutate_annotations,
    }
    "ValidatingAdmissionPolicy" {
        "should allow expressions to refer variables." => variables,
        "should validate against a Deployment" => validate,
    }
}

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";

/// A policy bound to the namespace of its row.
struct Bound {
    context: Context,
    namespace: String,
}

impl Bound {
    /// `kind` is `mutating` or `validating`.
    async fn new(context: Context, kind: &str, mut spec: Value) -> Result<Bound> {
        let namespace = context.namespace().await?;
        let label = format!("e2e-policy-{}", unique());
        let path = format!("/api/v1/namespaces/{namespace}");
        context.patch(&path, Patch::Merge, &json!({"metadata": {"labels": {&label: "true"}}})).await?;
        let name = format!("{label}.policy.example.com");
        spec["matchConstraints"] = json!({"resourceRules": [{"apiGroups": ["apps"], "apiVersions": ["v1"],
            "operations": ["CREATE", "UPDATE"], "resources": ["deployments"]}],
            "namespaceSelector": {"matchLabels": {&label: "true"}}});
        let mut binding =
            json!({"policyName": name, "matchResources": {"namespaceSelector": {"matchLabels": {label: "true"}}}});
        if kind == "validating" {
            binding["validationActions"] = json!(["Deny"]);
        }
        for (plural, spec) in [("policies", spec), ("policybindings", binding)] {
            let path = format!("{GROUP}/{kind}admission{plural}");
            context.create(&path, &json!({"metadata": {"name": name}, "spec": spec})).await?;
            context.leftover(&format!("{path}/{name}"));
        }
        Ok(Bound { context, namespace })
    }

    fn deployments(&self) -> String {
        group("apps/v1", &self.namespace, "deployments")
    }

    /// A deployment that never starts a pod.
    fn deployment(&self, name: &str, replicas: u32) -> Value {
        json!({"metadata": {"name": name, "labels": {"app": "e2e"}}, "spec": {"replicas": replicas, "paused": true,
            "selector": {"matchLabels": {"app": "e2e"}}, "template": {"metadata": {"labels": {"app": "e2e"}},
                "spec": {"containers": [{"name": "c", "image": self.context.agnhost}]}}}})
    }

    /// What a dry run of a creation answers once the policy counts.
    async fn once(&self, name: &str, replicas: u32, counts: impl Fn(u16, &Value) -> bool) -> Result<Value> {
        let (path, body) = (format!("{}?dryRun=All", self.deployments()), self.deployment(name, replicas));
        let counts = &counts;
        let (path, body) = (&path, &body);
        eventually("the policy counts", LIMIT, || async move {
            let answer = self.context.call("POST", path, Some(body)).await?;
            ensure!(counts(answer.code, &answer.body), "{}: {}", answer.code, answer.text());
            Ok(answer.body)
        })
        .await
    }

    /// A creation must be refused as invalid, by this validation.
    async fn refused(&self, name: &str, replicas: u32, why: &str) -> Result<()> {
        let answer = self.context.call("POST", &self.deployments(), Some(&self.deployment(name, replicas))).await?;
        ensure!(answer.code == 422 && answer.message().contains(why), "{}: {}", answer.code, answer.message());
        Ok(())
    }
}

fn mutation(expression: &str) -> Value {
    json!({"reinvocationPolicy": "Never", "failurePolicy": "Fail",
        "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}]})
}

async fn mutate(context: Context) -> Result<()> {
    let spec = mutation("Object{spec: Object.spec{replicas: object.spec.replicas + 1, minReadySeconds: 7}}");
    let bound = Bound::new(context, "mutating", spec).await?;
    bound.once("marker", 1, |code, made| code == 201 && made["spec"]["minReadySeconds"] == 7).await?;
    let made = bound.context.create(&bound.deployments(), &bound.deployment("made", 1)).await?;
    ensure!(made["spec"]["replicas"] == 2 && made["spec"]["minReadySeconds"] == 7, "{}", made["spec"]);
    ensure!(made["spec"]["template"]["spec"]["containers"][0]["image"] == bound.context.agnhost, "{}", made["spec"]);
    Ok(())
}

async fn mutate_annotations(context: Context) -> Result<()> {
    let expression = r#"Object{metadata: Object.metadata{annotations: {"mutated-by": "admission-policy"}}}"#;
    let bound = Bound::new(context, "mutating", mutation(expression)).await?;
    let is_mutated = |made: &Value| made["metadata"]["annotations"]["mutated-by"] == "admission-policy";
    bound.once("marker", 1, |code, made| code == 201 && is_mutated(made)).await?;
    let mut body = bound.deployment("made", 2);
    body["metadata"]["annotations"] = json!({"own": "kept"});
    let made = bound.context.create(&bound.deployments(), &body).await?;
    ensure!(is_mutated(&made) && made["metadata"]["annotations"]["own"] == "kept", "{}", made["metadata"]);
    // Policies see updates as well.
    let at = format!("{}/made", bound.deployments());
    let change = json!({"metadata": {"annotations": {"mutated-by": null}}});
    let changed = bound.context.patch(&at, Patch::Merge, &change).await?;
    ensure!(is_mutated(&changed), "{}", changed["metadata"]);
    Ok(())
}

async fn validate(context: Context) -> Result<()> {
    let spec = json!({"validations": [{"expression": "object.spec.replicas > 1",
        "messageExpression": "'wants replicas > 1, got ' + string(object.spec.replicas)"}]});
    let bound = Bound::new(context, "validating", spec).await?;
    bound.once("marker", 1, |code, _| code == 422).await?;
    bound.refused("single", 1, "denied request: wants replicas > 1, got 1").await?;
    bound.context.create(&bound.deployments(), &bound.deployment("replicated", 2)).await?;
    // Other kinds are not meant.
    let mut set = bound.deployment("not-replicated", 1);
    set["spec"]["replicas"] = json!(0);
    set["spec"].as_object_mut().map(|spec| spec.remove("paused"));
    bound.context.create(&group("apps/v1", &bound.namespace, "replicasets"), &set).await?;
    Ok(())
}

async fn variables(context: Context) -> Result<()> {
    let spec = json!({"variables": [{"name": "replicas", "expression": "object.spec.replicas"},
        {"name": "oddReplicas", "expression": "variables.replicas % 2 == 1"}],
        "validations": [{"expression": "variables.replicas > 1"}, {"expression": "variables.oddReplicas"}]});
    let bound = Bound::new(context, "validating", spec).await?;
    bound.once("marker", 1, |code, _| code == 422).await?;
    bound.refused("single", 1, "failed expression: variables.replicas > 1").await?;
    bound.refused("even", 2, "failed expression: variables.oddReplicas").await?;
    bound.context.create(&bound.deployments(), &bound.deployment("odd", 3)).await?;
    Ok(())
}
