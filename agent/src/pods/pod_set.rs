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
    api::core::v1::{Pod, PodSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use parking_lot::Mutex;
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

    /// Follows the pods of this node until the token is cancelled.
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
                Some(StoreEvent::Applied { new, .. }) => match new.typed::<Pod>() {
                    Ok(pod) => self.wish(Wish::Present(pod), false),
                    Err(error) => tracing::error!(component = "pods", object = ?new, %error, "pod does not decode"),
                },
                Some(StoreEvent::Deleted(object)) => {
                    if let Ok(pod) = object.typed::<Pod>() {
                        self.wish(Wish::Gone(pod), false);
                    }
                }
            }
        }
    }

    fn resync(self: &Arc<Self>, pods: &Store) {
        let all: Vec<Arc<Pod>> = pods.list(None).into_iter().filter_map(|object| object.typed::<Pod>().ok()).collect();
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
            if !matches!(*handle.wish.borrow(), Wish::Gone(_)) {
                handle.wish.send_replace(wish);
            }
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
