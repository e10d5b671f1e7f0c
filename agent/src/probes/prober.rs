//! One task per probe of a running container.
//!
//! Timing is upstream's: nothing before the initial delay, then one check per
//! period; thresholds count equal results in a row; liveness and readiness
//! wait until the startup probe has succeeded; a failed liveness or startup
//! probe stays failed until the container is replaced.

use std::{collections::HashMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use parking_lot::Mutex;
use skiff_client::{EventRecorder, EventType};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::check::{CheckTarget, check};
use crate::{
    cri::Cri,
    events,
    objects::Wake,
    observed::{ObservedContainer, ObservedPod},
    pods::{actions::ProbeResults, spec},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Liveness,
    Readiness,
    Startup,
}

struct Running {
    pod_uid: String,
    token: CancellationToken,
    /// Ends liveness and startup checks first, when the pod is stopping.
    stopping: CancellationToken,
}

#[derive(Default)]
struct State {
    running: HashMap<String, Running>,
    results: HashMap<String, ProbeResults>,
}

struct Shared {
    cri: Cri,
    wake: Wake,
    recorder: EventRecorder,
    tasks: TaskTracker,
    token: CancellationToken,
    state: Mutex<State>,
    /// Counts changes of results, for probes that wait for another one.
    changes: watch::Sender<u64>,
}

/// Starts and ends probe tasks and holds their results; cheap to clone.
#[derive(Clone)]
pub struct Prober(Arc<Shared>);

impl Prober {
    pub fn new(cri: Cri, wake: Wake, recorder: EventRecorder, tasks: TaskTracker, token: CancellationToken) -> Prober {
        Prober(Arc::new(Shared {
            cri,
            wake,
            recorder,
            tasks,
            token,
            state: Mutex::default(),
            changes: watch::Sender::new(0),
        }))
    }

    /// Results of the containers of a pod, by container id.
    pub fn results(&self, observed: &ObservedPod) -> HashMap<String, ProbeResults> {
        let state = self.0.state.lock();
        let of = |container: &ObservedContainer| Some((container.id.clone(), *state.results.get(&container.id)?));
        observed.containers.iter().filter_map(of).collect()
    }

    /// Probes exactly the running containers of a pod.
    pub fn sync(&self, pod: &Arc<Pod>, observed: &ObservedPod) {
        let uid = spec::uid(pod);
        let live: Vec<&ObservedContainer> = observed.containers.iter().filter(|c| c.is_running()).collect();
        let mut state = self.0.state.lock();
        state.running.retain(|id, running| {
            let keep = running.pod_uid != uid || live.iter().any(|container| container.id == *id);
            if !keep {
                running.token.cancel();
            }
            keep
        });
        let present: Vec<&String> = observed.containers.iter().map(|container| &container.id).collect();
        let running_ids: Vec<String> = state.running.keys().cloned().collect();
        state.results.retain(|id, _| present.contains(&id) || running_ids.contains(id));
        for observed_container in live {
            let Some((kind, container)) = spec::find_container(pod, &observed_container.name) else { continue };
            let probes = [
                (Kind::Startup, container.startup_probe.clone()),
                (Kind::Liveness, container.liveness_probe.clone()),
                (Kind::Readiness, container.readiness_probe.clone()),
            ];
            if kind == spec::ContainerKind::Ephemeral
                || state.running.contains_key(&observed_container.id)
                || probes.iter().all(|(_, probe)| probe.is_none())
            {
                continue;
            }
            let token = self.0.token.child_token();
            let stopping = token.child_token();
            state.results.insert(observed_container.id.clone(), initial(pod, &container, observed_container));
            for (kind, probe) in probes.into_iter().filter_map(|(kind, probe)| Some((kind, probe?))) {
                let worker = Worker {
                    shared: Arc::clone(&self.0),
                    pod: Arc::clone(pod),
                    kind,
                    probe,
                    started_at: observed_container.started_at.unwrap_or_else(Timestamp::now),
                    target: CheckTarget {
                        container_id: observed_container.id.clone(),
                        container: container.clone(),
                        ip: pod_ip(pod, observed),
                    },
                };
                let token = if kind == Kind::Readiness { token.clone() } else { stopping.clone() };
                self.0.tasks.spawn(async move {
                    tokio::select! {
                        () = token.cancelled() => {}
                        () = worker.run() => {}
                    }
                });
            }
            let running = Running { pod_uid: uid.to_owned(), token, stopping };
            state.running.insert(observed_container.id.clone(), running);
        }
    }

    /// The pod is stopping: nothing may restart its containers any more.
    pub fn stop_liveness(&self, pod_uid: &str) {
        let state = self.0.state.lock();
        state
            .running
            .values()
            .filter(|running| running.pod_uid == pod_uid)
            .for_each(|running| running.stopping.cancel());
    }

    /// Ends all probes of a pod.
    pub fn forget(&self, pod_uid: &str) {
        let mut state = self.0.state.lock();
        let ended: Vec<String> =
            state.running.iter().filter(|(_, running)| running.pod_uid == pod_uid).map(|(id, _)| id.clone()).collect();
        for id in ended {
            if let Some(running) = state.running.remove(&id) {
                running.token.cancel();
            }
            state.results.remove(&id);
        }
    }
}

fn pod_ip(pod: &Pod, observed: &ObservedPod) -> Option<std::net::IpAddr> {
    if spec::is_host_network(pod) {
        let status = pod.status.as_ref();
        let ip = status.and_then(|status| status.host_ip.as_ref()).and_then(|ip| ip.parse().ok());
        return ip.or(Some(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST)));
    }
    observed.ready_sandbox().and_then(|sandbox| sandbox.ips.first().copied())
}

