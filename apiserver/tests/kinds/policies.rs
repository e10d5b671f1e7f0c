//! Policies of namespaces, and certificates, through the whole server.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde_json::{Value, json};
use skiff_apiserver::UserInfo;

use crate::{bootstrap::bootstrapped, harness::Harness};

const PODS: &str = "/api/v1/namespaces/n/pods";
const CSRS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

/// Policies act on what the caches hold; waits until they hold this.
async fn made(harness: &Harness, path: &str, object: Value) {
    let answer = harness.post(path, object).await;
    assert_eq!(answer.code, 201, "{}", answer.body);
    let revision = answer.body["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    assert_eq!(harness.get(&format!("{path}?resourceVersion={revision}")).await.code, 200);
}

#[tokio::test]
async fn a_quota_is_exact_under_concurrent_writes() {
    let harness = bootstrapped().await;
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": {"pods": "3"}}});
    made(&harness, "/api/v1/namespaces/n/resourcequotas", quota).await;
    let names: Vec<String> = (0..10).map(|i| format!("p-{i}")).collect();
    let answers = futures_util::future::join_all(names.iter().map(|name| harness.post(PODS, pod(name)))).await;
    let codes: Vec<u16> = answers.iter().map(|answer| answer.code).collect();
    assert_eq!(codes.iter().filter(|code| **code == 201).count(), 3, "{codes:?}");
    assert_eq!(codes.iter().filter(|code| **code == 403).count(), 7, "{codes:?}");
    let refused = answers.iter().find(|answer| answer.code == 403).unwrap();
    assert!(
        refused.body["message"]
            .as_str()
            .unwrap()
            .ends_with("exceeded quota: q, requested: pods=1, used: pods=3, limited: pods=3")
    );
}

#[tokio::test]
async fn a_dry_run_charges_no_quota() {
    let harness = bootstrapped().await;
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": {"pods": "1"}}});
    made(&harness, "/api/v1/namespaces/n/resourcequotas", quota).await;
    for _ in 0..3 {
        assert_eq!(harness.post(&format!("{PODS}?dryRun=All"), pod("p")).await.code, 201);
    }
    assert_eq!(harness.post(PODS, pod("p")).await.code, 201);
}

#[tokio::test]
async fn a_range_of_limits_completes_pods() {
    let harness = bootstrapped().await;
    let range = json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "l"},
        "spec": {"limits": [{"type": "Container", "default": {"memory": "64Mi"}, "max": {"memory": "128Mi"}}]}});
    made(&harness, "/api/v1/namespaces/n/limitranges", range).await;
    let answer = harness.post(PODS, pod("p")).await;
    assert_eq!(answer.body["spec"]["containers"][0]["resources"]["limits"]["memory"], "64Mi", "{}", answer.body);
    assert_eq!(answer.body["status"]["qosClass"], "Burstable");
    let mut large = pod("q");
    large["spec"]["containers"][0]["resources"] = json!({"limits": {"memory": "1Gi"}});
    assert_eq!(harness.post(PODS, large).await.code, 403);
}

#[tokio::test]
async fn pod_security_refuses_pods_and_warns_about_templates() {
    let harness = bootstrapped().await;
    let labels = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/warn": "baseline"}}});
    let answer = harness.patch("/api/v1/namespaces/n", "merge", labels).await;
    let revision = answer.body["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    assert_eq!(harness.get(&format!("/api/v1/namespaces?resourceVersion={revision}")).await.code, 200);
    let mut privileged = pod("p");
    privileged["spec"]["hostPID"] = json!(true);
    let refused = harness.post(PODS, privileged.clone()).await;
    assert_eq!(refused.code, 403);
    assert!(
        refused.body["message"]
            .as_str()
            .unwrap()
            .contains("violates PodSecurity \"baseline:latest\": host namespaces (hostPID=true)")
    );
    let daemons = json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "d"}, "spec": {
        "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": privileged["spec"]}}});
    let warned = harness.post("/apis/apps/v1/namespaces/n/daemonsets", daemons).await;
    assert_eq!(warned.code, 201, "{}", warned.body);
    assert!(warned.headers["warning"].to_str().unwrap().contains("would violate PodSecurity"));
}

fn request() -> Value {
    let key = pem_request();
    json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": "c"},
        "spec": {"request": key, "signerName": "example.com/signer", "usages": ["client auth"], "username": "forged"}})
}

