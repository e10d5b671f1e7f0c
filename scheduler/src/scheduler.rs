//! The loop: changes of the cluster go into cache and queue, ready pods are
//! decided one after the other, and the writes that follow run beside it.
//!
//! One task owns cache and queue; nothing else touches them. Decisions never
//! wait for writes: a decided pod counts on its node at once.

use std::sync::Arc;

use futures_util::{FutureExt, future::BoxFuture};
use jiff::Timestamp;
use k8s_openapi::api::{
    core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod},
    storage::v1::StorageClass,
};
use serde_json::{Value, json};
use skiff_api::{GroupResource, GroupVersionResource, Object};
use skiff_client::{
    Client, ClientError, DeleteOptions, EventRecord, EventRecorder, EventType, Operation, Patch, Snapshot, Store,
    StoreEvent, Subscription,
};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    cache::Cache,
    decision::{Decision, Diagnosis, Nominated, schedule},
    limits::BINDINGS_IN_FLIGHT_MAX,
    pod_info::PodInfo,
    preemption::{Preemption, preempt},
    queue::{Cause, Queue},
};

const PODS: GroupVersionResource = GroupVersionResource::new("", "v1", "pods");

/// What the scheduler is told.
#[derive(Clone, Debug)]
pub struct SchedulerConfig {
    /// Pods with this `schedulerName` are ours.
    pub scheduler_name: String,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        SchedulerConfig { scheduler_name: "default-scheduler".to_owned() }
    }
}

/// Schedules until `token` is cancelled.
pub async fn run(
    config: SchedulerConfig,
    client: Client,
    snapshot: Snapshot,
    recorder: EventRecorder,
    token: CancellationToken,
) {
    let client = client.with_user_agent("kube-scheduler");
    let recorder = recorder.with_component(&config.scheduler_name);
    let Some(sources) = Sources::open(&snapshot).await else {
        tracing::error!(component = "scheduler", "nodes or pods are not served, nothing can be scheduled");
        return;
    };
    let scheduler = Scheduler {
        config,
        client,
        snapshot,
        recorder,
        cache: Cache::default(),
        queue: Queue::default(),
        nominated: Nominated::default(),
        writes: JoinSet::new(),
        turn: 0,
    };
    scheduler.run(sources, token).await;
}

/// Where changes come from.
struct Sources {
    nodes: (Store, Subscription),
    pods: (Store, Subscription),
    /// Resources of which only the fact of a change matters.
    others: Vec<(Cause, Subscription)>,
}

enum Change {
    Node(StoreEvent),
    Pod(StoreEvent),
    Other(Cause),
}

impl Sources {
    async fn open(snapshot: &Snapshot) -> Option<Sources> {
        let open = |resource: GroupResource| {
            let store = snapshot.store(&resource)?;
            let subscription = store.subscribe();
            Some((store, subscription))
        };
        let nodes = open(GroupResource::of::<Node>())?;
        let pods = open(GroupResource::of::<Pod>())?;
        let others: Vec<(Cause, (Store, Subscription))> = [
            (Cause::VolumeChanged, GroupResource::of::<PersistentVolumeClaim>()),
            (Cause::VolumeChanged, GroupResource::of::<PersistentVolume>()),
            (Cause::VolumeChanged, GroupResource::of::<StorageClass>()),
            (Cause::NamespaceChanged, GroupResource::of::<Namespace>()),
        ]
        .into_iter()
        .filter_map(|(cause, resource)| Some((cause, open(resource)?)))
        .collect();
        nodes.0.wait_synced().await;
        pods.0.wait_synced().await;
        for (_, (store, _)) in &others {
            store.wait_synced().await;
        }
        let others = others.into_iter().map(|(cause, (_, subscription))| (cause, subscription)).collect();
        Some(Sources { nodes, pods, others })
    }

    async fn next(&mut self) -> Option<Change> {
        let mut others: Vec<BoxFuture<'_, Option<Change>>> = Vec::new();
        for (cause, subscription) in &mut self.others {
            others.push(async { subscription.next().await.map(|_| Change::Other(*cause)) }.boxed());
        }
        let other = async {
            if others.is_empty() {
                return std::future::pending().await;
            }
            futures_util::future::select_all(others).await.0
        };
        tokio::select! {
            event = self.nodes.1.next() => event.map(Change::Node),
            event = self.pods.1.next() => event.map(Change::Pod),
            change = other => change,
        }
    }
}

