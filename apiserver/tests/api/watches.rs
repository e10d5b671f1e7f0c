//! Watches: replay, live events, selectors, bookmarks, expiry.

use serde_json::json;

use crate::harness::*;

const JSON: &str = "application/json";

#[tokio::test]
async fn a_watch_begins_with_what_is_there_and_follows() {
    let api = start().await;
    api.post(MAPS, config_map("a")).await;
    let mut watch = api.watch(&format!("{MAPS}?watch=1"), JSON).await;
    assert_eq!(watch.brief().await, "ADDED a");
    api.post(MAPS, config_map("b")).await;
    api.patch(&format!("{MAPS}/a"), "merge", json!({"data": {"k": "2"}})).await;
    let deleted = api.delete(&format!("{MAPS}/b"), json!(null)).await;
    assert_eq!(deleted.code, 200);
    assert_eq!(watch.brief().await, "ADDED b");
    assert_eq!(watch.brief().await, "MODIFIED a");
    let last = watch.next().await.unwrap();
    assert_eq!((&last["type"], &last["object"]["metadata"]["name"]), (&json!("DELETED"), &json!("b")));
    let version = |text: &serde_json::Value| text.as_str().unwrap().parse::<u64>().unwrap();
    assert!(version(&last["object"]["metadata"]["resourceVersion"]) > 4);
}

#[tokio::test]
async fn a_watch_resumes_after_a_version() {
    let api = start().await;
    let first = api.post(MAPS, config_map("a")).await.body;
    api.post(MAPS, config_map("b")).await;
    let version = first["metadata"]["resourceVersion"].as_str().unwrap();
    let mut watch = api.watch(&format!("{MAPS}?watch=true&resourceVersion={version}"), JSON).await;
    assert_eq!(watch.brief().await, "ADDED b");
    let old = api.watch(&format!("{MAPS}?watch=true&resourceVersion=1"), JSON).await;
    assert!(old.code == 200 || old.code == 410);
}

#[tokio::test]
async fn leaving_a_selector_looks_like_a_deletion() {
    let api = start().await;
    let mut watch = api.watch(&format!("{MAPS}?watch=1&labelSelector=l%3Dx"), JSON).await;
    api.post(MAPS, labelled("a", "x")).await;
    for label in ["y", "x"] {
        api.patch(&format!("{MAPS}/a"), "merge", json!({"metadata": {"labels": {"l": label}}})).await;
    }
    assert_eq!(watch.brief().await, "ADDED a");
    let left = watch.next().await.unwrap();
    assert_eq!((&left["type"], &left["object"]["metadata"]["labels"]["l"]), (&json!("DELETED"), &json!("x")));
    assert_eq!(watch.brief().await, "ADDED a");
}

#[tokio::test]
async fn a_watch_list_marks_the_end_of_the_initial_events() {
    let api = start().await;
    api.post(MAPS, config_map("a")).await;
    let query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut watch = api.watch(&format!("{MAPS}?{query}"), JSON).await;
    assert_eq!(watch.brief().await, "ADDED a");
    let bookmark = watch.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["kind"], "ConfigMap");
    assert_eq!(bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    assert_eq!(api.watch(&format!("{MAPS}?watch=1&sendInitialEvents=true"), JSON).await.code, 422);
}

#[tokio::test]
async fn a_watch_ends_at_its_timeout_with_a_bookmark() {
    let api = start().await;
    let now = api.get(MAPS).await.body["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let query = format!("watch=1&resourceVersion={now}&timeoutSeconds=1&allowWatchBookmarks=true");
    let mut watch = api.watch(&format!("{MAPS}?{query}"), JSON).await;
    api.post("/api/v1/namespaces/n/secrets", json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}}))
        .await;
    assert_eq!(watch.next().await.unwrap()["type"], "BOOKMARK");
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn a_table_watch_sends_columns_once() {
    let api = start().await;
    let mut watch = api.watch(&format!("{MAPS}?watch=1"), "application/json;as=Table;v=v1;g=meta.k8s.io").await;
    api.post(MAPS, config_map("a")).await;
    api.post(MAPS, config_map("b")).await;
    let first = watch.next().await.unwrap();
    assert_eq!(first["object"]["kind"], "Table");
    assert!(!first["object"]["columnDefinitions"].as_array().unwrap().is_empty());
    assert_eq!(first["object"]["rows"][0]["cells"][0], "a");
    assert!(watch.next().await.unwrap()["object"]["columnDefinitions"].as_array().unwrap().is_empty());
}

#[tokio::test]
async fn the_client_of_this_process_sees_the_same_stream() {
    use futures_util::StreamExt;
    let api = start().await;
    let maps = skiff_api::GroupVersionResource::new("", "v1", "configmaps");
    let mut watch = api.client.watch(&maps, Some("n"), &Default::default()).await.unwrap();
    api.client.create(&maps, Some("n"), &config_map("a")).await.unwrap();
    let event = watch.next().await.unwrap().unwrap();
    assert!(matches!(event, skiff_client::WatchEvent::Added(object) if object.meta.name == "a"));
    let store = api.server.snapshot().store(&skiff_api::GroupResource::new("", "configmaps")).unwrap();
    assert!(store.get("n", "a").is_some());
}

#[tokio::test]
async fn a_websocket_carries_one_event_per_message() {
    use futures_util::StreamExt;
    use std::sync::Arc;
    let api = start().await;
    api.post(MAPS, config_map("a")).await;
    let server = api.server.clone();
    let handler: skiff_apiserver::Handler = Arc::new(move |request, _| {
        let server = server.clone();
        Box::pin(async move { server.handle_as(request, admin()).await })
    });
    let (near, far) = tokio::io::duplex(64 << 10);
    let stop = tokio_util::sync::CancellationToken::new();
    let serving = tokio::spawn(skiff_apiserver::serve::serve_stream(far, Arc::default(), handler, stop.clone()));
    let uri = format!("ws://localhost{MAPS}?watch=1");
    let (mut socket, response) = tokio_tungstenite::client_async(uri, near).await.unwrap();
    assert_eq!(response.status(), 101);
    api.post(MAPS, config_map("b")).await;
    for name in ["a", "b"] {
        let message = socket.next().await.unwrap().unwrap();
        let event: serde_json::Value = serde_json::from_str(message.to_text().unwrap()).unwrap();
        assert_eq!((&event["type"], &event["object"]["metadata"]["name"]), (&json!("ADDED"), &json!(name)));
    }
    socket.close(None).await.unwrap();
    stop.cancel();
    serving.await.unwrap();
}
