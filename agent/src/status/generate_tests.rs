//! Claims about generated statuses.

use serde_json::json;

use super::*;
use crate::observed::{ContainerState, ObservedContainer, ObservedSandbox};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn pod(spec: serde_json::Value) -> Pod {
    let metadata = json!({"name": "p", "namespace": "n", "uid": "u", "generation": 3});
    serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
}

fn container(name: &str, state: ContainerState, exit_code: i32) -> ObservedContainer {
    ObservedContainer {
        id: format!("id-{name}"),
        name: name.into(),
        sandbox_id: "s".into(),
        restart_count: 0,
        state,
        created_at: at(2),
        started_at: Some(at(3)),
        finished_at: (state == ContainerState::Exited).then(|| at(10)),
        exit_code,
        reason: String::new(),
        message: String::new(),
        image: "i".into(),
        image_ref: "sha256:1".into(),
        log_path: String::new(),
        user: None,
        resources: None,
        annotations: Default::default(),
        termination_message_file: None,
    }
}

struct World {
    pod: Pod,
    observed: ObservedPod,
    probes: HashMap<String, ProbeResults>,
    waiting: HashMap<String, WaitReason>,
    verdict: Option<Override>,
    ended: bool,
}

impl World {
    fn new(spec: serde_json::Value, containers: Vec<ObservedContainer>) -> World {
        let mut observed = ObservedPod::empty("u", "n", "p");
        observed.sandboxes = vec![ObservedSandbox {
            id: "s".into(),
            ready: true,
            attempt: 0,
            created_at: at(1),
            ips: vec!["10.0.0.9".parse().unwrap()],
            host_network: false,
        }];
        observed.containers = containers;
        World {
            pod: pod(spec),
            observed: observed.sorted(),
            probes: HashMap::new(),
            waiting: HashMap::new(),
            verdict: None,
            ended: false,
        }
    }

    fn status(&self) -> PodStatus {
        generate_pod_status(&StatusInput {
            pod: &self.pod,
            previous: None,
            observed: &self.observed,
            probes: &self.probes,
            waiting: &self.waiting,
            messages: &HashMap::new(),
            verdict: self.verdict.as_ref(),
            resize: None,
            ended: self.ended,
            host_ips: &["192.168.0.1".parse().unwrap()],
            first_seen: at(1),
            now: at(20),
        })
    }
}

fn condition(status: &PodStatus, name: &str) -> (String, String) {
    let condition = status.conditions.iter().flatten().find(|condition| condition.type_ == name).unwrap();
    (condition.status.clone(), condition.reason.clone().unwrap_or_default())
}

use ContainerState::{Exited, Running};

#[test]
fn a_running_pod_is_ready_with_its_addresses() {
    let world = World::new(json!({"containers": [{"name": "c"}]}), vec![container("c", Running, 0)]);
    let status = world.status();
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert_eq!(status.pod_ip.as_deref(), Some("10.0.0.9"));
    assert_eq!(status.host_ip.as_deref(), Some("192.168.0.1"));
    assert_eq!(status.observed_generation, Some(3));
    for name in ["Ready", "ContainersReady", "Initialized", "PodReadyToStartContainers"] {
        assert_eq!(condition(&status, name).0, "True", "{name}");
    }
    let container = &status.container_statuses.unwrap()[0];
    assert_eq!(container.container_id.as_deref(), Some("containerd://id-c"));
    assert!(container.ready && container.started == Some(true));
}

#[test]
fn phases_follow_policy_and_exit_codes() {
    for (policy, code, ended, phase) in [
        ("Always", 0, false, "Running"),
        ("OnFailure", 0, false, "Succeeded"),
        ("OnFailure", 1, false, "Running"),
        ("Never", 0, false, "Succeeded"),
        ("Never", 1, false, "Failed"),
        ("Always", 0, true, "Succeeded"),
        ("Always", 137, true, "Failed"),
    ] {
        let spec = json!({"restartPolicy": policy, "containers": [{"name": "c"}]});
        let mut world = World::new(spec, vec![container("c", Exited, code)]);
        world.ended = ended;
        let status = world.status();
        assert_eq!(status.phase.as_deref(), Some(phase), "{policy} {code} {ended}");
        assert_eq!(condition(&status, "Ready").0, "False");
    }
}

#[test]
fn a_succeeded_pod_says_that_it_completed() {
    let spec = json!({"restartPolicy": "Never", "containers": [{"name": "c"}]});
    let status = World::new(spec, vec![container("c", Exited, 0)]).status();
    assert_eq!(condition(&status, "Ready"), ("False".into(), "PodCompleted".into()));
    assert_eq!(condition(&status, "Initialized"), ("True".into(), "PodCompleted".into()));
    let terminated = status.container_statuses.unwrap()[0].state.clone().unwrap().terminated.unwrap();
    assert_eq!(terminated.reason.as_deref(), Some("Completed"));
}

