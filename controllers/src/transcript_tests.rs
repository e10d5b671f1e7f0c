//! Whole workloads in a simulated cluster: the recorded transcript in
//! `testdata` is what happened, step by step. `SKIFF_UPDATE_TESTDATA=1`
//! records anew; read the difference before committing it.

use std::{env, fs, path::Path};

use k8s_openapi::api::{apps::v1::ReplicaSet, core::v1::ReplicationController};
use serde_json::{Value, json};
use skiff_client::{Controller, ObjectRef, PropagationPolicy};

use crate::{
    clusterrole_aggregation::ClusterRoleAggregationController,
    cronjob::CronJobController,
    daemonset::DaemonSetController,
    deployment::DeploymentController,
    disruption::DisruptionController,
    endpoints::EndpointsController,
    endpointslice::EndpointSliceController,
    endpointslice_mirroring::EndpointSliceMirroringController,
    garbage_collector::GarbageCollector,
    job::JobController,
    namespace::NamespaceController,
    node_ipam::{ClusterCidr, NodeIpamController},
    node_lifecycle::NodeLifecycleController,
    pod_gc::PodGarbageCollector,
    replicaset::ReplicaSetController,
    root_ca::RootCaPublisher,
    serviceaccount::ServiceAccountController,
    simulation::Simulation,
    statefulset::StatefulSetController,
    taint_eviction::TaintEvictionController,
    volume_binder::VolumeBinder,
    volume_protection::ClaimProtectionController,
};

fn start(name: &str) -> Simulation {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(format!("{name}.yaml"));
    Simulation::new(&fs::read_to_string(path).unwrap())
}

/// Compares the transcript with the recorded one.
fn check(name: &str, simulation: &Simulation) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(format!("{name}.txt"));
    let text = simulation.log.join("\n") + "\n";
    if env::var_os("SKIFF_UPDATE_TESTDATA").is_some() {
        fs::write(path, text).unwrap();
        return;
    }
    let recorded = fs::read_to_string(&path).unwrap_or_default();
    assert!(recorded == text, "{} differs from what happened now:\n{text}", path.display());
}

fn note(simulation: &mut Simulation, text: &str) {
    simulation.log.push(format!("# {text}"));
}

fn workloads() -> [&'static dyn Controller; 2] {
    static SETS: std::sync::OnceLock<ReplicaSetController<ReplicaSet>> = std::sync::OnceLock::new();
    [&DeploymentController, SETS.get_or_init(ReplicaSetController::new)]
}

fn count(simulation: &Simulation, which: impl Fn(&Value) -> bool) -> usize {
    simulation.values("pods", "d").iter().filter(|pod| which(pod)).count()
}

fn is_ready(pod: &Value) -> bool {
    pod["metadata"]["deletionTimestamp"].is_null() && pod["status"]["conditions"][0]["status"] == "True"
}

fn anything(_: &Simulation) {}

