//! Pods with an identity: numbered, named after their number, each with its own
//! volumes, started and stopped in order.
//!
//! - [`identity`]: names, labels, volumes of the pod of a number;
//! - [`order`]: what to do next with the pods there are;
//! - this file: revisions, counts and status.
//!
//! Invariants: never two pods of one number; in ordered mode nothing moves
//! while a pod before it is not available; a rolling update goes from the
//! highest number down to the partition.

mod identity;
mod order;

use std::{collections::BTreeSet, time::Duration};

use k8s_openapi::api::{
    apps::v1::{ControllerRevision, StatefulSet},
    core::v1::{PersistentVolumeClaim, Pod},
};
use serde_json::{Value, json};
use skiff_api::{GroupResource, Selector};
use skiff_client::{Context, Controller, ObjectRef, Operation, Outcome, Snapshot, Trigger};

use crate::{
    claim::claim,
    history::{Current, History, REVISION_HASH},
    pod::{self, Availability},
    seen::{self, Seen},
    write,
};

pub struct StatefulSetController;

impl Controller for StatefulSetController {
    fn name(&self) -> &'static str {
        "statefulset-controller"
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![
            Trigger::itself::<StatefulSet>(),
            Trigger::owner::<Pod>("StatefulSet"),
            Trigger::owner::<ControllerRevision>("StatefulSet"),
            Trigger::new::<Pod>(|new, _, world| {
                // An orphan with a name of ours wakes the set it would belong to.
                let Some(orphan) = new.filter(|pod| pod.meta.controller().is_none() && !pod.meta.is_deleting()) else {
                    return Vec::new();
                };
                let Some((set, _)) = orphan.meta.name.rsplit_once('-') else { return Vec::new() };
                let key = ObjectRef::new(orphan.meta.namespace.clone(), set);
                let exists = world.object::<StatefulSet>(&key.namespace, &key.name).is_some();
                if exists { vec![key] } else { Vec::new() }
            }),
        ]
    }

    fn reads(&self) -> Vec<GroupResource> {
        vec![
            GroupResource::of::<Pod>(),
            GroupResource::of::<ControllerRevision>(),
            GroupResource::of::<PersistentVolumeClaim>(),
        ]
    }

    fn reconcile(&self, key: &ObjectRef, world: &Snapshot, context: &Context) -> Outcome {
        let mut outcome = Outcome::done();
        let Some(set) = seen::get::<StatefulSet>(world, &key.namespace, &key.name) else { return outcome };
        let Ok(selector) = Selector::from_object(Some(&set.typed.spec.selector)) else { return outcome };
        let Ok(value) = set.object.value() else { return outcome };
        if selector.is_everything() || set.is_deleting() {
            return outcome;
        }
        let history = History::new(&set.object, &selector, world, &mut outcome.operations);
        let old = set.typed.status.clone().unwrap_or_default();
        let update = history.sync(&set.object, &value, old.collision_count.unwrap_or(0), &mut outcome);
        let current_name =
            old.current_revision.filter(|name| history.by_name(name).is_some()).unwrap_or_else(|| update.name.clone());
        let current_template = history.by_name(&current_name).map(crate::history::Revision::template);

        let mut candidates = seen::list::<Pod>(world, Some(set.namespace()));
        candidates.retain(|pod| identity::ordinal(set.name(), pod.name()).is_some());
        let pods = claim(&set.object, &selector, candidates, &mut outcome.operations);
        let live: BTreeSet<String> =
            pods.iter().filter_map(|pod| pod.meta().labels.get(REVISION_HASH).cloned()).collect();

        let pass = Pass {
            set: &set,
            value: &value,
            world,
            context,
            current_name,
            current_template: current_template.unwrap_or_else(|| value["spec"]["template"].clone()),
            update: &update,
        };
        let counts = pass.count(&pods, &mut outcome);
        let status = pass.status(&counts);
        if context.last_failure.is_some() {
            outcome.operations.extend(status.clone());
        }
        pass.act(pods, counts.current, &mut outcome);
        let mut keep = live;
        keep.insert(pass.current_name.clone());
        history.clean_up(&update, &keep, set.typed.spec.revision_history_limit.unwrap_or(10), &mut outcome);
        if context.last_failure.is_none() {
            outcome.operations.extend(status);
        }
        outcome
    }
}

/// One pass over one set.
struct Pass<'a> {
    set: &'a Seen<StatefulSet>,
    value: &'a Value,
    world: &'a Snapshot,
    context: &'a Context,
    current_name: String,
    current_template: Value,
    update: &'a Current,
}

#[derive(Default)]
struct Counts {
    replicas: i32,
    ready: i32,
    available: i32,
    current: i32,
    updated: i32,
}

impl Pass<'_> {
    fn wanted(&self) -> i32 {
        self.set.typed.spec.replicas.unwrap_or(1).max(0)
    }

    fn first_ordinal(&self) -> i32 {
        self.set.typed.spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0)
    }

    fn availability(&self, pod: &Seen<Pod>) -> Availability {
        if pod::phase(&pod.typed) != "Running" {
            return Availability::Unready;
        }
        pod::availability(&pod.typed, self.set.typed.spec.min_ready_seconds.unwrap_or(0), self.context.now)
    }

    fn count(&self, pods: &[Seen<Pod>], outcome: &mut Outcome) -> Counts {
        let mut counts = Counts::default();
        for pod in pods {
            counts.replicas += 1;
            match self.availability(pod) {
                Availability::Unready => {}
                Availability::Available => {
                    counts.ready += 1;
                    counts.available += 1;
                }
                Availability::ReadyFor(rest) => {
                    counts.ready += 1;
                    let rest = Duration::try_from(rest).unwrap_or_default();
                    outcome.requeue_after = Some(outcome.requeue_after.map_or(rest, |have| have.min(rest)));
                }
            }
            if !pod.is_deleting() {
                let revision = pod.meta().labels.get(REVISION_HASH);
                counts.current += i32::from(revision == Some(&self.current_name));
                counts.updated += i32::from(revision == Some(&self.update.name));
            }
        }
        counts
    }

    fn is_rolling(&self) -> bool {
        let strategy = self.set.typed.spec.update_strategy.as_ref();
        strategy.and_then(|strategy| strategy.type_.as_deref()) != Some("OnDelete")
    }

    fn status(&self, counts: &Counts) -> Option<Operation> {
        let complete = self.is_rolling()
            && counts.updated == counts.replicas
            && counts.updated == self.wanted()
            && counts.ready == counts.replicas;
        let (current_name, current) =
            if complete { (&self.update.name, counts.updated) } else { (&self.current_name, counts.current) };
        let mut status = json!({
            "observedGeneration": self.set.meta().generation,
            "replicas": counts.replicas,
            "availableReplicas": counts.available,
            "currentRevision": current_name,
            "updateRevision": self.update.name,
            "collisionCount": self.update.collision_count,
        });
        for (field, count) in
            [("readyReplicas", counts.ready), ("currentReplicas", current), ("updatedReplicas", counts.updated)]
        {
            if count > 0 {
                status[field] = count.into();
            }
        }
        if let Some(conditions) = self.value["status"]["conditions"].as_array() {
            status["conditions"] = conditions.clone().into();
        }
        let value = write::with_status(&self.set.object, status)?;
        Some(write::update_status::<StatefulSet>(&self.set.object, value))
    }
}
