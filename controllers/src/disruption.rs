//! Keeps the status of PodDisruptionBudgets: how many pods may be disrupted now.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::SignedDuration;
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet, StatefulSet},
        core::v1::{Pod, ReplicationController},
        policy::v1::PodDisruptionBudget,
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::util::intstr::IntOrString,
};
use serde_json::{Value, json};
use skiff_api::{GroupResource, OwnerReference, Selector, Uid};
use skiff_client::{Context, Controller, ObjectRef, Outcome, Snapshot, Trigger};

use crate::{
    condition::{self, Condition},
    deployment::scaled,
    pod,
    scale::{self, Missing},
    seen::{self, Seen},
    write,
};

/// How long an eviction that was allowed may take to show; after that it did not happen.
const DELETION_WAIT: SignedDuration = SignedDuration::from_secs(120);

/// The condition of budgets.
const ALLOWED: &str = "DisruptionAllowed";

pub struct DisruptionController;

impl Controller for DisruptionController {
    fn name(&self) -> &'static str {
        "disruption-controller"
    }

    fn event_component(&self) -> &'static str {
        "controllermanager"
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![
            Trigger::itself::<PodDisruptionBudget>(),
            Trigger::new::<Pod>(|new, old, world| {
                let Some(pod) = new.or(old) else { return Vec::new() };
                seen::list::<PodDisruptionBudget>(world, Some(&pod.meta.namespace))
                    .iter()
                    .filter(|budget| {
                        let selector = selector(&budget.typed);
                        [new, old].into_iter().flatten().any(|pod| selector.matches(&pod.meta.labels))
                    })
                    .map(|budget| ObjectRef::of(&budget.object))
                    .collect()
            }),
        ]
    }

    fn reads(&self) -> Vec<GroupResource> {
        vec![
            GroupResource::of::<Pod>(),
            GroupResource::of::<ReplicaSet>(),
            GroupResource::of::<Deployment>(),
            GroupResource::of::<StatefulSet>(),
            GroupResource::of::<ReplicationController>(),
            GroupResource::of::<CustomResourceDefinition>(),
        ]
    }

    fn reconcile(&self, key: &ObjectRef, world: &Snapshot, context: &Context) -> Outcome {
        let mut outcome = Outcome::done();
        let Some(budget) = seen::get::<PodDisruptionBudget>(world, &key.namespace, &key.name) else { return outcome };
        let selector = selector(&budget.typed);
        let mut pods = seen::list::<Pod>(world, Some(&key.namespace));
        pods.retain(|pod| selector.matches(&pod.meta().labels));
        if pods.is_empty() {
            outcome.events.push(write::normal(&budget.object, "NoPods", "No matching pods found"));
        }
        let Expectation { expected, desired, has_unmanaged } = match expectation(&budget, &pods, world) {
            Ok(expectation) => expectation,
            Err(message) => {
                let told = format!("Failed to calculate the number of expected pods: {message}");
                outcome.events.push(write::warning(&budget.object, "CalculateExpectedPodCountFailed", told));
                outcome.operations.extend(failure(&budget, message, context));
                return outcome;
            }
        };
        if has_unmanaged {
            outcome.events.push(write::warning(&budget.object, "UnmanagedPods", unmanaged(&budget)));
        }
        let disrupted = disrupted(&budget, &pods, context, &mut outcome);
        let healthy = pods
            .iter()
            .filter(|pod| !pod.is_deleting() && !disrupted.contains_key(pod.name()) && pod::is_ready(&pod.typed))
            .count() as i32;
        let allowed = if expected == 0 { 0 } else { (healthy - desired).max(0) };
        let status = json!({
            "disruptionsAllowed": allowed,
            "currentHealthy": healthy,
            "desiredHealthy": desired,
            "expectedPods": expected,
        });
        outcome.operations.extend(status_write(&budget, status, disrupted, allowed, context));
        outcome
    }
}