#[test]
fn a_rolling_update_stays_within_surge_and_unavailability() {
    let mut simulation = start("deployment");
    simulation.settle(&workloads(), true, anything);
    note(&mut simulation, "new image");
    simulation.edit("deployments.apps", "d", "web", |web| {
        web["spec"]["template"]["spec"]["containers"][0]["image"] = "web:2".into();
    });
    simulation.settle(&workloads(), true, |simulation| {
        let all = count(simulation, |pod| pod["metadata"]["deletionTimestamp"].is_null());
        assert!(all <= 4, "more than replicas and surge: {all}");
        assert!(count(simulation, is_ready) >= 3, "fewer ready pods than allowed");
    });
    note(&mut simulation, "back to the first image");
    simulation.edit("deployments.apps", "d", "web", |web| {
        web["spec"]["template"]["spec"]["containers"][0]["image"] = "web:1".into();
    });
    simulation.settle(&workloads(), true, anything);
    let web = simulation.value("deployments.apps", "d", "web").unwrap();
    assert_eq!(web["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "3");
    assert_eq!(web["status"]["observedGeneration"], web["metadata"]["generation"]);
    assert_eq!(simulation.values("replicasets.apps", "d").len(), 2);
    check("deployment", &simulation);
}

#[test]
fn recreate_ends_all_old_pods_before_new_ones_start() {
    let mut simulation = start("deployment");
    simulation.edit("deployments.apps", "d", "web", |web| web["spec"]["strategy"] = json!({"type": "Recreate"}));
    simulation.settle(&workloads(), true, anything);
    simulation.edit("deployments.apps", "d", "web", |web| {
        web["spec"]["template"]["spec"]["containers"][0]["image"] = "web:2".into();
    });
    simulation.settle(&workloads(), true, |simulation| {
        let images = |image: &str| count(simulation, |pod| pod["spec"]["containers"][0]["image"] == image);
        assert!(images("web:1") == 0 || images("web:2") == 0, "old and new pods together");
    });
    assert_eq!(count(&simulation, |pod| pod["spec"]["containers"][0]["image"] == "web:2"), 3);
}

#[test]
fn a_stuck_rollout_scales_in_proportion_and_times_out() {
    let mut simulation = start("deployment");
    simulation.edit("deployments.apps", "d", "web", |web| web["spec"]["replicas"] = 10.into());
    simulation.edit("deployments.apps", "d", "web", |web| {
        web["spec"]["strategy"]["rollingUpdate"] = json!({"maxSurge": 3, "maxUnavailable": 2});
    });
    simulation.settle(&workloads(), true, anything);
    simulation.edit("deployments.apps", "d", "web", |web| {
        web["spec"]["template"]["spec"]["containers"][0]["image"] = "missing".into();
    });
    simulation.settle(&workloads(), false, anything);
    let sizes = |simulation: &Simulation| {
        let mut sizes: Vec<i64> = simulation
            .values("replicasets.apps", "d")
            .iter()
            .map(|set| set["spec"]["replicas"].as_i64().unwrap())
            .collect();
        sizes.sort();
        sizes
    };
    assert_eq!(sizes(&simulation), [5, 8]);
    simulation.edit("deployments.apps", "d", "web", |web| web["spec"]["replicas"] = 30.into());
    simulation.settle(&workloads(), false, anything);
    assert_eq!(sizes(&simulation), [13, 20]);
    simulation.pass(700);
    simulation.settle(&workloads(), false, anything);
    let web = simulation.value("deployments.apps", "d", "web").unwrap();
    let progressing =
        web["status"]["conditions"].as_array().unwrap().iter().find(|have| have["type"] == "Progressing").unwrap();
    assert_eq!(progressing["reason"], "ProgressDeadlineExceeded");
    assert_eq!(progressing["status"], "False");
}

#[test]
fn old_replica_sets_beyond_the_history_limit_are_deleted() {
    let mut simulation = start("deployment");
    simulation.edit("deployments.apps", "d", "web", |web| web["spec"]["revisionHistoryLimit"] = 1.into());
    for image in ["web:2", "web:3", "web:4"] {
        simulation.settle(&workloads(), true, anything);
        simulation.edit("deployments.apps", "d", "web", |web| {
            web["spec"]["template"]["spec"]["containers"][0]["image"] = image.into();
        });
    }
    simulation.settle(&workloads(), true, anything);
    assert_eq!(simulation.values("replicasets.apps", "d").len(), 2);
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let mut simulation = start("deployment");
    simulation.settle(&workloads(), true, anything);
    simulation.edit("deployments.apps", "d", "web", |web| {
        web["spec"]["paused"] = true.into();
        web["spec"]["replicas"] = 5.into();
        web["spec"]["template"]["spec"]["containers"][0]["image"] = "web:2".into();
    });
    simulation.settle(&workloads(), true, anything);
    assert_eq!(simulation.values("replicasets.apps", "d").len(), 1);
    assert_eq!(count(&simulation, is_ready), 5);
}

#[test]
fn replication_controllers_adopt_release_and_tell_of_quota() {
    let controller = ReplicaSetController::<ReplicationController>::new();
    let controllers: [&dyn Controller; 1] = [&controller];
    let mut simulation = start("replicationcontroller");
    simulation.settle(&controllers, true, anything);
    note(&mut simulation, "a pod leaves the selector");
    simulation.edit("pods", "d", "orphan", |pod| pod["metadata"]["labels"]["app"] = "other".into());
    simulation.settle(&controllers, true, anything);
    note(&mut simulation, "quota refuses the third pod");
    simulation.refuse = Some(("pods", "exceeded quota: q"));
    simulation.edit("replicationcontrollers", "d", "rc", |rc| rc["spec"]["replicas"] = 3.into());
    let key = ObjectRef::new("d", "rc");
    for _ in 0..3 {
        simulation.step(&controller, &key);
    }
    let rc = simulation.value("replicationcontrollers", "d", "rc").unwrap();
    assert_eq!(rc["status"]["conditions"][0]["type"], "ReplicaFailure");
    note(&mut simulation, "the wish is taken back");
    simulation.edit("replicationcontrollers", "d", "rc", |rc| rc["spec"]["replicas"] = 2.into());
    simulation.settle(&controllers, true, anything);
    let rc = simulation.value("replicationcontrollers", "d", "rc").unwrap();
    assert!(rc["status"]["conditions"].is_null(), "{}", rc["status"]);
    check("replicationcontroller", &simulation);
}

#[test]
fn a_daemon_set_covers_fit_nodes_and_rolls_within_its_budget() {
    let daemons = DaemonSetController::default();
    let controllers: [&dyn Controller; 1] = [&daemons];
    let mut simulation = start("daemonset");
    simulation.settle(&controllers, true, anything);
    note(&mut simulation, "a third node comes");
    simulation.put(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n3", "labels": {"role": "x"}}}));
    simulation.settle(&controllers, true, anything);
    note(&mut simulation, "new image");
    simulation.edit("daemonsets.apps", "d", "agent", |set| {
        set["spec"]["template"]["spec"]["containers"][0]["image"] = "agent:2".into();
    });
    simulation.settle(&controllers, true, |simulation| {
        assert!(count(simulation, is_ready) >= 1, "all daemons down at once");
    });
    note(&mut simulation, "back to the first image");
    simulation.edit("daemonsets.apps", "d", "agent", |set| {
        set["spec"]["template"]["spec"]["containers"][0]["image"] = "agent:1".into();
    });
    simulation.settle(&controllers, true, anything);
    let mut numbers: Vec<i64> = simulation
        .values("controllerrevisions.apps", "d")
        .iter()
        .map(|revision| revision["revision"].as_i64().unwrap())
        .collect();
    numbers.sort();
    assert_eq!(numbers, [2, 3]);
    note(&mut simulation, "a daemon fails");
    let name = simulation.values("pods", "d")[0]["metadata"]["name"].as_str().unwrap().to_owned();
    simulation.edit("pods", "d", &name, |pod| pod["status"]["phase"] = "Failed".into());
    simulation.settle(&controllers, true, anything);
    assert_eq!(count(&simulation, is_ready), 2);
    check("daemonset", &simulation);
}

#[test]
fn endpoints_follow_pods() {
    let controllers: [&dyn Controller; 2] = [&EndpointsController, &EndpointSliceController];
    let mut simulation = start("endpoints");
    simulation.settle(&controllers, false, anything);
    note(&mut simulation, "a pod becomes ready, another is deleted");
    simulation.edit("pods", "d", "slow", |pod| pod["status"]["conditions"][0]["status"] = "True".into());
    simulation.delete("pods", "d", "web-1", None);
    simulation.settle(&controllers, false, anything);
    note(&mut simulation, "the service goes");
    simulation.delete("services", "d", "web", None);
    simulation.settle(&controllers, false, anything);
    check("endpoints", &simulation);
}

#[test]
fn many_endpoints_fill_slices_and_one_change_rewrites_one() {
    let mut simulation = start("endpoints");
    for index in 0..250 {
        simulation.put(json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("many-{index}"), "namespace": "d", "labels": {"app": "web"}},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]},
            "status": {"phase": "Running", "podIP": format!("10.1.{}.{}", index / 100, index % 100),
                "conditions": [{"type": "Ready", "status": "True"}]}}));
    }
    simulation.settle(&[&EndpointSliceController], false, anything);
    let sizes: Vec<usize> = simulation
        .values("endpointslices.discovery.k8s.io", "d")
        .iter()
        .filter(|slice| slice["metadata"]["labels"]["kubernetes.io/service-name"] == "web")
        .map(|slice| slice["endpoints"].as_array().unwrap().len())
        .collect();
    assert_eq!(sizes.iter().sum::<usize>(), 253);
    assert!(sizes.iter().all(|size| *size <= 100), "{sizes:?}");
    simulation.log.clear();
    simulation.edit("pods", "d", "many-7", |pod| pod["status"]["conditions"][0]["status"] = "False".into());
    simulation.settle(&[&EndpointSliceController], false, anything);
    assert_eq!(simulation.log.len(), 1, "{:?}", simulation.log);
}

