//! What stands before a stream: authorization of both verbs, and admission.

use std::{io, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use skiff_apiserver::{
    ProxySettings, UserInfo,
    proxy::{BoxedIo, NodeDialer},
};

use crate::harness::{Harness, start_with};

const POD: &str = "/api/v1/namespaces/n/pods/p";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/n";
const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolic";

/// No node can be reached.
struct Nowhere;

#[async_trait]
impl NodeDialer for Nowhere {
    async fn dial(&self, _: &str, _: u16) -> io::Result<BoxedIo> {
        Err(io::Error::new(io::ErrorKind::ConnectionRefused, "nobody is there"))
    }

    async fn dial_address(&self, _: Option<&str>, _: std::net::SocketAddr) -> io::Result<BoxedIo> {
        Err(io::Error::new(io::ErrorKind::ConnectionRefused, "nobody is there"))
    }
}

/// A server with pod `p` on a node.
async fn world() -> Harness {
    let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let settings = ProxySettings { dialer: Arc::new(Nowhere), kubelet_tls: Arc::new(tls), aggregator_identity: None };
    let harness = start_with(Some(settings)).await;
    let pod =
        json!({"metadata": {"name": "p"}, "spec": {"nodeName": "node", "containers": [{"name": "c", "image": "i"}]}});
    let made = harness.post("/api/v1/namespaces/n/pods", pod).await;
    assert_eq!(made.code, 201, "{}", made.body);
    harness
}

/// Asks to run a command; the code and what is said.
async fn exec(harness: &Harness, user: &UserInfo, command: &str) -> (u16, String) {
    let headers =
        [("connection", "Upgrade"), ("upgrade", "websocket"), ("sec-websocket-protocol", "v5.channel.k8s.io")];
    let path = format!("{POD}/exec?command={command}&stdout=true");
    let answer = harness.ask_as(user.clone(), "GET", &path, &headers, Bytes::new()).await;
    (answer.code, answer.body["message"].as_str().unwrap_or_default().to_owned())
}

/// Makes a role of pods/exec for a user of the same name.
async fn allow(harness: &Harness, name: &str, verbs: Value) -> UserInfo {
    let role =
        json!({"metadata": {"name": name}, "rules": [{"verbs": verbs, "apiGroups": [""], "resources": ["pods/exec"]}]});
    assert_eq!(harness.post(&format!("{RBAC}/roles"), role).await.code, 201);
    let binding = json!({"metadata": {"name": name}, "subjects": [{"kind": "User", "name": name}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}});
    assert_eq!(harness.post(&format!("{RBAC}/rolebindings"), binding).await.code, 201);
    UserInfo::new(name, &[])
}

#[tokio::test]
async fn a_websocket_needs_the_right_to_create() {
    let harness = world().await;
    let (reader, writer) =
        (allow(&harness, "reader", json!(["get"])).await, allow(&harness, "writer", json!(["get", "create"])).await);
    // The authorizer reads the caches: the right of the one shows when that of the other, made before, does.
    while exec(&harness, &writer, "true").await.0 == 403 {
        tokio::task::yield_now().await;
    }
    let (code, message) = exec(&harness, &reader, "true").await;
    assert_eq!(code, 403);
    assert!(message.contains("cannot create resource \"pods/exec\""), "{message}");
    let (code, message) = exec(&harness, &writer, "true").await;
    assert_eq!((code, message.contains("node")), (404, true), "the node is not there: {message}");
}

#[tokio::test]
async fn admission_sees_a_stream_before_it_is_opened() {
    let harness = world().await;
    let rule = json!({"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CONNECT"], "resources": ["pods/exec"]});
    let policy = json!({"metadata": {"name": "p"}, "spec": {"matchConstraints": {"resourceRules": [rule]},
        "validations": [{"expression": "object.command != ['rm']", "message": "nothing is removed here"}]}});
    assert_eq!(harness.post(&format!("{POLICIES}ies"), policy).await.code, 201);
    let binding = json!({"metadata": {"name": "p"}, "spec": {"policyName": "p", "validationActions": ["Deny"]}});
    assert_eq!(harness.post(&format!("{POLICIES}ybindings"), binding).await.code, 201);
    let admin = UserInfo::new("admin", &["system:masters"]);
    let (code, message) = loop {
        let answer = exec(&harness, &admin, "rm").await;
        if answer.0 != 404 {
            break answer;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(code, 422, "{message}");
    assert!(message.ends_with("denied request: nothing is removed here"), "{message}");
    assert_eq!(exec(&harness, &admin, "ls").await.0, 404, "the others go on to the node");
}
