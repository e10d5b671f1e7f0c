//! The objects every cluster has.

use std::time::{Duration, Instant};

use skiff_apiserver::{UserInfo, bootstrap::Bootstrap};
use tokio_util::sync::CancellationToken;

use crate::harness::{Harness, start};

fn bootstrap() -> Bootstrap {
    Bootstrap {
        client_ca_pem: "CLIENT".to_owned(),
        request_header_ca_pem: "PROXY".to_owned(),
        service_cidrs: vec!["10.43.0.0/16".parse().unwrap()],
        advertise_address: "192.0.2.1".parse().unwrap(),
        advertise_port: 6443,
    }
}

pub async fn bootstrapped() -> Harness {
    let harness = start().await;
    bootstrap().run(&harness.client).await.unwrap();
    harness
}

async fn revision(harness: &Harness) -> String {
    harness.get("/api/v1/namespaces").await.body["metadata"]["resourceVersion"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_second_run_writes_nothing() {
    let harness = start().await;
    let began = Instant::now();
    bootstrap().run(&harness.client).await.unwrap();
    let first = began.elapsed();
    let before = revision(&harness).await;
    let began = Instant::now();
    bootstrap().run(&harness.client).await.unwrap();
    println!("first run {first:?}, second run {:?}", began.elapsed());
    assert_eq!(revision(&harness).await, before);
}

#[tokio::test]
async fn the_objects_are_there() {
    let harness = bootstrapped().await;
    for path in [
        "/api/v1/namespaces/kube-node-lease",
        "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication",
        "/apis/rbac.authorization.k8s.io/v1/clusterroles/cluster-admin",
        "/apis/rbac.authorization.k8s.io/v1/namespaces/kube-system/roles/extension-apiserver-authentication-reader",
        "/apis/scheduling.k8s.io/v1/priorityclasses/system-node-critical",
        "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas/catch-all",
        "/apis/networking.k8s.io/v1/servicecidrs/kubernetes",
        "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes",
    ] {
        assert_eq!(harness.get(path).await.code, 200, "{path}");
    }
    let service = harness.get("/api/v1/namespaces/default/services/kubernetes").await.body;
    assert_eq!(service["spec"]["clusterIP"], "10.43.0.1");
}

#[tokio::test]
async fn the_system_users_have_what_they_need() {
    let harness = bootstrapped().await;
    for (user, path, want) in [
        ("system:kube-controller-manager", "/api/v1/secrets", 200),
        ("system:kube-scheduler", "/api/v1/pods", 200),
        ("system:kube-scheduler", "/api/v1/secrets", 403),
        ("nobody", "/api/v1/pods", 403),
        ("nobody", "/version", 200),
        ("nobody", "/apis", 200),
    ] {
        let answer = harness.ask_as(UserInfo::new(user, &[]), "GET", path, &[], bytes::Bytes::new()).await;
        assert_eq!(answer.code, want, "{user} {path}");
    }
}

#[tokio::test]
async fn answers_name_the_flow_they_went_through() {
    let harness = bootstrapped().await;
    let user = UserInfo::new("someone", &["system:authenticated"]);
    let answer = harness.ask_as(user, "GET", "/version", &[], bytes::Bytes::new()).await;
    for (header, kind, name) in [
        ("x-kubernetes-pf-flowschema-uid", "flowschemas", "global-default"),
        ("x-kubernetes-pf-prioritylevel-uid", "prioritylevelconfigurations", "global-default"),
    ] {
        let path = format!("/apis/flowcontrol.apiserver.k8s.io/v1/{kind}/{name}");
        let uid = harness.get(&path).await.body["metadata"]["uid"].clone();
        assert_eq!(answer.headers[header], uid.as_str().unwrap(), "{header}");
    }
}

#[tokio::test]
async fn the_service_of_the_api_comes_back() {
    let harness = bootstrapped().await;
    let stop = CancellationToken::new();
    let (client, snapshot, ended) = (harness.client.clone(), harness.server.snapshot(), stop.clone());
    let keeper = tokio::spawn(async move { bootstrap().maintain(&client, &snapshot, ended).await });
    tokio::task::yield_now().await;
    let path = "/api/v1/namespaces/default/services/kubernetes";
    assert_eq!(harness.delete(path, serde_json::Value::Null).await.code, 200);
    let deadline = Instant::now() + Duration::from_secs(5);
    while harness.get(path).await.code != 200 {
        assert!(Instant::now() < deadline, "the service stayed away");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.cancel();
    keeper.await.unwrap();
}