#[test]
fn a_namespace_lets_pods_go_first() {
    let controllers: [&dyn Controller; 1] = [&NamespaceController];
    let mut simulation = start("namespace");
    simulation.delete("namespaces", "", "d", None);
    simulation.settle(&controllers, true, anything);
    assert!(simulation.value("configmaps", "d", "settings").is_some(), "a pod with a finalizer holds the rest back");
    note(&mut simulation, "the pod's finalizer goes");
    simulation.edit("pods", "d", "held", |pod| pod["metadata"]["finalizers"] = json!([]));
    simulation.settle(&controllers, true, anything);
    assert!(simulation.value("namespaces", "", "d").is_none());
    check("namespace", &simulation);
}

#[test]
fn a_namespace_is_emptied_on_other_servers_before_it_goes() {
    let mut simulation = start("namespace_served_elsewhere");
    simulation.delete("namespaces", "", "d", None);
    simulation.settle(&[&NamespaceController], true, anything);
    assert!(simulation.value("namespaces", "", "d").is_none());
    let last: Vec<&str> = simulation.log.iter().rev().take(2).map(String::as_str).collect();
    assert!(last[0].contains("write finalize namespaces d"), "{last:?}");
    assert_eq!(last[1], "namespace-controller: empty wardle.example.com/v1alpha1 of d");
    let told = "1 failing: unable to retrieve the complete list of server APIs: wardle.example.com/v1alpha1: stale \
        GroupVersion discovery: wardle.example.com/v1alpha1";
    assert!(simulation.log[0].contains(told), "{}", simulation.log[0]);
}

