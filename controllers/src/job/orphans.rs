//! Lets go of pods whose job is no more.
//!
//! The tracking finalizer keeps an ended pod until its job has counted it. A
//! job that was deleted counts nothing, so its pods would stay for ever, and
//! their namespace with them. The key of this controller is the pod.

use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use skiff_api::{GroupResource, GroupVersionResource, Object};
use skiff_client::{Context, Controller, ObjectRef, Operation, Outcome, Snapshot, Trigger};

use super::{FINALIZER, has_finalizer, release, selector};
use crate::seen;

pub struct JobOrphanController;

impl Controller for JobOrphanController {
    fn name(&self) -> &'static str {
        "job-orphan-controller"
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![
            Trigger::new::<Pod>(|new, _, world| {
                let orphan = new.filter(|pod| is_tracked(pod) && is_orphan(pod, world));
                orphan.map(ObjectRef::of).into_iter().collect()
            }),
            Trigger::new::<Job>(|new, old, world| {
                let (None, Some(job)) = (new, old) else { return Vec::new() };
                let pods = world.store_of::<Pod>().map(|store| store.list(Some(&job.meta.namespace)));
                let pods = pods.unwrap_or_default();
                let left = pods.iter().filter(|pod| {
                    is_tracked(pod) && pod.meta.controller().is_some_and(|owner| owner.uid == job.meta.uid)
                });
                left.map(|pod| ObjectRef::of(pod)).collect()
            }),
        ]
    }

    fn reads(&self) -> Vec<GroupResource> {
        vec![GroupResource::of::<Job>()]
    }

    fn reconcile(&self, key: &ObjectRef, world: &Snapshot, _: &Context) -> Outcome {
        let mut outcome = Outcome::done();
        let Some(pod) = seen::get::<Pod>(world, &key.namespace, &key.name) else { return outcome };
        if !has_finalizer(&pod) || !is_orphan(&pod.object, world) {
            return outcome;
        }
        if let Some(owner) = pod.meta().controller() {
            outcome.push(Operation::RequireAbsent {
                resource: GroupVersionResource::of::<Job>(),
                namespace: Some(key.namespace.clone()),
                name: owner.name.clone(),
                uid: owner.uid.clone(),
            });
        }
        outcome.push(release(&pod));
        outcome
    }
}

fn is_tracked(pod: &Object) -> bool {
    pod.meta.finalizers.iter().any(|finalizer| finalizer == FINALIZER)
}

/// Whether no job there is owns the pod or would adopt it.
fn is_orphan(pod: &Object, world: &Snapshot) -> bool {
    match pod.meta.controller() {
        // Whoever else owns it may have reasons for the finalizer.
        Some(owner) if owner.kind != "Job" || owner.api_version != "batch/v1" => false,
        Some(owner) => {
            world.object::<Job>(&pod.meta.namespace, &owner.name).is_none_or(|job| job.meta.uid != owner.uid)
        }
        None => !seen::list::<Job>(world, Some(&pod.meta.namespace)).iter().any(|job| {
            let selector = job.typed.spec.as_ref().and_then(selector);
            selector.is_some_and(|selector| selector.matches(&pod.meta.labels))
        }),
    }
}
