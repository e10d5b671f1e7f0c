//! `pods/eviction`: a deletion that a PodDisruptionBudget may refuse.
//!
//! The budget's `status.disruptionsAllowed` is decremented before the pod is
//! deleted and the pod is noted in `status.disruptedPods`, so that two evictions
//! at the same time cannot both use the last allowed disruption.

use async_trait::async_trait;
use serde_json::{Value, json};
use skiff_api::{Cause, GroupResource, GroupVersionKind, GroupVersionResource, Object, Reason, Status};
use skiff_client::Snapshot;

use super::strategy::seconds;
use crate::{
    admission::endpoint,
    limits,
    options::{DeleteOptions, WriteOptions},
    registry::{
        endpoint::{Endpoint, EndpointRequest, EndpointResponse},
        store::{Store, WriteRequest},
        strategy::RequestContext,
        validation::selector,
        value::{child, entries, field, int, list, map, name, set, text},
        write::Edited,
    },
    warnings::Warnings,
};

/// What a refused client is told to wait.
const RETRY_SECONDS: i32 = 10;

/// Answers POST of an Eviction.
pub struct EvictionEndpoint;

#[async_trait]
impl Endpoint for EvictionEndpoint {
    async fn create(&self, request: EndpointRequest<'_>) -> Result<EndpointResponse, Status> {
        if !name(&request.body).is_empty() && name(&request.body) != request.name {
            return Err(Status::bad_request("name in URL does not match name in Eviction object"));
        }
        let kind = GroupVersionKind::new("policy", "v1", "Eviction");
        let body = endpoint::admit(&request, &GroupVersionResource::new("", "v1", "pods"), "eviction", &kind).await?;
        let resources = request.store.resources();
        let row =
            resources.lookup("", "v1", "pods").ok_or_else(|| Status::internal("the resource table has no pods"))?;
        let pod = request.store.get(&row, request.context.namespace, request.name).await?;
        let value = pod.value().map_err(Status::internal)?;
        let mut options = delete_options(&body["deleteOptions"]);
        options.dry_run |= request.context.dry_run;
        if needs_budget(&value) {
            charge(&request.context, request.store, &pod, &value, options.dry_run).await?;
            options.uid.get_or_insert_with(|| pod.meta.uid.0.clone());
        }
        let write_options = WriteOptions { dry_run: options.dry_run, ..WriteOptions::default() };
        let warnings = Warnings::default();
        let write = WriteRequest {
            row: &row,
            subresource: "",
            namespace: request.context.namespace,
            name: request.name,
            user: request.context.user,
            options: &write_options,
            warnings: &warnings,
        };
        if !is_over(&value) {
            mark(&request.context, &write, request.store).await?;
        }
        request.store.delete(&write, &options).await?;
        let mut body = json!(Status::success(None));
        body["code"] = 201.into();
        Ok(EndpointResponse { code: 201, body, warnings: Vec::new() })
    }
}

fn delete_options(options: &Value) -> DeleteOptions {
    let preconditions = &options["preconditions"];
    let owned = |value: &Value| value.as_str().map(str::to_owned);
    DeleteOptions {
        grace_period_seconds: int(options, "gracePeriodSeconds"),
        propagation: field(options, "propagationPolicy").and_then(|policy| serde_json::from_value(policy.clone()).ok()),
        orphan_dependents: options["orphanDependents"].as_bool(),
        uid: owned(&preconditions["uid"]),
        resource_version: owned(&preconditions["resourceVersion"]),
        dry_run: list(options, "dryRun").iter().any(|value| value == "All"),
    }
}

fn is_over(pod: &Value) -> bool {
    matches!(text(&pod["status"], "phase"), "Succeeded" | "Failed")
        || field(&pod["metadata"], "deletionTimestamp").is_some()
}

/// Pods that are over, not started or already dying disturb nobody.
fn needs_budget(pod: &Value) -> bool {
    !is_over(pod) && text(&pod["status"], "phase") != "Pending"
}