#[test]
fn new_namespaces_get_an_account_and_the_ca() {
    let publisher = RootCaPublisher { ca_pem: "PEM".to_owned() };
    let controllers: [&dyn Controller; 2] = [&ServiceAccountController, &publisher];
    let mut simulation = start("namespace");
    simulation.settle(&controllers, false, anything);
    note(&mut simulation, "somebody breaks the CA and deletes the account");
    simulation.edit("configmaps", "d", "kube-root-ca.crt", |map| map["data"] = json!({"ca.crt": "x", "y": "z"}));
    simulation.delete("serviceaccounts", "d", "default", None);
    simulation.settle(&controllers, false, anything);
    let map = simulation.value("configmaps", "d", "kube-root-ca.crt").unwrap();
    assert_eq!(map["data"], json!({"ca.crt": "PEM"}));
    check("new_namespace", &simulation);
}

#[test]
fn garbage_goes_in_the_background_with_every_owner_checked() {
    let controllers: [&dyn Controller; 1] = [&GarbageCollector];
    let mut simulation = start("garbage");
    simulation.settle(&controllers, true, anything);
    assert_eq!(simulation.log, [""; 0], "nothing is garbage while owners live");
    simulation.delete("deployments.apps", "d", "web", None);
    simulation.settle(&controllers, true, anything);
    assert!(simulation.values("replicasets.apps", "d").is_empty());
    assert_eq!(simulation.values("pods", "d").len(), 1, "the pod with a second owner stays");
    check("garbage_background", &simulation);
}

#[test]
fn a_foreground_deletion_ends_with_the_owner() {
    let controllers: [&dyn Controller; 1] = [&GarbageCollector];
    let mut simulation = start("garbage");
    simulation.delete("deployments.apps", "d", "web", Some(PropagationPolicy::Foreground));
    simulation.settle(&controllers, true, |simulation| {
        let owner = simulation.value("deployments.apps", "d", "web").is_some();
        assert!(owner || simulation.values("replicasets.apps", "d").is_empty(), "the owner went first");
    });
    assert!(simulation.value("deployments.apps", "d", "web").is_none());
    check("garbage_foreground", &simulation);
}

#[test]
fn orphaned_dependents_lose_their_owner_and_live() {
    let controllers: [&dyn Controller; 1] = [&GarbageCollector];
    let mut simulation = start("garbage");
    simulation.delete("deployments.apps", "d", "web", Some(PropagationPolicy::Orphan));
    simulation.settle(&controllers, true, anything);
    assert!(simulation.value("deployments.apps", "d", "web").is_none());
    let set = &simulation.values("replicasets.apps", "d")[0];
    assert!(set["metadata"]["ownerReferences"].as_array().is_none_or(|owners| owners.is_empty()));
}

#[test]
fn a_cycle_of_owners_can_be_deleted() {
    let controllers: [&dyn Controller; 1] = [&GarbageCollector];
    let mut simulation = start("garbage_cycle");
    simulation.delete("configmaps", "d", "a", Some(PropagationPolicy::Foreground));
    simulation.settle(&controllers, true, anything);
    assert!(simulation.values("configmaps", "d").is_empty(), "{}", simulation.log.join("\n"));
}

#[test]
fn nodes_get_address_ranges_and_lose_pods_when_silent() {
    let ipam = NodeIpamController { cluster_cidrs: vec![ClusterCidr::parse("10.42.0.0/16", None).unwrap()] };
    let lifecycle = NodeLifecycleController::new(jiff::SignedDuration::from_secs(40));
    let taints = TaintEvictionController::default();
    let garbage = PodGarbageCollector::new(100);
    let controllers: [&dyn Controller; 4] = [&ipam, &lifecycle, &taints, &garbage];
    let mut simulation = start("nodes");
    simulation.settle(&controllers, false, anything);
    note(&mut simulation, "41 s of silence of n1");
    simulation.pass(41);
    simulation.edit("leases.coordination.k8s.io", "kube-node-lease", "n2", |lease| {
        lease["spec"]["renewTime"] = "2026-01-01T00:00:41.000000Z".into();
    });
    simulation.settle(&controllers, false, anything);
    note(&mut simulation, "300 s later");
    simulation.pass(300);
    simulation.edit("leases.coordination.k8s.io", "kube-node-lease", "n2", |lease| {
        lease["spec"]["renewTime"] = "2026-01-01T00:05:41.000000Z".into();
    });
    simulation.settle(&controllers, false, anything);
    note(&mut simulation, "n1 is removed");
    simulation.delete("nodes", "", "n1", None);
    simulation.settle(&controllers, false, anything);
    simulation.pass(41);
    simulation.edit("leases.coordination.k8s.io", "kube-node-lease", "n2", |lease| {
        lease["spec"]["renewTime"] = "2026-01-01T00:06:22.000000Z".into();
    });
    simulation.settle(&controllers, false, anything);
    assert_eq!(simulation.values("pods", "d").len(), 1, "the pod of n2");
    check("nodes", &simulation);
}

