//! Create and update: identity, versions, conflicts, dry run, validation.

use bytes::Bytes;
use serde_json::json;

use crate::harness::*;

#[tokio::test]
async fn a_created_object_has_system_metadata_and_can_be_read() {
    let api = start().await;
    let created = api.post(MAPS, config_map("a")).await;
    assert_eq!(created.code, 201, "{}", created.body);
    let metadata = &created.body["metadata"];
    assert_eq!(metadata["namespace"], "n");
    assert_eq!(metadata["uid"].as_str().unwrap().len(), 36);
    assert!(metadata["creationTimestamp"].as_str().unwrap().ends_with('Z'));
    let read = api.get(&format!("{MAPS}/a")).await;
    assert_eq!(read.body, created.body);
    assert!(read.headers.contains_key("audit-id"));
    assert_eq!(read.headers["cache-control"], "no-cache, private");
}

#[tokio::test]
async fn the_same_name_twice_is_a_conflict() {
    let api = start().await;
    api.post(MAPS, config_map("a")).await;
    let again = api.post(MAPS, config_map("a")).await;
    assert_eq!((again.code, &again.body["reason"]), (409, &json!("AlreadyExists")));
    assert_eq!(again.body["message"], "configmaps \"a\" already exists");
}

#[tokio::test]
async fn generated_names_differ() {
    let api = start().await;
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "x-"}});
    let first = api.post(MAPS, body.clone()).await.body["metadata"]["name"].clone();
    let second = api.post(MAPS, body).await.body["metadata"]["name"].clone();
    assert!(first.as_str().unwrap().starts_with("x-") && first != second);
}

#[tokio::test]
async fn an_update_with_an_old_version_is_refused() {
    let api = start().await;
    let mut object = api.post(MAPS, config_map("a")).await.body;
    object["data"]["k"] = json!("2");
    let updated = api.put(&format!("{MAPS}/a"), object.clone()).await;
    assert_eq!(updated.code, 200, "{}", updated.body);
    assert_ne!(updated.body["metadata"]["resourceVersion"], object["metadata"]["resourceVersion"]);
    object["data"]["k"] = json!("3");
    let stale = api.put(&format!("{MAPS}/a"), object.clone()).await;
    assert_eq!((stale.code, &stale.body["reason"]), (409, &json!("Conflict")));
    assert!(stale.body["message"].as_str().unwrap().contains("the object has been modified"));
    object["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    assert_eq!(api.put(&format!("{MAPS}/a"), object).await.code, 200, "unconditional");
}

#[tokio::test]
async fn an_update_that_changes_nothing_keeps_the_version() {
    let api = start().await;
    let object = api.post(MAPS, config_map("a")).await.body;
    let before = api.backend.clone();
    let same = api.put(&format!("{MAPS}/a"), object.clone()).await;
    assert_eq!(same.body["metadata"]["resourceVersion"], object["metadata"]["resourceVersion"]);
    drop(before);
}

#[tokio::test]
async fn names_and_namespaces_must_fit_the_url() {
    let api = start().await;
    api.post(MAPS, config_map("a")).await;
    assert_eq!(api.put(&format!("{MAPS}/b"), config_map("a")).await.code, 400);
    let mut other = config_map("c");
    other["metadata"]["namespace"] = json!("m");
    assert_eq!(api.post(MAPS, other).await.code, 400);
    assert_eq!(api.put(&format!("{MAPS}/missing"), config_map("missing")).await.code, 404);
    let bad = api.post(MAPS, config_map("Not Valid")).await;
    assert_eq!((bad.code, &bad.body["details"]["causes"][0]["field"]), (422, &json!("metadata.name")));
    let nameless = api.post(MAPS, json!({"apiVersion": "v1", "kind": "ConfigMap"})).await;
    assert_eq!(nameless.code, 422);
    let wrong = api.post(MAPS, json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}})).await;
    assert_eq!(wrong.code, 400);
}

#[tokio::test]
async fn a_dry_run_answers_and_stores_nothing() {
    let api = start().await;
    let dry = api.post(&format!("{MAPS}?dryRun=All"), config_map("a")).await;
    assert_eq!(dry.code, 201);
    assert!(dry.body["metadata"]["uid"].is_string());
    assert_eq!(api.get(&format!("{MAPS}/a")).await.code, 404);
    api.post(MAPS, config_map("a")).await;
    let mut change = config_map("a");
    change["data"]["k"] = json!("2");
    assert_eq!(api.put(&format!("{MAPS}/a?dryRun=All"), change).await.body["data"]["k"], "2");
    assert_eq!(api.get(&format!("{MAPS}/a")).await.body["data"]["k"], "v");
    assert_eq!(api.delete(&format!("{MAPS}/a?dryRun=All"), json!(null)).await.code, 200);
    assert_eq!(api.get(&format!("{MAPS}/a")).await.code, 200);
}