/// Tells in the pod's status why it will end: pod failure policies of jobs look at that.
async fn mark(context: &RequestContext<'_>, write: &WriteRequest<'_>, store: &Store) -> Result<(), Status> {
    let write = WriteRequest { subresource: "status", ..*write };
    let now = seconds(context.now);
    let edit = |old: Option<&Value>| {
        let mut pod = old.cloned().ok_or_else(|| Status::not_found("", "pods", write.name))?;
        add_condition(&mut pod, &now);
        Ok(Edited { object: pod, applied: false })
    };
    store.update(&write, &edit).await.map(drop)
}

fn add_condition(pod: &mut Value, now: &str) {
    let condition = json!({
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting",
        "lastTransitionTime": now,
        "observedGeneration": pod["metadata"]["generation"],
    });
    let status = child(pod, "status");
    let mut conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    match conditions.iter_mut().find(|have| have["type"] == condition["type"]) {
        // A disruption that was announced before keeps its time.
        Some(have) if have["status"] == "True" => {
            let since = have["lastTransitionTime"].clone();
            *have = condition;
            have["lastTransitionTime"] = since;
        }
        Some(have) => *have = condition,
        None => conditions.push(condition),
    }
    set(status, "conditions", conditions);
}

/// Takes one disruption from the budget of the pod, if it has one.
async fn charge(
    context: &RequestContext<'_>,
    store: &Store,
    pod: &Object,
    value: &Value,
    dry_run: bool,
) -> Result<(), Status> {
    let budgets = budgets(context.snapshot, pod);
    let budget = match budgets.as_slice() {
        [] => return Ok(()),
        [one] => one,
        _ => {
            let why =
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
            return Err(Status::internal(why));
        }
    };
    let budget_name = name(budget).to_owned();
    if ignores_unready(budget) && !is_ready(value) && healthy_enough(budget) {
        return Ok(());
    }
    let row = store
        .resources()
        .lookup("policy", "v1", "poddisruptionbudgets")
        .ok_or_else(|| Status::internal("the resource table has no poddisruptionbudgets"))?;
    let options = WriteOptions { dry_run, ..WriteOptions::default() };
    let warnings = Warnings::default();
    let write = WriteRequest {
        row: &row,
        subresource: "status",
        namespace: &pod.meta.namespace,
        name: &budget_name,
        user: context.user,
        options: &options,
        warnings: &warnings,
    };
    let now = seconds(context.now);
    let edit = |old: Option<&Value>| {
        let mut budget =
            old.cloned().ok_or_else(|| Status::not_found("policy", "poddisruptionbudgets", &budget_name))?;
        take(&mut budget, &pod.meta.name, &now)?;
        Ok(Edited { object: budget, applied: false })
    };
    match store.update(&write, &edit).await {
        Ok(_) => Ok(()),
        // The budget went away meanwhile: nothing protects the pod any more.
        Err(status) if status.is(Reason::NotFound) => Ok(()),
        Err(status) => Err(status),
    }
}

fn budgets(snapshot: &Snapshot, pod: &Object) -> Vec<Value> {
    let Some(store) = snapshot.store(&GroupResource::new("policy", "poddisruptionbudgets")) else { return Vec::new() };
    let all = store.list(Some(&pod.meta.namespace));
    all.iter()
        .filter_map(|object| object.value().ok())
        .filter(|budget| selector::matches(&budget["spec"]["selector"], &pod.meta.labels))
        .collect()
}

fn is_ready(pod: &Value) -> bool {
    list(&pod["status"], "conditions")
        .iter()
        .any(|condition| text(condition, "type") == "Ready" && text(condition, "status") == "True")
}

fn ignores_unready(budget: &Value) -> bool {
    text(&budget["spec"], "unhealthyPodEvictionPolicy") == "AlwaysAllow"
        || int(&budget["status"], "desiredHealthy").unwrap_or(0) > 0
}

/// With the default policy, an unready pod may go while enough others are healthy.
fn healthy_enough(budget: &Value) -> bool {
    let status = &budget["status"];
    text(&budget["spec"], "unhealthyPodEvictionPolicy") == "AlwaysAllow"
        || int(status, "currentHealthy").unwrap_or(0) >= int(status, "desiredHealthy").unwrap_or(0)
}