/// How a write ended.
enum Written {
    Bound { uid: String },
    NotBound { uid: String, error: ClientError },
    Other,
}

struct Scheduler {
    config: SchedulerConfig,
    client: Client,
    snapshot: Snapshot,
    recorder: EventRecorder,
    cache: Cache,
    queue: Queue,
    nominated: Nominated,
    writes: JoinSet<Written>,
    turn: u64,
}

impl Scheduler {
    async fn run(mut self, mut sources: Sources, token: CancellationToken) {
        self.reload(&sources);
        loop {
            let wake = self.queue.advance(Instant::now());
            let may_decide = self.queue.has_ready() && self.writes.len() < BINDINGS_IN_FLIGHT_MAX;
            tokio::select! {
                biased;
                () = token.cancelled() => break,
                Some(written) = self.writes.join_next() => self.finish(written),
                change = sources.next() => match change {
                    Some(change) => self.apply(change, &sources),
                    None => break,
                },
                () = std::future::ready(()), if may_decide => self.decide_one(),
                () = sleep_until(wake) => {}
            }
        }
        self.writes.shutdown().await;
    }

    /// Takes in everything anew, keeping the bindings under way.
    fn reload(&mut self, sources: &Sources) {
        let assumptions = self.cache.assumptions();
        self.cache = Cache::default();
        for node in sources.nodes.0.list(None) {
            self.cache.put_node(node);
        }
        let mut gone: std::collections::HashSet<String> = self.queue.uids().into_iter().collect();
        for (pod, node) in assumptions {
            self.cache.assume(pod, &node);
        }
        for pod in sources.pods.0.list(None) {
            gone.remove(pod.meta.uid.as_str());
            self.put_pod(pod, None);
        }
        for uid in gone {
            self.drop_pod(&uid);
        }
        self.queue.wake(Cause::NodeChanged, Instant::now());
    }

    fn apply(&mut self, change: Change, sources: &Sources) {
        match change {
            Change::Node(StoreEvent::Resync) | Change::Pod(StoreEvent::Resync) => self.reload(sources),
            Change::Node(StoreEvent::Applied { new, old }) => {
                let helps = old.is_none_or(|old| is_useful_change(&old, &new));
                self.cache.put_node(new);
                if helps {
                    self.queue.wake(Cause::NodeChanged, Instant::now());
                }
            }
            Change::Node(StoreEvent::Deleted(node)) => self.cache.remove_node(&node.meta.name),
            Change::Pod(StoreEvent::Applied { new, old }) => self.put_pod(new, old),
            Change::Pod(StoreEvent::Deleted(pod)) => self.drop_pod(pod.meta.uid.as_str()),
            Change::Other(cause) => self.queue.wake(cause, Instant::now()),
        }
    }

    fn put_pod(&mut self, object: Arc<Object>, old: Option<Arc<Object>>) {
        let pod = match PodInfo::new(object) {
            Ok(pod) => Arc::new(pod),
            Err(error) => {
                tracing::error!(component = "scheduler", %error, "pod does not decode");
                return;
            }
        };
        // A pod of the same name may have replaced another.
        if let Some(old) = old.as_ref().filter(|old| old.meta.uid != pod.object.meta.uid) {
            self.drop_pod(old.meta.uid.as_str());
        }
        let uid = pod.uid().to_owned();
        if pod.is_terminal() {
            return self.drop_pod(&uid);
        }
        let now = Instant::now();
        if !pod.node_name().is_empty() {
            self.queue.remove(&uid);
            self.nominated.remove(&uid);
            let node = pod.node_name().to_owned();
            let was_there = old.as_ref().is_some_and(|old| old.meta.labels == pod.object.meta.labels);
            self.cache.put_pod(pod, &node);
            if !was_there {
                self.queue.wake(Cause::PodPlaced, now);
            }
            return;
        }
        if pod.scheduler_name() != self.config.scheduler_name || self.cache.is_assumed(&uid) {
            return;
        }
        if pod.is_deleting() {
            return self.drop_pod(&uid);
        }
        let changed = self.queue.pod(&uid).is_some_and(|have| {
            have.pod.spec != pod.pod.spec
                || have.object.meta.labels != pod.object.meta.labels
                || have.object.meta.annotations != pod.object.meta.annotations
        });
        self.nominated.set(&pod, pod.nominated_node());
        self.queue.put(pod, changed, now);
    }

