//! The audit log of a running server.

use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};
use skiff_apiserver::{
    ConnectionInfo, UserInfo,
    audit::{AuditLog, AuditOptions, FileOptions},
    body,
};
use tokio_util::sync::CancellationToken;

use crate::harness::{MAPS, config_map, start};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const POLICY: &str = "apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules: [{level: Metadata}]";

#[tokio::test]
async fn events_tell_who_was_allowed_what_and_why() {
    let folder = tempfile::tempdir().unwrap();
    let (policy, path) = (folder.path().join("policy.yaml"), folder.path().join("audit.log"));
    std::fs::write(&policy, POLICY).unwrap();
    let harness = start().await;
    let role = json!({"metadata": {"name": "reader"},
        "rules": [{"verbs": ["create"], "apiGroups": [""], "resources": ["configmaps"]}]});
    assert_eq!(harness.post(&format!("{RBAC}/namespaces/n/roles"), role).await.code, 201);
    let binding = json!({"metadata": {"name": "b"}, "subjects": [{"kind": "User", "name": "jane"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"}});
    assert_eq!(harness.post(&format!("{RBAC}/namespaces/n/rolebindings"), binding).await.code, 201);
    // The authorizer reads the caches; a review does not leave anything behind.
    let review = json!({"spec": {"user": "jane", "resourceAttributes":
        {"verb": "create", "resource": "configmaps", "namespace": "n"}}});
    while harness.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", review.clone()).await.body["status"]["allowed"]
        != true
    {
        tokio::task::yield_now().await;
    }

    let file = FileOptions { path: path.clone(), size_max: None, backups_max: None, age_max: None };
    let stop = CancellationToken::new();
    let options = AuditOptions { policy, file: Some(file), webhook: None };
    let (log, writer) = AuditLog::open(&options, stop.clone()).unwrap();
    harness.server.set_audit_log(log);
    let writer = tokio::spawn(writer);
    let jane = || UserInfo::new("jane", &[]);
    let post = [("content-type", "application/json")];
    let body = Bytes::from(config_map("made").to_string());
    assert_eq!(harness.ask_as(jane(), "POST", MAPS, &post, body).await.code, 201);
    assert_eq!(harness.ask_as(jane(), "GET", MAPS, &[], Bytes::new()).await.code, 403);
    let act = [("impersonate-user", "joe")];
    assert_eq!(harness.ask_as(jane(), "GET", MAPS, &act, Bytes::new()).await.code, 403);
    let request = Request::get(MAPS).header("authorization", "Bearer no").body(body::full("")).unwrap();
    let connection = ConnectionInfo { peer: None, client_certificates: Vec::new() };
    assert_eq!(harness.server.handle(request, &connection).await.status(), 401);
    stop.cancel();
    writer.await.unwrap();

    let text = std::fs::read_to_string(path).unwrap();
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [made, listed, acted, refused] = events.as_slice() else { panic!("{text}") };
    assert_eq!(made["objectRef"]["name"], "made");
    assert_eq!(
        made["annotations"],
        json!({"authorization.k8s.io/decision": "allow",
            "authorization.k8s.io/reason": "RBAC: allowed by RoleBinding \"b/n\" of Role \"reader\" to User \"jane\""})
    );
    assert_eq!(
        (&listed["annotations"]["authorization.k8s.io/decision"], &listed["responseStatus"]["reason"]),
        (&json!("forbid"), &json!("Forbidden"))
    );
    assert_eq!((&acted["user"]["username"], &acted["responseStatus"]["code"]), (&json!("jane"), &json!(403)));
    assert!(acted["responseStatus"]["message"].as_str().unwrap().contains("cannot impersonate resource \"users\""));
    assert_eq!(
        (&refused["stage"], &refused["responseStatus"]["code"], &refused["responseStatus"]["message"]),
        (&json!("ResponseStarted"), &json!(401), &json!("Authentication failed, attempted: bearer"))
    );
}