/// Validation of the server looks at the fields around the request, not into it.
fn pem_request() -> String {
    STANDARD.encode("-----BEGIN CERTIFICATE REQUEST-----\nMA==\n-----END CERTIFICATE REQUEST-----\n")
}

#[tokio::test]
async fn a_request_is_approved_by_those_who_may() {
    let harness = bootstrapped().await;
    let answer = harness.post(CSRS, request()).await;
    assert_eq!((answer.code, &answer.body["spec"]["username"]), (201, &json!("admin")), "{}", answer.body);
    let mut approved = answer.body;
    approved["status"] =
        json!({"conditions": [{"type": "Approved", "status": "True", "reason": "Test", "message": "x"}]});
    let body = Bytes::from(approved.to_string());
    let json = [("content-type", "application/json")];
    let path = format!("{CSRS}/c/approval");
    let nobody = harness.ask_as(UserInfo::new("nobody", &[]), "PUT", &path, &json, body.clone()).await;
    assert_eq!(nobody.code, 403);
    let answer = harness.ask("PUT", &path, &json, body).await;
    assert_eq!(
        (answer.code, &answer.body["status"]["conditions"][0]["type"]),
        (200, &json!("Approved")),
        "{}",
        answer.body
    );
    assert!(answer.body["status"]["conditions"][0]["lastUpdateTime"].is_string());
    let signed = json!({"status": {"certificate": "QQ=="}});
    let answer = harness.patch(&format!("{CSRS}/c/status"), "merge", signed).await;
    assert_eq!((answer.code, &answer.body["status"]["certificate"]), (200, &json!("QQ==")), "{}", answer.body);
    let again = harness.patch(&format!("{CSRS}/c/status"), "merge", json!({"status": {"certificate": "Qg=="}})).await;
    assert_eq!(again.code, 422);
}

#[tokio::test]
async fn jobs_and_autoscalers_live_in_their_groups() {
    let harness = bootstrapped().await;
    let template = json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}});
    let job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"generateName": "j-"}, "spec": {"template": template}});
    let answer = harness.post("/apis/batch/v1/namespaces/n/jobs", job).await;
    assert_eq!(answer.code, 201, "{}", answer.body);
    let uid = &answer.body["metadata"]["uid"];
    assert_eq!(answer.body["spec"]["selector"]["matchLabels"]["batch.kubernetes.io/controller-uid"], *uid);
    let scaler = json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"}, "spec": {
        "maxReplicas": 3, "targetCPUUtilizationPercentage": 50, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}}});
    let answer = harness.post("/apis/autoscaling/v1/namespaces/n/horizontalpodautoscalers", scaler).await;
    assert_eq!(
        (answer.code, &answer.body["spec"]["targetCPUUtilizationPercentage"]),
        (201, &json!(50)),
        "{}",
        answer.body
    );
    let second = harness.get("/apis/autoscaling/v2/namespaces/n/horizontalpodautoscalers/h").await.body;
    assert_eq!(second["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 50);
}

#[tokio::test]
async fn events_of_both_groups_are_one() {
    let harness = bootstrapped().await;
    let event = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e", "namespace": "n"},
        "involvedObject": {"kind": "Pod", "namespace": "n", "name": "p"}, "reason": "R", "message": "m", "type": "Normal"});
    let answer = harness.post("/api/v1/namespaces/n/events", event).await;
    assert_eq!(answer.code, 201, "{}", answer.body);
    let other = harness.get("/apis/events.k8s.io/v1/namespaces/n/events/e").await.body;
    assert_eq!((&other["note"], &other["regarding"]["name"]), (&json!("m"), &json!("p")));
    let new = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "f", "namespace": "n"},
        "regarding": {"kind": "Pod", "namespace": "n", "name": "p"}, "reason": "R", "action": "A", "note": "m", "type": "Normal",
        "eventTime": "2026-01-01T00:00:00.000001Z", "reportingController": "c", "reportingInstance": "i"});
    let answer = harness.post("/apis/events.k8s.io/v1/namespaces/n/events", new).await;
    assert_eq!(
        (answer.code, &answer.body["eventTime"]),
        (201, &json!("2026-01-01T00:00:00.000001Z")),
        "{}",
        answer.body
    );
}
