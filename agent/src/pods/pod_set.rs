//! All pods of this node: turns what the API and the manifest directory say
//! into wishes, and keeps one worker per pod.
//!
//! Containers of pods that nobody wants any more (the object went while we were
//! away) are found in the runtime and ended.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use k8s_openapi::{
    api::core::v1::{Pod, PodCondition, PodSpec, PodStatus},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use parking_lot::Mutex;
use skiff_api::Object;
use skiff_client::{Store, StoreEvent};
use tokio::sync::{Notify, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    spec,
    worker::{PodWorker, Wish},
};
use crate::{context::Context, labels, observed::ObservedPod};

struct Handle {
    wish: watch::Sender<Wish>,
    wake: Arc<Notify>,
    is_static: bool,
}

/// The workers.
pub struct PodSet {
    context: Arc<Context>,
    wakes: WakeTable,
    handles: Mutex<HashMap<String, Handle>>,
    tasks: TaskTracker,
    token: CancellationToken,
}

/// Who to wake when something about a pod changes. It exists before the
/// workers, because their sources of events do.
#[derive(Clone, Default)]
pub struct WakeTable(Arc<Mutex<HashMap<String, Arc<Notify>>>>);

impl WakeTable {
    pub fn wake(&self, uid: &str) {
        if let Some(notify) = self.0.lock().get(uid) {
            notify.notify_one();
        }
    }
}

impl PodSet {
    pub fn new(context: Arc<Context>, wakes: WakeTable, tasks: TaskTracker, token: CancellationToken) -> Arc<PodSet> {
        Arc::new(PodSet { context, wakes, handles: Mutex::default(), tasks, token })
    }

    /// Follows the pods of this node, in a store that may also hold those of others, until the token is cancelled.
    pub async fn run(self: Arc<Self>, pods: Store) {
        let mut changes = pods.subscribe();
        tokio::select! {
            () = self.token.cancelled() => return,
            () = pods.wait_synced() => {}
        }
        self.resync(&pods);
        self.end_orphans(&pods);
        loop {
            let event = tokio::select! {
                () = self.token.cancelled() => return,
                event = changes.next() => event,
            };
            match event {
                None => return,
                Some(StoreEvent::Resync) => self.resync(&pods),
                Some(StoreEvent::Applied { new, .. }) => {
                    if let Some(pod) = self.own(&new) {
                        self.wish(Wish::Present(pod), false);
                    }
                }
                Some(StoreEvent::Deleted(object)) => {
                    if let Some(pod) = self.own(&object) {
                        self.wish(Wish::Gone(pod), false);
                    }
                }
            }
        }
    }

    /// The pod, if it is this node's.
    fn own(&self, object: &Object) -> Option<Arc<Pod>> {
        match object.typed::<Pod>() {
            Ok(pod) => is_on(&pod, &self.context.config.node_name).then_some(pod),
            Err(error) => {
                tracing::error!(component = "pods", ?object, %error, "pod does not decode");
                None
            }
        }
    }

