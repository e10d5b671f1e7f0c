//! What surrounds the verbs: identity, authorization, routes, documents.

use bytes::Bytes;
use serde_json::json;
use skiff_apiserver::{ConnectionInfo, UserInfo, body};

use crate::harness::*;

#[tokio::test]
async fn a_stranger_is_told_what_is_missing() {
    let api = start().await;
    let jane = UserInfo::new("jane", &["team"]);
    let refused = api.ask_as(jane.clone(), "GET", MAPS, &[], Bytes::new()).await;
    assert_eq!((refused.code, &refused.body["reason"]), (403, &json!("Forbidden")));
    assert_eq!(
        refused.body["message"],
        "configmaps is forbidden: User \"jane\" cannot list resource \"configmaps\" in API group \"\" in the namespace \"n\""
    );
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "r"},
        "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}]});
    let roles = "/apis/rbac.authorization.k8s.io/v1/namespaces/n";
    assert_eq!(api.post(&format!("{roles}/roles"), role).await.code, 201);
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": "b"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
        "subjects": [{"kind": "Group", "name": "team", "apiGroup": "rbac.authorization.k8s.io"}]});
    assert_eq!(api.post(&format!("{roles}/rolebindings"), binding).await.code, 201);
    api.get("/apis/rbac.authorization.k8s.io/v1/rolebindings").await;
    assert_eq!(api.ask_as(jane.clone(), "GET", MAPS, &[], Bytes::new()).await.code, 200);
    let other = api.ask_as(jane, "GET", "/metrics", &[], Bytes::new()).await;
    assert_eq!(other.body["message"], "forbidden: User \"jane\" cannot get path \"/metrics\"");
}

#[tokio::test]
async fn impersonation_needs_its_verb_and_changes_the_user() {
    let api = start().await;
    let as_jane = [("impersonate-user", "jane")];
    let refused = api.ask("GET", MAPS, &as_jane, Bytes::new()).await;
    assert!(refused.body["message"].as_str().unwrap().contains("User \"jane\""));
    let not_allowed = api.ask_as(UserInfo::new("bob", &[]), "GET", MAPS, &as_jane, Bytes::new()).await;
    assert!(not_allowed.body["message"].as_str().unwrap().contains("cannot impersonate resource \"users\""));
}

#[tokio::test]
async fn bad_credentials_are_refused_and_none_is_anonymous() {
    let api = start().await;
    let request = |token: &str| {
        let mut request = http::Request::builder().uri("/api/v1/pods");
        if !token.is_empty() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        request.body(body::full(Bytes::new())).unwrap()
    };
    let bad = answer(api.server.handle(request("nonsense"), &ConnectionInfo::default()).await).await;
    assert_eq!((bad.code, &bad.body["message"]), (401, &json!("Unauthorized")));
    let none = answer(api.server.handle(request(""), &ConnectionInfo::default()).await).await;
    assert_eq!(none.code, 403);
    assert!(none.body["message"].as_str().unwrap().contains("system:anonymous"));
}

#[tokio::test]
async fn unknown_routes_and_wrong_methods_are_told_apart() {
    let api = start().await;
    let unknown = api.get("/api/v1/namespaces/n/nonsense").await;
    assert_eq!((unknown.code, &unknown.body["reason"]), (404, &json!("NotFound")));
    assert_eq!(unknown.body["message"], "the server could not find the requested resource");
    assert_eq!(api.get("/nonsense").await.body, "404 page not found\n");
    assert_eq!(api.get("/apis/none.example/v1/things").await.code, 404);
    assert_eq!(api.post("/api/v1/namespaces/n", json!({})).await.code, 405);
    let review = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    assert_eq!(api.get(review).await.code, 405);
    assert_eq!(api.get("/api/v1/namespaces/n/nodes").await.code, 404, "nodes have no namespace");
}

#[tokio::test]
async fn documents_are_served() {
    let api = start().await;
    assert_eq!(api.get("/readyz").await.body, "ok");
    assert_eq!(api.get("/version").await.body["minor"], "37");
    assert_eq!(api.get("/api/v1").await.body["kind"], "APIResourceList");
    assert_eq!(api.get("/openid/v1/jwks").await.body["keys"][0]["alg"], "ES256");
    assert!(api.get("/").await.body["paths"].as_array().unwrap().len() > 20);
    api.get(MAPS).await;
    let metrics = api.get("/metrics").await;
    assert!(metrics.body.as_str().unwrap().contains("apiserver_request_total{code=\"200\""));
}

