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
use skiff_api::{GroupResource, Selector};
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
        pods.retain(|pod| selector.matches(&pod.meta().labels) && !pod::is_terminal(&pod.typed));
        let disrupted = disrupted(&budget, &pods, context, &mut outcome);
        let (expected, desired) = match expectation(&budget, &pods, world) {
            Ok(numbers) => numbers,
            Err(message) => {
                outcome.events.push(write::warning(&budget.object, "CalculateExpectedPodCountFailed", message));
                (0, 0)
            }
        };
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
        let is_alive = pods.iter().any(|pod| pod.name() == name && !pod.is_deleting());
        if is_alive && rest.is_positive() {
            let rest = Duration::try_from(rest).unwrap_or_default();
            outcome.requeue_after = Some(outcome.requeue_after.map_or(rest, |have| have.min(rest)));
            waiting.insert(name, write::time(at.0).into());
        }
    }
    waiting
}

/// (pods there should be, pods that must stay healthy).
fn expectation(budget: &Seen<PodDisruptionBudget>, pods: &[Seen<Pod>], world: &Snapshot) -> Result<(i32, i32), String> {
    let Some(spec) = &budget.typed.spec else { return Ok((0, 0)) };
    match (&spec.max_unavailable, &spec.min_available) {
        (Some(most), _) => {
            let expected = expected_scale(pods, world)?;
            Ok((expected, (expected - scaled(most, expected, true)).max(0)))
        }
        (None, Some(IntOrString::Int(least))) => Ok((pods.len() as i32, *least)),
        (None, Some(least)) => {
            let expected = expected_scale(pods, world)?;
            Ok((expected, scaled(least, expected, true)))
        }
        (None, None) => Ok((pods.len() as i32, 1)),
    }
}

/// The sizes of the controllers of the pods together.
fn expected_scale(pods: &[Seen<Pod>], world: &Snapshot) -> Result<i32, String> {
    let mut owners = BTreeSet::new();
    let mut total = 0;
    for pod in pods {
        let Some(owner) = pod.meta().controller() else {
            return Err(format!("found no controller ref for pod {:?}", pod.name()));
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
            kind => return Err(format!("{} {:?} does not implement the scale subresource", kind, owner.name)),
        };
        total += size.unwrap_or(0);
    }
    Ok(total)
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
        Condition::new("DisruptionAllowed", "True", "SufficientPods", "")
    } else {
        Condition::new("DisruptionAllowed", "False", "InsufficientPods", "")
    };
    condition::set(&mut conditions, allows, context.now);
    for condition in conditions.iter_mut().filter(|condition| condition["type"] == "DisruptionAllowed") {
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
