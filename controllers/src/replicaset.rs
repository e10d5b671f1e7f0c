//! Keeps the number of pods of a ReplicaSet or ReplicationController: one
//! engine, two kinds.
//!
//! Invariants: pods that are gone for good or being deleted do not count;
//! nothing is created or deleted for a set that is being deleted; the status
//! describes the pods as they were before this outcome.

use std::{collections::HashMap, marker::PhantomData, time::Duration};

use k8s_openapi::{
    Resource,
    api::{
        apps::v1::ReplicaSet,
        core::v1::{Pod, ReplicationController},
    },
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use skiff_api::{GroupResource, Selector};
use skiff_client::{Context, Controller, ObjectRef, Outcome, Snapshot, Trigger};

use crate::{
    claim::claim,
    condition::{self, Condition},
    deletion_rank,
    pod::{self, Availability},
    seen::{self, Seen},
    template, write,
};

/// Most pods created or deleted in one outcome.
const BURST_MAX: usize = 500;

/// What the engine needs to know of a kind.
pub trait ReplicaKind: Resource + DeserializeOwned + Send + Sync + 'static {
    const NAME: &'static str;
    fn wanted(&self) -> i32;
    fn min_ready_seconds(&self) -> i32;
    fn selector(&self) -> Option<Selector>;
    /// Whether the status has `terminatingReplicas`.
    const COUNTS_TERMINATING: bool;
}

impl ReplicaKind for ReplicaSet {
    const NAME: &'static str = "replicaset-controller";
    const COUNTS_TERMINATING: bool = true;

    fn wanted(&self) -> i32 {
        self.spec.replicas.unwrap_or(1)
    }

    fn min_ready_seconds(&self) -> i32 {
        self.spec.min_ready_seconds.unwrap_or(0)
    }

    fn selector(&self) -> Option<Selector> {
        Selector::from_object(Some(&self.spec.selector)).ok().filter(|selector| !selector.is_everything())
    }
}

impl ReplicaKind for ReplicationController {
    const NAME: &'static str = "replication-controller";
    const COUNTS_TERMINATING: bool = false;

    fn wanted(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
    }

    fn min_ready_seconds(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
    }

    fn selector(&self) -> Option<Selector> {
        let labels = self.spec.as_ref()?.selector.as_ref().filter(|labels| !labels.is_empty())?;
        Some(Selector::from_labels(labels))
    }
}

/// The controller of one replica kind.
pub struct ReplicaSetController<K>(PhantomData<fn() -> K>);

impl<K> ReplicaSetController<K> {
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        ReplicaSetController(PhantomData)
    }
}

impl<K: ReplicaKind> Controller for ReplicaSetController<K> {
    fn name(&self) -> &'static str {
        K::NAME
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![Trigger::itself::<K>(), Trigger::owner::<Pod>(K::KIND), orphan_trigger::<Pod, K>()]
    }

    fn reads(&self) -> Vec<GroupResource> {
        vec![GroupResource::of::<K>(), GroupResource::of::<Pod>()]
    }

    fn workers(&self) -> usize {
        5
    }

    fn reconcile(&self, key: &ObjectRef, world: &Snapshot, context: &Context) -> Outcome {
        let mut outcome = Outcome::done();
        let Some(set) = seen::get::<K>(world, &key.namespace, &key.name) else { return outcome };
        let Some(selector) = set.typed.selector() else { return outcome };
        let candidates = seen::list::<Pod>(world, Some(&key.namespace));
        let terminating = candidates
            .iter()
            .filter(|pod| pod.is_controlled_by(set.uid()) && pod.is_deleting() && !pod::is_terminal(&pod.typed))
            .count();
        let candidates = candidates.into_iter().filter(pod::is_active).collect();
        let pods = claim(&set.object, &selector, candidates, &mut outcome.operations);

        let status = status(&set, &pods, terminating, context, &mut outcome);
        // A failure must be told even though the creates below may fail again.
        let failed_before = context.last_failure.is_some();
        if failed_before {
            outcome.operations.extend(status.clone());
        }
        if !set.is_deleting() {
            scale(&set, &pods, world, context, &mut outcome);
        }
        if !failed_before {
            outcome.operations.extend(status);
        }
        outcome
    }
}

/// Wakes every `Owner` whose selector matches a dependent without controller.
pub fn orphan_trigger<D, K>() -> Trigger
where
    D: Resource,
    K: ReplicaKind,
{
    Trigger::new::<D>(|new, _, world| {
        let Some(orphan) = new.filter(|object| object.meta.controller().is_none() && !object.meta.is_deleting()) else {
            return Vec::new();
        };
        seen::list::<K>(world, Some(&orphan.meta.namespace))
            .iter()
            .filter(|set| set.typed.selector().is_some_and(|selector| selector.matches(&orphan.meta.labels)))
            .map(|set| ObjectRef::of(&set.object))
            .collect()
    })
}