    fn resync(self: &Arc<Self>, pods: &Store) {
        let all: Vec<Arc<Pod>> = pods.list(None).iter().filter_map(|object| self.own(object)).collect();
        let present: HashSet<&str> = all.iter().map(|pod| spec::uid(pod)).collect();
        let gone: Vec<Arc<Pod>> = {
            let handles = self.handles.lock();
            let lost = handles.iter().filter(|(uid, handle)| !handle.is_static && !present.contains(uid.as_str()));
            lost.map(|(_, handle)| Arc::clone(handle.wish.borrow().pod())).collect()
        };
        for pod in gone {
            self.wish(Wish::Gone(pod), false);
        }
        // Pods that run already have their room before new ones ask for some.
        let (running, new): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|pod| self.context.pleg.get(spec::uid(pod)).is_some());
        for pod in &running {
            let ended = spec::is_terminal(pod);
            if !ended {
                self.context.set_admitted(spec::uid(pod), Some(Arc::clone(pod)));
            }
        }
        for pod in running.into_iter().chain(new) {
            self.wish(Wish::Present(pod), false);
        }
    }

    /// Tells the worker of a pod what is wanted, starting one if there is none.
    pub fn wish(self: &Arc<Self>, wish: Wish, is_static: bool) {
        let pod = Arc::clone(wish.pod());
        // The object of a static pod only mirrors it; the file is what counts.
        let annotations = pod.metadata.annotations.as_ref();
        if !is_static && annotations.is_some_and(|annotations| annotations.contains_key(labels::CONFIG_MIRROR)) {
            return;
        }
        let uid = spec::uid(&pod).to_owned();
        if uid.is_empty() {
            return;
        }
        let mut handles = self.handles.lock();
        if let Some(handle) = handles.get(&uid) {
            // Gone is final for a uid; a late update must not revive it.
            let latest = self.context.status.latest(&uid);
            handle.wish.send_if_modified(|current| {
                if matches!(current, Wish::Gone(_)) {
                    return false;
                }
                let matters = matters(current, &wish, latest.as_deref());
                *current = wish;
                matters
            });
            return;
        }
        if matches!(wish, Wish::Gone(_)) && self.context.pleg.get(&uid).is_none() {
            return;
        }
        let (sender, mailbox) = watch::channel(wish);
        let wake = Arc::new(Notify::new());
        self.wakes.0.lock().insert(uid.clone(), Arc::clone(&wake));
        handles.insert(uid.clone(), Handle { wish: sender, wake: Arc::clone(&wake), is_static });
        let worker = PodWorker::new(Arc::clone(&self.context), uid.clone(), is_static);
        let (this, token) = (Arc::clone(self), self.token.clone());
        self.tasks.spawn(async move {
            worker.run(mailbox, wake, token).await;
            this.handles.lock().remove(&uid);
            this.wakes.0.lock().remove(&uid);
        });
    }

    /// Ends pods that only the runtime, the disk or the control groups still know.
    fn end_orphans(self: &Arc<Self>, pods: &Store) {
        let known: HashSet<String> = {
            let objects = pods.list(None).into_iter().map(|object| object.meta.uid.0.clone());
            objects.chain(self.handles.lock().keys().cloned()).collect()
        };
        let mut orphans: HashMap<String, Arc<ObservedPod>> =
            self.context.pleg.pods().into_iter().map(|observed| (observed.uid.clone(), observed)).collect();
        let leftovers = self.context.volumes.pods().into_iter().chain(self.context.cgroups.pods());
        for uid in leftovers {
            orphans.entry(uid.clone()).or_insert_with(|| Arc::new(ObservedPod::empty(&uid, "", "")));
        }
        for (uid, observed) in orphans.into_iter().filter(|(uid, _)| !known.contains(uid)) {
            tracing::info!(component = "pods", uid, name = observed.name, "ending a pod that no longer exists");
            self.start_gone(stand_in(&observed));
        }
    }

    fn start_gone(self: &Arc<Self>, pod: Pod) {
        let pod = Arc::new(pod);
        self.wish(Wish::Present(Arc::clone(&pod)), true);
        self.wish(Wish::Gone(pod), true);
    }

    /// The wish of every pod: what `/pods` serves.
    pub fn pods(&self) -> Vec<Arc<Pod>> {
        self.handles.lock().values().map(|handle| Arc::clone(handle.wish.borrow().pod())).collect()
    }

    /// Ends a pod because the node is short of something.
    pub fn evict(&self, uid: &str, message: &str) {
        if let Some(handle) = self.handles.lock().get(uid) {
            let pod = Arc::clone(handle.wish.borrow().pod());
            handle.wish.send_replace(Wish::Evict(pod, message.to_owned()));
        }
    }

    /// Wakes all workers, for example when the network became ready.
    pub fn wake_all(&self) {
        self.handles.lock().values().for_each(|handle| handle.wake.notify_one());
    }
}

fn is_on(pod: &Pod, node: &str) -> bool {
    spec::spec(pod).node_name.as_deref() == Some(node)
}

