//! Deletion: finalizers, propagation, preconditions, collections.

use serde_json::json;

use crate::harness::*;

#[tokio::test]
async fn a_plain_object_goes_at_once() {
    let api = start().await;
    let uid = api.post(MAPS, config_map("a")).await.body["metadata"]["uid"].clone();
    let gone = api.delete(&format!("{MAPS}/a"), json!(null)).await;
    assert_eq!((gone.code, &gone.body["status"]), (200, &json!("Success")));
    assert_eq!((&gone.body["details"]["uid"], &gone.body["details"]["kind"]), (&uid, &json!("configmaps")));
    assert_eq!(api.get(&format!("{MAPS}/a")).await.code, 404);
    assert_eq!(api.delete(&format!("{MAPS}/a"), json!(null)).await.code, 404);
}

#[tokio::test]
async fn finalizers_hold_an_object_until_the_last_is_removed() {
    let api = start().await;
    let mut body = config_map("a");
    body["metadata"]["finalizers"] = json!(["example.com/x"]);
    api.post(MAPS, body).await;
    let dying = api.delete(&format!("{MAPS}/a"), json!(null)).await;
    assert_eq!(dying.code, 200);
    assert!(dying.body["metadata"]["deletionTimestamp"].is_string(), "{}", dying.body);
    let mut added = dying.body.clone();
    added["metadata"]["finalizers"] = json!(["example.com/x", "example.com/y"]);
    assert_eq!(api.put(&format!("{MAPS}/a"), added).await.code, 422, "no new finalizers");
    let last = api.patch(&format!("{MAPS}/a"), "merge", json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(last.code, 200, "{}", last.body);
    assert_eq!(api.get(&format!("{MAPS}/a")).await.code, 404);
}

#[tokio::test]
async fn propagation_policies_leave_their_finalizer() {
    let api = start().await;
    for (name, policy, finalizer) in [("f", "Foreground", "foregroundDeletion"), ("o", "Orphan", "orphan")] {
        api.post(MAPS, config_map(name)).await;
        let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": policy});
        let dying = api.delete(&format!("{MAPS}/{name}"), options).await;
        assert_eq!((dying.code, &dying.body["metadata"]["finalizers"]), (200, &json!([finalizer])), "{}", dying.body);
    }
}

#[tokio::test]
async fn preconditions_are_compared() {
    let api = start().await;
    let uid = api.post(MAPS, config_map("a")).await.body["metadata"]["uid"].clone();
    let wrong = api.delete(&format!("{MAPS}/a"), json!({"preconditions": {"uid": "other"}})).await;
    assert_eq!((wrong.code, &wrong.body["reason"]), (409, &json!("Conflict")));
    let old = api.delete(&format!("{MAPS}/a"), json!({"preconditions": {"resourceVersion": "1"}})).await;
    assert_eq!(old.code, 409);
    assert_eq!(api.delete(&format!("{MAPS}/a"), json!({"preconditions": {"uid": uid}})).await.code, 200);
}

#[tokio::test]
async fn a_collection_is_deleted_by_label() {
    let api = start().await;
    for (name, label) in [("a", "x"), ("b", "x"), ("c", "y")] {
        api.post(MAPS, labelled(name, label)).await;
    }
    let gone = api.delete(&format!("{MAPS}?labelSelector=l%3Dx"), json!(null)).await;
    assert_eq!(gone.code, 200);
    assert_eq!(gone.body["items"].as_array().unwrap().len(), 2);
    let left = api.get(MAPS).await.body;
    let names: Vec<_> = left["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].clone()).collect();
    assert!(names.contains(&json!("c")) && !names.contains(&json!("a")));
}

#[tokio::test]
async fn a_recreated_name_has_a_new_identity() {
    let api = start().await;
    let first = api.post(MAPS, config_map("a")).await.body;
    api.delete(&format!("{MAPS}/a"), json!(null)).await;
    let second = api.post(MAPS, config_map("a")).await.body;
    assert_ne!(first["metadata"]["uid"], second["metadata"]["uid"]);
    let mut stale = second.clone();
    stale["metadata"]["uid"] = first["metadata"]["uid"].clone();
    assert_eq!(api.put(&format!("{MAPS}/a"), stale).await.code, 409);
}

#[tokio::test]
async fn a_namespace_terminates_until_it_is_finalized() {
    let api = start().await;
    let dying = api.delete("/api/v1/namespaces/n", json!(null)).await;
    assert_eq!((dying.code, &dying.body["status"]["phase"]), (200, &json!("Terminating")), "{}", dying.body);
    api.get("/api/v1/namespaces/n").await;
    let inside = api.post(MAPS, config_map("late")).await;
    assert_eq!((inside.code, &inside.body["details"]["causes"][0]["reason"]), (403, &json!("NamespaceTerminating")));
    let mut last = dying.body;
    last["spec"]["finalizers"] = json!([]);
    assert_eq!(api.put("/api/v1/namespaces/n/finalize", last).await.code, 200);
    assert_eq!(api.get("/api/v1/namespaces/n").await.code, 404);
}

#[tokio::test]
async fn some_kinds_show_what_was_deleted() {
    let api = start().await;
    let device = json!({"metadata": {"name": "x"}, "spec": {}});
    let class = json!({"metadata": {"name": "x"}, "provisioner": "e.io/p"});
    let driver = json!({"metadata": {"name": "x"}, "spec": {}});
    for (path, object, kind) in [
        ("/apis/resource.k8s.io/v1/deviceclasses", device, "DeviceClass"),
        ("/apis/storage.k8s.io/v1/storageclasses", class, "StorageClass"),
        ("/apis/storage.k8s.io/v1/csidrivers", driver, "CSIDriver"),
        ("/api/v1/namespaces/n/serviceaccounts", json!({"metadata": {"name": "x"}}), "ServiceAccount"),
        (MAPS, config_map("x"), "Status"),
    ] {
        assert_eq!(api.post(path, object).await.code, 201, "{path}");
        let deleted = api.delete(&format!("{path}/x"), json!(null)).await;
        assert_eq!((deleted.code, &deleted.body["kind"]), (200, &json!(kind)), "{path}");
    }
}