#[tokio::test]
async fn health_has_upstreams_checks_and_pages_of_their_own() {
    let (done, hook) = tokio::sync::watch::channel(false);
    let api = start_as(|config| config.health_checks = skiff_apiserver::bootstrap::health_checks(&hook)).await;
    let text = async |path: &str| {
        let answer = api.get(path).await;
        (answer.code, answer.body.as_str().unwrap().to_owned())
    };
    let (code, unready) = text("/livez").await;
    assert_eq!(code, 500);
    assert!(unready.contains("[-]poststarthook/rbac/bootstrap-roles failed: reason withheld\n"), "{unready}");
    assert_eq!(text("/livez/poststarthook/rbac/bootstrap-roles").await.0, 500);
    done.send_replace(true);
    assert_eq!(text("/livez").await, (200, "ok".to_owned()));
    let (_, all) = text("/readyz?verbose").await;
    for name in [
        "ping",
        "etcd",
        "etcd-readiness",
        "informer-sync",
        "poststarthook/crd-informer-synced",
        "poststarthook/start-system-namespaces-controller",
        "poststarthook/rbac/bootstrap-roles",
        "poststarthook/scheduling/bootstrap-system-priority-classes",
        "poststarthook/priority-and-fairness-config-producer",
        "shutdown",
    ] {
        assert!(all.contains(&format!("[+]{name} ok\n")), "{name}: {all}");
        assert_eq!(text(&format!("/readyz/{name}")).await, (200, "ok".to_owned()));
    }
    let (_, alive) = text("/healthz?verbose").await;
    assert!(alive.contains("[+]etcd ok") && !alive.contains("readiness") && !alive.contains("shutdown"), "{alive}");
    assert_eq!(text("/healthz/etcd").await, (200, "ok".to_owned()));
    let paths = api.get("/").await.body["paths"].clone();
    for path in ["/healthz/etcd", "/readyz/shutdown", "/statusz"] {
        assert!(paths.as_array().unwrap().contains(&json!(path)), "{path}: {paths}");
    }
}

#[tokio::test]
async fn the_server_tells_its_version_and_since_when_it_runs() {
    let api = start().await;
    let version = api.get("/version").await.body;
    assert_eq!((&version["emulationMajor"], &version["emulationMinor"]), (&json!("1"), &version["minor"]));
    assert_eq!((&version["minCompatibilityMajor"], &version["minCompatibilityMinor"]), (&json!("1"), &json!("36")));
    let text = api.get("/statusz").await;
    assert!(text.body.as_str().unwrap().starts_with("\nkube-apiserver statusz\nWarning: "), "{}", text.body);
    let as_object = [("accept", "application/json;v=v1beta1;g=config.k8s.io;as=Statusz")];
    let object = api.ask("GET", "/statusz", &as_object, Bytes::new()).await.body;
    assert_eq!((&object["kind"], &object["apiVersion"]), (&json!("Statusz"), &json!("config.k8s.io/v1beta1")));
    assert_eq!(object["paths"], json!(["/healthz", "/livez", "/metrics", "/readyz", "/statusz", "/version"]));
}

#[tokio::test]
async fn answers_are_compressed_and_indented_when_asked() {
    let api = start().await;
    for number in 0..40 {
        let mut map = config_map(&format!("m{number}"));
        map["data"]["k"] = json!("x".repeat(5000));
        api.post(MAPS, map).await;
    }
    let request =
        http::Request::builder().uri(MAPS).header("accept-encoding", "gzip").body(body::full(Bytes::new())).unwrap();
    let response = api.server.handle_as(request, admin()).await;
    assert_eq!(response.headers()["content-encoding"], "gzip");
    let bytes = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
    assert!(bytes.len() < 100_000);
    let request =
        http::Request::builder().uri(format!("{MAPS}/m1?pretty=true")).body(body::full(Bytes::new())).unwrap();
    let response = api.server.handle_as(request, admin()).await;
    let bytes = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
    assert!(String::from_utf8_lossy(&bytes).contains("\n  \"kind\": \"ConfigMap\""));
}

#[tokio::test]
async fn a_pod_is_deleted_gracefully_once_it_has_a_node() {
    let api = start().await;
    let pods = "/api/v1/namespaces/n/pods";
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "i"}], "nodeName": "one"}});
    let made = api.post(pods, pod).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let dying = api.delete(&format!("{pods}/p"), json!(null)).await;
    assert_eq!(
        (dying.code, &dying.body["metadata"]["deletionGracePeriodSeconds"]),
        (200, &json!(30)),
        "{}",
        dying.body
    );
    let now = api.delete(&format!("{pods}/p"), json!({"gracePeriodSeconds": 0})).await;
    assert_eq!(now.code, 200);
    assert_eq!(api.get(&format!("{pods}/p")).await.code, 404);
}
