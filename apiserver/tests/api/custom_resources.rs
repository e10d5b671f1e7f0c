//! Custom resources: from the definition to objects and back.

use serde_json::{Value, json};

use crate::harness::*;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const WIDGETS: &str = "/apis/example.com/v1/namespaces/n/widgets";

fn definition() -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
        "names": {"plural": "widgets", "kind": "Widget", "shortNames": ["wd"]},
        "versions": [{"name": "v1", "served": true, "storage": true,
            "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size"}},
            "selectableFields": [{"jsonPath": ".spec.color"}],
            "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}],
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                "spec": {"type": "object", "required": ["size"], "properties": {
                    "size": {"type": "integer", "maximum": 10}, "color": {"type": "string", "default": "red"}}},
                "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}}]}})
}

fn widget(name: &str) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}, "spec": {"size": 3}})
}

/// Creates the definition and waits until it is established.
async fn established() -> Harness {
    let api = start().await;
    let made = api.post(DEFINITIONS, definition()).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let mut watch = api.watch(&format!("{DEFINITIONS}?watch=1"), "application/json").await;
    loop {
        let event = watch.next().await.expect("the definition is established");
        let conditions = event["object"]["status"]["conditions"].as_array().cloned().unwrap_or_default();
        if conditions.iter().any(|condition| condition["type"] == "Established" && condition["status"] == "True") {
            return api;
        }
    }
}

#[tokio::test]
async fn a_defined_resource_is_served_like_any_other() {
    let api = established().await;
    let made = api.post(WIDGETS, widget("a")).await;
    assert_eq!(made.code, 201, "{}", made.body);
    assert_eq!((&made.body["spec"]["color"], &made.body["metadata"]["generation"]), (&json!("red"), &json!(1)));
    let documents = api.get("/apis/example.com/v1").await.body;
    assert_eq!(documents["resources"][0]["shortNames"], json!(["wd"]));
    let red = api.get(&format!("{WIDGETS}?fieldSelector=spec.color%3Dred")).await.body;
    assert_eq!((red["kind"].as_str(), red["items"].as_array().unwrap().len()), (Some("WidgetList"), 1));
    let status =
        api.patch(&format!("{WIDGETS}/a/status"), "merge", json!({"status": {"size": 2}, "spec": {"size": 9}})).await;
    assert_eq!(
        (&status.body["status"]["size"], &status.body["spec"]["size"]),
        (&json!(2), &json!(3)),
        "{}",
        status.body
    );
    let scale = api.patch(&format!("{WIDGETS}/a/scale"), "merge", json!({"spec": {"replicas": 5}})).await;
    assert_eq!(scale.code, 200, "{}", scale.body);
    let after = api.get(&format!("{WIDGETS}/a")).await.body;
    assert_eq!((&after["spec"]["size"], &after["metadata"]["generation"]), (&json!(5), &json!(2)));
    let applied = api.patch(&format!("{WIDGETS}/b?fieldManager=me"), "apply", widget("b")).await;
    assert_eq!(applied.code, 201, "{}", applied.body);
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let table = api.ask("GET", WIDGETS, &table, bytes::Bytes::new()).await.body;
    assert_eq!(table["rows"][0]["cells"], json!(["a", 5]));
}

#[tokio::test]
async fn objects_are_checked_against_the_schema() {
    let api = established().await;
    let mut large = widget("a");
    large["spec"]["size"] = json!(11);
    let refused = api.post(WIDGETS, large).await;
    assert_eq!((refused.code, &refused.body["details"]["causes"][0]["field"]), (422, &json!("spec.size")));
    let mut unknown = widget("a");
    unknown["spec"]["foo"] = json!(1);
    let warned = api.post(WIDGETS, unknown.clone()).await;
    assert_eq!((warned.code, warned.body["spec"].get("foo")), (201, None));
    assert!(warned.headers["warning"].to_str().unwrap().contains("spec.foo"));
    unknown["metadata"]["name"] = json!("b");
    assert_eq!(api.post(&format!("{WIDGETS}?fieldValidation=Strict"), unknown).await.code, 400);
    let mut blind = widget("a");
    blind["spec"]["size"] = json!(4);
    let blind = api.put(&format!("{WIDGETS}/a"), blind).await;
    assert_eq!((blind.code, &blind.body["details"]["causes"][0]["field"]), (422, &json!("metadata.resourceVersion")));
    let strategic = api.patch(&format!("{WIDGETS}/a"), "strategic-merge", json!({"spec": {"size": 4}})).await;
    assert_eq!(strategic.code, 415);
}

#[tokio::test]
async fn patches_of_custom_resources_are_questioned_like_those_of_built_in_kinds() {
    let api = established().await;
    assert_eq!(api.post(WIDGETS, widget("a")).await.code, 201);
    let (path, strict) = (format!("{WIDGETS}/a"), format!("{WIDGETS}/a?fieldValidation=Strict"));
    let merge = json!({"spec": {"foo": 1}});
    let operations = json!([{"op": "add", "path": "/spec/foo", "value": 1}]);
    for (kind, patch) in [("merge", &merge), ("json", &operations)] {
        let refused = api.patch(&strict, kind, patch.clone()).await;
        let (cause, message) = (&refused.body["details"]["causes"][0], refused.body["message"].as_str().unwrap());
        assert_eq!((refused.code, &cause["field"]), (422, &json!("patch")), "{message}");
        assert!(message.starts_with(" \"\" is invalid: patch: Invalid value: "), "{message}");
        assert!(message.ends_with(r#": strict decoding error: unknown field "spec.foo""#), "{message}");
        let warned = api.patch(&path, kind, patch.clone()).await;
        assert_eq!((warned.code, warned.body["spec"].get("foo")), (200, None), "{}", warned.body);
        assert_eq!(warned.headers["warning"], r#"299 - "unknown field \"spec.foo\"""#);
    }
    let mut config = widget("a");
    config["spec"]["foo"] = json!(1);
    let applied = api.patch(&format!("{path}?fieldManager=me"), "apply", config).await;
    let want = "failed to create typed patch object (/a; example.com/v1, Kind=Widget): .spec.foo: field not declared in schema";
    assert_eq!((applied.code, &applied.body["message"]), (500, &json!(want)));
    // What is there but of the wrong type is for validation to say.
    let wrong = api.patch(&path, "merge", json!({"spec": {"size": "x"}})).await;
    assert_eq!((wrong.code, &wrong.body["details"]["causes"][0]["field"]), (422, &json!("spec.size")));
}

#[tokio::test]
async fn a_deleted_definition_takes_its_objects_along() {
    let api = established().await;
    api.post(WIDGETS, widget("a")).await;
    let dying = api.delete(&format!("{DEFINITIONS}/widgets.example.com"), json!(null)).await;
    assert_eq!(dying.code, 200, "{}", dying.body);
    for _ in 0..100 {
        if api.get(&format!("{DEFINITIONS}/widgets.example.com")).await.code == 404
            && api.get(WIDGETS).await.code == 404
        {
            assert_eq!(api.get("/apis/example.com").await.code, 404);
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("the definition stays");
}

#[tokio::test]
async fn bad_definitions_are_refused() {
    let api = start().await;
    let mut wrong_name = definition();
    wrong_name["metadata"]["name"] = json!("things.example.com");
    assert_eq!(api.post(DEFINITIONS, wrong_name).await.code, 422);
    let mut two = definition();
    two["spec"]["versions"][0]["storage"] = json!(false);
    let refused = api.post(DEFINITIONS, two).await;
    assert_eq!((refused.code, &refused.body["details"]["causes"][0]["field"]), (422, &json!("spec.versions")));
}