/// Decrements the allowance, or says why not.
fn take(budget: &mut Value, pod: &str, now: &str) -> Result<(), Status> {
    let budget_name = name(budget).to_owned();
    let observed = int(&budget["status"], "observedGeneration").unwrap_or(0);
    if observed < int(&budget["metadata"], "generation").unwrap_or(0) {
        return Err(refusal(format!("The disruption budget {budget_name} is still being processed by the server.")));
    }
    let allowed = int(&budget["status"], "disruptionsAllowed").unwrap_or(0);
    if allowed < 0 {
        return Err(Status::forbidden(
            "policy",
            "poddisruptionbudget",
            &budget_name,
            "pdb disruptions allowed is negative",
        ));
    }
    if entries(&budget["status"], "disruptedPods").count() > limits::DISRUPTED_PODS_MAX {
        return Err(Status::forbidden(
            "policy",
            "poddisruptionbudget",
            &budget_name,
            "DisruptedPods map too big - too many evictions not confirmed by PDB controller",
        ));
    }
    if allowed == 0 {
        let desired = int(&budget["status"], "desiredHealthy").unwrap_or(0);
        let current = int(&budget["status"], "currentHealthy").unwrap_or(0);
        let failed = list(&budget["status"], "conditions").iter().find(|condition| {
            text(condition, "type") == "DisruptionAllowed" && text(condition, "reason") == "SyncFailed"
        });
        return Err(refusal(match failed {
            Some(condition) => format!(
                "The disruption budget {budget_name} does not allow evicting pods currently because it failed sync: {}",
                text(condition, "message")
            ),
            None => {
                format!("The disruption budget {budget_name} needs {desired} healthy pods and has {current} currently")
            }
        }));
    }
    let status = child(budget, "status");
    set(status, "disruptionsAllowed", allowed - 1);
    map(child(status, "disruptedPods")).insert(pod.to_owned(), now.into());
    Ok(())
}

fn refusal(message: String) -> Status {
    let mut status =
        Status::too_many_requests("Cannot evict pod as it would violate the pod's disruption budget.", RETRY_SECONDS);
    if let Some(details) = &mut status.details {
        details.retry_after_seconds = if message.contains("still being processed") { RETRY_SECONDS } else { 0 };
        details.causes.push(Cause { reason: "DisruptionBudget".to_owned(), message, field: String::new() });
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_allowed_disruption_is_taken_once() {
        let mut budget = json!({"metadata": {"name": "b", "generation": 1}, "status": {"observedGeneration": 1, "disruptionsAllowed": 1, "desiredHealthy": 2, "currentHealthy": 3}});
        take(&mut budget, "p", "t").unwrap();
        assert_eq!(budget["status"]["disruptionsAllowed"], 0);
        assert_eq!(budget["status"]["disruptedPods"]["p"], "t");
        let error = take(&mut budget, "q", "t").unwrap_err();
        assert_eq!(
            (error.code, error.message.as_str()),
            (429, "Cannot evict pod as it would violate the pod's disruption budget.")
        );
        let cause = &error.details.unwrap().causes[0];
        assert_eq!(cause.reason, "DisruptionBudget");
        assert_eq!(cause.message, "The disruption budget b needs 2 healthy pods and has 3 currently");
    }

    #[test]
    fn an_eviction_is_told_in_the_status_once() {
        let mut pod =
            json!({"metadata": {"generation": 2}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        add_condition(&mut pod, "first");
        add_condition(&mut pod, "second");
        let conditions = pod["status"]["conditions"].as_array().unwrap();
        assert_eq!(conditions.len(), 2);
        let told = &conditions[1];
        assert_eq!((&told["type"], &told["reason"]), (&json!("DisruptionTarget"), &json!("EvictionByEvictionAPI")));
        assert_eq!((&told["lastTransitionTime"], &told["observedGeneration"]), (&json!("first"), &json!(2)));
    }

    #[test]
    fn a_budget_not_yet_observed_refuses() {
        let mut budget = json!({"metadata": {"name": "b", "generation": 2}, "status": {"observedGeneration": 1, "disruptionsAllowed": 1}});
        assert_eq!(take(&mut budget, "p", "t").unwrap_err().code, 429);
    }
}