/// An absent selector selects nothing, an empty one everything.
fn selector(budget: &PodDisruptionBudget) -> Selector {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    Selector::from_object(selector).unwrap_or_else(|_| Selector::nothing())
}

/// Evictions allowed but not yet seen, by pod name.
fn disrupted(
    budget: &Seen<PodDisruptionBudget>,
    pods: &[Seen<Pod>],
    context: &Context,
    outcome: &mut Outcome,
) -> serde_json::Map<String, Value> {
    let known = budget.typed.status.as_ref().and_then(|status| status.disrupted_pods.clone()).unwrap_or_default();
    let mut waiting = serde_json::Map::new();
    for (name, at) in known {
        let rest = DELETION_WAIT - context.now.duration_since(at.0);
        let Some(alive) = pods.iter().find(|pod| pod.name() == name && !pod.is_deleting()) else { continue };
        if !rest.is_positive() {
            let message =
                format!("Pod was expected by PDB {}/{} to be deleted but it wasn't", budget.namespace(), budget.name());
            outcome.events.push(write::warning(&alive.object, "NotDeleted", message));
        } else {
            let rest = Duration::try_from(rest).unwrap_or_default();
            outcome.requeue_after = Some(outcome.requeue_after.map_or(rest, |have| have.min(rest)));
            waiting.insert(name, write::time(at.0).into());
        }
    }
    waiting
}

/// What a budget asks for.
#[derive(Default)]
struct Expectation {
    /// Pods there should be.
    expected: i32,
    /// Pods that must stay healthy.
    desired: i32,
    /// Some pods have no controller whose size could be asked.
    has_unmanaged: bool,
}

fn expectation(
    budget: &Seen<PodDisruptionBudget>,
    pods: &[Seen<Pod>],
    world: &Snapshot,
) -> Result<Expectation, String> {
    let Some(spec) = &budget.typed.spec else { return Ok(Expectation::default()) };
    match (&spec.max_unavailable, &spec.min_available) {
        (Some(most), _) => {
            let (expected, has_unmanaged) = expected_scale(pods, world)?;
            let desired = (expected - scaled(most, expected, true)).max(0);
            Ok(Expectation { expected, desired, has_unmanaged })
        }
        (None, Some(IntOrString::Int(least))) => {
            Ok(Expectation { expected: pods.len() as i32, desired: *least, has_unmanaged: false })
        }
        (None, Some(least)) => {
            let (expected, has_unmanaged) = expected_scale(pods, world)?;
            Ok(Expectation { expected, desired: scaled(least, expected, true), has_unmanaged })
        }
        (None, None) => Ok(Expectation::default()),
    }
}

fn unmanaged(budget: &Seen<PodDisruptionBudget>) -> String {
    format!(
        "Pods selected by this PodDisruptionBudget (selector: {}) were found to be unmanaged. As a result, the status of \
         the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods \
         please set \".spec.minAvailable\" field of the PDB to an integer value.",
        selector(&budget.typed)
    )
}

/// The sizes of the controllers of the pods together, and whether pods have none.
fn expected_scale(pods: &[Seen<Pod>], world: &Snapshot) -> Result<(i32, bool), String> {
    let mut owners = BTreeSet::new();
    let mut sizes = BTreeMap::new();
    let mut has_unmanaged = false;
    for pod in pods {
        let Some(owner) = pod.meta().controller() else {
            has_unmanaged = true;
            continue;
        };
        if !owners.insert(owner.uid.clone()) {
            continue;
        }
        let size = size(owner, pod.namespace(), world)?;
        let (uid, size) = size.ok_or_else(|| format!("found no controllers for pod {:?}", pod.name()))?;
        sizes.insert(uid, size);
    }
    let total: i64 = sizes.values().sum();
    Ok((i32::try_from(total).unwrap_or(i32::MAX), has_unmanaged))
}

