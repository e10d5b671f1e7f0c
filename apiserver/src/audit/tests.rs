//! The log as a request meets it.

use http_body_util::BodyExt;

use super::*;

const POLICY: &str = "apiVersion: audit.k8s.io/v1
kind: Policy
rules: [{level: RequestResponse, omitManagedFields: true}]";

fn log() -> (AuditLog, mpsc::Receiver<String>) {
    let (events, queue) = mpsc::channel(16);
    (AuditLog { policy: Policy::parse(POLICY).unwrap(), events }, queue)
}

fn request(body: &'static str) -> Request<Body> {
    Request::post("/api/v1/namespaces/n/pods?dryRun=All")
        .header("content-type", "application/json")
        .header("user-agent", "kubectl")
        .body(body::full(body))
        .unwrap()
}

async fn text(body: Body) -> String {
    String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn both_bodies_are_recorded_and_passed_on() {
    let (log, mut queue) = log();
    let mut request = request(r#"{"metadata":{"name":"p","managedFields":[1]}}"#);
    let info = RequestInfo::parse(request.method(), request.uri().path(), "");
    let mut started = log.begin(&info, &UserInfo::new("jane", &[]), None, &mut request, "id").await.unwrap();
    started.impersonated(&UserInfo::new("joe", &[]));
    assert!(text(request.into_body()).await.contains("managedFields"), "the request is whole");
    let answer = body::response(201, "application/json", r#"{"kind":"Pod"}"#);
    let answer = log.finish(started, answer, false).await;
    assert_eq!(text(answer.into_body()).await, r#"{"kind":"Pod"}"#);
    let received: Value = serde_json::from_str(&queue.recv().await.unwrap()).unwrap();
    assert_eq!((&received["stage"], &received["objectRef"]["resource"]), (&"RequestReceived".into(), &"pods".into()));
    assert_eq!(received["requestURI"], "/api/v1/namespaces/n/pods?dryRun=All");
    let complete: Value = serde_json::from_str(&queue.recv().await.unwrap()).unwrap();
    assert_eq!(complete["requestObject"], serde_json::json!({"metadata": {"name": "p"}}));
    assert_eq!(complete["responseObject"]["kind"], "Pod");
    assert_eq!(complete["responseStatus"]["code"], 201);
    assert_eq!(
        (&complete["user"]["username"], &complete["impersonatedUser"]["username"]),
        (&"jane".into(), &"joe".into())
    );
}

#[tokio::test]
async fn a_streams_end_is_recorded_when_it_ends() {
    let (log, mut queue) = log();
    let mut request = Request::get("/api/v1/pods?watch=1").body(body::full("")).unwrap();
    let info = RequestInfo::parse(request.method(), request.uri().path(), "watch=1");
    let started = log.begin(&info, &UserInfo::new("jane", &[]), None, &mut request, "id").await.unwrap();
    let answer = log.finish(started, body::response(200, "application/json", "{}\n"), true).await;
    for stage in ["RequestReceived", "ResponseStarted"] {
        assert!(queue.recv().await.unwrap().contains(stage));
    }
    assert!(queue.try_recv().is_err(), "it still runs");
    drop(answer);
    assert!(queue.recv().await.unwrap().contains("ResponseComplete"));
}
