//! Services and their pools; scale.

use serde_json::{Value, json};

use crate::{
    bootstrap::bootstrapped,
    harness::{DEPLOYMENTS, deployment},
};

const SERVICES: &str = "/api/v1/namespaces/n/services";

fn service(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
}

#[tokio::test]
async fn addresses_are_given_kept_and_returned() {
    let harness = bootstrapped().await;
    let answer =
        harness.post(SERVICES, service("a", json!({"ports": [{"port": 80}], "clusterIP": "10.43.0.10"}))).await;
    assert_eq!((answer.code, &answer.body["spec"]["clusterIPs"]), (201, &json!(["10.43.0.10"])), "{}", answer.body);
    let taken = harness.post(SERVICES, service("b", json!({"ports": [{"port": 80}], "clusterIP": "10.43.0.10"}))).await;
    assert_eq!(taken.code, 422);
    assert!(taken.body["message"].as_str().unwrap().contains("provided IP is already allocated"));
    assert_eq!(harness.delete(&format!("{SERVICES}/a"), Value::Null).await.code, 200);
    let again = harness.post(SERVICES, service("b", json!({"ports": [{"port": 80}], "clusterIP": "10.43.0.10"}))).await;
    assert_eq!(again.code, 201, "{}", again.body);
    let first = harness.post(SERVICES, service("c", json!({"ports": [{"port": 80}], "clusterIP": "10.43.0.1"}))).await;
    assert_eq!(first.code, 422, "the first address belongs to default/kubernetes");
}

#[tokio::test]
async fn a_service_changes_its_type() {
    let harness = bootstrapped().await;
    let path = format!("{SERVICES}/a");
    let made = harness.post(SERVICES, service("a", json!({"type": "NodePort", "ports": [{"port": 80}]}))).await.body;
    let port = made["spec"]["ports"][0]["nodePort"].as_i64().unwrap();
    assert!((30000..=32767).contains(&port));
    let plain = harness.patch(&path, "merge", json!({"spec": {"type": "ClusterIP"}})).await.body;
    assert_eq!(plain["spec"]["ports"][0].get("nodePort"), None);
    assert_eq!(plain["spec"]["clusterIP"], made["spec"]["clusterIP"]);
    let named =
        harness.patch(&path, "merge", json!({"spec": {"type": "ExternalName", "externalName": "example.com"}})).await;
    assert_eq!(named.code, 200, "{}", named.body);
    assert_eq!(named.body["spec"].get("clusterIP"), None);
    let back = harness.patch(&path, "merge", json!({"spec": {"type": "ClusterIP", "externalName": null}})).await;
    assert_eq!(back.code, 200, "{}", back.body);
    assert!(back.body["spec"]["clusterIP"].is_string());
    let moved =
        harness.patch(&path, "merge", json!({"spec": {"clusterIP": "10.43.9.9", "clusterIPs": ["10.43.9.9"]}})).await;
    assert_eq!(moved.code, 422);
}

#[tokio::test]
async fn a_dry_run_takes_nothing() {
    let harness = bootstrapped().await;
    let wanted = service("a", json!({"ports": [{"port": 80}], "clusterIP": "10.43.0.20"}));
    assert_eq!(harness.post(&format!("{SERVICES}?dryRun=All"), wanted.clone()).await.code, 201);
    assert_eq!(harness.post(SERVICES, wanted).await.code, 201);
}

#[tokio::test]
async fn a_deployment_is_scaled_through_its_view() {
    let harness = bootstrapped().await;
    let answer = harness.post(DEPLOYMENTS, deployment("d")).await;
    assert_eq!(answer.code, 201, "{}", answer.body);
    let path = format!("{DEPLOYMENTS}/d/scale");
    let scale = harness.get(&path).await.body;
    assert_eq!((&scale["kind"], &scale["status"]["selector"]), (&json!("Scale"), &json!("app=d")));
    let answer = harness.patch(&path, "merge", json!({"spec": {"replicas": 5}})).await;
    assert_eq!((answer.code, &answer.body["spec"]["replicas"]), (200, &json!(5)), "{}", answer.body);
    let scaled = harness.get(&format!("{DEPLOYMENTS}/d")).await.body;
    assert_eq!((&scaled["spec"]["replicas"], &scaled["metadata"]["generation"]), (&json!(5), &json!(2)));
}
