//! Pod lifecycle event generator: turns what the runtime reports into fresh
//! observations and wakes the pods concerned.
//!
//! The runtime's event stream drives it; a slow relist is the safety net. CRI's
//! own stream is used where it exists, containerd's native one otherwise. The
//! latter may run ahead of what CRI answers, so an end is looked for again
//! shortly after.
//!
//! Invariants: several looks at one pod may overlap, and the one that *began*
//! last wins, so that an end once seen is never undone by a slower, older look.
//! Whoever brings something new wakes the pod's worker; only what the worker
//! sees itself does not, so it must act on all it saw.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt;
use parking_lot::Mutex;
use prost::Message;
use tokio::{sync::watch, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    cri::{Cri, CriError, events, v1},
    labels, limits,
    objects::Wake,
    observed::{ContainerState, ObservedContainer, ObservedPod, ObservedSandbox},
};

/// When to look again for an end that CRI does not show yet.
const LATE_LOOKS: [Duration; 3] = [Duration::from_millis(50), Duration::from_millis(250), Duration::from_secs(1)];

#[derive(Default)]
struct State {
    pods: HashMap<String, Arc<ObservedPod>>,
    /// Container and sandbox ids to pod uids.
    owners: HashMap<String, String>,
    /// Counts looks as they begin.
    looks: u64,
    /// Pod uids to the look that their observation is from, kept a while for pods that are gone.
    seen_by: HashMap<String, u64>,
}

/// What is known of a pod after a look at it was taken in.
struct Stored {
    known: Arc<ObservedPod>,
    /// Whether this look brought something new.
    changed: bool,
}

impl State {
    fn begin(&mut self) -> u64 {
        self.looks += 1;
        self.looks
    }

    /// Takes in what a look saw; a later look that was stored already wins.
    fn store(&mut self, look: u64, observed: Arc<ObservedPod>) -> Stored {
        let uid = observed.uid.clone();
        if self.seen_by.get(&uid).is_some_and(|later| *later > look) {
            let known = self.pods.get(&uid).cloned();
            let empty = || Arc::new(ObservedPod::empty(&observed.uid, &observed.namespace, &observed.name));
            return Stored { known: known.unwrap_or_else(empty), changed: false };
        }
        self.seen_by.insert(uid.clone(), look);
        if observed.sandboxes.is_empty() && observed.containers.is_empty() {
            let changed = self.pods.remove(&uid).is_some();
            self.owners.retain(|_, owner| *owner != uid);
            return Stored { known: observed, changed };
        }
        for id in observed.sandboxes.iter().map(|s| &s.id).chain(observed.containers.iter().map(|c| &c.id)) {
            self.owners.insert(id.clone(), uid.clone());
        }
        let before = self.pods.insert(uid, Arc::clone(&observed));
        Stored { changed: before.is_none_or(|before| before != observed), known: observed }
    }

    /// Forgets pods that were gone before a look at everything began.
    fn forget_gone(&mut self, look: u64) {
        let pods = &self.pods;
        self.seen_by.retain(|uid, seen| *seen >= look || pods.contains_key(uid));
    }
}

/// The observed state of all pods in the runtime.
pub struct Pleg {
    cri: Cri,
    wake: Wake,
    tasks: TaskTracker,
    state: Mutex<State>,
    /// Whether the last question was answered, for the log.
    answering: AtomicBool,
    last_relist: Mutex<Option<Instant>>,
    /// Counts changes, for those who wait for one.
    changes: watch::Sender<u64>,
}

impl Pleg {
    pub fn new(cri: Cri, wake: Wake, tasks: TaskTracker) -> Arc<Pleg> {
        Arc::new(Pleg {
            cri,
            wake,
            tasks,
            state: Mutex::default(),
            answering: AtomicBool::new(true),
            last_relist: Mutex::default(),
            changes: watch::Sender::new(0),
        })
    }

    /// The last observation of a pod.
    pub fn get(&self, uid: &str) -> Option<Arc<ObservedPod>> {
        self.state.lock().pods.get(uid).cloned()
    }