#[tokio::test]
async fn unknown_fields_warn_or_fail_as_asked() {
    let api = start().await;
    let mut body = deployment("d");
    body["spec"]["unknownField"] = json!(1);
    let warned = api.post(&format!("{DEPLOYMENTS}?dryRun=All"), body.clone()).await;
    assert_eq!(warned.code, 201, "{}", warned.body);
    assert_eq!(warned.headers["warning"], r#"299 - "unknown field \"spec.unknownField\"""#);
    let strict = api.post(&format!("{DEPLOYMENTS}?fieldValidation=Strict"), body.clone()).await;
    assert_eq!(strict.code, 400);
    assert!(
        strict.body["message"].as_str().unwrap().contains("strict decoding error: unknown field \"spec.unknownField\"")
    );
    let ignored = api.post(&format!("{DEPLOYMENTS}?fieldValidation=Ignore"), body).await;
    assert!(!ignored.headers.contains_key("warning"));
    assert!(ignored.body["spec"].get("unknownField").is_none());
    let text = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"data":{"a":"1","a":"2"}}"#;
    let json = [("content-type", "application/json")];
    let twice = api.ask("POST", &format!("{MAPS}?fieldValidation=Strict"), &json, Bytes::from(text)).await;
    assert!(twice.body["message"].as_str().unwrap().contains("duplicate field \"data.a\""), "{}", twice.body);
}

#[tokio::test]
async fn status_and_spec_are_written_apart_and_only_the_spec_makes_generations() {
    let api = start().await;
    let mut body = deployment("d");
    body["status"] = json!({"replicas": 7});
    let created = api.post(DEPLOYMENTS, body).await.body;
    assert_eq!(created["metadata"]["generation"], 1);
    assert!(created["status"]["replicas"].as_i64().unwrap_or(0) == 0);
    let mut status = created.clone();
    status["status"] = json!({"replicas": 2, "observedGeneration": 1});
    status["spec"]["replicas"] = json!(9);
    let after = api.put(&format!("{DEPLOYMENTS}/d/status"), status).await;
    assert_eq!(after.code, 200, "{}", after.body);
    assert_eq!((&after.body["status"]["replicas"], &after.body["spec"]["replicas"]), (&json!(2), &json!(2)));
    assert_eq!(after.body["metadata"]["generation"], 1);
    let mut spec = after.body;
    spec["spec"]["replicas"] = json!(3);
    spec["status"] = json!({});
    let after = api.put(&format!("{DEPLOYMENTS}/d"), spec).await.body;
    assert_eq!((&after["status"]["replicas"], &after["spec"]["replicas"]), (&json!(2), &json!(3)));
    assert_eq!(after["metadata"]["generation"], 2);
}

#[tokio::test]
async fn yaml_bodies_work_and_other_types_are_refused() {
    let api = start().await;
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: yml\ndata:\n  k: v\n";
    let made = api.ask("POST", MAPS, &[("content-type", "application/yaml")], Bytes::from(yaml)).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let text = api.ask("GET", &format!("{MAPS}/yml"), &[("accept", "application/yaml")], Bytes::new()).await;
    assert!(text.body.as_str().unwrap().contains("kind: ConfigMap"));
    let xml = api.ask("POST", MAPS, &[("content-type", "text/xml")], Bytes::from("<a/>")).await;
    assert_eq!((xml.code, &xml.body["reason"]), (415, &json!("UnsupportedMediaType")));
    let large = Bytes::from(vec![b' '; 4 << 20]);
    assert_eq!(api.ask("POST", MAPS, &[], large).await.code, 413);
}

#[tokio::test]
async fn concurrent_patches_all_arrive() {
    let api = start().await;
    api.post(MAPS, config_map("a")).await;
    let path = format!("{MAPS}/a");
    let patches = (0..8).map(|number| {
        let body = json!({"data": {format!("k{number}"): "x"}});
        api.patch(&path, "merge", body)
    });
    for answer in futures_util::future::join_all(patches).await {
        assert_eq!(answer.code, 200, "{}", answer.body);
    }
    assert_eq!(api.get(&format!("{MAPS}/a")).await.body["data"].as_object().unwrap().len(), 9);
}

#[tokio::test]
async fn a_write_is_finished_though_its_client_leaves() {
    use futures_util::FutureExt;
    let api = start().await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
        "spec": {"clusterIP": "10.43.0.77", "ports": [{"port": 80}]}});
    // Polled once, then dropped: the request has begun and nobody waits for it.
    assert!(api.post("/api/v1/namespaces/n/services", service).now_or_never().is_none());
    for _ in 0..100 {
        let found = api.get("/api/v1/namespaces/n/services/s").await;
        if found.code == 200 {
            let mut other = found.body.clone();
            other["metadata"] = json!({"name": "t"});
            let taken = api.post("/api/v1/namespaces/n/services", other).await;
            assert_eq!(taken.code, 422, "the address is taken: {}", taken.body);
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("the service was not created");
}
