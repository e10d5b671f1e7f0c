//! Writes pod statuses, the latest of each pod only.
//!
//! Callers never wait: [`StatusWriter::set`] replaces what was to be written of
//! the pod. One task per pod with something to write does the requests, a
//! bounded number at a time.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Weak},
};

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use parking_lot::Mutex;
use skiff_api::{GroupVersionResource, Revision};
use skiff_client::{Client, Patch};
use tokio::sync::{Notify, Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::patch::patch;
use crate::{limits, pods::spec};

struct Pending {
    pod: Arc<Pod>,
    status: PodStatus,
}

#[derive(Default)]
struct State {
    /// What is still to be written, and which pods have a task.
    pending: HashMap<String, Pending>,
    active: HashMap<String, Arc<PodStatus>>,
    /// What was written last, for readers and to skip repeats.
    written: HashMap<String, (Arc<PodStatus>, Revision)>,
    /// Latest generated status, written or not.
    latest: HashMap<String, Arc<PodStatus>>,
}

struct Shared {
    client: Client,
    state: Mutex<State>,
    slots: Semaphore,
    /// Told whenever a pod has nothing more to write.
    idle: Notify,
    tasks: TaskTracker,
    token: CancellationToken,
}

/// Takes statuses and writes them; cheap to clone.
#[derive(Clone)]
pub struct StatusWriter(Arc<Shared>);

impl StatusWriter {
    /// Tasks run on `tasks`, which the owner closes and awaits at stop, and end when `token` is cancelled.
    pub fn new(client: Client, tasks: TaskTracker, token: CancellationToken) -> StatusWriter {
        StatusWriter(Arc::new(Shared {
            client,
            state: Mutex::default(),
            slots: Semaphore::new(limits::STATUS_WRITES_MAX),
            idle: Notify::new(),
            tasks,
            token,
        }))
    }

    /// Makes `status` the one to write. The pod is the one it was generated from.
    pub fn set(&self, pod: &Arc<Pod>, status: PodStatus) {
        let uid = spec::uid(pod).to_owned();
        let mut state = self.0.state.lock();
        let latest = Arc::new(status.clone());
        let idle = !state.active.contains_key(&uid);
        // What we wrote is newer than the object this status was generated from.
        let ours =
            |(written, revision): &(Arc<PodStatus>, Revision)| same(written, &latest) && *revision > revision_of(pod);
        if idle && (state.written.get(&uid).is_some_and(ours) || patch(pod, &status).is_none()) {
            state.latest.insert(uid, latest);
            return;
        }
        state.latest.insert(uid.clone(), Arc::clone(&latest));
        state.pending.insert(uid.clone(), Pending { pod: Arc::clone(pod), status });
        if state.active.insert(uid.clone(), latest).is_none() {
            let (shared, token) = (Arc::downgrade(&self.0), self.0.token.clone());
            self.0.tasks.spawn(async move {
                tokio::select! {
                    () = token.cancelled() => {}
                    () = run(shared, uid) => {}
                }
            });
        }
    }

    /// The latest generated status of a pod, for pods the agent serves itself.
    pub fn latest(&self, uid: &str) -> Option<Arc<PodStatus>> {
        self.0.state.lock().latest.get(uid).cloned()
    }

    /// Forgets a pod that is gone.
    pub fn forget(&self, uid: &str) {
        let mut state = self.0.state.lock();
        state.pending.remove(uid);
        state.written.remove(uid);
        state.latest.remove(uid);
    }

    /// Writes now and says whether the API took it: for the last word on a pod. Waits for a write
    /// under way, so that an older status never comes after this one.
    pub async fn write_now(&self, pod: &Arc<Pod>, status: &PodStatus) -> Result<(), skiff_client::ClientError> {
        let uid = spec::uid(pod).to_owned();
        loop {
            let idle = self.0.idle.notified();
            {
                let mut state = self.0.state.lock();
                state.pending.remove(&uid);
                if let Entry::Vacant(entry) = state.active.entry(uid.clone()) {
                    entry.insert(Arc::new(status.clone()));
                    state.latest.insert(uid.clone(), Arc::new(status.clone()));
                    break;
                }
            }
            idle.await;
        }
        let _turn = Turn { shared: &self.0, uid: &uid };
        self.0.write(&uid, pod, status).await
    }
}

/// The right to write for a pod; given back also when the writer is interrupted.
struct Turn<'a> {
    shared: &'a Shared,
    uid: &'a str,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.shared.state.lock().active.remove(self.uid);
        self.shared.idle.notify_waiters();
    }
}

fn revision_of(pod: &Pod) -> Revision {
    pod.metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or_default()
}

/// Times differ between two generations of the same status; nothing else may.
fn same(one: &PodStatus, other: &PodStatus) -> bool {
    let plain = |status: &PodStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_transition_time = None;
        }
        status
    };
    plain(one) == plain(other)
}

async fn run(shared: Weak<Shared>, uid: String) {
    let mut failures = 0;
    loop {
        let Some(shared) = shared.upgrade() else { return };
        let next = {
            let mut state = shared.state.lock();
            let next = state.pending.remove(&uid);
            if next.is_none() {
                state.active.remove(&uid);
            }
            next
        };
        let Some(next) = next else {
            shared.idle.notify_waiters();
            return;
        };
        let Ok(slot) = shared.slots.acquire().await else { return };
        let result = shared.write(&uid, &next.pod, &next.status).await;
        drop(slot);
        match result {
            Ok(()) => failures = 0,
            Err(error) if error.is_not_found() || error.is_conflict() => {
                // Gone, or another pod of the same name: nothing is left to say about this one.
                tracing::debug!(component = "status", pod = spec::full_name(&next.pod), %error, "status not wanted");
            }
            Err(error) => {
                tracing::warn!(component = "status", pod = spec::full_name(&next.pod), %error, "write pod status");
                shared.state.lock().pending.entry(uid.clone()).or_insert(next);
                drop(shared);
                let wait =
                    skiff_client::work_queue::backoff(limits::SYNC_BACKOFF_FIRST, limits::SYNC_BACKOFF_MAX, failures);
                failures = (failures + 1).min(16);
                tokio::time::sleep(wait).await;
            }
        }
    }
}

impl Shared {
    async fn write(&self, uid: &str, pod: &Pod, status: &PodStatus) -> Result<(), skiff_client::ClientError> {
        let Some(patch) = patch(pod, status) else { return Ok(()) };
        let pods = GroupVersionResource::of::<Pod>();
        let (namespace, name) = (spec::namespace(pod), spec::name(pod));
        let patch = Patch::Strategic(patch);
        let written = self.client.patch(&pods, Some(namespace), name, Some("status"), &patch).await?;
        self.state.lock().written.insert(uid.to_owned(), (Arc::new(status.clone()), written.revision));
        Ok(())
    }
}
