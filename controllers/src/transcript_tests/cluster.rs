//! Namespaces, garbage, nodes, roles and volumes.

use serde_json::{Value, json};
use skiff_client::{Controller, PropagationPolicy};

use super::{anything, check, count, note, start};
use crate::{
    clusterrole_aggregation::ClusterRoleAggregationController,
    garbage_collector::GarbageCollector,
    namespace::NamespaceController,
    node_ipam::{ClusterCidr, NodeIpamController},
    node_lifecycle::NodeLifecycleController,
    pod_gc::PodGarbageCollector,
    root_ca::RootCaPublisher,
    serviceaccount::ServiceAccountController,
    simulation::Simulation,
    taint_eviction::TaintEvictionController,
    volume_binder::VolumeBinder,
    volume_protection::ClaimProtectionController,
};

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