/// Whether a worker must look again. Our own status writes come back as updates of the object and do not
/// count; what the user, the scheduler or another writer of the status did does.
fn matters(current: &Wish, wish: &Wish, written: Option<&PodStatus>) -> bool {
    let (Wish::Present(old), Wish::Present(new)) = (current, wish) else { return true };
    let (before, after) = (&old.metadata, &new.metadata);
    let metadata = before.generation != after.generation
        || before.labels != after.labels
        || before.annotations != after.annotations
        || before.deletion_timestamp != after.deletion_timestamp
        || before.deletion_grace_period_seconds != after.deletion_grace_period_seconds;
    let start_time = |pod: &Pod| pod.status.as_ref().and_then(|status| status.start_time.clone());
    let gates = |pod: &Pod| -> Vec<PodCondition> {
        let wanted = spec::spec(pod).readiness_gates.iter().flatten();
        let wanted: Vec<&String> = wanted.map(|gate| &gate.condition_type).collect();
        let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.filter(|condition| wanted.contains(&&condition.type_)).cloned().collect()
    };
    let foreign_phase = written.is_some_and(|written| written.phase.as_deref() != Some(spec::phase(new)));
    metadata || old.spec != new.spec || start_time(old) != start_time(new) || gates(old) != gates(new) || foreign_phase
}

/// A pod object with just enough for ending what the runtime has of it.
fn stand_in(observed: &ObservedPod) -> Pod {
    let grace = observed
        .containers
        .iter()
        .find_map(|container| container.annotations.get(labels::POD_TERMINATION_GRACE_PERIOD)?.parse().ok());
    Pod {
        metadata: ObjectMeta {
            name: Some(observed.name.clone()),
            namespace: Some(observed.namespace.clone()),
            uid: Some(observed.uid.clone()),
            deletion_timestamp: Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::now())),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec { termination_grace_period_seconds: grace, ..PodSpec::default() }),
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn wish(change: impl FnOnce(&mut serde_json::Value)) -> Wish {
        let mut pod = json!({"metadata": {"name": "p", "generation": 1, "labels": {"a": "1"}},
            "spec": {"containers": [], "readinessGates": [{"conditionType": "g"}]}, "status": {"phase": "Pending"}});
        change(&mut pod);
        Wish::Present(Arc::new(serde_json::from_value(pod).unwrap()))
    }

    #[test]
    fn only_pods_of_the_node_are_its_own() {
        let pod = |spec: serde_json::Value| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
        };
        assert!(is_on(&pod(json!({"containers": [], "nodeName": "a"})), "a"));
        assert!(!is_on(&pod(json!({"containers": [], "nodeName": "b"})), "a"));
        assert!(!is_on(&pod(json!({"containers": []})), "a") && !is_on(&pod(json!({"containers": []})), ""));
    }

    #[test]
    fn own_status_writes_do_not_wake_and_changes_of_others_do() {
        let old = wish(|_| {});
        let phase = |phase: &str| PodStatus { phase: Some(phase.to_owned()), ..PodStatus::default() };
        let running = wish(|pod| pod["status"]["phase"] = "Running".into());
        assert!(!matters(&old, &running, Some(&phase("Running"))));
        assert!(matters(&old, &running, Some(&phase("Failed"))), "somebody else wrote the phase");
        assert!(matters(&old, &wish(|pod| pod["metadata"]["labels"]["a"] = "2".into()), None));
        assert!(matters(&old, &wish(|pod| pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into()), None));
        let condition = |name: &str| json!([{"type": name, "status": "True"}]);
        assert!(matters(&old, &wish(|pod| pod["status"]["conditions"] = condition("g")), Some(&phase("Pending"))));
        assert!(!matters(&old, &wish(|pod| pod["status"]["conditions"] = condition("Ready")), Some(&phase("Pending"))));
        assert!(matters(&old, &Wish::Gone(Arc::clone(old.pod())), None));
    }
}
