//! Rolls out pod templates through ReplicaSets.
//!
//! - [`replica_sets`]: the ReplicaSets of one deployment, changed in memory and
//!   written at the end, one update each;
//! - [`numbers`]: surge, unavailability and proportions as plain arithmetic;
//! - [`rollout`]: the strategies and scaling;
//! - [`status`]: counts and conditions.
//!
//! Invariants: the template hash label keeps the pods of different ReplicaSets
//! apart; never more pods than replicas + maxSurge, never fewer available than
//! replicas - maxUnavailable by our own doing; a paused deployment scales but
//! does not roll.

mod numbers;
mod replica_sets;
mod rollout;
mod status;

use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    core::v1::Pod,
};
use skiff_api::{GroupResource, Selector};
use skiff_client::{Context, Controller, ObjectRef, Outcome, Snapshot, Trigger};

use crate::{
    claim::claim,
    pod,
    seen::{self, Seen},
    write,
};
pub(crate) use numbers::scaled;
use replica_sets::ReplicaSets;

pub struct DeploymentController;

impl Controller for DeploymentController {
    fn name(&self) -> &'static str {
        "deployment-controller"
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![
            Trigger::itself::<Deployment>(),
            Trigger::owner::<ReplicaSet>("Deployment"),
            Trigger::new::<ReplicaSet>(orphaned_replica_set),
            Trigger::new::<Pod>(last_pod_gone),
        ]
    }

    fn reads(&self) -> Vec<GroupResource> {
        vec![GroupResource::of::<Pod>(), GroupResource::of::<ReplicaSet>()]
    }

    fn reconcile(&self, key: &ObjectRef, world: &Snapshot, context: &Context) -> Outcome {
        let mut outcome = Outcome::done();
        let Some(deployment) = seen::get::<Deployment>(world, &key.namespace, &key.name) else { return outcome };
        let Some(rollout) = Rollout::new(deployment, world, context, &mut outcome) else { return outcome };
        rollout.run(&mut outcome);
        outcome
    }
}

/// One pass over one deployment.
struct Rollout<'a> {
    deployment: Seen<Deployment>,
    context: &'a Context,
    sets: ReplicaSets,
    /// Recreate only: pods that still run and do not belong to the new ReplicaSet.
    old_pods_running: bool,
    /// Names of ReplicaSets of the namespace that are not ours.
    taken_names: Vec<String>,
    /// The revision that the deployment should carry.
    revision: Option<String>,
}

impl<'a> Rollout<'a> {
    fn new(
        deployment: Seen<Deployment>,
        world: &Snapshot,
        context: &'a Context,
        outcome: &mut Outcome,
    ) -> Option<Rollout<'a>> {
        let selector = Selector::from_object(Some(&deployment.typed.spec.selector)).ok()?;
        if selector.is_everything() {
            let message = "This deployment is selecting all pods. A non-empty selector is required.";
            outcome.events.push(write::warning(&deployment.object, "SelectingAll", message));
            return None;
        }
        let candidates = seen::list::<ReplicaSet>(world, Some(deployment.namespace()));
        let all_names: Vec<String> = candidates.iter().map(|set| set.name().to_owned()).collect();
        let claimed = claim(&deployment.object, &selector, candidates, &mut outcome.operations);
        let taken_names = all_names.into_iter().filter(|name| !claimed.iter().any(|set| set.name() == name)).collect();
        let sets = ReplicaSets::new(&deployment, claimed)?;
        let old_pods_running = recreates(&deployment.typed) && old_pods_running(&sets, deployment.namespace(), world);
        Some(Rollout { deployment, context, sets, old_pods_running, taken_names, revision: None })
    }
}

fn recreates(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.strategy.as_ref();
    strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate")
}

/// Pods that belong to a ReplicaSet other than the new one and have not ended.
fn old_pods_running(sets: &ReplicaSets, namespace: &str, world: &Snapshot) -> bool {
    seen::list::<Pod>(world, Some(namespace))
        .iter()
        .filter(|pod| !pod::is_terminal(&pod.typed))
        .any(|pod| sets.old().any(|set| pod.is_controlled_by(set.seen.uid())))
}

/// A ReplicaSet without controller wakes the deployments that select it.
fn orphaned_replica_set(
    new: Option<&skiff_api::Object>,
    _: Option<&skiff_api::Object>,
    world: &Snapshot,
) -> Vec<ObjectRef> {
    let Some(orphan) = new.filter(|set| set.meta.controller().is_none() && !set.meta.is_deleting()) else {
        return Vec::new();
    };
    seen::list::<Deployment>(world, Some(&orphan.meta.namespace))
        .iter()
        .filter(|deployment| {
            Selector::from_object(Some(&deployment.typed.spec.selector))
                .is_ok_and(|selector| !selector.is_everything() && selector.matches(&orphan.meta.labels))
        })
        .map(|deployment| ObjectRef::of(&deployment.object))
        .collect()
}

/// Recreate waits for the end of old pods, so their going wakes the deployment.
fn last_pod_gone(new: Option<&skiff_api::Object>, old: Option<&skiff_api::Object>, world: &Snapshot) -> Vec<ObjectRef> {
    let ended = |object: &skiff_api::Object| object.typed::<Pod>().is_ok_and(|pod| pod::is_terminal(&pod));
    let Some(pod) = (match (new, old) {
        (None, Some(gone)) => Some(gone),
        (Some(new), Some(old)) if ended(new) && !ended(old) => Some(new),
        _ => None,
    }) else {
        return Vec::new();
    };
    let Some(owner) = pod.meta.controller().filter(|owner| owner.kind == "ReplicaSet") else { return Vec::new() };
    let Some(set) = world.object::<ReplicaSet>(&pod.meta.namespace, &owner.name) else { return Vec::new() };
    let Some(deployment) = set.meta.controller().filter(|owner| owner.kind == "Deployment") else {
        return Vec::new();
    };
    let key = ObjectRef::new(pod.meta.namespace.clone(), deployment.name.clone());
    let recreates = seen::get::<Deployment>(world, &key.namespace, &key.name)
        .is_some_and(|deployment| recreates(&deployment.typed));
    if recreates { vec![key] } else { Vec::new() }
}