#[test]
fn a_stateful_set_rises_updates_and_shrinks_in_order() {
    let controllers: [&dyn Controller; 2] = [&StatefulSetController, &DisruptionController];
    let mut simulation = start("statefulset");
    simulation.settle(&controllers, true, |simulation| {
        let names: Vec<String> = simulation
            .values("pods", "d")
            .iter()
            .map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned())
            .collect();
        assert!(["db-0", "db-1", "db-2"].starts_with(&names.iter().map(String::as_str).collect::<Vec<_>>()));
    });
    note(&mut simulation, "new image, pods above 0 only");
    simulation.edit("statefulsets.apps", "d", "db", |set| {
        set["spec"]["updateStrategy"]["rollingUpdate"]["partition"] = 1.into();
        set["spec"]["template"]["spec"]["containers"][0]["image"] = "db:2".into();
    });
    simulation.settle(&controllers, true, |simulation| {
        assert!(count(simulation, is_ready) >= 2, "more than one pod down");
    });
    let images: Vec<Value> =
        simulation.values("pods", "d").iter().map(|pod| pod["spec"]["containers"][0]["image"].clone()).collect();
    assert_eq!(images, ["db:1", "db:2", "db:2"]);
    note(&mut simulation, "the rest");
    simulation.edit("statefulsets.apps", "d", "db", |set| {
        set["spec"]["updateStrategy"]["rollingUpdate"]["partition"] = 0.into();
    });
    simulation.settle(&controllers, true, anything);
    let status = simulation.value("statefulsets.apps", "d", "db").unwrap()["status"].clone();
    assert_eq!(status["currentRevision"], status["updateRevision"]);
    assert_eq!(status["currentReplicas"], 3);
    note(&mut simulation, "pods that are not ready halt the way down");
    for name in ["db-0", "db-1", "db-2"] {
        simulation.edit("pods", "d", name, |pod| pod["status"]["conditions"][0]["status"] = "False".into());
    }
    simulation.edit("statefulsets.apps", "d", "db", |set| set["spec"]["replicas"] = 0.into());
    simulation.settle(&controllers, true, anything);
    assert_eq!(simulation.values("pods", "d").len(), 3);
    for name in ["db-0", "db-1", "db-2"] {
        simulation.edit("pods", "d", name, |pod| pod["status"]["conditions"][0]["status"] = "True".into());
    }
    simulation.settle(&controllers, true, anything);
    assert!(simulation.values("pods", "d").is_empty());
    assert_eq!(simulation.values("persistentvolumeclaims", "d").len(), 3, "claims are kept");
    check("statefulset", &simulation);
}

#[test]
fn a_parallel_set_rises_at_once() {
    let mut simulation = start("statefulset");
    simulation.edit("statefulsets.apps", "d", "db", |set| set["spec"]["podManagementPolicy"] = "Parallel".into());
    simulation.step(&StatefulSetController, &ObjectRef::new("d", "db"));
    assert_eq!(simulation.values("pods", "d").len(), 3);
}

#[test]
fn aggregated_roles_hold_the_rules_of_their_parts() {
    let mut simulation = Simulation::new(
        "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: all}
aggregationRule: {clusterRoleSelectors: [{matchLabels: {part: x}}]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: one, labels: {part: x}}
rules: [{apiGroups: [''], resources: [pods], verbs: [get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: two}
rules: [{apiGroups: [''], resources: [secrets], verbs: [get]}]
",
    );
    simulation.settle(&[&ClusterRoleAggregationController], false, anything);
    let role = simulation.value("clusterroles.rbac.authorization.k8s.io", "", "all").unwrap();
    assert_eq!(role["rules"], json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]));
}

/// Ends every running pod of the job's namespace; `fails` chooses those that fail.
fn end_pods(simulation: &mut Simulation, fails: impl Fn(&Value) -> bool) {
    for mut pod in simulation.values("pods", "d") {
        if pod["status"]["phase"] != "Running" || !pod["metadata"]["deletionTimestamp"].is_null() {
            continue;
        }
        let (phase, code) = if fails(&pod) { ("Failed", 3) } else { ("Succeeded", 0) };
        pod["status"]["phase"] = phase.into();
        pod["status"]["conditions"] = json!([{"type": "Ready", "status": "False"}]);
        pod["status"]["containerStatuses"] = json!([{"name": "c", "image": "i", "imageID": "", "ready": false,
            "restartCount": 0, "state": {"terminated": {"exitCode": code,
            "finishedAt": crate::write::time(simulation.now)}}}]);
        simulation.put(pod);
    }
}

