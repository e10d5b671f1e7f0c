//! PodDisruptionBudgets: their life, their status, and what they make of evictions.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::LIMIT;
use crate::{
    api::{Patch, core, group, name},
    context::{Context, LIMIT as SOON, brief, eventually},
    pods::{pause, pod, with},
};

crate::rows! { "apps";
    "DisruptionController" {
        "should block an eviction until the PDB is updated to allow it" => blocked_eviction,
        "should create a PodDisruptionBudget" => lifecycle,
        "should observe PodDisruptionBudget status updated" => observed,
        "should update/patch PodDisruptionBudget status" => status,
    }
}

/// A budget over the pods labelled `foo=bar`.
async fn budget(context: &Context, namespace: &str, least: Value) -> Result<String> {
    let spec = json!({"minAvailable": least, "selector": {"matchLabels": {"foo": "bar"}}});
    let path = group("policy/v1", namespace, "poddisruptionbudgets");
    context.create(&path, &json!({"metadata": {"name": "foo"}, "spec": spec})).await?;
    processed(context, &format!("{path}/foo")).await?;
    Ok(format!("{path}/foo"))
}

/// Waits until the controller has seen what the budget says now.
async fn processed(context: &Context, path: &str) -> Result<Value> {
    let seen =
        |budget: &Value| budget["status"]["observedGeneration"].as_i64() >= budget["metadata"]["generation"].as_i64();
    context.until(path, "is processed", seen).await
}

async fn pods(context: &Context, namespace: &str, count: usize) -> Result<()> {
    for number in 0..count {
        let labelled = with(
            pod(&format!("pod-{number}"), &[pause(context)]),
            json!({"metadata": {"labels": {"foo": "bar"}}, "spec": {"restartPolicy": "Always"}}),
        );
        context.create_pod(namespace, &labelled).await?;
    }
    for number in 0..count {
        context.wait_ready(namespace, &format!("pod-{number}")).await?;
    }
    Ok(())
}

async fn lifecycle(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let path = budget(&context, &namespace, json!("1%")).await?;
    let updated = context.modify(&path, |budget| budget["spec"]["minAvailable"] = "2%".into()).await?;
    ensure!(updated["spec"]["minAvailable"] == "2%", "{}", updated["spec"]);
    processed(&context, &path).await?;
    let patch = json!({"spec": {"minAvailable": "3%"}});
    let patched = context.patch(&path, Patch::Strategic, &patch).await?;
    ensure!(patched["spec"]["minAvailable"] == "3%", "{}", patched["spec"]);
    processed(&context, &path).await?;
    context.delete(&path).await?;
    context.until_gone(&path).await
}

async fn observed(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let path = budget(&context, &namespace, json!(1)).await?;
    pods(&context, &namespace, 3).await?;
    let allows = |budget: &Value| budget["status"]["disruptionsAllowed"] == 2;
    let budget = context.until(&path, "allows two disruptions", allows).await?;
    let status = &budget["status"];
    let numbers = [&status["currentHealthy"], &status["desiredHealthy"], &status["expectedPods"]];
    ensure!(numbers.map(Value::as_i64) == [Some(3), Some(1), Some(3)], "{status}");
    let condition = crate::pods::condition(&budget, "DisruptionAllowed");
    ensure!(condition["status"] == "True" && condition["reason"] == "SufficientPods", "{condition}");
    Ok(())
}

async fn status(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let path = budget(&context, &namespace, json!(1)).await?;
    pods(&context, &namespace, 1).await?;
    let at = format!("{path}/status");
    let disrupted = |budget: &Value| budget["status"]["disruptedPods"].as_object().map_or(0, |pods| pods.len());
    let now = jiff_now();
    let written =
        context.modify_at(&path, &at, |budget| budget["status"]["disruptedPods"] = json!({"pod-0": now})).await?;
    ensure!(written["status"]["disruptedPods"]["pod-0"].is_string(), "{}", brief(&written));
    let patched = context.merge(&at, json!({"status": {"disruptedPods": null}})).await?;
    ensure!(disrupted(&patched) == 0, "{}", brief(&patched));
    ensure!(patched["spec"]["minAvailable"] == 1, "the spec has changed: {}", patched["spec"]);
    Ok(())
}

/// The time as the API writes it.
fn jiff_now() -> String {
    let now = k8s_openapi::jiff::Timestamp::now();
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

async fn evict(context: &Context, namespace: &str, pod: &str) -> Result<crate::api::Answer> {
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}});
    context.call("POST", &format!("{}/{pod}/eviction", core(namespace, "pods")), Some(&eviction)).await
}

async fn refused(context: &Context, namespace: &str, pod: &str) -> Result<()> {
    let answer = evict(context, namespace, pod).await?.expect(429)?;
    let wanted = "Cannot evict pod as it would violate the pod's disruption budget.";
    ensure!(answer.message() == wanted, "{}", answer.message());
    let causes = &answer.body["details"]["causes"];
    ensure!(causes[0]["reason"] == "DisruptionBudget", "{}", answer.body);
    Ok(())
}

async fn evicted(context: &Context, namespace: &str, pod: &str) -> Result<()> {
    eventually("the eviction is allowed", SOON, || async {
        evict(context, namespace, pod).await?.expect(201)?;
        Ok(())
    })
    .await?;
    context.until_gone(&format!("{}/{pod}", core(namespace, "pods"))).await
}

async fn blocked_eviction(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let path = budget(&context, &namespace, json!(3)).await?;
    pods(&context, &namespace, 3).await?;
    let healthy = |budget: &Value| budget["status"]["currentHealthy"] == 3;
    context.until_within(&path, "counts three healthy pods", LIMIT, healthy).await?;
    refused(&context, &namespace, "pod-0").await?;

    context.modify(&path, |budget| budget["spec"]["minAvailable"] = 2.into()).await?;
    evicted(&context, &namespace, "pod-0").await?;

    let patch = json!([{"op": "replace", "path": "/spec/minAvailable", "value": 3}]);
    context.patch(&path, Patch::Json, &patch).await?;
    processed(&context, &path).await?;
    let left = context.list(&core(&namespace, "pods")).await?;
    let next = left.first().map(|pod| name(pod).to_owned()).unwrap_or_default();
    refused(&context, &namespace, &next).await?;
    context.delete(&path).await?;
    context.until_gone(&path).await?;
    evicted(&context, &namespace, &next).await
}