/// What holds before the first check. A container that the API already shows as
/// ready was so before we started: it must not flap because of our restart.
fn initial(pod: &Pod, container: &Container, observed: &ObservedContainer) -> ProbeResults {
    let statuses = pod.status.iter().flat_map(|status| {
        status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten())
    });
    let id = crate::status::container_id(&observed.id);
    let before = statuses.into_iter().find(|status| status.container_id.as_ref() == Some(&id));
    let was_started = before.is_some_and(|status| status.started == Some(true));
    let was_ready = before.is_some_and(|status| status.ready);
    ProbeResults {
        liveness: None,
        readiness: container.readiness_probe.as_ref().map(|_| was_ready),
        startup: container.startup_probe.as_ref().and(was_started.then_some(true)),
    }
}

struct Worker {
    shared: Arc<Shared>,
    pod: Arc<Pod>,
    kind: Kind,
    probe: Probe,
    started_at: Timestamp,
    target: CheckTarget,
}

fn seconds(value: Option<i32>, default: u64) -> Duration {
    Duration::from_secs(value.and_then(|value| u64::try_from(value).ok()).filter(|value| *value > 0).unwrap_or(default))
}

impl Worker {
    async fn run(self) {
        let period = seconds(self.probe.period_seconds, 10);
        self.wait_initial_delay().await;
        let mut counter = Counter::new(&self.probe);
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let before = self.result();
            if self.kind == Kind::Startup && before.startup == Some(true) {
                return;
            }
            if self.kind != Kind::Startup && self.target.container.startup_probe.is_some() {
                self.wait_started().await;
            }
            let outcome = check(&self.shared.cri, &self.probe, &self.target).await;
            if let Err(why) = &outcome {
                self.report(why);
            }
            if let Some(result) = counter.count(outcome.is_ok()) {
                self.set(result);
                if !result && self.kind != Kind::Readiness {
                    return;
                }
            }
        }
    }

    async fn wait_initial_delay(&self) {
        let delay = Duration::from_secs(u64::try_from(self.probe.initial_delay_seconds.unwrap_or(0)).unwrap_or(0));
        let age = Duration::try_from(Timestamp::now().duration_since(self.started_at)).unwrap_or_default();
        tokio::time::sleep(delay.saturating_sub(age)).await;
    }

    async fn wait_started(&self) {
        let mut changes = self.shared.changes.subscribe();
        while self.result().startup != Some(true) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    fn result(&self) -> ProbeResults {
        self.shared.state.lock().results.get(&self.target.container_id).copied().unwrap_or_default()
    }

    fn set(&self, result: bool) {
        let changed = {
            let mut state = self.shared.state.lock();
            let Some(results) = state.results.get_mut(&self.target.container_id) else { return };
            let before = *results;
            match self.kind {
                Kind::Liveness => results.liveness = Some(result),
                Kind::Readiness => results.readiness = Some(result),
                Kind::Startup => results.startup = Some(result),
            }
            before != *results
        };
        if changed {
            self.shared.changes.send_modify(|count| *count = count.wrapping_add(1));
            (self.shared.wake)(spec::uid(&self.pod));
        }
    }

    fn report(&self, why: &str) {
        let message = format!("{:?} probe failed: {why}", self.kind);
        let name = &self.target.container.name;
        self.shared.recorder.record(events::container(&self.pod, name, EventType::Warning, "Unhealthy", message));
    }
}

/// Counts equal results in a row against the thresholds.
#[derive(Debug)]
struct Counter {
    success_threshold: u32,
    failure_threshold: u32,
    last: Option<bool>,
    run: u32,
}

impl Counter {
    fn new(probe: &Probe) -> Counter {
        let threshold = |value: Option<i32>, default| {
            value.and_then(|value| u32::try_from(value).ok()).filter(|v| *v > 0).unwrap_or(default)
        };
        Counter {
            success_threshold: threshold(probe.success_threshold, 1),
            failure_threshold: threshold(probe.failure_threshold, 3),
            last: None,
            run: 0,
        }
    }

    /// Notes one result; answers once its threshold is reached.
    fn count(&mut self, success: bool) -> Option<bool> {
        self.run = if self.last == Some(success) { self.run.saturating_add(1) } else { 1 };
        self.last = Some(success);
        let threshold = if success { self.success_threshold } else { self.failure_threshold };
        (self.run >= threshold).then_some(success)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_count_results_in_a_row() {
        let probe = Probe { success_threshold: Some(2), failure_threshold: Some(3), ..Probe::default() };
        let mut counter = Counter::new(&probe);
        let inputs = [false, false, true, false, false, false, true, true, true];
        let outputs: Vec<Option<bool>> = inputs.iter().map(|success| counter.count(*success)).collect();
        let (no, bad, good) = (None, Some(false), Some(true));
        assert_eq!(outputs, [no, no, no, no, no, bad, no, good, good]);
    }

    #[test]
    fn readiness_survives_a_restart_of_the_agent() {
        let pod: Pod = serde_json::from_value(serde_json::json!({"spec": {"containers": []}, "status": {
            "containerStatuses": [{"name": "c", "image": "", "imageID": "", "restartCount": 0, "ready": true, "started": true,
            "containerID": "containerd://same"}]}}))
        .unwrap();
        let container = Container {
            name: "c".into(),
            readiness_probe: Some(Probe::default()),
            startup_probe: Some(Probe::default()),
            ..Container::default()
        };
        let observed =
            |id: &str| ObservedContainer::from(crate::cri::v1::ContainerStatus { id: id.into(), ..Default::default() });
        assert_eq!(initial(&pod, &container, &observed("same")).readiness, Some(true));
        assert_eq!(initial(&pod, &container, &observed("same")).startup, Some(true));
        assert_eq!(initial(&pod, &container, &observed("other")).readiness, Some(false));
    }
}
