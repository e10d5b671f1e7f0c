//! Claims about the plan for a pod, one pod state per test.

use serde_json::json;

use super::*;
use crate::{limits, observed::ObservedSandbox};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn pod(spec: serde_json::Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec})).unwrap()
}

fn one(policy: &str) -> Pod {
    pod(json!({"restartPolicy": policy, "containers": [{"name": "c", "image": "i"}]}))
}

fn sandbox(ready: bool) -> ObservedSandbox {
    ObservedSandbox {
        id: "s".into(),
        ready,
        attempt: 0,
        created_at: at(1),
        ips: vec!["10.0.0.1".parse().unwrap()],
        host_network: false,
    }
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
        image_ref: String::new(),
        log_path: String::new(),
        user: None,
        resources: None,
        annotations: Default::default(),
        termination_message_file: None,
    }
}

fn observed(ready: bool, containers: Vec<ObservedContainer>) -> ObservedPod {
    let mut observed = ObservedPod::empty("u", "n", "p");
    observed.sandboxes = vec![sandbox(ready)];
    observed.containers = containers;
    observed.sorted()
}

fn plan_with(pod: &Pod, observed: &ObservedPod, probes: &[(&str, ProbeResults)], backoff: &BackOff) -> Actions {
    let probes = probes.iter().map(|(id, results)| ((*id).to_owned(), *results)).collect();
    compute_pod_actions(&ActionInput { pod, observed, probes: &probes, backoff, now: at(11) })
}

fn fresh() -> BackOff {
    BackOff::new(limits::CRASH_BACKOFF_FIRST, limits::CRASH_BACKOFF_MAX)
}

fn plan(pod: &Pod, observed: &ObservedPod) -> Actions {
    plan_with(pod, observed, &[], &fresh())
}

fn started(actions: &Actions) -> Vec<(&str, u32)> {
    actions.start.iter().map(|start| (start.name.as_str(), start.restart_count)).collect()
}

use ContainerState::{Created, Exited, Running};

#[test]
fn a_new_pod_gets_a_sandbox_and_all_its_containers() {
    let pod = pod(json!({"containers": [{"name": "a"}, {"name": "b"}]}));
    let actions = plan(&pod, &ObservedPod::empty("u", "n", "p"));
    assert!(actions.create_sandbox && !actions.kill_pod);
    assert_eq!(actions.sandbox_attempt, 0);
    assert_eq!(started(&actions), [("a", 0), ("b", 0)]);
}

#[test]
fn a_running_pod_needs_nothing() {
    let actions = plan(&one("Always"), &observed(true, vec![container("c", Running, 0)]));
    assert_eq!(actions, Actions { sandbox_id: Some("s".into()), ..Actions::default() });
}

#[test]
fn a_dead_sandbox_is_replaced_with_the_next_number_and_containers_restart() {
    let actions = plan(&one("Always"), &observed(false, vec![container("c", Exited, 137)]));
    assert!(actions.kill_pod && actions.create_sandbox);
    assert_eq!(actions.sandbox_attempt, 1);
    assert_eq!(started(&actions), [("c", 1)]);
}

#[test]
fn a_dead_sandbox_of_a_finished_pod_is_not_replaced() {
    for (policy, code) in [("Never", 1), ("Never", 0), ("OnFailure", 0)] {
        let actions = plan(&one(policy), &observed(false, vec![container("c", Exited, code)]));
        assert!(actions.kill_pod && !actions.create_sandbox && actions.start.is_empty(), "{policy} {code}");
    }
}

#[test]
fn restart_policies_decide_about_ended_containers() {
    for (policy, code, restarted) in [
        ("Always", 0, true),
        ("Always", 1, true),
        ("OnFailure", 0, false),
        ("OnFailure", 1, true),
        ("Never", 0, false),
        ("Never", 1, false),
    ] {
        let actions = plan(&one(policy), &observed(true, vec![container("c", Exited, code)]));
        assert_eq!(!actions.start.is_empty(), restarted, "{policy} {code}");
        assert_eq!(actions.kill_pod, !restarted, "{policy} {code}");
    }
}