    /// All pods that the runtime holds something of.
    pub fn pods(&self) -> Vec<Arc<ObservedPod>> {
        self.state.lock().pods.values().cloned().collect()
    }

    /// The pod that a container or sandbox belongs to.
    pub fn owner(&self, id: &str) -> Option<String> {
        self.state.lock().owners.get(id).cloned()
    }

    /// Waits until a container does not run any more; at once for an unknown one.
    pub async fn wait_exited(&self, id: &str) {
        self.wait_until(|| !self.is_live(id)).await;
    }

    /// Waits until nothing of a pod runs any more; at once for an unknown one.
    pub async fn wait_ended(&self, uid: &str) {
        self.wait_until(|| self.get(uid).is_none_or(|pod| !pod.has_running())).await;
    }

    async fn wait_until(&self, is_so: impl Fn() -> bool) {
        let mut changes = self.changes.subscribe();
        while !is_so() && changes.changed().await.is_ok() {}
    }

    /// Whether everything was looked at not long ago.
    pub fn is_healthy(&self) -> bool {
        self.last_relist.lock().is_some_and(|at| at.elapsed() < limits::RELIST_AGE_MAX)
    }

    /// Looks at one pod now, for its worker, which is not woken by what it sees itself.
    pub async fn observe(&self, uid: &str, namespace: &str, name: &str) -> Result<Arc<ObservedPod>, CriError> {
        Ok(self.look_at(uid, namespace, name).await?.known)
    }

    /// Looks at one pod now, for everybody else: what is new wakes the worker.
    pub async fn refresh(&self, uid: &str, namespace: &str, name: &str) -> Result<Arc<ObservedPod>, CriError> {
        let stored = self.look_at(uid, namespace, name).await?;
        if stored.changed {
            (self.wake)(uid);
        }
        Ok(stored.known)
    }

    async fn look_at(&self, uid: &str, namespace: &str, name: &str) -> Result<Stored, CriError> {
        let look = self.state.lock().begin();
        let sandboxes = self.cri.list_sandboxes_of(uid).await?;
        let containers = self.cri.list_containers_of(uid).await?;
        let observed = self.build(uid, namespace, name, sandboxes, containers).await?;
        Ok(self.store(look, observed))
    }

    fn store(&self, look: u64, observed: ObservedPod) -> Stored {
        let _announce = Announce(&self.changes);
        self.state.lock().store(look, Arc::new(observed))
    }

