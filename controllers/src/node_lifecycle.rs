//! Notices nodes that stopped reporting and marks them: conditions, taints,
//! and the readiness of their pods.
//!
//! A node reports by renewing its Lease. Times of another host are not
//! compared with ours: what counts is when *we* last saw the Lease (or the
//! node's own conditions) change. That memory is the only state here.

use std::{collections::HashMap, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Node, Pod, Taint},
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use skiff_api::{GroupResource, Object};
use skiff_client::{Context, Controller, ObjectRef, Outcome, Snapshot, Trigger};

use crate::{
    condition, pod,
    seen::{self, Seen},
    write,
};

const LEASE_NAMESPACE: &str = "kube-node-lease";
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Conditions that become a NoSchedule taint while they hold.
const CONDITION_TAINTS: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];

/// A sign of life and when we first saw it.
struct Sign {
    seen: String,
    at: Timestamp,
}

pub struct NodeLifecycleController {
    grace: SignedDuration,
    signs: Mutex<HashMap<String, Sign>>,
}

impl NodeLifecycleController {
    /// `grace` is how long a node may stay silent.
    pub fn new(grace: SignedDuration) -> Self {
        NodeLifecycleController { grace, signs: Mutex::default() }
    }

    /// For how long the node has been silent; forgets nodes that are gone.
    fn silence(&self, node: &Seen<Node>, world: &Snapshot, now: Timestamp) -> SignedDuration {
        let seen = sign_of_life(node, world);
        let mut signs = self.signs.lock();
        let sign = signs.entry(node.uid().to_owned()).or_insert_with(|| Sign { seen: seen.clone(), at: now });
        if sign.seen != seen {
            *sign = Sign { seen, at: now };
        }
        now.duration_since(sign.at)
    }
}

impl Controller for NodeLifecycleController {
    fn name(&self) -> &'static str {
        "node-controller"
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![
            Trigger::new::<Node>(|new, old, world| {
                let Some(node) = new.or(old) else { return Vec::new() };
                let mut keys = vec![ObjectRef::of(node)];
                // Whether anything else runs decides about evictions everywhere.
                if new.map(is_ready_object) != old.map(is_ready_object) {
                    let nodes = world.store_of::<Node>().map(|store| store.list(None)).unwrap_or_default();
                    keys.extend(nodes.iter().map(|node| ObjectRef::of(node)));
                }
                keys
            }),
            Trigger::new::<Lease>(|new, _, _| match new {
                Some(lease) if lease.meta.namespace == LEASE_NAMESPACE => {
                    vec![ObjectRef::new("", lease.meta.name.clone())]
                }
                _ => Vec::new(),
            }),
        ]
    }

    fn reads(&self) -> Vec<GroupResource> {
        vec![GroupResource::of::<Pod>()]
    }

    fn reconcile(&self, key: &ObjectRef, world: &Snapshot, context: &Context) -> Outcome {
        let mut outcome = Outcome::done();
        let Some(node) = seen::get::<Node>(world, "", &key.name) else { return outcome };
        if node.is_deleting() {
            self.signs.lock().remove(node.uid());
            return outcome;
        }
        let Ok(value) = node.object.value() else { return outcome };
        let silence = self.silence(&node, world, context.now);
        let is_silent = silence >= self.grace;
        let mut conditions = condition::of(&value["status"]);
        let ready_before = ready(&conditions).to_owned();
        if is_silent {
            set_unknown(&mut conditions, context.now);
        } else {
            let rest = Duration::try_from(self.grace - silence).unwrap_or_default();
            outcome.requeue_after = Some(rest + Duration::from_millis(100));
        }
        let ready_now = ready(&conditions).to_owned();
        if value["status"]["conditions"].as_array() != Some(&conditions) && is_silent {
            let patch = json!({"status": {"conditions": conditions}});
            outcome.push(write::strategic::<Node>(&node.object, Some("status"), patch));
        }
        if ready_now != "True" {
            if ready_before == "True" {
                let message = format!("Node {} status is now: NodeNotReady", node.name());
                outcome.events.push(write::normal(&node.object, "NodeNotReady", message));
            }
            mark_pods_not_ready(&node, world, context.now, &mut outcome);
        }
        // With no node left to run them elsewhere, pods stay where they are.
        let others = seen::list::<Node>(world, None);
        let evicts = others.iter().any(|other| other.name() != node.name() && is_ready_object(&other.object));
        let wanted = wanted_taints(&node.typed, &conditions, &ready_now, evicts);
        taint(&node, &value, wanted, context.now, &mut outcome);
        outcome
    }
}