#[test]
fn containers_wait_with_the_reason_of_the_last_attempt() {
    let mut world = World::new(json!({"containers": [{"name": "a"}, {"name": "b"}]}), vec![]);
    let reason = WaitReason { reason: "ImagePullBackOff".into(), message: "Back-off".into() };
    world.waiting.insert("b".into(), reason);
    let status = world.status();
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    let containers = status.container_statuses.unwrap();
    let reason = |i: usize| containers[i].state.clone().unwrap().waiting.unwrap().reason.unwrap();
    assert_eq!((reason(0), reason(1)), ("ContainerCreating".into(), "ImagePullBackOff".into()));
}

#[test]
fn a_crash_loop_waits_and_shows_the_last_end() {
    let mut world = World::new(json!({"containers": [{"name": "c"}]}), vec![container("c", Exited, 3)]);
    world.waiting.insert("c".into(), WaitReason { reason: "CrashLoopBackOff".into(), message: "m".into() });
    let status = world.status();
    assert_eq!(status.phase.as_deref(), Some("Running"));
    let container = &status.container_statuses.unwrap()[0];
    assert_eq!(container.state.clone().unwrap().waiting.unwrap().reason.as_deref(), Some("CrashLoopBackOff"));
    assert_eq!(container.last_state.clone().unwrap().terminated.unwrap().exit_code, 3);
}

#[test]
fn init_containers_hold_the_pod_pending() {
    let spec = json!({"containers": [{"name": "c"}], "initContainers": [{"name": "i"}]});
    let status = World::new(spec.clone(), vec![container("i", Running, 0)]).status();
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    assert_eq!(condition(&status, "Initialized"), ("False".into(), "ContainersNotInitialized".into()));
    let waiting = status.container_statuses.unwrap()[0].state.clone().unwrap().waiting.unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("PodInitializing"));
    let done = World::new(spec, vec![container("i", Exited, 0), container("c", Running, 0)]).status();
    assert_eq!(done.phase.as_deref(), Some("Running"));
    assert_eq!(condition(&done, "Initialized").0, "True");
    assert!(done.init_container_statuses.unwrap()[0].ready);
}

#[test]
fn a_failed_init_container_fails_a_pod_that_never_restarts() {
    let spec =
        |policy| json!({"restartPolicy": policy, "containers": [{"name": "c"}], "initContainers": [{"name": "i"}]});
    let failed = || vec![container("i", Exited, 1)];
    assert_eq!(World::new(spec("Never"), failed()).status().phase.as_deref(), Some("Failed"));
    assert_eq!(World::new(spec("Always"), failed()).status().phase.as_deref(), Some("Pending"));
}

#[test]
fn readiness_follows_probes_and_gates() {
    let spec = json!({"containers": [{"name": "c", "readinessProbe": {}}], "readinessGates": [{"conditionType": "g"}]});
    let mut world = World::new(spec, vec![container("c", Running, 0)]);
    assert_eq!(condition(&world.status(), "ContainersReady"), ("False".into(), "ContainersNotReady".into()));
    world.probes.insert("id-c".into(), ProbeResults { readiness: Some(true), ..ProbeResults::default() });
    assert_eq!(condition(&world.status(), "ContainersReady").0, "True");
    assert_eq!(condition(&world.status(), "Ready"), ("False".into(), "ReadinessGatesNotReady".into()));
    world.pod.status = serde_json::from_value(json!({"conditions": [{"type": "g", "status": "True"}]})).unwrap();
    assert_eq!(condition(&world.status(), "Ready").0, "True");
}

#[test]
fn a_verdict_fails_the_pod_but_not_before_its_containers_ended() {
    let mut world = World::new(json!({"containers": [{"name": "c"}]}), vec![container("c", Running, 0)]);
    world.verdict = Some(Override { reason: "DeadlineExceeded".into(), message: "late".into(), disruption: false });
    let status = world.status();
    assert_eq!((status.phase.as_deref(), status.reason.as_deref()), (Some("Running"), Some("DeadlineExceeded")));
    world.observed.containers[0].state = Exited;
    assert_eq!(world.status().phase.as_deref(), Some("Failed"));
}

#[test]
fn an_ended_pod_never_comes_back() {
    let mut world = World::new(json!({"containers": [{"name": "c"}]}), vec![]);
    world.pod.status = serde_json::from_value(json!({"phase": "Failed", "reason": "Evicted"})).unwrap();
    let status = world.status();
    assert_eq!((status.phase.as_deref(), status.reason.as_deref()), (Some("Failed"), Some("Evicted")));
}
