//! Writes while the caches are behind the store: nothing they decide may rest
//! on an object that is no longer the present one. And a store that does not answer.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::json;
use skiff_api::Revision;
use skiff_apiserver::{
    Backend,
    storage::{KeyValue, Listing, Put, Range, StorageError, Swap, WatchStream},
};
use tokio::sync::watch;

use crate::harness::*;

/// A backend whose changes reach the caches only while `open`, and which never finds keys named `stuck`,
/// nor what was in a namespace of that name.
struct Lagging {
    inner: Arc<dyn Backend>,
    open: watch::Receiver<bool>,
}

#[async_trait]
impl Backend for Lagging {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, StorageError> {
        if key.ends_with("/stuck") {
            std::future::pending::<()>().await;
        }
        self.inner.get(key).await
    }

    async fn list(&self, range: Range<'_>) -> Result<Listing, StorageError> {
        if range.prefix.contains("/stuck") && range.at.is_some() {
            std::future::pending::<()>().await;
        }
        self.inner.list(range).await
    }

    async fn put(&self, put: Put<'_>) -> Result<Swap, StorageError> {
        self.inner.put(put).await
    }

    async fn delete(&self, key: &str, expected: Revision) -> Result<Swap, StorageError> {
        self.inner.delete(key, expected).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream, StorageError> {
        let open = self.open.clone();
        let changes = self.inner.watch(prefix, after).await?;
        let held = changes.then(move |change| {
            let mut open = open.clone();
            async move {
                // The sender lives as long as the test.
                let _ = open.wait_for(|open| *open).await;
                change
            }
        });
        Ok(Box::pin(held))
    }

    async fn current_revision(&self) -> Result<Revision, StorageError> {
        self.inner.current_revision().await
    }

    async fn compact(&self, before: Revision) -> Result<(), StorageError> {
        self.inner.compact(before).await
    }
}

/// A server with a switch that holds its caches back.
async fn lagging() -> (Harness, watch::Sender<bool>) {
    let (switch, open) = watch::channel(true);
    let api = start_as(|config| config.backend = Arc::new(Lagging { inner: Arc::clone(&config.backend), open })).await;
    (api, switch)
}

#[tokio::test]
async fn a_write_that_undoes_the_one_before_is_not_lost() {
    let (api, caches) = lagging().await;
    api.post(MAPS, config_map("a")).await;
    api.get(&format!("{MAPS}/a")).await;
    caches.send(false).unwrap();
    let path = format!("{MAPS}/a");
    let there = api.patch(&path, "merge", json!({"data": {"k": "changed"}})).await.body;
    // To the caches it would change nothing.
    let back = api.patch(&path, "merge", json!({"data": {"k": "v"}})).await.body;
    let version = |object: &serde_json::Value| -> u64 {
        object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
    };
    assert!(version(&back) > version(&there), "{back}");
    let dry = api.patch(&format!("{path}?dryRun=All"), "merge", json!({"data": {"x": "y"}})).await.body;
    assert_eq!(dry["metadata"]["resourceVersion"], back["metadata"]["resourceVersion"], "a dry run is of the present");
    caches.send(true).unwrap();
    assert_eq!(api.get(&path).await.body["data"]["k"], "v");
}

#[tokio::test]
async fn fields_of_client_side_apply_go_with_the_first_server_side_apply_after_it() {
    let (api, caches) = lagging().await;
    let path = format!("{MAPS}/a");
    let mut map = config_map("a");
    map["data"] = json!({"a": "1", "b": "2"});
    map["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/last-applied-configuration": "{}"});
    api.post(&format!("{MAPS}?fieldManager=kubectl-client-side-apply"), map).await;
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"a": "1"}});
    let apply = async || api.patch(&format!("{path}?fieldManager=kubectl"), "apply", config.clone()).await.body;
    let first = apply().await;
    assert_eq!(first["data"]["b"], "2", "it still belongs to the other manager");
    api.get(&path).await;
    caches.send(false).unwrap();
    // What kubectl does then: both owners become one, and the same is applied again.
    let mut owner = first["metadata"]["managedFields"][0].clone();
    owner["fieldsV1"] = json!({"f:data": {"f:a": {}, "f:b": {}}});
    let moved = json!([{"op": "replace", "path": "/metadata/managedFields", "value": [owner]},
        {"op": "replace", "path": "/metadata/resourceVersion", "value": first["metadata"]["resourceVersion"]}]);
    let moved = api.patch(&path, "json", moved).await;
    assert_eq!(moved.code, 200, "{}", moved.body);
    assert_eq!(apply().await["data"], json!({"a": "1"}));
    caches.send(true).unwrap();
    assert_eq!(api.get(&path).await.body["data"], json!({"a": "1"}));
}