fn condition_of(simulation: &Simulation, kind: &str) -> Option<Value> {
    let job = simulation.value("jobs.batch", "d", "work").unwrap();
    let conditions = job["status"]["conditions"].as_array()?.clone();
    conditions.into_iter().find(|condition| condition["type"] == kind && condition["status"] == "True")
}

#[test]
fn a_job_counts_every_end_once() {
    let controllers: [&dyn Controller; 1] = [&JobController];
    let mut simulation = start("job");
    simulation.settle(&controllers, true, |simulation| {
        assert!(count(simulation, |pod| pod["status"]["phase"] != "Succeeded") <= 2, "more than parallelism");
    });
    note(&mut simulation, "one of two fails");
    let mut first = true;
    let failing = simulation.values("pods", "d")[0]["metadata"]["name"].clone();
    while condition_of(&simulation, "Complete").is_none() {
        end_pods(&mut simulation, |pod| first && pod["metadata"]["name"] == failing);
        first = false;
        simulation.settle(&controllers, true, anything);
        simulation.pass(11);
        simulation.settle(&controllers, true, anything);
    }
    let status = simulation.value("jobs.batch", "d", "work").unwrap()["status"].clone();
    assert_eq!((&status["succeeded"], &status["failed"]), (&json!(4), &json!(1)), "{status}");
    assert!(status["completionTime"].is_string() && condition_of(&simulation, "SuccessCriteriaMet").is_some());
    assert_eq!(status["uncountedTerminatedPods"], json!({}));
    for pod in simulation.values("pods", "d") {
        assert_eq!(pod["metadata"]["finalizers"], json!([]));
    }
    check("job", &simulation);
}

#[test]
fn a_job_gives_up_at_its_backoff_limit_and_waits_longer_each_time() {
    let controllers: [&dyn Controller; 1] = [&JobController];
    let mut simulation = start("job");
    simulation.edit("jobs.batch", "d", "work", |job| {
        job["spec"]["parallelism"] = 1.into();
        job["spec"]["backoffLimit"] = 2.into();
    });
    let mut pauses = Vec::new();
    while condition_of(&simulation, "Failed").is_none() {
        let mut pause = 0;
        while count(&simulation, |pod| pod["status"]["phase"] == "Running") == 0
            && condition_of(&simulation, "Failed").is_none()
        {
            simulation.settle(&controllers, true, anything);
            if count(&simulation, |pod| pod["status"]["phase"] == "Running") == 0 {
                simulation.pass(1);
                pause += 1;
            }
        }
        pauses.push(pause);
        end_pods(&mut simulation, |_| true);
    }
    assert_eq!(condition_of(&simulation, "Failed").unwrap()["reason"], "BackoffLimitExceeded");
    assert!(pauses[1] >= 9 && pauses[2] >= 19, "{pauses:?}");
}

#[test]
fn an_indexed_job_runs_every_index_and_fails_some_on_their_own() {
    let controllers: [&dyn Controller; 1] = [&JobController];
    let mut simulation = start("job");
    simulation.edit("jobs.batch", "d", "work", |job| {
        job["spec"]["completionMode"] = "Indexed".into();
        job["spec"]["backoffLimitPerIndex"] = 0.into();
        job["spec"]["backoffLimit"] = i32::MAX.into();
    });
    for _ in 0..6 {
        simulation.settle(&controllers, true, anything);
        let odd = |pod: &Value| {
            let index = &pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"];
            index.as_str().unwrap().parse::<i32>().unwrap() % 2 == 1
        };
        end_pods(&mut simulation, odd);
    }
    simulation.settle(&controllers, true, anything);
    let status = simulation.value("jobs.batch", "d", "work").unwrap()["status"].clone();
    assert_eq!((&status["completedIndexes"], &status["failedIndexes"]), (&json!("0,2"), &json!("1,3")), "{status}");
    assert_eq!(condition_of(&simulation, "Failed").unwrap()["reason"], "FailedIndexes");
}

#[test]
fn a_failure_policy_fails_the_job_at_once_or_looks_away() {
    for (action, ends) in [("FailJob", true), ("Ignore", false)] {
        let controllers: [&dyn Controller; 1] = [&JobController];
        let mut simulation = start("job");
        simulation.edit("jobs.batch", "d", "work", |job| {
            job["spec"]["backoffLimit"] = 0.into();
            job["spec"]["podFailurePolicy"] =
                json!({"rules": [{"action": action, "onExitCodes": {"operator": "In", "values": [3]}}]});
        });
        simulation.settle(&controllers, true, anything);
        end_pods(&mut simulation, |_| true);
        simulation.settle(&controllers, true, anything);
        let failed = condition_of(&simulation, "Failed");
        assert_eq!(failed.is_some(), ends, "{action}");
        if let Some(failed) = failed {
            assert_eq!(failed["reason"], "PodFailurePolicy");
            assert!(
                failed["message"]
                    .as_str()
                    .unwrap()
                    .contains("failed with exit code 3 matching FailJob rule at index 0")
            );
        }
    }
}