#[test]
fn rules_on_exit_codes_override_the_policy() {
    let pod = pod(json!({"restartPolicy": "Never", "containers": [{"name": "c", "restartPolicy": "Never",
        "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]}]}));
    assert_eq!(started(&plan(&pod, &observed(true, vec![container("c", Exited, 42)]))), [("c", 1)]);
    assert!(plan(&pod, &observed(true, vec![container("c", Exited, 1)])).kill_pod);
}

#[test]
fn a_crashing_container_waits_before_it_restarts() {
    let pod = one("Always");
    let mut backoff = fresh();
    backoff.next(&spec::backoff_key(&pod, &spec::containers(&pod)[0]), at(5), at(5));
    let actions = plan_with(&pod, &observed(true, vec![container("c", Exited, 1)]), &[], &backoff);
    assert!(actions.start.is_empty() && !actions.kill_pod);
    assert_eq!(actions.waiting[0].left, Duration::from_secs(9));
    assert_eq!(actions.waiting[0].whole, Duration::from_secs(10));
}

#[test]
fn probes_kill_and_restart_but_readiness_never_does() {
    let results = |liveness, readiness, startup| ProbeResults { liveness, readiness, startup };
    let observed = observed(true, vec![container("c", Running, 0)]);
    let failing = |probes, policy: &str| plan_with(&one(policy), &observed, &[("id-c", probes)], &fresh());
    let actions = failing(results(Some(false), None, None), "Always");
    assert_eq!(actions.kill[0].reason, KillReason::LivenessProbe);
    assert_eq!(started(&actions), [("c", 1)]);
    let actions = failing(results(None, None, Some(false)), "Never");
    assert_eq!(actions.kill[0].reason, KillReason::StartupProbe);
    assert!(actions.start.is_empty());
    assert!(failing(results(None, Some(false), None), "Always").kill.is_empty());
}

#[test]
fn a_changed_image_restarts_the_container() {
    let mut running = container("c", Running, 0);
    running.annotations.insert(labels::CONTAINER_HASH.into(), "other".into());
    let actions = plan(&one("Never"), &observed(true, vec![running]));
    assert_eq!(actions.kill[0].reason, KillReason::DefinitionChanged);
    assert_eq!(started(&actions), [("c", 1)]);
}

fn with_init(policy: &str) -> Pod {
    pod(json!({"restartPolicy": policy, "containers": [{"name": "c"}],
        "initContainers": [{"name": "i1"}, {"name": "i2"}]}))
}

#[test]
fn init_containers_run_one_after_another_before_the_others() {
    let pod = with_init("Always");
    assert_eq!(started(&plan(&pod, &ObservedPod::empty("u", "n", "p"))), [("i1", 0)]);
    assert_eq!(started(&plan(&pod, &observed(true, vec![]))), [("i1", 0)]);
    assert!(plan(&pod, &observed(true, vec![container("i1", Running, 0)])).start.is_empty());
    let first = container("i1", Exited, 0);
    assert_eq!(started(&plan(&pod, &observed(true, vec![first.clone()]))), [("i2", 0)]);
    let both = vec![first, container("i2", Exited, 0)];
    assert_eq!(started(&plan(&pod, &observed(true, both))), [("c", 0)]);
}

#[test]
fn a_failed_init_container_restarts_or_fails_the_pod() {
    let failed = observed(true, vec![container("i1", Exited, 1)]);
    assert_eq!(started(&plan(&with_init("OnFailure"), &failed)), [("i1", 1)]);
    let actions = plan(&with_init("Never"), &failed);
    assert!(actions.kill_pod && actions.start.is_empty());
}

#[test]
fn init_containers_do_not_run_again_once_regular_ones_exist() {
    let running = vec![container("c", Running, 0)];
    assert!(plan(&with_init("Always"), &observed(true, running)).start.is_empty());
}

fn with_sidecar() -> Pod {
    pod(json!({"restartPolicy": "Never", "containers": [{"name": "c"}],
        "initContainers": [{"name": "s", "restartPolicy": "Always", "startupProbe": {}}, {"name": "i"}]}))
}

#[test]
fn what_follows_a_sidecar_waits_until_it_has_started() {
    let pod = with_sidecar();
    let running = observed(true, vec![container("s", Running, 0)]);
    assert!(plan(&pod, &running).start.is_empty());
    let ready = ProbeResults { startup: Some(true), ..ProbeResults::default() };
    assert_eq!(started(&plan_with(&pod, &running, &[("id-s", ready)], &fresh())), [("i", 0)]);
}

#[test]
fn a_dead_sidecar_restarts_beside_running_containers_and_ends_with_them() {
    let pod = with_sidecar();
    let all = vec![container("s", Exited, 1), container("i", Exited, 0), container("c", Running, 0)];
    assert_eq!(started(&plan(&pod, &observed(true, all))), [("s", 1)]);
    let ended = vec![container("s", Running, 0), container("i", Exited, 0), container("c", Exited, 0)];
    assert!(plan(&pod, &observed(true, ended)).kill_pod);
}

#[test]
fn debug_containers_start_once() {
    let pod = pod(json!({"containers": [{"name": "c"}], "ephemeralContainers": [{"name": "e"}]}));
    let running = vec![container("c", Running, 0)];
    assert_eq!(started(&plan(&pod, &observed(true, running.clone()))), [("e", 0)]);
    let both = vec![container("c", Running, 0), container("e", Exited, 1)];
    assert!(plan(&pod, &observed(true, both)).start.is_empty());
}

#[test]
fn a_container_left_half_made_is_made_again() {
    assert_eq!(started(&plan(&one("Never"), &observed(true, vec![container("c", Created, 0)]))), [("c", 1)]);
}

#[test]
fn nothing_is_started_in_a_pod_that_is_being_deleted() {
    let mut pod = one("Always");
    pod.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(1)));
    assert!(plan(&pod, &observed(true, vec![container("c", Exited, 1)])).kill_pod);
}