#[tokio::test]
async fn deletions_and_creations_see_what_was_just_written() {
    let (api, caches) = lagging().await;
    caches.send(false).unwrap();
    assert_eq!(api.post(MAPS, config_map("new")).await.code, 201);
    assert_eq!(api.post(MAPS, config_map("new")).await.code, 409);
    assert_eq!(api.post(&format!("{MAPS}?dryRun=All"), config_map("new")).await.code, 409);
    let path = format!("{MAPS}/new");
    let held = api.patch(&path, "merge", json!({"metadata": {"finalizers": ["e.io/x"]}})).await;
    assert_eq!(held.code, 200, "{}", held.body);
    let dying = api.delete(&path, json!(null)).await.body;
    assert!(dying["metadata"]["deletionTimestamp"].is_string(), "{dying}");
    let gone = api.patch(&path, "merge", json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(gone.code, 200, "{}", gone.body);
    assert_eq!(api.patch(&path, "merge", json!({})).await.code, 404);
    caches.send(true).unwrap();
    assert_eq!(api.get(&path).await.code, 404);
}

#[tokio::test]
async fn requests_are_given_up_when_their_time_is_over() {
    let (api, _caches) = lagging().await;
    api.get(MAPS).await;
    let write = "Timeout: request did not complete within requested timeout - context deadline exceeded";
    let other = "Timeout: request did not complete within the allotted timeout";
    // From here on time passes as soon as nobody has anything to do.
    tokio::time::pause();
    for (path, seconds, message) in [
        (format!("{MAPS}/stuck"), 34, write),
        (format!("{MAPS}/stuck?timeout=1m"), 34, write),
        (format!("{MAPS}/stuck?timeout=5s"), 5, write),
        (format!("{MAPS}/stuck?timeout=0"), 34, write),
        (PAST.to_owned(), 60, other),
        (format!("{PAST}&timeout=1500ms"), 1, other),
    ] {
        let begun = tokio::time::Instant::now();
        let answer = if path.contains("configmaps/stuck") {
            api.patch(&path, "merge", json!({})).await
        } else {
            api.get(&path).await
        };
        assert_eq!(begun.elapsed().as_secs(), seconds, "{path}");
        assert_eq!((answer.code, &answer.body["reason"]), (504, &json!("Timeout")), "{path}");
        assert_eq!(answer.body["message"], message, "{path}");
    }
    for (text, why) in [
        ("soon", "time: invalid duration \"soon\""),
        ("5", "time: missing unit in duration \"5\""),
        ("5d", "time: unknown unit \"d\" in duration \"5d\""),
    ] {
        let refused = api.get(&format!("{MAPS}?timeout={text}")).await;
        let message = format!("invalid timeout specified in the request URL - {why}");
        assert_eq!((refused.code, &refused.body["message"]), (400, &json!(message)));
    }
}

/// A list of the past, which the store never gives.
const PAST: &str = "/api/v1/namespaces/stuck/configmaps?resourceVersionMatch=Exact&resourceVersion=2";

#[tokio::test]
async fn a_watch_from_before_the_history_is_expired() {
    let filled = skiff_apiserver::MemoryBackend::default();
    for number in 0..20 {
        let key = format!("/registry/elsewhere/{number}");
        filled.put(Put { key: &key, expected: None, value: Bytes::from_static(b"{}"), ttl: None }).await.unwrap();
    }
    let api = start_as(|config| config.backend = Arc::new(filled)).await;
    let query = "watch=1&timeoutSeconds=1&resourceVersion";
    let refused = api.get(&format!("{MAPS}?{query}=3")).await;
    assert_eq!((refused.code, &refused.body["reason"]), (410, &json!("Expired")), "{}", refused.body);
    let message = refused.body["message"].as_str().unwrap();
    assert!(message.starts_with("too old resource version: 3 ("), "{message}");
    let now = api.get(MAPS).await.body["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    assert_eq!(api.get(&format!("{MAPS}?{query}={now}")).await.code, 200);
}
