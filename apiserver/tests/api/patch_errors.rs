//! Patches that are refused or questioned, and what strategic directives and
//! applied objects do.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::{
    errors::{ONE, case, check},
    harness::*,
};

const JSON_PATCH: &[(&str, &str)] = &[("content-type", "application/json-patch+json")];
const MERGE: &[(&str, &str)] = &[("content-type", "application/merge-patch+json")];
const STRATEGIC: &[(&str, &str)] = &[("content-type", "application/strategic-merge-patch+json")];
const APPLY: &[(&str, &str)] = &[("content-type", "application/apply-patch+yaml")];
const APPLIED: &str = "/api/v1/namespaces/n/configmaps/one?fieldManager=me";
const GENERIC: &str = "the server rejected our request due to an error in our request";

#[tokio::test]
async fn patches_are_refused_in_upstreams_words() {
    let api = start().await;
    api.post(MAPS, config_map("one")).await;
    let bad = |headers, body, message: &'static str| case(("PATCH", ONE), headers, body, 400, "BadRequest", message);
    let unfit = |body| case(("PATCH", ONE), JSON_PATCH, body, 422, "Invalid", GENERIC);
    check(
        &api,
        vec![
            bad(JSON_PATCH, "{", "invalid JSON patch"),
            bad(MERGE, "", "invalid JSON patch"),
            bad(STRATEGIC, "nope", "invalid JSON patch"),
            bad(JSON_PATCH, "{}", "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp"),
            bad(JSON_PATCH, "[5]", "error decoding patch: json: cannot unmarshal number into Go value of type handlers.jsonPatchOp"),
            bad(JSON_PATCH, r#"[{"op":1}]"#, "error decoding patch: json: cannot unmarshal number into Go struct field jsonPatchOp.op of type string"),
            bad(MERGE, "[]", "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}"),
            bad(STRATEGIC, "[]", "json: cannot unmarshal array into Go value of type map[string]interface {}"),
            bad(MERGE, r#"{"metadata":{"name":"two"}}"#, "the name of the object (two) does not match the name on the URL (one)"),
            bad(MERGE, r#"{"metadata":{"namespace":"m"}}"#, "the namespace of the provided object does not match the namespace sent on the request"),
            bad(STRATEGIC, r#"{"data":{"$patch":"odd"}}"#, "unknown patch type found: odd"),
            unfit(r#"[{"op":"test","path":"/data/k","value":"other"}]"#),
            unfit(r#"[{"op":"remove","path":"/data/none"}]"#),
            unfit(r#"[{"op":"replace","path":"/data/none","value":"x"}]"#),
            unfit(r#"[{"op":"odd","path":"/data/k"}]"#),
            unfit(r#"[{"op":"add","value":"x"}]"#),
            case(("PATCH", "/api/v1/namespaces/n/configmaps/none"), MERGE, "{}", 404, "NotFound", "configmaps \"none\" not found"),
        ],
    )
    .await;
    let uid = api.patch(ONE, "merge", json!({"metadata": {"uid": "other"}})).await;
    assert_eq!((uid.code, &uid.body["reason"]), (409, &json!("Conflict")));
}

#[tokio::test]
async fn what_a_patch_makes_must_decode() {
    let api = start().await;
    api.post(MAPS, config_map("one")).await;
    let path = format!("{DEPLOYMENTS}/d?fieldValidation=Strict");
    api.post(DEPLOYMENTS, deployment("d")).await;
    let message = |answer: &Answer| {
        assert_eq!(
            (answer.code, &answer.body["details"]["causes"][0]["field"]),
            (422, &json!("patch")),
            "{}",
            answer.body
        );
        answer.body["message"].as_str().unwrap().to_owned()
    };
    let text = api.ask("PATCH", ONE, MERGE, Bytes::from(r#"{"data":5}"#)).await;
    assert!(
        message(&text)
            .ends_with("json: cannot unmarshal number into Go struct field ConfigMap.data of type map[string]string")
    );
    let twice = r#"{"spec":{"replicas":1,"replicas":2,"foo":1}}"#;
    let merged = message(&api.ask("PATCH", &path, MERGE, Bytes::from(twice)).await);
    assert!(
        merged.ends_with(r#": strict decoding error: duplicate field "spec.replicas", unknown field "spec.foo""#),
        "{merged}"
    );
    let strategic = api.ask("PATCH", &path, STRATEGIC, Bytes::from(twice)).await;
    let want = r#" "" is invalid: patch: Invalid value: "map[spec:map[foo:1 replicas:2]]": strict decoding error: duplicate field "spec.replicas", unknown field "spec.foo""#;
    assert_eq!(message(&strategic), want);
    let operation = r#"[{"op":"replace","path":"/spec/replicas","value":1,"value":3,"note":"x"}]"#;
    let operated = message(&api.ask("PATCH", &path, JSON_PATCH, Bytes::from(operation)).await);
    assert!(
        operated.ends_with(
            r#": strict decoding error: json patch duplicate field "[0].value", json patch unknown field "[0].note""#
        ),
        "{operated}"
    );
    // By default the same is said in warnings, and the patch holds.
    let warned = api.ask("PATCH", &format!("{DEPLOYMENTS}/d"), MERGE, Bytes::from(twice)).await;
    let warnings: Vec<_> = warned.headers.get_all("warning").iter().map(|value| value.to_str().unwrap()).collect();
    assert_eq!(warnings, [r#"299 - "duplicate field \"spec.replicas\"""#, r#"299 - "unknown field \"spec.foo\"""#]);
    assert_eq!((warned.code, &warned.body["spec"]["replicas"]), (200, &json!(2)));
}

#[tokio::test]
async fn strategic_directives_do_what_they_say() {
    let api = start().await;
    let mut made = deployment("d");
    let container = &mut made["spec"]["template"]["spec"]["containers"][0];
    container["env"] = json!([{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]);
    api.post(DEPLOYMENTS, made).await;
    let path = format!("{DEPLOYMENTS}/d");
    let patched = async |container: Value| {
        let mut change = json!({"name": "c"});
        change.as_object_mut().unwrap().extend(container.as_object().unwrap().clone());
        let change = json!({"spec": {"template": {"spec": {"containers": [change]}}}});
        let answer = api.patch(&path, "strategic-merge", change).await;
        assert_eq!(answer.code, 200, "{}", answer.body);
        let env = answer.body["spec"]["template"]["spec"]["containers"][0]["env"].as_array().unwrap().clone();
        env.iter()
            .map(|item| format!("{}={}", item["name"].as_str().unwrap(), item["value"].as_str().unwrap()))
            .collect::<Vec<_>>()
    };
    assert_eq!(patched(json!({"env": [{"name": "A", "value": "9"}]})).await, ["A=9", "B=2"]);
    assert_eq!(patched(json!({"env": [{"name": "A", "$patch": "delete"}]})).await, ["B=2"]);
    let order = json!({"$setElementOrder/env": [{"name": "C"}, {"name": "B"}], "env": [{"name": "C", "value": "3"}]});
    assert_eq!(patched(order).await, ["C=3", "B=2"]);
    assert_eq!(patched(json!({"env": [{"$patch": "replace"}, {"name": "Z", "value": "1"}]})).await, ["Z=1"]);
    let strategy = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
    assert_eq!(
        api.patch(&path, "strategic-merge", strategy).await.body["spec"]["strategy"],
        json!({"type": "Recreate"})
    );
    api.patch(&path, "strategic-merge", json!({"metadata": {"finalizers": ["e.io/a", "e.io/b"]}})).await;
    let less = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["e.io/a"]}});
    assert_eq!(api.patch(&path, "strategic-merge", less).await.body["metadata"]["finalizers"], json!(["e.io/b"]));
}

#[tokio::test]
async fn applied_objects_must_say_what_they_are() {
    let api = start().await;
    api.post(MAPS, config_map("one")).await;
    let bad = |body, message: &'static str| case(("PATCH", APPLIED), APPLY, body, 400, "BadRequest", message);
    check(
        &api,
        vec![
            bad(r#"{"metadata":{"name":"one"}}"#, "invalid object type: apiVersion must be set in the applied object"),
            bad(r#"{"apiVersion":"v1","metadata":{"name":"one"}}"#, "invalid object type: kind must be set in the applied object"),
            bad(r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"two"}}"#, "the name of the object (two) does not match the name on the URL (one)"),
            bad(r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"one","managedFields":[{"manager":"x"}]}}"#, "metadata.managedFields must be nil"),
            case(("PATCH", "/api/v1/namespaces/n/configmaps/none?fieldManager=me"), APPLY,
                r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"none","uid":"u"}}"#, 409, "Conflict",
                "Operation cannot be fulfilled on configmaps \"none\": uid mismatch: the provided object specified uid u, and no existing object was found"),
        ],
    )
    .await;
    let broken = api.ask("PATCH", APPLIED, APPLY, Bytes::from("a: [")).await;
    let message = broken.body["message"].as_str().unwrap();
    assert!(
        broken.code == 400 && message.starts_with("error encoding patch: error converting YAML to JSON: yaml: "),
        "{message}"
    );
    let twice = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: one\ndata:\n  x: a\n  x: b\n";
    let strict = api.ask("PATCH", &format!("{APPLIED}&fieldValidation=Strict"), APPLY, Bytes::from(twice)).await;
    let want = "error strict decoding patch: error converting YAML to JSON: yaml: unmarshal errors:\n  line 7: key \"x\" already set in map";
    assert_eq!((strict.code, &strict.body["message"]), (400, &json!(want)));
}

#[tokio::test]
async fn owners_are_kept_apart_by_manager_operation_and_subresource() {
    let api = start().await;
    let applied = |manager: &'static str, data: Value, query: &'static str| {
        let api = &api;
        async move {
            let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one"}, "data": data});
            api.patch(&format!("{ONE}?fieldManager={manager}{query}"), "apply", map).await
        }
    };
    assert_eq!(applied("me", json!({"a": "1"}), "").await.code, 201);
    let conflict = applied("you", json!({"a": "2"}), "").await;
    assert_eq!(conflict.body["message"], "Apply failed with 1 conflict: conflict with \"me\": .data.a");
    assert_eq!(applied("you", json!({"a": "1"}), "").await.code, 200, "the same value is shared");
    assert_eq!(applied("me", json!({}), "").await.body["data"], json!({"a": "1"}), "another owner holds it");
    assert_eq!(applied("you", json!({}), "").await.body.get("data"), None, "nobody does");
    api.patch(ONE, "merge", json!({"data": {"a": "3", "b": "3"}})).await;
    let several = applied("you", json!({"a": "4", "b": "4"}), "").await;
    assert_eq!(
        several.body["message"],
        "Apply failed with 2 conflicts: conflicts with \"test\" using v1:\n- .data.a\n- .data.b"
    );
    assert_eq!(
        several.body["details"]["causes"][1],
        json!({"reason": "FieldManagerConflict",
        "message": "conflict with \"test\" using v1", "field": ".data.b"})
    );
    assert_eq!(applied("you", json!({"a": "4"}), "&force=true").await.code, 200);
    let cleared = api.patch(ONE, "merge", json!({"metadata": {"managedFields": [{}]}})).await;
    assert_eq!(cleared.body["metadata"].get("managedFields"), None, "{}", cleared.body);
    // Who was there before the first apply is remembered under one name.
    let before = applied("me", json!({"a": "5"}), "").await;
    assert_eq!(
        before.body["message"],
        "Apply failed with 1 conflict: conflict with \"before-first-apply\" using v1: .data.a"
    );

    api.post(DEPLOYMENTS, deployment("d")).await;
    let main = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"replicas": 7}, "status": {"replicas": 9}});
    let path = format!("{DEPLOYMENTS}/d");
    let after = api.patch(&format!("{path}?fieldManager=me&force=true"), "apply", main.clone()).await.body;
    assert_eq!((&after["spec"]["replicas"], after["status"].get("replicas")), (&json!(7), None));
    let after = api.patch(&format!("{path}/status?fieldManager=me"), "apply", main).await.body;
    assert_eq!(after["status"]["replicas"], 9, "{after}");
    let owners: Vec<_> = after["metadata"]["managedFields"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (entry["manager"].clone(), entry["subresource"].clone(), entry["fieldsV1"].clone()))
        .filter(|(manager, ..)| manager == "me")
        .collect();
    assert_eq!(owners.len(), 2, "{owners:?}");
    assert!(owners.contains(&(json!("me"), Value::Null, json!({"f:spec": {"f:replicas": {}}}))), "{owners:?}");
    assert!(owners.contains(&(json!("me"), json!("status"), json!({"f:status": {"f:replicas": {}}}))), "{owners:?}");
}

#[tokio::test]
async fn elements_of_applied_lists_are_told_apart_by_their_keys() {
    let api = start().await;
    api.post(DEPLOYMENTS, deployment("d")).await;
    let apply = async |containers: Value| {
        let applied = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
            "spec": {"template": {"spec": {"containers": containers}}}});
        api.patch(&format!("{DEPLOYMENTS}/d?fieldManager=me&force=true"), "apply", applied).await
    };
    for (containers, why) in [
        (json!([{"name": "c", "image": "a"}, {"name": "c", "image": "b"}]), "duplicate entries for key [name=\"c\"]"),
        (
            json!([{"image": "a"}]),
            "element 0: associative list with keys has an element that omits all key fields [\"name\"] (and doesn't have default values for any key fields)",
        ),
    ] {
        let refused = apply(containers).await;
        let message = refused.body["message"].as_str().unwrap();
        let want = format!(
            "failed to create typed patch object (/d; apps/v1, Kind=Deployment): .spec.template.spec.containers: {why}"
        );
        assert_eq!((refused.code, message), (500, want.as_str()));
    }
}

#[tokio::test]
async fn an_apply_through_scale_respects_the_owners_of_the_replicas() {
    let api = start().await;
    api.post(DEPLOYMENTS, deployment("d")).await;
    let path = format!("{DEPLOYMENTS}/d");
    let scale = async |manager: &str, replicas: i64, query: &str| {
        let config = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d", "namespace": "n"},
            "spec": {"replicas": replicas}});
        api.patch(&format!("{path}/scale?fieldManager={manager}{query}"), "apply", config).await
    };
    let owners = async || {
        let object = api.get(&path).await.body;
        let entries = object["metadata"]["managedFields"].as_array().unwrap().clone();
        let owns = |entry: &Value| entry["fieldsV1"]["f:spec"]["f:replicas"].is_object();
        let text = |entry: &Value, name: &str| entry[name].as_str().unwrap_or_default().to_owned();
        let named = |entry: &Value| {
            ["manager", "operation", "apiVersion", "subresource"].map(|name| text(entry, name)).join(" ")
        };
        entries.iter().filter(|entry| owns(entry)).map(named).collect::<Vec<_>>()
    };
    assert_eq!(owners().await, ["test Update apps/v1 "]);
    let conflict = scale("me", 5, "").await;
    assert_eq!((conflict.code, &conflict.body["reason"]), (409, &json!("Conflict")));
    let message = "Apply failed with 1 conflict: conflict with \"test\" using apps/v1: .spec.replicas";
    assert_eq!(conflict.body["message"], message);
    assert_eq!(scale("me", 5, "&force=true").await.body["spec"]["replicas"], 5);
    assert_eq!(owners().await, ["me Apply apps/v1 scale"]);
    let version = api.get(&path).await.body["metadata"]["resourceVersion"].clone();
    assert_eq!(scale("me", 5, "").await.body["metadata"]["resourceVersion"], version, "nothing changed");
    assert_eq!(scale("you", 5, "").await.code, 200, "the same value is shared");
    assert_eq!(owners().await, ["me Apply apps/v1 scale", "you Apply apps/v1 scale"]);
    assert_eq!(scale("you", 6, "").await.code, 409);
    // What was applied through the view counts for the object.
    let config =
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {"replicas": 7}});
    let refused = api.patch(&format!("{path}?fieldManager=third"), "apply", config).await;
    let message = "Apply failed with 2 conflicts: conflicts with \"me\" with subresource \"scale\":\n- .spec.replicas\n\
                   conflicts with \"you\" with subresource \"scale\":\n- .spec.replicas";
    assert_eq!((refused.code, &refused.body["message"]), (409, &json!(message)));
}
