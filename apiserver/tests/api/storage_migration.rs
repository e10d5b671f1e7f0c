//! Objects of a definition that changed its version of storage.

use serde_json::{Value, json};

use crate::harness::{Harness, start};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const MIGRATIONS: &str = "/apis/storagemigration.k8s.io/v1/storageversionmigrations";
const THINGS: &str = "/apis/example.com/v1/things";

fn definition(stored: &str) -> Value {
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    let version = |name: &str| json!({"name": name, "served": true, "storage": name == stored, "schema": schema});
    json!({"metadata": {"name": "things.example.com"}, "spec": {"group": "example.com", "scope": "Cluster",
        "names": {"plural": "things", "kind": "Thing"}, "versions": [version("v1"), version("v2")]}})
}

/// The events of a path until one is as wanted.
async fn until(harness: &Harness, path: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let mut watch = harness.watch(&format!("{path}?watch=1"), "application/json").await;
    loop {
        let event = watch.next().await.expect("the watch goes on");
        if is_so(&event["object"]) {
            return event["object"].clone();
        }
    }
}

fn condition(object: &Value, kind: &str) -> Value {
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.into_iter().find(|condition| condition["type"] == kind).unwrap_or_default()
}

#[tokio::test]
async fn a_migration_rewrites_what_is_stored_in_an_older_version() {
    let harness = start().await;
    assert_eq!(harness.post(DEFINITIONS, definition("v1")).await.code, 201);
    until(&harness, DEFINITIONS, |definition| condition(definition, "Established")["status"] == "True").await;
    for name in ["a", "b"] {
        let thing = json!({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": name}});
        let made = harness.post(THINGS, thing).await;
        assert_eq!(made.code, 201, "{}", made.body);
    }
    let path = format!("{DEFINITIONS}/things.example.com");
    let versions = definition("v2")["spec"]["versions"].clone();
    let changed = harness.patch(&path, "merge", json!({"spec": {"versions": versions}})).await;
    assert_eq!(changed.code, 200, "{}", changed.body);
    until(&harness, DEFINITIONS, |definition| definition["status"]["storedVersions"] == json!(["v1", "v2"])).await;
    let before = harness.get(&format!("{THINGS}/a")).await.body["metadata"]["resourceVersion"].clone();

    let spec = json!({"resource": {"group": "example.com", "resource": "things"}});
    let made = harness.post(MIGRATIONS, json!({"metadata": {"name": "m"}, "spec": spec})).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let done = until(&harness, MIGRATIONS, |done| condition(done, "Succeeded")["status"] == "True").await;
    let running = condition(&done, "Running");
    assert_eq!(
        (&running["status"], &running["reason"]),
        (&json!("False"), &json!("StorageVersionMigrationInProgress"))
    );
    assert_eq!(condition(&done, "Succeeded")["reason"], "StorageVersionMigrationSucceeded");
    assert!(done["status"]["resourceVersion"].is_string());
    let after = harness.get(&format!("{THINGS}/a")).await.body["metadata"]["resourceVersion"].clone();
    assert_ne!(before, after, "it is written anew");
    assert_eq!(harness.get(&path).await.body["status"]["storedVersions"], json!(["v2"]));

    // What is in that version already is left alone.
    let made = harness.post(MIGRATIONS, json!({"metadata": {"name": "again"}, "spec": spec})).await;
    assert_eq!(made.code, 201, "{}", made.body);
    until(&harness, MIGRATIONS, |done| {
        done["metadata"]["name"] == "again" && condition(done, "Succeeded")["status"] == "True"
    })
    .await;
    assert_eq!(harness.get(&format!("{THINGS}/a")).await.body["metadata"]["resourceVersion"], after);
}