/// What decides how many pods there are, and how many it wants; a Deployment decides for its ReplicaSets.
fn size(owner: &OwnerReference, namespace: &str, world: &Snapshot) -> Result<Option<(Uid, i64)>, String> {
    let found = match scale::find(world, &owner.api_version, &owner.kind, namespace, &owner.name) {
        Ok(found) if found.uid == owner.uid => found,
        Ok(_) | Err(Missing::Object(..)) => return Ok(None),
        Err(missing) => return Err(missing.to_string()),
    };
    match found.controller.filter(|above| owner.kind == "ReplicaSet" && above.kind == "Deployment") {
        Some(deployment) => size(&deployment, namespace, world),
        None => Ok(Some((found.uid, found.replicas))),
    }
}

/// A budget that cannot be calculated allows nothing and says why; its numbers stay.
fn failure(budget: &Seen<PodDisruptionBudget>, message: String, context: &Context) -> Option<skiff_client::Operation> {
    let mut status = budget.object.value().ok()?["status"].clone();
    let mut conditions = condition::of(&status);
    condition::set(&mut conditions, Condition::new(ALLOWED, "False", "SyncFailed", message.as_str()), context.now);
    for condition in conditions.iter_mut().filter(|condition| condition["type"] == ALLOWED) {
        condition["observedGeneration"] = status["observedGeneration"].as_i64().unwrap_or(0).into();
        condition["message"] = message.as_str().into();
    }
    for field in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
        if field == "disruptionsAllowed" || status[field].is_null() {
            status[field] = 0.into();
        }
    }
    status["conditions"] = conditions.into();
    let value = write::with_status(&budget.object, status)?;
    Some(write::update_status::<PodDisruptionBudget>(&budget.object, value))
}

