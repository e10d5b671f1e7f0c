//! The four patch formats.

use serde_json::json;

use crate::harness::*;

#[tokio::test]
async fn merge_json_and_strategic_patches_change_objects() {
    let api = start().await;
    api.post(DEPLOYMENTS, deployment("d")).await;
    let path = format!("{DEPLOYMENTS}/d");
    let merged = api.patch(&path, "merge", json!({"spec": {"replicas": 4}})).await;
    assert_eq!((merged.code, &merged.body["spec"]["replicas"]), (200, &json!(4)), "{}", merged.body);
    let operations = json!([{"op": "test", "path": "/spec/replicas", "value": 4},
        {"op": "replace", "path": "/spec/replicas", "value": 5}]);
    assert_eq!(api.patch(&path, "json", operations).await.body["spec"]["replicas"], 5);
    let failing = json!([{"op": "test", "path": "/spec/replicas", "value": 4}]);
    assert_eq!(api.patch(&path, "json", failing).await.code, 422);
    let change = json!({"spec": {"template": {"spec": {"containers": [{"name": "c2", "image": "i:2"}]}}}});
    let strategic = api.patch(&path, "strategic-merge", change).await;
    assert_eq!(strategic.code, 200, "{}", strategic.body);
    assert_eq!(strategic.body["spec"]["template"]["spec"]["containers"].as_array().unwrap().len(), 2);
    assert_eq!(api.patch(&format!("{DEPLOYMENTS}/none"), "merge", json!({})).await.code, 404);
}

#[tokio::test]
async fn a_patch_without_effect_keeps_the_version() {
    let api = start().await;
    let made = api.post(MAPS, config_map("a")).await.body;
    let same = api.patch(&format!("{MAPS}/a"), "merge", json!({"data": {"k": "v"}})).await.body;
    assert_eq!(made["metadata"]["resourceVersion"], same["metadata"]["resourceVersion"]);
}

#[tokio::test]
async fn a_version_in_a_patch_is_a_precondition() {
    let api = start().await;
    api.post(MAPS, config_map("a")).await;
    let body = json!({"metadata": {"resourceVersion": "1"}, "data": {"k": "2"}});
    assert_eq!(api.patch(&format!("{MAPS}/a"), "merge", body).await.code, 409);
}

#[tokio::test]
async fn strict_patches_refuse_unknown_fields() {
    let api = start().await;
    api.post(DEPLOYMENTS, deployment("d")).await;
    let path = format!("{DEPLOYMENTS}/d?fieldValidation=Strict");
    let refused = api.patch(&path, "merge", json!({"spec": {"foo": 1}})).await;
    assert_eq!(refused.code, 422, "{}", refused.body);
    let message = refused.body["message"].as_str().unwrap();
    assert!(message.starts_with(r#" "" is invalid: patch: Invalid value: "{\"apiVersion\":\"apps/v1\""#), "{message}");
    assert!(message.ends_with(r#": strict decoding error: unknown field "spec.foo""#), "{message}");
}

#[tokio::test]
async fn apply_creates_and_removes_what_it_no_longer_names() {
    let api = start().await;
    let path = format!("{MAPS}/a?fieldManager=me");
    let mut config = config_map("a");
    config["data"] = json!({"one": "1", "two": "2"});
    let made = api.patch(&path, "apply", config.clone()).await;
    assert_eq!(made.code, 201, "{}", made.body);
    assert_eq!(made.body["metadata"]["managedFields"][0]["manager"], "me");
    assert_eq!(made.body["metadata"]["managedFields"][0]["operation"], "Apply");
    config["data"] = json!({"one": "1"});
    let after = api.patch(&path, "apply", config.clone()).await;
    assert_eq!((after.code, &after.body["data"]), (200, &json!({"one": "1"})), "{}", after.body);
    let same = api.patch(&path, "apply", config.clone()).await.body;
    assert_eq!(same["metadata"]["resourceVersion"], after.body["metadata"]["resourceVersion"], "no effect");
    config["data"]["one"] = json!("other");
    let conflict = api.patch(&format!("{MAPS}/a?fieldManager=you"), "apply", config.clone()).await;
    assert_eq!((conflict.code, &conflict.body["reason"]), (409, &json!("Conflict")), "{}", conflict.body);
    assert_eq!(conflict.body["details"]["causes"][0]["reason"], "FieldManagerConflict");
    let forced = api.patch(&format!("{MAPS}/a?fieldManager=you&force=true"), "apply", config).await;
    assert_eq!((forced.code, &forced.body["data"]["one"]), (200, &json!("other")));
    assert_eq!(api.patch(&format!("{MAPS}/a"), "apply", config_map("a")).await.code, 422, "manager is required");
}

#[tokio::test]
async fn plain_writes_own_what_they_set() {
    let api = start().await;
    let made = api.post(MAPS, config_map("a")).await.body;
    let entry = &made["metadata"]["managedFields"][0];
    assert_eq!((&entry["manager"], &entry["operation"]), (&json!("test"), &json!("Update")));
    assert!(entry["fieldsV1"]["f:data"]["f:k"].is_object(), "{entry}");
}

#[tokio::test]
async fn scale_is_a_view_of_the_object() {
    let api = start().await;
    api.post(DEPLOYMENTS, deployment("d")).await;
    let scale = api.get(&format!("{DEPLOYMENTS}/d/scale")).await;
    assert_eq!((scale.code, &scale.body["kind"], &scale.body["spec"]["replicas"]), (200, &json!("Scale"), &json!(2)));
    let mut wanted = scale.body.clone();
    wanted["spec"]["replicas"] = json!(6);
    let put = api.put(&format!("{DEPLOYMENTS}/d/scale"), wanted).await;
    assert_eq!((put.code, &put.body["spec"]["replicas"]), (200, &json!(6)), "{}", put.body);
    let patched = api.patch(&format!("{DEPLOYMENTS}/d/scale"), "merge", json!({"spec": {"replicas": 1}})).await;
    assert_eq!(patched.code, 200, "{}", patched.body);
    assert_eq!(api.get(&format!("{DEPLOYMENTS}/d")).await.body["spec"]["replicas"], 1);
}
