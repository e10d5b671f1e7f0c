//! Ends pods on nodes with NoExecute taints that they do not tolerate, or no longer.

use std::{collections::HashMap, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use parking_lot::Mutex;
use serde_json::json;
use skiff_api::{GroupResource, Object};
use skiff_client::{Context, Controller, ObjectRef, Outcome, Snapshot, Trigger, node_selector::tolerates};

use crate::{
    pod,
    seen::{self, Seen},
    write,
};

#[derive(Default)]
pub struct TaintEvictionController {
    /// Since when a pod, by uid, has been on a tainted node.
    since: Mutex<HashMap<String, Timestamp>>,
}

impl Controller for TaintEvictionController {
    fn name(&self) -> &'static str {
        "taint-eviction-controller"
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![
            Trigger::new::<Pod>(|new, old, _| {
                let place = |pod: &Object| {
                    pod.typed::<Pod>().ok().map(|pod| {
                        let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.clone());
                        (pod::node_name(&pod).to_owned(), tolerations)
                    })
                };
                match (new, old) {
                    (Some(new), Some(old)) if place(new) == place(old) => Vec::new(),
                    _ => new.or(old).map(ObjectRef::of).into_iter().collect(),
                }
            }),
            Trigger::new::<Node>(|new, old, world| {
                let taints = |node: &Object| node.typed::<Node>().map(|node| evicting(&node)).unwrap_or_default();
                let (new_taints, old_taints) = (new.map(taints), old.map(taints));
                let Some(node) = new.filter(|_| new_taints != old_taints) else { return Vec::new() };
                if old.is_none() && new_taints.is_some_and(|taints| taints.is_empty()) {
                    return Vec::new();
                }
                let pods = seen::pods_of_node(world, &node.meta.name);
                pods.iter().map(|pod| ObjectRef::of(&pod.object)).collect()
            }),
        ]
    }

    fn reads(&self) -> Vec<GroupResource> {
        vec![GroupResource::of::<Pod>(), GroupResource::of::<Node>()]
    }

    fn workers(&self) -> usize {
        8
    }

    fn reconcile(&self, key: &ObjectRef, world: &Snapshot, context: &Context) -> Outcome {
        let mut outcome = Outcome::done();
        let Some(pod) = seen::get::<Pod>(world, &key.namespace, &key.name) else { return outcome };
        let taints = world.get::<Node>("", pod::node_name(&pod.typed)).map(|node| evicting(&node)).unwrap_or_default();
        if taints.is_empty() || pod.is_deleting() {
            self.since.lock().remove(pod.uid());
            return outcome;
        }
        let since = *self.since.lock().entry(pod.uid().to_owned()).or_insert(context.now);
        let Some(tolerated) = tolerated_for(&pod.typed, &taints) else { return outcome };
        let rest = tolerated - context.now.duration_since(since);
        if rest.is_positive() {
            outcome.requeue_after = Some(Duration::try_from(rest).unwrap_or_default());
            return outcome;
        }
        self.since.lock().remove(pod.uid());
        evict(&pod, context.now, &mut outcome);
        outcome
    }
}

fn evicting(node: &Node) -> Vec<Taint> {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    taints.into_iter().flatten().filter(|taint| taint.effect == "NoExecute").cloned().collect()
}

/// How long the pod may stay; `None` for ever, zero not at all.
fn tolerated_for(pod: &Pod, taints: &[Taint]) -> Option<SignedDuration> {
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    let mut shortest: Option<SignedDuration> = None;
    for taint in taints {
        let key = (taint.key.as_str(), taint.value.as_deref().unwrap_or_default(), "NoExecute");
        let mut covering = tolerations.iter().filter(|toleration| tolerates(toleration, key)).peekable();
        if covering.peek().is_none() {
            return Some(SignedDuration::ZERO);
        }
        for seconds in covering.filter_map(|toleration| toleration.toleration_seconds) {
            let time = SignedDuration::from_secs(seconds.max(0));
            shortest = Some(shortest.map_or(time, |have| have.min(time)));
        }
    }
    shortest
}

fn evict(pod: &Seen<Pod>, now: Timestamp, outcome: &mut Outcome) {
    let condition = json!({
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "DeletionByTaintManager",
        "message": "Taint manager: deleting due to NoExecute taint",
        "lastTransitionTime": write::time(now),
    });
    let body = json!({"metadata": {"uid": pod.uid()}, "status": {"conditions": [condition]}});
    outcome.push(write::strategic::<Pod>(&pod.object, Some("status"), body));
    outcome.push(write::delete::<Pod>(&pod.object));
    let message = format!("Marking for deletion Pod {}/{}", pod.namespace(), pod.name());
    outcome.events.push(write::normal(&pod.object, "TaintManagerEviction", message));
}