fn status_write(
    budget: &Seen<PodDisruptionBudget>,
    mut status: Value,
    disrupted: serde_json::Map<String, Value>,
    allowed: i32,
    context: &Context,
) -> Option<skiff_client::Operation> {
    let value = budget.object.value().ok()?;
    let mut conditions = condition::of(&value["status"]);
    let allows = if allowed > 0 {
        Condition::new(ALLOWED, "True", "SufficientPods", "")
    } else {
        Condition::new(ALLOWED, "False", "InsufficientPods", "")
    };
    condition::set(&mut conditions, allows, context.now);
    for condition in conditions.iter_mut().filter(|condition| condition["type"] == ALLOWED) {
        condition["observedGeneration"] = budget.meta().generation.into();
        condition["message"] = "".into();
    }
    status["observedGeneration"] = budget.meta().generation.into();
    status["conditions"] = conditions.into();
    if !disrupted.is_empty() {
        status["disruptedPods"] = disrupted.into();
    }
    let value = write::with_status(&budget.object, status)?;
    Some(write::update_status::<PodDisruptionBudget>(&budget.object, value))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::simulation::Simulation;

    fn pod(name: &str, owner: Option<Value>) -> Value {
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "d",
            "labels": {"app": "web"}}, "spec": {"nodeName": "n1"}, "status": {"phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}]}});
        if let Some(owner) = owner {
            pod["metadata"]["ownerReferences"] = json!([owner]);
        }
        pod
    }

    fn budget(spec: Value) -> Simulation {
        let mut simulation = Simulation::new("");
        let mut spec = spec;
        spec["selector"] = json!({"matchLabels": {"app": "web"}});
        simulation.put(json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
            "metadata": {"name": "b", "namespace": "d"}, "spec": spec}));
        simulation
    }

    fn status(simulation: &mut Simulation) -> Value {
        simulation.settle(&[&DisruptionController], false, |_| {});
        simulation.value("poddisruptionbudgets.policy", "d", "b").unwrap()["status"].clone()
    }

    fn events(simulation: &Simulation) -> String {
        simulation.log.iter().filter(|line| line.contains(": event ")).cloned().collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn healthy_pods_beyond_the_wanted_may_be_disrupted() {
        let mut simulation = budget(json!({"minAvailable": 1}));
        (0..3).for_each(|number| simulation.put(pod(&format!("p{number}"), None)));
        let status = status(&mut simulation);
        assert_eq!((&status["disruptionsAllowed"], &status["expectedPods"]), (&json!(2), &json!(3)));
        assert_eq!(status["conditions"][0]["reason"], "SufficientPods");
    }

    #[test]
    fn pods_without_a_controller_are_told_but_not_counted_in_percentages() {
        let mut simulation = budget(json!({"maxUnavailable": "50%"}));
        simulation.put(pod("alone", None));
        let status = status(&mut simulation);
        assert_eq!((&status["disruptionsAllowed"], &status["expectedPods"]), (&json!(0), &json!(0)));
        assert!(events(&simulation).contains("event UnmanagedPods Pods selected by this PodDisruptionBudget"));
    }

    #[test]
    fn pods_of_a_custom_kind_count_by_its_scale() {
        let mut simulation = budget(json!({"maxUnavailable": 1}));
        let rings = GroupResource::new("e.io", "rings");
        simulation.put(json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "rings.e.io"}, "spec": {"group": "e.io", "scope": "Namespaced",
                "names": {"kind": "Ring", "plural": "rings"}, "versions": [{"name": "v1", "served": true,
                    "storage": true, "subresources": {"scale": {"specReplicasPath": ".spec.size",
                        "statusReplicasPath": ".status.size"}}}]}}));
        simulation.serve(rings.clone());
        simulation.put_in(
            rings,
            json!({"apiVersion": "e.io/v1", "kind": "Ring",
            "metadata": {"name": "r", "namespace": "d", "uid": "ring"}, "spec": {"size": 3}}),
        );
        let owner =
            |uid: &str| json!({"apiVersion": "e.io/v1", "kind": "Ring", "name": "r", "uid": uid, "controller": true});
        (0..3).for_each(|number| simulation.put(pod(&format!("p{number}"), Some(owner("ring")))));
        let after = status(&mut simulation);
        assert_eq!((&after["expectedPods"], &after["disruptionsAllowed"]), (&json!(3), &json!(1)));
        simulation.put(pod("stale", Some(owner("another"))));
        let after = status(&mut simulation);
        assert_eq!(after["conditions"][0]["message"], "found no controllers for pod \"stale\"");
    }

    #[test]
    fn a_budget_that_cannot_be_calculated_allows_nothing_and_says_why() {
        let mut simulation = budget(json!({"maxUnavailable": 1}));
        let owner = json!({"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "u", "controller": true});
        simulation.put(pod("worker", Some(owner)));
        let status = status(&mut simulation);
        assert_eq!(status["disruptionsAllowed"], 0);
        let condition = &status["conditions"][0];
        assert_eq!(condition["reason"], "SyncFailed");
        assert_eq!(condition["message"], "jobs.batch does not implement the scale subresource");
    }

    #[test]
    fn an_eviction_that_did_not_happen_is_forgotten_and_told() {
        let mut simulation = budget(json!({"minAvailable": 1}));
        (0..2).for_each(|number| simulation.put(pod(&format!("p{number}"), None)));
        let since = crate::write::time(simulation.now);
        simulation.edit("poddisruptionbudgets.policy", "d", "b", |budget| {
            budget["status"] = json!({"disruptedPods": {"p0": since}});
        });
        assert_eq!(status(&mut simulation)["disruptionsAllowed"], 0, "p0 is on its way out");
        simulation.pass(121);
        let later = status(&mut simulation);
        assert_eq!((&later["disruptionsAllowed"], &later["disruptedPods"]), (&json!(1), &Value::Null));
        assert!(
            events(&simulation).contains("event NotDeleted Pod was expected by PDB d/b to be deleted but it wasn't")
        );
    }
}