    fn drop_pod(&mut self, uid: &str) {
        self.queue.remove(uid);
        self.nominated.remove(uid);
        if self.cache.remove_pod(uid) {
            self.queue.wake(Cause::PodRemoved, Instant::now());
        }
    }

    fn decide_one(&mut self) {
        let Some(pod) = self.queue.pop() else { return };
        self.turn = self.turn.wrapping_add(1);
        let view = self.cache.view(&self.snapshot);
        match schedule(&pod, &view, &self.nominated, self.turn) {
            Decision::Node { name, prepared } if prepared.volumes().must_wait() => {
                // The provisioner's answer, a bound claim, wakes the pod.
                for selection in prepared.volumes().selections(&name) {
                    self.write(selection);
                }
                let by = [crate::plugins::Plugin::VolumeBinding].into();
                self.queue.refuse(pod.uid(), by, Instant::now());
            }
            Decision::Node { name, .. } => {
                self.cache.assume(Arc::clone(&pod), &name);
                self.bind(pod, name);
            }
            Decision::Nowhere(diagnosis) => {
                let preemption = preempt(&pod, &view, &diagnosis, &self.nominated);
                self.refuse(pod, diagnosis, preemption);
            }
        }
    }

    fn bind(&mut self, pod: Arc<PodInfo>, node: String) {
        let (client, recorder) = (self.client.clone(), self.recorder.clone());
        self.writes.spawn(async move {
            let body = json!({
                "apiVersion": "v1",
                "kind": "Binding",
                "metadata": {"name": pod.name(), "namespace": pod.namespace(), "uid": pod.uid()},
                "target": {"apiVersion": "v1", "kind": "Node", "name": node},
            });
            let uid = pod.uid().to_owned();
            match client.create_subresource(&PODS, Some(pod.namespace()), pod.name(), "binding", &body).await {
                Ok(_) => {
                    let message = format!("Successfully assigned {}/{} to {node}", pod.namespace(), pod.name());
                    recorder.record(event(&pod, EventType::Normal, "Scheduled", message));
                    Written::Bound { uid }
                }
                Err(error) => {
                    if !error.is_not_found() {
                        let message = format!("binding rejected: {error}");
                        recorder.record(event(&pod, EventType::Warning, "FailedScheduling", message));
                    }
                    Written::NotBound { uid, error }
                }
            }
        });
    }

    /// No node takes the pod: say so, make room if that can be done, and wait.
    fn refuse(&mut self, pod: Arc<PodInfo>, diagnosis: Diagnosis, preemption: Preemption) {
        let mut message = diagnosis.message();
        let mut nominate = None;
        match preemption {
            Preemption::Useless(why) if diagnosis.nodes > 0 => message = format!("{message} {why}"),
            Preemption::Useless(_) => {}
            Preemption::Victims { node, victims } => {
                self.nominated.set(&pod, &node);
                for victim in victims.iter().filter(|victim| !victim.is_deleting()) {
                    self.evict(&pod, victim, &node);
                }
                nominate = Some(node);
            }
        }
        self.queue.refuse(pod.uid(), diagnosis.plugins(), Instant::now());
        self.recorder.record(event(&pod, EventType::Warning, "FailedScheduling", message.clone()));
        if let Some(status) = refused_status(&pod, &message, nominate.as_deref()) {
            let body = json!({"metadata": {"uid": pod.uid()}, "status": status});
            self.write(patch_status(&pod, body));
        }
    }

    fn evict(&mut self, pod: &PodInfo, victim: &Arc<PodInfo>, node: &str) {
        let (client, recorder, victim) = (self.client.clone(), self.recorder.clone(), Arc::clone(victim));
        let by = self.config.scheduler_name.clone();
        let told = format!("Preempted by pod {} on node {node}", pod.uid());
        self.writes.spawn(async move {
            let condition = json!({
                "type": "DisruptionTarget",
                "status": "True",
                "reason": "PreemptionByScheduler",
                "message": format!("{by}: preempting to accommodate a higher priority pod"),
                "lastTransitionTime": skiff_api::timestamp::format_seconds(Timestamp::now()),
            });
            let body = json!({"metadata": {"uid": victim.uid()}, "status": {"conditions": [condition]}});
            let (namespace, name) = (Some(victim.namespace()), victim.name());
            let marked = client.patch(&PODS, namespace, name, Some("status"), &Patch::Strategic(body)).await;
            let options = DeleteOptions::with_uid(&victim.object.meta.uid);
            let ended = match marked {
                Ok(_) => client.delete(&PODS, namespace, name, &options).await,
                Err(error) => Err(error),
            };
            match ended {
                Ok(()) => recorder.record(event(&victim, EventType::Normal, "Preempted", told)),
                Err(error) if error.is_not_found() => {}
                Err(error) => {
                    let pod = victim.name();
                    tracing::warn!(component = "scheduler", pod, %error, "victim of preemption not ended");
                }
            }
            Written::Other
        });
    }