    async fn build(
        &self,
        uid: &str,
        namespace: &str,
        name: &str,
        sandboxes: Vec<v1::PodSandbox>,
        containers: Vec<v1::Container>,
    ) -> Result<ObservedPod, CriError> {
        let before = self.get(uid);
        let mut observed = ObservedPod::empty(uid, namespace, name);
        for sandbox in sandboxes {
            match self.cri.pod_sandbox_status(&sandbox.id).await {
                Ok(status) => observed.sandboxes.push(ObservedSandbox::from(status)),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        for container in containers {
            // What has ended never changes again.
            let known =
                before.as_ref().and_then(|before| before.containers.iter().find(|have| have.id == container.id));
            if let Some(known) = known.filter(|known| {
                known.state == ContainerState::Exited && container.state == v1::ContainerState::ContainerExited as i32
            }) {
                observed.containers.push(known.clone());
                continue;
            }
            match self.cri.container_status(&container.id).await {
                Ok(status) => {
                    let mut made = ObservedContainer::from(status);
                    made.sandbox_id = container.pod_sandbox_id;
                    observed.containers.push(made);
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(observed.sorted())
    }

    /// Looks at everything and wakes the pods that changed.
    pub async fn relist(&self) -> Result<(), CriError> {
        let result = self.relist_inner().await;
        if result.is_ok() {
            self.answering.store(true, Ordering::Relaxed);
            *self.last_relist.lock() = Some(Instant::now());
        }
        result
    }

    async fn relist_inner(&self) -> Result<(), CriError> {
        let look = self.state.lock().begin();
        let mut found: HashMap<String, (String, String, Vec<v1::PodSandbox>, Vec<v1::Container>)> = HashMap::new();
        for sandbox in self.cri.list_pod_sandboxes().await? {
            if let Some(key) = identity(&sandbox.labels) {
                found.entry(key.0).or_insert((key.1, key.2, vec![], vec![])).2.push(sandbox);
            }
        }
        for container in self.cri.list_containers().await? {
            if let Some(key) = identity(&container.labels) {
                found.entry(key.0).or_insert((key.1, key.2, vec![], vec![])).3.push(container);
            }
        }
        let known: HashSet<String> = self.state.lock().pods.keys().cloned().collect();
        for uid in known.iter().filter(|uid| !found.contains_key(*uid)) {
            if self.store(look, ObservedPod::empty(uid, "", "")).changed {
                (self.wake)(uid);
            }
        }
        for (uid, (namespace, name, sandboxes, containers)) in found {
            let observed = self.build(&uid, &namespace, &name, sandboxes, containers).await?;
            if self.store(look, observed).changed {
                (self.wake)(&uid);
            }
        }
        self.state.lock().forget_gone(look);
        Ok(())
    }

    /// Follows the runtime until `token` is cancelled.
    pub async fn run(self: Arc<Self>, token: CancellationToken) {
        let follow = async {
            loop {
                if let Err(error) = self.follow().await {
                    self.note_failure("event stream interrupted", &error);
                }
                // The stream ends when containerd is restarted; events may have been missed.
                tokio::time::sleep(Duration::from_millis(200)).await;
                if let Err(error) = self.relist().await {
                    self.note_failure("relist", &error);
                }
            }
        };
        let net = async {
            loop {
                tokio::time::sleep(limits::RELIST_PERIOD).await;
                if let Err(error) = self.relist().await {
                    self.note_failure("relist", &error);
                }
            }
        };
        tokio::select! {
            () = token.cancelled() => {}
            () = follow => {}
            () = net => {}
        }
    }

    /// Says once that the runtime does not answer, not with every attempt.
    fn note_failure(&self, what: &str, error: &CriError) {
        if self.answering.swap(false, Ordering::Relaxed) {
            tracing::warn!(component = "pleg", %error, "{what}; looking again until the runtime answers");
        } else {
            tracing::debug!(component = "pleg", %error, "{what}");
        }
    }

    async fn follow(self: &Arc<Self>) -> Result<(), CriError> {
        match self.cri.container_events().await {
            Ok(mut stream) => {
                let mut any = false;
                while let Some(event) = stream.next().await {
                    match event {
                        Ok(event) => {
                            any = true;
                            self.on_event(event.container_id, false);
                        }
                        // Servers without the call may say so only here.
                        Err(status) if !any && status.code() == tonic::Code::Unimplemented => {
                            return self.follow_native().await;
                        }
                        Err(status) => return Err(CriError::call("get_container_events")(status)),
                    }
                }
                Ok(())
            }
            Err(error) if error.is_unimplemented() => self.follow_native().await,
            Err(error) => Err(error),
        }
    }

    async fn follow_native(self: &Arc<Self>) -> Result<(), CriError> {
        let mut stream = self.cri.native_events().await?;
        // What happened before the subscription has no event.
        self.relist().await?;
        while let Some(envelope) = stream.next().await {
            let envelope = envelope.map_err(CriError::call("subscribe"))?;
            let Some(event) = envelope.event else { continue };
            if let Ok(task) = events::TaskEvent::decode(&event.value[..]) {
                self.on_event(task.container_id, envelope.topic == "/tasks/exit");
            }
        }
        Ok(())
    }

    /// Looks at the pod of a container without holding up the stream.
    fn on_event(self: &Arc<Self>, container: String, ended: bool) {
        let this = Arc::clone(self);
        self.tasks.spawn(async move {
            this.look(&container).await;
            if !ended {
                return;
            }
            for wait in LATE_LOOKS {
                if !this.is_live(&container) {
                    return;
                }
                tokio::time::sleep(wait).await;
                this.look(&container).await;
            }
        });
    }

    fn is_live(&self, id: &str) -> bool {
        let Some(pod) = self.owner(id).and_then(|uid| self.get(&uid)) else { return false };
        pod.containers.iter().any(|container| container.id == id && container.is_live())
            || pod.sandboxes.iter().any(|sandbox| sandbox.id == id && sandbox.ready)
    }

    async fn look(&self, container: &str) {
        let known = self.owner(container).and_then(|uid| self.get(&uid));
        let result = match known {
            Some(pod) => self.refresh(&pod.uid, &pod.namespace, &pod.name).await.map(drop),
            None => self.relist().await,
        };
        if let Err(error) = result {
            tracing::debug!(component = "pleg", container, %error, "look at container");
        }
    }
}

/// Tells waiters of a change when it goes out of scope, after the state was unlocked.
struct Announce<'a>(&'a watch::Sender<u64>);

impl Drop for Announce<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.wrapping_add(1));
    }
}

/// Uid, namespace and name of the pod in the labels; `None` for what is not a pod's.
fn identity(all: &HashMap<String, String>) -> Option<(String, String, String)> {
    let get = |name: &str| all.get(name).cloned().unwrap_or_default();
    Some((all.get(labels::POD_UID)?.clone(), get(labels::POD_NAMESPACE), get(labels::POD_NAME)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(state: v1::ContainerState) -> Arc<ObservedPod> {
        let status = v1::ContainerStatus { id: "c1".into(), state: state as i32, ..Default::default() };
        let containers = vec![ObservedContainer::from(status)];
        Arc::new(ObservedPod { containers, ..ObservedPod::empty("u", "n", "p") })
    }

    #[test]
    fn an_end_once_seen_is_not_undone_by_an_older_look() {
        let mut state = State::default();
        let (older, newer) = (state.begin(), state.begin());
        let ended = state.store(newer, pod(v1::ContainerState::ContainerExited));
        let told = state.store(older, pod(v1::ContainerState::ContainerRunning));
        assert_eq!(told.known, ended.known, "who looked earlier learns what is known now");
        assert!(ended.changed && !told.changed, "only the one that brought it wakes the worker");
        assert_eq!(state.pods["u"], ended.known);
    }

    #[tokio::test]
    async fn the_end_of_a_pod_is_waited_for() {
        let cri = Cri::new(std::path::Path::new("/none")).unwrap();
        let pleg = Pleg::new(cri, Arc::new(|_| {}), TaskTracker::new());
        pleg.wait_ended("u").await;
        let see = |state| {
            let look = pleg.state.lock().begin();
            pleg.store(look, (*pod(state)).clone());
        };
        see(v1::ContainerState::ContainerRunning);
        let (mut wait, mut other) = (Box::pin(pleg.wait_ended("u")), Box::pin(pleg.wait_exited("c1")));
        assert!(futures_util::poll!(&mut wait).is_pending() && futures_util::poll!(&mut other).is_pending());
        see(v1::ContainerState::ContainerExited);
        wait.await;
        other.await;
    }

    #[test]
    fn a_pod_that_is_gone_does_not_come_back_by_an_older_look() {
        let mut state = State::default();
        let first = state.begin();
        state.store(first, pod(v1::ContainerState::ContainerExited));
        let (older, newer) = (state.begin(), state.begin());
        state.store(newer, Arc::new(ObservedPod::empty("u", "n", "p")));
        let told = state.store(older, pod(v1::ContainerState::ContainerExited)).known;
        assert!(told.containers.is_empty() && state.pods.is_empty() && state.owners.is_empty());
        let relist = state.begin();
        state.forget_gone(relist);
        assert!(state.seen_by.is_empty(), "what is gone is forgotten in time");
    }
}
