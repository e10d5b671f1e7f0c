//! One pod of a DaemonSet on every node that is fit for it.
//!
//! - [`backoff`]: when failed pods are replaced;
//! - [`nodes`]: which nodes are fit;
//! - [`pods`]: what to create and delete, plainly and in rolling updates;
//! - this file: the pass and the status.
//!
//! Invariants: a pod is bound to its node by affinity to the node's name, so the
//! scheduler still checks resources; failed pods are replaced; a rolling update
//! never makes more pods unavailable than maxUnavailable.

mod backoff;
mod nodes;
mod pods;
#[cfg(test)]
mod twin_tests;

use std::{collections::BTreeSet, time::Duration};

use k8s_openapi::api::{
    apps::v1::{ControllerRevision, DaemonSet},
    core::v1::{Node, Pod},
};
use serde_json::{Value, json};
use skiff_api::{GroupResource, Object, Selector};
use skiff_client::{Context, Controller, ObjectRef, Operation, Outcome, Snapshot, Trigger};

use crate::{
    claim::claim,
    history::{Current, History, REVISION_HASH},
    pod::Availability,
    seen::{self, Seen},
    write,
};
use pods::Daemons;

#[derive(Default)]
pub struct DaemonSetController {
    backoff: backoff::Backoff,
}

impl Controller for DaemonSetController {
    fn name(&self) -> &'static str {
        "daemonset-controller"
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![
            Trigger::itself::<DaemonSet>(),
            Trigger::owner::<Pod>("DaemonSet"),
            Trigger::owner::<ControllerRevision>("DaemonSet"),
            Trigger::new::<Pod>(orphan),
            Trigger::new::<Node>(|new, old, world| {
                if let (Some(new), Some(old)) = (new, old)
                    && !nodes::is_relevant_change(new, old)
                {
                    return Vec::new();
                }
                let all = world.store_of::<DaemonSet>().map(|store| store.list(None)).unwrap_or_default();
                all.iter().map(|set| ObjectRef::of(set)).collect()
            }),
        ]
    }

    fn reads(&self) -> Vec<GroupResource> {
        vec![GroupResource::of::<Pod>(), GroupResource::of::<Node>(), GroupResource::of::<ControllerRevision>()]
    }

    fn reconcile(&self, key: &ObjectRef, world: &Snapshot, context: &Context) -> Outcome {
        let mut outcome = Outcome::done();
        let Some(set) = seen::get::<DaemonSet>(world, &key.namespace, &key.name) else { return outcome };
        let Ok(selector) = Selector::from_object(Some(&set.typed.spec.selector)) else { return outcome };
        if selector.is_everything() {
            let message = "This daemon set is selecting all pods. A non-empty selector is required.";
            outcome.events.push(write::warning(&set.object, "SelectingAll", message));
            return outcome;
        }
        let Ok(value) = set.object.value() else { return outcome };
        if set.is_deleting() {
            return outcome;
        }
        let history = History::new(&set.object, &selector, world, &mut outcome.operations);
        let collisions = set.typed.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0);
        let current = history.sync(&set.object, &value, collisions, &mut outcome);
        let candidates = seen::list::<Pod>(world, Some(set.namespace()));
        let pods = claim(&set.object, &selector, candidates, &mut outcome.operations);
        let live: BTreeSet<String> =
            pods.iter().filter_map(|pod| pod.meta().labels.get(REVISION_HASH).cloned()).collect();
        let nodes = seen::list::<Node>(world, None);
        outcome.operations.extend(relabel(&pods, &current));
        let daemons = Daemons::new(&set, &value, &current, nodes, pods, context);

        let status = status(&set, &value, &daemons, &current, &mut outcome);
        if context.last_failure.is_some() {
            outcome.operations.extend(status.clone());
        }
        daemons.manage(&self.backoff, &mut outcome);
        daemons.update(&mut outcome);
        history.clean_up(&current, &live, set.typed.spec.revision_history_limit.unwrap_or(10), &mut outcome);
        if context.last_failure.is_none() {
            outcome.operations.extend(status);
        }
        outcome
    }
}

/// Pods of another revision of the same template get the label of the present one instead of a restart.
fn relabel(pods: &[Seen<Pod>], current: &Current) -> Vec<Operation> {
    let is_twin = |pod: &&Seen<Pod>| {
        !pod.is_deleting() && pod.meta().labels.get(REVISION_HASH).is_some_and(|hash| current.twins.contains(hash))
    };
    let twins = pods.iter().filter(is_twin);
    let body = json!({"metadata": {"labels": {REVISION_HASH: current.hash}}});
    twins.map(|pod| write::strategic::<Pod>(&pod.object, None, body.clone())).collect()
}

fn orphan(new: Option<&Object>, _: Option<&Object>, world: &Snapshot) -> Vec<ObjectRef> {
    let Some(orphan) = new.filter(|pod| pod.meta.controller().is_none() && !pod.meta.is_deleting()) else {
        return Vec::new();
    };
    seen::list::<DaemonSet>(world, Some(&orphan.meta.namespace))
        .iter()
        .filter(|set| {
            Selector::from_object(Some(&set.typed.spec.selector))
                .is_ok_and(|selector| !selector.is_everything() && selector.matches(&orphan.meta.labels))
        })
        .map(|set| ObjectRef::of(&set.object))
        .collect()
}

fn status(
    set: &Seen<DaemonSet>,
    value: &Value,
    daemons: &Daemons,
    current: &Current,
    outcome: &mut Outcome,
) -> Option<Operation> {
    let (mut desired, mut scheduled, mut misscheduled) = (0, 0, 0);
    let (mut ready, mut available, mut updated) = (0, 0, 0);
    for place in daemons.places() {
        if !place.fit.should_run {
            misscheduled += i32::from(!place.pods.is_empty());
            continue;
        }
        desired += 1;
        let Some(oldest) = place.pods.first() else { continue };
        scheduled += 1;
        match daemons.availability(oldest) {
            Availability::Unready => {}
            Availability::Available => {
                ready += 1;
                available += 1;
            }
            Availability::ReadyFor(rest) => {
                ready += 1;
                let rest = Duration::try_from(rest).unwrap_or_default();
                outcome.requeue_after = Some(outcome.requeue_after.map_or(rest, |have| have.min(rest)));
            }
        }
        updated += i32::from(daemons.is_current(oldest));
    }
    let mut status = json!({
        "currentNumberScheduled": scheduled,
        "numberMisscheduled": misscheduled,
        "desiredNumberScheduled": desired,
        "numberReady": ready,
        "observedGeneration": set.meta().generation,
    });
    for (field, count) in [
        ("updatedNumberScheduled", updated),
        ("numberAvailable", available),
        ("numberUnavailable", desired - available),
        ("collisionCount", current.collision_count),
    ] {
        if count > 0 {
            status[field] = count.into();
        }
    }
    if let Some(conditions) = value["status"]["conditions"].as_array() {
        status["conditions"] = conditions.clone().into();
    }
    Some(write::update_status::<DaemonSet>(&set.object, write::with_status(&set.object, status)?))
}
