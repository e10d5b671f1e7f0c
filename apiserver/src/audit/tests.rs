//! The log as a request meets it.

use http_body_util::BodyExt;

use super::*;

const POLICY: &str = "apiVersion: audit.k8s.io/v1
kind: Policy
rules: [{level: RequestResponse, omitManagedFields: true}]";

fn log() -> (AuditLog, mpsc::Receiver<Arc<str>>) {
    with_policy(POLICY)
}

fn with_policy(policy: &str) -> (AuditLog, mpsc::Receiver<Arc<str>>) {
    let (sink, queue) = Sink::new(16, true);
    (AuditLog { policy: Policy::parse(policy).unwrap(), sinks: Sinks(vec![sink]) }, queue)
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

#[tokio::test]
async fn bodies_of_any_format_are_recorded_as_json_and_name_the_object() {
    let (log, mut queue) = log();
    let pod = serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "uid": "u"}});
    let protobuf = codec::protobuf::encode_object(&pod).unwrap();
    for (format, body) in [
        ("application/vnd.kubernetes.protobuf", protobuf.to_vec()),
        ("application/yaml", b"apiVersion: v1\nkind: Pod\nmetadata: {name: p, uid: u}\n".to_vec()),
    ] {
        let mut request = Request::post("/api/v1/namespaces/n/pods")
            .header("content-type", format)
            .header("accept-encoding", "gzip")
            .body(body::full(body.clone()))
            .unwrap();
        let info = RequestInfo::parse(request.method(), request.uri().path(), "");
        let started = log.begin(&info, &UserInfo::new("jane", &[]), None, &mut request, "id").await.unwrap();
        assert!(request.headers().get("accept-encoding").is_none(), "the answer is to be readable");
        let answer = log.finish(started, body::response(201, format, body), false).await;
        drop(answer);
        let received: Value = serde_json::from_str(&queue.recv().await.unwrap()).unwrap();
        assert!(received["objectRef"].get("name").is_none(), "the body has not been read");
        let complete: Value = serde_json::from_str(&queue.recv().await.unwrap()).unwrap();
        assert_eq!((&complete["requestObject"], &complete["responseObject"]), (&pod, &pod), "{format}");
        assert_eq!((&complete["objectRef"]["name"], &complete["objectRef"]["uid"]), (&"p".into(), &"u".into()));
    }
}

#[tokio::test]
async fn metadata_shows_no_content_but_the_outcome() {
    let (log, mut queue) = with_policy(
        "apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules: [{level: Metadata}]",
    );
    let mut request = Request::delete("/api/v1/namespaces/n/pods/p")
        .header("x-forwarded-for", "10.1.1.1, 10.1.1.2")
        .header("user-agent", "a".repeat(2000))
        .body(body::full(""))
        .unwrap();
    let info = RequestInfo::parse(request.method(), request.uri().path(), "");
    let started = log.begin(&info, &UserInfo::new("jane", &[]), None, &mut request, "id").await.unwrap();
    let status = r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Success","details":{"name":"p"}}"#;
    let mut answer = body::response(200, "application/json", status);
    let notes =
        ["mutation", "patch"].map(|kind| (format!("{kind}.webhook.admission.k8s.io/round_0_index_0"), "x".to_owned()));
    answer.extensions_mut().insert::<Annotations>(notes.into());
    drop(log.finish(started, answer, false).await);
    let complete: Value = serde_json::from_str(&queue.recv().await.unwrap()).unwrap();
    assert_eq!(
        complete["responseStatus"],
        serde_json::json!({"metadata": {}, "code": 200, "status": "Success", "details": {"name": "p"}})
    );
    assert!(complete.get("responseObject").is_none() && complete.get("requestObject").is_none());
    assert_eq!(complete["annotations"], serde_json::json!({"mutation.webhook.admission.k8s.io/round_0_index_0": "x"}));
    assert_eq!(complete["sourceIPs"], serde_json::json!(["10.1.1.1", "10.1.1.2", "127.0.0.1"]));
    assert_eq!(complete["userAgent"].as_str().unwrap().len(), 1024 + "...TRUNCATED".len());
}

#[tokio::test]
async fn bad_credentials_and_panics_are_events_of_their_own() {
    let (log, mut queue) = log();
    let request = Request::get("/api/v1/pods").header("authorization", "Bearer x").body(body::full("")).unwrap();
    let info = RequestInfo::parse(request.method(), request.uri().path(), "");
    let event: Value = serde_json::from_str(&log.unauthenticated(&info, None, &request, "id").unwrap()).unwrap();
    assert_eq!((&event["stage"], &event["user"]), (&"ResponseStarted".into(), &serde_json::json!({})));
    assert_eq!(
        event["responseStatus"],
        serde_json::json!({"metadata": {}, "code": 401, "message": "Authentication failed, attempted: bearer"})
    );
    let mut request = request;
    let started = log.begin(&info, &UserInfo::new("jane", &[]), None, &mut request, "id").await.unwrap();
    log.panicked(started, "oops").await;
    drop(queue.recv().await);
    let event: Value = serde_json::from_str(&queue.recv().await.unwrap()).unwrap();
    assert_eq!((&event["stage"], &event["responseStatus"]["code"]), (&"Panic".into(), &500.into()));
    assert_eq!(event["responseStatus"]["reason"], "InternalError");
    assert!(event["responseStatus"]["message"].as_str().unwrap().ends_with("APIServer panic'd: oops"));
}