#[test]
fn a_suspended_job_ends_its_pods_and_starts_again() {
    let controllers: [&dyn Controller; 1] = [&JobController];
    let mut simulation = start("job");
    simulation.settle(&controllers, true, anything);
    simulation.edit("jobs.batch", "d", "work", |job| job["spec"]["suspend"] = true.into());
    simulation.settle(&controllers, true, anything);
    assert!(simulation.values("pods", "d").is_empty(), "{}", simulation.log.join("\n"));
    assert!(condition_of(&simulation, "Suspended").is_some());
    simulation.edit("jobs.batch", "d", "work", |job| job["spec"]["suspend"] = false.into());
    simulation.settle(&controllers, true, anything);
    assert_eq!(simulation.values("pods", "d").len(), 2);
    assert!(condition_of(&simulation, "Suspended").is_none());
}

#[test]
fn a_cron_job_starts_on_time_and_respects_its_policy() {
    let cron = "
apiVersion: batch/v1
kind: CronJob
metadata: {name: tick, namespace: d}
spec:
  schedule: '*/1 * * * ?'
  concurrencyPolicy: Forbid
  jobTemplate:
    spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: i}]}}}
";
    let controllers: [&dyn Controller; 1] = [&CronJobController::default()];
    let mut simulation = Simulation::new(cron);
    simulation.settle(&controllers, false, anything);
    assert!(simulation.values("jobs.batch", "d").is_empty());
    simulation.pass(60);
    simulation.settle(&controllers, false, anything);
    simulation.pass(60);
    simulation.settle(&controllers, false, anything);
    assert_eq!(simulation.values("jobs.batch", "d").len(), 1, "the first still runs");
    simulation.edit("cronjobs.batch", "d", "tick", |cron| cron["spec"]["concurrencyPolicy"] = "Replace".into());
    simulation.settle(&controllers, false, anything);
    let jobs = simulation.values("jobs.batch", "d");
    assert_eq!(jobs.len(), 1);
    assert_eq!(jobs[0]["metadata"]["name"], "tick-29453762");
    let status = simulation.value("cronjobs.batch", "d", "tick").unwrap()["status"].clone();
    assert_eq!(status["lastScheduleTime"], "2026-01-01T00:02:00Z");
    assert_eq!(status["active"].as_array().unwrap().len(), 1);
}

#[test]
fn a_start_that_came_too_late_is_told_of_once() {
    let cron = "
apiVersion: batch/v1
kind: CronJob
metadata: {name: hourly, namespace: d}
spec:
  schedule: '0 * * * *'
  startingDeadlineSeconds: 30
  jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: i}]}}}}
";
    let controllers: [&dyn Controller; 1] = [&CronJobController::default()];
    let mut simulation = Simulation::new(cron);
    let missed = |simulation: &Simulation| {
        let wanted = "MissSchedule Missed scheduled time to start a job: Thu, 01 Jan 2026 01:00:00 +0000";
        simulation.log.iter().filter(|line| line.contains(wanted)).count()
    };
    simulation.pass(1800);
    simulation.settle(&controllers, false, anything);
    assert_eq!(missed(&simulation), 0);
    simulation.pass(1800 + 31);
    simulation.settle(&controllers, false, anything);
    assert_eq!(missed(&simulation), 1, "{:?}", simulation.log);
    simulation.pass(60);
    simulation.edit("cronjobs.batch", "d", "hourly", |cron| cron["spec"]["suspend"] = false.into());
    simulation.settle(&controllers, false, anything);
    assert_eq!(missed(&simulation), 1, "it is no news any more");
    assert!(simulation.values("jobs.batch", "d").is_empty());
    simulation.pass(3600 - 31 - 60 + 10);
    simulation.settle(&controllers, false, anything);
    assert_eq!(simulation.values("jobs.batch", "d").len(), 1);
}

#[test]
fn hand_made_endpoints_are_mirrored_into_slices() {
    let objects = "
apiVersion: v1
kind: Service
metadata: {name: ext, namespace: d}
spec: {ports: [{port: 80}]}
---
apiVersion: v1
kind: Endpoints
metadata: {name: ext, namespace: d, labels: {a: b}}
subsets:
- addresses: [{ip: 192.0.2.1}, {ip: '2001:db8::1'}]
  notReadyAddresses: [{ip: 192.0.2.2}]
  ports: [{port: 8080, protocol: TCP}]
";
    let controllers: [&dyn Controller; 1] = [&EndpointSliceMirroringController];
    let mut simulation = Simulation::new(objects);
    simulation.settle(&controllers, false, anything);
    let slices = simulation.values("endpointslices.discovery.k8s.io", "d");
    assert_eq!(slices.len(), 2);
    let v4 = slices.iter().find(|slice| slice["addressType"] == "IPv4").unwrap();
    assert_eq!(v4["endpoints"][1], json!({"addresses": ["192.0.2.2"], "conditions": {"ready": false}}));
    simulation.edit("endpoints", "d", "ext", |endpoints| {
        endpoints["subsets"] =
            json!([{"addresses": [{"ip": "192.0.2.3"}], "ports": [{"port": 8080, "protocol": "TCP"}]}]);
    });
    simulation.settle(&controllers, false, anything);
    assert_eq!(simulation.values("endpointslices.discovery.k8s.io", "d").len(), 1);
    simulation.delete("endpoints", "d", "ext", None);
    simulation.settle(&controllers, false, anything);
    assert!(simulation.values("endpointslices.discovery.k8s.io", "d").is_empty());
}

