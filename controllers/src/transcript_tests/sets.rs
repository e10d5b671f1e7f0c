//! Deployments and what else keeps a number of pods.

use k8s_openapi::api::core::v1::ReplicationController;
use serde_json::{Value, json};
use skiff_client::{Controller, ObjectRef};

use super::{anything, check, count, is_ready, note, start, workloads};
use crate::{
    daemonset::DaemonSetController, disruption::DisruptionController, replicaset::ReplicaSetController,
    simulation::Simulation, statefulset::StatefulSetController,
};

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