    fn write(&mut self, operation: Operation) {
        let client = self.client.clone();
        self.writes.spawn(async move {
            if let Operation::Patch { resource, namespace, name, subresource, patch } = operation {
                let result = client.patch(&resource, namespace.as_deref(), &name, subresource, &patch).await;
                match result {
                    Err(error) if !error.is_not_found() => {
                        tracing::warn!(component = "scheduler", name, %error, "patch failed");
                    }
                    _ => {}
                }
            }
            Written::Other
        });
    }

    fn finish(&mut self, written: Result<Written, tokio::task::JoinError>) {
        match written {
            Ok(Written::Bound { uid }) => {
                self.queue.remove(&uid);
                self.nominated.remove(&uid);
            }
            Ok(Written::NotBound { uid, error }) => {
                tracing::warn!(component = "scheduler", uid, %error, "pod not bound");
                self.cache.forget(&uid);
                if error.is_not_found() {
                    self.queue.remove(&uid);
                } else {
                    self.queue.retry(&uid, Instant::now());
                }
                self.queue.wake(Cause::PodRemoved, Instant::now());
            }
            Ok(Written::Other) => {}
            Err(error) => tracing::error!(component = "scheduler", %error, "write ended"),
        }
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Whether a node changed in what filters look at; heartbeats do not count.
fn is_useful_change(old: &Object, new: &Object) -> bool {
    if old.meta.labels != new.meta.labels {
        return true;
    }
    let (Ok(old), Ok(new)) = (old.typed::<Node>(), new.typed::<Node>()) else { return true };
    let allocatable = |node: &Node| node.status.as_ref().and_then(|status| status.allocatable.clone());
    let taints = |node: &Node| node.spec.as_ref().and_then(|spec| spec.taints.clone());
    let cordoned = |node: &Node| node.spec.as_ref().and_then(|spec| spec.unschedulable);
    allocatable(&old) != allocatable(&new) || taints(&old) != taints(&new) || cordoned(&old) != cordoned(&new)
}

/// The status change that tells of a refusal; `None` when it tells nothing new.
fn refused_status(pod: &PodInfo, message: &str, nominate: Option<&str>) -> Option<Value> {
    let conditions = pod.pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let have = conditions.into_iter().flatten().find(|condition| condition.type_ == "PodScheduled");
    let is_told = have.is_some_and(|have| {
        have.status == "False"
            && have.reason.as_deref() == Some("Unschedulable")
            && have.message.as_deref() == Some(message)
    });
    let mut status = json!({});
    if !is_told {
        let mut condition = json!({
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
        });
        if have.is_none_or(|have| have.status != "False") {
            condition["lastTransitionTime"] = skiff_api::timestamp::format_seconds(Timestamp::now()).into();
        }
        status["conditions"] = json!([condition]);
    }
    if let Some(node) = nominate.filter(|node| *node != pod.nominated_node()) {
        status["nominatedNodeName"] = node.into();
    }
    status.as_object().is_some_and(|fields| !fields.is_empty()).then_some(status)
}

fn patch_status(pod: &PodInfo, body: Value) -> Operation {
    Operation::Patch {
        resource: PODS,
        namespace: Some(pod.namespace().to_owned()),
        name: pod.name().to_owned(),
        subresource: Some("status"),
        patch: Patch::Strategic(body),
    }
}

fn event(pod: &PodInfo, event_type: EventType, reason: &str, message: String) -> EventRecord {
    EventRecord { regarding: pod.object.reference(), event_type, reason: reason.to_owned(), message }
}

#[cfg(test)]
#[path = "scheduler_tests.rs"]
mod tests;