fn scale<K: ReplicaKind>(
    set: &Seen<K>,
    pods: &[Seen<Pod>],
    world: &Snapshot,
    context: &Context,
    outcome: &mut Outcome,
) {
    let wanted = usize::try_from(set.typed.wanted()).unwrap_or(0);
    if pods.len() < wanted {
        let Ok(value) = set.object.value() else { return };
        let template = &value["spec"]["template"];
        let missing = (wanted - pods.len()).min(BURST_MAX);
        for index in 0..missing {
            let name = template::pod_name(&set.object, context.now, index);
            outcome.push(write::create::<Pod>(set.namespace(), template::pod(&set.object, template, &name)));
            let message = format!("Created pod: {name}");
            outcome.events.push(write::normal(&set.object, "SuccessfulCreate", message));
        }
        if let Some(failure) = &context.last_failure {
            let message = format!("Error creating: {}", failure.message);
            outcome.events.push(write::warning(&set.object, "FailedCreate", message));
        }
        return;
    }
    let surplus = (pods.len() - wanted).min(BURST_MAX);
    if surplus == 0 {
        return;
    }
    let neighbours = pods_per_node(set, world);
    let ranked = deletion_rank::sort(pods.to_vec(), &neighbours, context.now);
    for pod in ranked.iter().take(surplus) {
        outcome.push(write::delete::<Pod>(&pod.object));
        let message = format!("Deleted pod: {}", pod.name());
        outcome.events.push(write::normal(&set.object, "SuccessfulDelete", message));
    }
}

/// Active pods of all sets of the same controller, by node: when scaling down,
/// a node that holds several replicas gives one up first.
fn pods_per_node<K: ReplicaKind>(set: &Seen<K>, world: &Snapshot) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    let owner = set.meta().controller().map(|owner| owner.uid.as_str().to_owned());
    let related: Vec<String> = match owner {
        None => vec![set.uid().to_owned()],
        Some(owner) => seen::list::<K>(world, Some(set.namespace()))
            .iter()
            .filter(|other| other.is_controlled_by(&owner))
            .map(|other| other.uid().to_owned())
            .collect(),
    };
    for pod in seen::list::<Pod>(world, Some(set.namespace())) {
        if pod::is_active(&pod) && related.iter().any(|uid| pod.is_controlled_by(uid)) {
            *counts.entry(pod::node_name(&pod.typed).to_owned()).or_insert(0) += 1;
        }
    }
    counts
}

/// The status write, if the status changes; asks to look again when a pod will become available by time alone.
fn status<K: ReplicaKind>(
    set: &Seen<K>,
    pods: &[Seen<Pod>],
    terminating: usize,
    context: &Context,
    outcome: &mut Outcome,
) -> Option<skiff_client::Operation> {
    let value = set.object.value().ok()?;
    let template = Selector::from_labels(&template_labels(&value));
    let (mut ready, mut available, mut labelled) = (0, 0, 0);
    for pod in pods {
        labelled += i32::from(template.matches(&pod.meta().labels));
        match pod::availability(&pod.typed, set.typed.min_ready_seconds(), context.now) {
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
    }
    let mut conditions = condition::of(&value["status"]);
    let wanted = usize::try_from(set.typed.wanted()).unwrap_or(0);
    match context.last_failure.as_ref().filter(|_| pods.len() != wanted) {
        Some(failure) => {
            let reason = if pods.len() < wanted { "FailedCreate" } else { "FailedDelete" };
            // The first message stays: every attempt names another pod, and a
            // status that changes each time would wake us without back-off.
            let is_told = condition::find(&conditions, "ReplicaFailure").is_some_and(|have| have["reason"] == reason);
            if !is_told {
                let failed = Condition::new("ReplicaFailure", "True", reason, failure.message.as_str());
                condition::set(&mut conditions, failed, context.now);
            }
        }
        None => condition::remove(&mut conditions, "ReplicaFailure"),
    }
    let mut status = json!({"replicas": pods.len(), "observedGeneration": set.meta().generation});
    for (field, count) in
        [("fullyLabeledReplicas", labelled), ("readyReplicas", ready), ("availableReplicas", available)]
    {
        if count > 0 {
            status[field] = count.into();
        }
    }
    if K::COUNTS_TERMINATING {
        status["terminatingReplicas"] = terminating.into();
    }
    if !conditions.is_empty() {
        status["conditions"] = conditions.into();
    }
    Some(write::update_status::<K>(&set.object, write::with_status(&set.object, status)?))
}

fn template_labels(value: &Value) -> std::collections::BTreeMap<String, String> {
    let labels = value["spec"]["template"]["metadata"]["labels"].clone();
    serde_json::from_value(labels).unwrap_or_default()
}
