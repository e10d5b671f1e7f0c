//! Keeps the status of PodDisruptionBudgets: how many pods may be disrupted now.

use std::{collections::BTreeSet, time::Duration};

use jiff::SignedDuration;
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet, StatefulSet},
        core::v1::{Pod, ReplicationController},
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use serde_json::{Value, json};
use skiff_api::{GroupResource, OwnerReference, Selector};
use skiff_client::{Context, Controller, ObjectRef, Outcome, Snapshot, Trigger};

use crate::{
    condition::{self, Condition},
    deployment::scaled,
    pod,
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
    let mut total = 0;
    let mut has_unmanaged = false;
    for pod in pods {
        let Some(owner) = pod.meta().controller() else {
            has_unmanaged = true;
            continue;
        };
        if !owners.insert(owner.uid.clone()) {
            continue;
        }
        let namespace = pod.namespace();
        let size = match owner.kind.as_str() {
            "ReplicaSet" => seen::get::<ReplicaSet>(world, namespace, &owner.name).and_then(|set| {
                match set.meta().controller().filter(|owner| owner.kind == "Deployment") {
                    Some(deployment) => {
                        if !owners.insert(deployment.uid.clone()) {
                            return Some(0);
                        }
                        let deployment = world.get::<Deployment>(namespace, &deployment.name)?;
                        Some(deployment.spec.replicas.unwrap_or(1))
                    }
                    None => Some(set.typed.spec.replicas.unwrap_or(1)),
                }
            }),
            "StatefulSet" => world.get::<StatefulSet>(namespace, &owner.name).map(|set| set.spec.replicas.unwrap_or(1)),
            "ReplicationController" => world
                .get::<ReplicationController>(namespace, &owner.name)
                .map(|set| set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)),
            _ => return Err(format!("{} does not implement the scale subresource", resource_of(owner))),
        };
        total += size.unwrap_or(0);
    }
    Ok((total, has_unmanaged))
}

/// The resource of an owner as errors name it, such as `jobs.batch`.
fn resource_of(owner: &OwnerReference) -> String {
    let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
    let row = skiff_api::builtin().iter().find(|row| row.group == group && row.kind == owner.kind);
    row.map_or_else(|| format!("{}.{group}", owner.kind), |row| row.group_resource().to_string())
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
