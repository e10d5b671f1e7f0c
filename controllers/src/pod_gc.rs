//! Removes pods that nobody will finish: of nodes that are gone, stuck before
//! they were placed, or too many ended ones.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod};
use parking_lot::Mutex;
use serde_json::json;
use skiff_api::{GroupResource, GroupVersionResource, Uid};
use skiff_client::{Context, Controller, DeleteOptions, ObjectRef, Operation, Outcome, Snapshot, Trigger};

use crate::{
    pod,
    seen::{self, Seen},
    write,
};

/// A node may come back under its name for this long before its pods go.
const QUARANTINE: SignedDuration = SignedDuration::from_secs(40);
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// The key of the whole cluster, for the count of ended pods.
const ALL: &str = "*";

pub struct PodGarbageCollector {
    /// Ended pods kept for reading.
    terminated_max: usize,
    /// When a node was first missed.
    missed: Mutex<std::collections::HashMap<String, Timestamp>>,
}

impl PodGarbageCollector {
    pub fn new(terminated_max: usize) -> Self {
        PodGarbageCollector { terminated_max, missed: Mutex::default() }
    }
}

impl Controller for PodGarbageCollector {
    fn name(&self) -> &'static str {
        "pod-garbage-collector"
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![
            Trigger::new::<Pod>(|new, old, _| {
                let Some(pod) = new else { return Vec::new() };
                let ended = |pod: &skiff_api::Object| pod.typed::<Pod>().is_ok_and(|pod| pod::is_terminal(&pod));
                let mut keys = vec![ObjectRef::of(pod)];
                if ended(pod) && !old.is_some_and(ended) {
                    keys.push(ObjectRef::new("", ALL));
                }
                keys
            }),
            Trigger::new::<Node>(|new, old, world| {
                // A node that appears, changes little by little: only its end and its taints matter.
                let Some(node) = old.or(new).filter(|_| new.is_none_or(has_out_of_service)) else {
                    return Vec::new();
                };
                let pods = seen::pods_of_node(world, &node.meta.name);
                pods.iter().map(|pod| ObjectRef::of(&pod.object)).collect()
            }),
        ]
    }

    fn reads(&self) -> Vec<GroupResource> {
        vec![GroupResource::of::<Node>()]
    }

    fn reconcile(&self, key: &ObjectRef, world: &Snapshot, context: &Context) -> Outcome {
        let mut outcome = Outcome::done();
        if key.namespace.is_empty() && key.name == ALL {
            self.limit_terminated(world, &mut outcome);
            return outcome;
        }
        let Some(pod) = seen::get::<Pod>(world, &key.namespace, &key.name) else { return outcome };
        let node_name = pod::node_name(&pod.typed);
        if node_name.is_empty() {
            if pod.is_deleting() {
                remove(&pod, None, context.now, &mut outcome);
            }
            return outcome;
        }
        match world.object::<Node>("", node_name) {
            Some(node) => {
                self.missed.lock().remove(node_name);
                let is_ready = seen::Seen::<Node>::new(node.clone()).is_some_and(|node| is_ready(&node));
                if pod.is_deleting() && !is_ready && has_out_of_service(&node) {
                    remove(&pod, None, context.now, &mut outcome);
                }
            }
            None => self.orphaned(&pod, node_name, context, &mut outcome),
        }
        outcome
    }
}

impl PodGarbageCollector {
    fn orphaned(&self, pod: &Seen<Pod>, node: &str, context: &Context, outcome: &mut Outcome) {
        let since = *self.missed.lock().entry(node.to_owned()).or_insert(context.now);
        let rest = QUARANTINE - context.now.duration_since(since);
        if rest.is_positive() {
            outcome.requeue_after = Some(Duration::try_from(rest).unwrap_or_default());
            return;
        }
        outcome.push(Operation::RequireAbsent {
            resource: GroupVersionResource::of::<Node>(),
            namespace: None,
            name: node.to_owned(),
            uid: Uid::default(),
        });
        remove(pod, Some("PodGC: node no longer exists"), context.now, outcome);
    }

    fn limit_terminated(&self, world: &Snapshot, outcome: &mut Outcome) {
        let mut ended: Vec<Seen<Pod>> = seen::list::<Pod>(world, None);
        ended.retain(|pod| pod::is_terminal(&pod.typed) && !pod.is_deleting());
        let surplus = ended.len().saturating_sub(self.terminated_max);
        ended.sort_by_key(|pod| pod.meta().creation_timestamp.clone());
        for pod in ended.iter().take(surplus) {
            outcome.push(write::delete_with::<Pod>(&pod.object, at_once(pod)));
        }
    }
}

fn has_out_of_service(node: &skiff_api::Object) -> bool {
    let Ok(node) = node.typed::<Node>() else { return false };
    node.spec.iter().flat_map(|spec| spec.taints.iter().flatten()).any(|taint| taint.key == OUT_OF_SERVICE)
}

fn is_ready(node: &Seen<Node>) -> bool {
    let conditions = node.typed.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn at_once(pod: &Seen<Pod>) -> DeleteOptions {
    DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::with_uid(&pod.meta().uid) }
}

/// Ends a pod for good; a pod that still ran is marked failed first.
fn remove(pod: &Seen<Pod>, reason: Option<&str>, now: Timestamp, outcome: &mut Outcome) {
    if !pod::is_terminal(&pod.typed) {
        let mut status = json!({"phase": "Failed"});
        if let Some(message) = reason {
            status["conditions"] = json!([{
                "type": "DisruptionTarget",
                "status": "True",
                "reason": "DeletionByPodGC",
                "message": message,
                "lastTransitionTime": write::time(now),
            }]);
        }
        let body = json!({"metadata": {"uid": pod.uid()}, "status": status});
        outcome.push(write::strategic::<Pod>(&pod.object, Some("status"), body));
    }
    outcome.push(write::delete_with::<Pod>(&pod.object, at_once(pod)));
}