#[test]
fn a_claim_in_use_outlives_its_deletion() {
    let objects = "
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data, namespace: d}
spec: {}
---
apiVersion: v1
kind: Pod
metadata: {name: user, namespace: d}
spec: {nodeName: n1, containers: [], volumes: [{name: v, persistentVolumeClaim: {claimName: data}}]}
status: {phase: Running}
";
    let controllers: [&dyn Controller; 1] = [&ClaimProtectionController];
    let mut simulation = Simulation::new(objects);
    simulation.settle(&controllers, false, anything);
    simulation.delete("persistentvolumeclaims", "d", "data", None);
    simulation.settle(&controllers, false, anything);
    assert!(simulation.value("persistentvolumeclaims", "d", "data").is_some());
    simulation.delete("pods", "d", "user", None);
    simulation.end_pod("d", "user");
    simulation.settle(&controllers, false, anything);
    assert!(simulation.value("persistentvolumeclaims", "d", "data").is_none());
}

#[test]
fn a_claim_takes_the_smallest_volume_that_does() {
    let volume = |name: &str, size: &str| {
        format!(
            "
apiVersion: v1
kind: PersistentVolume
metadata: {{name: {name}}}
spec: {{capacity: {{storage: {size}}}, accessModes: [ReadWriteOnce], storageClassName: manual}}
---"
        )
    };
    let objects = format!(
        "{}{}{}
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: data, namespace: d}}
spec: {{accessModes: [ReadWriteOnce], storageClassName: manual, resources: {{requests: {{storage: 2Gi}}}}}}
",
        volume("big", "10Gi"),
        volume("small", "1Gi"),
        volume("right", "3Gi")
    );
    let controllers: [&dyn Controller; 1] = [&VolumeBinder];
    let mut simulation = Simulation::new(&objects);
    simulation.settle(&controllers, false, anything);
    let phase = |simulation: &Simulation, name: &str| {
        simulation.value("persistentvolumes", "", name).unwrap()["status"]["phase"].clone()
    };
    let claim = simulation.value("persistentvolumeclaims", "d", "data").unwrap();
    assert_eq!((&claim["spec"]["volumeName"], &claim["status"]["phase"]), (&json!("right"), &json!("Bound")));
    assert_eq!(claim["status"]["capacity"]["storage"], "3Gi");
    assert_eq!((phase(&simulation, "right"), phase(&simulation, "big")), (json!("Bound"), json!("Available")));
    simulation.delete("persistentvolumeclaims", "d", "data", None);
    simulation.settle(&controllers, false, anything);
    assert_eq!(phase(&simulation, "right"), "Released");
}

#[test]
fn a_job_whose_pods_cannot_be_replaced_still_lets_go_of_them() {
    let controllers: [&dyn Controller; 1] = [&JobController];
    let mut simulation = start("job");
    simulation.settle(&controllers, true, anything);
    simulation.refuse = Some(("pods", "the namespace is being terminated"));
    end_pods(&mut simulation, |_| false);
    for _ in 0..5 {
        simulation.step(&JobController, &ObjectRef::new("d", "work"));
    }
    assert_eq!(count(&simulation, |pod| pod["metadata"]["finalizers"] != json!([])), 0);
}

#[test]
fn a_cluster_whose_only_node_is_silent_evicts_nothing() {
    let lifecycle = NodeLifecycleController::new(jiff::SignedDuration::from_secs(40));
    let taints = TaintEvictionController::default();
    let controllers: [&dyn Controller; 2] = [&lifecycle, &taints];
    let mut simulation = start("nodes");
    simulation.delete("nodes", "", "n2", None);
    simulation.settle(&controllers, false, anything);
    for _ in 0..2 {
        simulation.pass(400);
        simulation.settle(&controllers, false, anything);
    }
    assert_eq!(count(&simulation, |pod| pod["metadata"]["deletionTimestamp"].is_null()), 3);
    let node = simulation.value("nodes", "", "n1").unwrap();
    let effects: Vec<&Value> =
        node["spec"]["taints"].as_array().unwrap().iter().map(|taint| &taint["effect"]).collect();
    assert_eq!(effects, ["NoSchedule"], "nothing new is placed there, though");
}