/// Text that changes whenever the node reports.
fn sign_of_life(node: &Seen<Node>, world: &Snapshot) -> String {
    let lease = seen::get::<Lease>(world, LEASE_NAMESPACE, node.name());
    let renewed = lease
        .and_then(|lease| lease.typed.spec.as_ref()?.renew_time.as_ref().map(|time| time.0.to_string()))
        .unwrap_or_default();
    let conditions = node.typed.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions.into_iter().flatten().find(|condition| condition.type_ == "Ready");
    let beat =
        ready.and_then(|ready| ready.last_heartbeat_time.as_ref()).map(|time| time.0.to_string()).unwrap_or_default();
    format!("{renewed} {beat}")
}

/// The state of the node; a fresh node that never said a word counts as ready,
/// until its grace is over: it registers with its own taint.
fn ready(conditions: &[Value]) -> &str {
    condition::find(conditions, "Ready").and_then(|ready| ready["status"].as_str()).unwrap_or("True")
}

fn is_ready_object(node: &Object) -> bool {
    let Ok(node) = node.typed::<Node>() else { return false };
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// A silent node is in no known state.
fn set_unknown(conditions: &mut Vec<Value>, now: Timestamp) {
    for kind in ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"] {
        match conditions.iter_mut().find(|condition| condition["type"] == kind) {
            None => conditions.push(json!({
                "type": kind,
                "status": "Unknown",
                "reason": "NodeStatusNeverUpdated",
                "message": "Kubelet never posted node status.",
                "lastTransitionTime": write::time(now),
            })),
            Some(have) if have["status"] != "Unknown" => {
                have["status"] = "Unknown".into();
                have["reason"] = "NodeStatusUnknown".into();
                have["message"] = "Kubelet stopped posting node status.".into();
                have["lastTransitionTime"] = write::time(now).into();
            }
            Some(_) => {}
        }
    }
}

/// Pods of a node that is not ready take no traffic.
fn mark_pods_not_ready(node: &Seen<Node>, world: &Snapshot, now: Timestamp, outcome: &mut Outcome) {
    for pod in seen::pods_of_node(world, node.name()) {
        if !pod::is_ready(&pod.typed) {
            continue;
        }
        let patch = json!({"metadata": {"uid": pod.uid()}, "status": {"conditions": [
            {"type": "Ready", "status": "False", "lastTransitionTime": write::time(now)}]}});
        outcome.push(write::strategic::<Pod>(&pod.object, Some("status"), patch));
        outcome.events.push(write::warning(&pod.object, "NodeNotReady", "Node is not ready"));
    }
}

/// The taints that this controller wants on the node.
fn wanted_taints(node: &Node, conditions: &[Value], ready: &str, evicts: bool) -> Vec<(&'static str, &'static str)> {
    let mut taints = Vec::new();
    if ready != "True" {
        let key = if ready == "False" { NOT_READY } else { UNREACHABLE };
        taints.push((key, "NoSchedule"));
        if evicts {
            taints.push((key, "NoExecute"));
        }
    }
    if node.spec.as_ref().is_some_and(|spec| spec.unschedulable == Some(true)) {
        taints.push((UNSCHEDULABLE, "NoSchedule"));
    }
    for (kind, key) in CONDITION_TAINTS {
        if condition::find(conditions, kind).is_some_and(|condition| condition["status"] == "True") {
            taints.push((key, "NoSchedule"));
        }
    }
    taints
}

fn is_ours(taint: &Taint) -> bool {
    let ours = [NOT_READY, UNREACHABLE, UNSCHEDULABLE];
    let key = taint.key.as_str();
    ours.contains(&key) || CONDITION_TAINTS.iter().any(|(_, ours)| *ours == key && taint.effect == "NoSchedule")
}

fn taint(
    node: &Seen<Node>,
    value: &Value,
    wanted: Vec<(&'static str, &'static str)>,
    now: Timestamp,
    outcome: &mut Outcome,
) {
    let have = node.typed.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let stays = |taint: &Taint| {
        !is_ours(taint) || wanted.iter().any(|(key, effect)| *key == taint.key && *effect == taint.effect)
    };
    let missing: Vec<_> = wanted
        .iter()
        .filter(|(key, effect)| !have.iter().any(|taint| taint.key == *key && taint.effect == *effect))
        .collect();
    if missing.is_empty() && have.iter().all(stays) {
        return;
    }
    let mut taints: Vec<Value> = have.iter().filter(|taint| stays(taint)).map(|taint| json!(taint)).collect();
    taints.extend(
        missing.iter().map(|(key, effect)| json!({"key": key, "effect": effect, "timeAdded": write::time(now)})),
    );
    let mut body = json!({"spec": {"taints": taints}});
    // A merge patch replaces the list; the resourceVersion keeps a concurrent
    // change of it from being lost, unless our own status write comes first and changes it.
    if outcome.operations.is_empty() {
        body["metadata"]["resourceVersion"] = value["metadata"]["resourceVersion"].clone();
    }
    outcome.push(write::merge::<Node>(&node.object, None, body));
}
