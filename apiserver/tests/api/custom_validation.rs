//! Custom resources: rules, ratcheting, defaults on read, conversion by a
//! webhook, and names that are taken.

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use http_body_util::{BodyExt, Full};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::harness::{Answer, Harness, start};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const GADGETS: &str = "/apis/rules.example.com/v1/namespaces/n/gadgets";

fn definition(schema: Value) -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "gadgets.rules.example.com"}, "spec": {"group": "rules.example.com", "scope": "Namespaced",
        "names": {"plural": "gadgets", "kind": "Gadget"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}})
}

fn spec(properties: Value) -> Value {
    json!({"type": "object", "properties": {"spec": {"type": "object", "properties": properties}}})
}

fn gadget(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "rules.example.com/v1", "kind": "Gadget", "metadata": {"name": name}, "spec": spec})
}

async fn until(api: &Harness, path: &str, what: &str, wanted: impl Fn(&Answer) -> bool) -> Answer {
    for _ in 0..3000 {
        let answer = api.get(path).await;
        if wanted(&answer) {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{what} never came: {}", api.get(path).await.body);
}

fn has_condition(definition: &Value, name: &str, state: &str) -> bool {
    let conditions = definition["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|condition| condition["type"] == name && condition["status"] == state)
}

async fn install(api: &Harness, definition: Value) {
    let name = definition["metadata"]["name"].as_str().unwrap().to_owned();
    let created = api.post(DEFINITIONS, definition).await;
    assert_eq!(created.code, 201, "{}", created.body);
    let path = format!("{DEFINITIONS}/{name}");
    until(api, &path, "Established", |answer| has_condition(&answer.body, "Established", "True")).await;
}

#[tokio::test]
async fn rules_refuse_and_what_did_not_change_warns() {
    let api = start().await;
    let mut schema = spec(json!({"size": {"type": "integer"}, "note": {"type": "string"}}));
    install(&api, definition(schema.clone())).await;
    assert_eq!(api.post(GADGETS, gadget("old", json!({"size": 50}))).await.code, 201);
    schema["properties"]["spec"]["properties"]["size"]["x-kubernetes-validations"] =
        json!([{"rule": "self < 10", "message": "too large"}]);
    schema["properties"]["spec"]["x-kubernetes-validations"] = json!([{"rule": "!has(oldSelf.note) || self.note == oldSelf.note", "message": "note stays", "fieldPath": ".note"}]);
    let path = format!("{DEFINITIONS}/gadgets.rules.example.com");
    let patch = json!({"spec": {"versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}});
    assert_eq!(api.patch(&path, "merge", patch).await.code, 200);
    let refused = loop {
        let answer = api.post(&format!("{GADGETS}?dryRun=All"), gadget("new", json!({"size": 11}))).await;
        if answer.code == 422 {
            break answer;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(
        refused.body["message"],
        "Gadget.rules.example.com \"new\" is invalid: spec.size: Invalid value: 11: too large"
    );
    let kept = api.patch(&format!("{GADGETS}/old"), "merge", json!({"spec": {"note": "a"}})).await;
    assert_eq!(kept.code, 200, "{}", kept.body);
    assert!(kept.headers["warning"].to_str().unwrap().contains("spec.size: Invalid value: 50: too large"));
    let changed = api.patch(&format!("{GADGETS}/old"), "merge", json!({"spec": {"note": "b"}})).await;
    assert_eq!((changed.code, &changed.body["details"]["causes"][0]["field"]), (422, &json!("spec.note")));
}

#[tokio::test]
async fn definitions_with_rules_that_cannot_be_are_refused() {
    let api = start().await;
    let mut schema = spec(json!({"list": {"type": "array", "items": {"type": "string"}}}));
    schema["properties"]["spec"]["x-kubernetes-validations"] = json!([{"rule": "self.lists.size() > 0"}]);
    let refused = api.post(DEFINITIONS, definition(schema.clone())).await;
    assert_eq!(
        (refused.code, &refused.body["details"]["causes"][0]["field"]),
        (422, &json!("spec.versions[0].schema.openAPIV3Schema.properties[spec].x-kubernetes-validations[0].rule"))
    );
    assert!(refused.body["message"].as_str().unwrap().contains("undefined field 'lists'"));
    schema["properties"]["spec"]["x-kubernetes-validations"] =
        json!([{"rule": "self.list.all(a, self.list.all(b, a == b))"}]);
    let refused = api.post(DEFINITIONS, definition(schema)).await;
    assert!(
        refused.body["message"]
            .as_str()
            .unwrap()
            .contains("estimated rule cost exceeds budget by factor of more than 100x")
    );
}

#[tokio::test]
async fn stored_objects_are_shown_as_the_definition_says_now() {
    let api = start().await;
    install(&api, definition(spec(json!({"a": {"type": "string"}, "gone": {"type": "string"}})))).await;
    let mut watch = api.watch(&format!("{GADGETS}?watch=true&resourceVersion=0"), "application/json").await;
    api.post(GADGETS, gadget("one", json!({"gone": "x"}))).await;
    assert_eq!(watch.brief().await, "ADDED one");
    let path = format!("{DEFINITIONS}/gadgets.rules.example.com");
    let schema = spec(json!({"a": {"type": "string", "default": "A"}, "b": {"type": "object", "default": {},
        "properties": {"c": {"type": "integer", "default": 7}}}}));
    let patch = json!({"spec": {"versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}});
    assert_eq!(api.patch(&path, "merge", patch).await.code, 200);
    let one = format!("{GADGETS}/one");
    let shown = until(&api, &one, "the default", |answer| answer.body["spec"]["a"] == "A").await;
    assert_eq!(shown.body["spec"], json!({"a": "A", "b": {"c": 7}}));
    let listed = api.get(GADGETS).await;
    assert_eq!(listed.body["items"][0]["spec"], json!({"a": "A", "b": {"c": 7}}));
    let mut again = api.watch(&format!("{GADGETS}?watch=true"), "application/json").await;
    assert_eq!(again.next().await.unwrap()["object"]["spec"]["a"], "A");
    let mut other = gadget("two", json!({"a": null}));
    other["spec"]["b"] = json!({"c": null});
    let created = api.post(GADGETS, other).await;
    assert_eq!(created.body["spec"], json!({"a": "A", "b": {"c": 7}}));
}

#[tokio::test]
async fn a_name_that_is_taken_is_not_given_until_it_is_free() {
    let api = start().await;
    install(&api, definition(spec(json!({})))).await;
    let mut second = definition(spec(json!({})));
    second["metadata"]["name"] = json!("others.rules.example.com");
    second["spec"]["names"] = json!({"plural": "others", "kind": "Gadget"});
    assert_eq!(api.post(DEFINITIONS, second).await.code, 201);
    let path = format!("{DEFINITIONS}/others.rules.example.com");
    let refused =
        until(&api, &path, "the refusal", |answer| has_condition(&answer.body, "NamesAccepted", "False")).await;
    let condition = &refused.body["status"]["conditions"][0];
    assert_eq!(
        (&condition["reason"], &condition["message"]),
        (&json!("ListKindConflict"), &json!("\"GadgetList\" is already in use"))
    );
    assert_eq!(api.get("/apis/rules.example.com/v1/others").await.code, 404);
    api.delete(&format!("{DEFINITIONS}/gadgets.rules.example.com"), Value::Null).await;
    until(&api, &path, "the name", |answer| has_condition(&answer.body, "Established", "True")).await;
}

/// Serves conversion between `both: "x-y"` (v1) and `x`, `y` (v2); returns URL and bundle.
async fn converter() -> (String, String) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![leaf.der().clone()],
            rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}/convert", listener.local_addr().unwrap().port());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = hyper::service::service_fn(|request: http::Request<hyper::body::Incoming>| async move {
                    let body = request.into_body().collect().await?.to_bytes();
                    let review: Value = serde_json::from_slice(&body).unwrap_or_default();
                    let answer = bytes::Bytes::from(convert(&review).to_string());
                    Ok::<_, hyper::Error>(http::Response::new(Full::new(answer)))
                });
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(hyper_util::rt::TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    (url, BASE64.encode(authority.pem()))
}

fn convert(review: &Value) -> Value {
    let request = &review["request"];
    let desired = request["desiredAPIVersion"].as_str().unwrap_or_default();
    let one = |object: &Value| {
        let mut object = object.clone();
        object["apiVersion"] = json!(desired);
        let spec = object["spec"].as_object_mut().unwrap();
        if desired.ends_with("v2") {
            let both = spec.remove("both").unwrap_or_default();
            let (x, y) = both.as_str().unwrap_or_default().split_once('-').unwrap_or_default();
            spec.insert("x".to_owned(), json!(x));
            spec.insert("y".to_owned(), json!(y));
        } else {
            let text = |value: Option<Value>| value.unwrap_or_default().as_str().unwrap_or_default().to_owned();
            let both = format!("{}-{}", text(spec.remove("x")), text(spec.remove("y")));
            spec.insert("both".to_owned(), json!(both));
        }
        object
    };
    let objects: Vec<Value> = request["objects"].as_array().unwrap().iter().map(one).collect();
    let bad = objects.iter().any(|object| object["metadata"]["name"] == "bad");
    let result = if bad { json!({"status": "Failure", "message": "never"}) } else { json!({"status": "Success"}) };
    json!({"kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1",
        "response": {"uid": request["uid"], "result": result, "convertedObjects": objects}})
}

#[tokio::test]
async fn versions_are_converted_by_a_webhook() {
    let api = start().await;
    let (url, bundle) = converter().await;
    let text = json!({"type": "string"});
    let mut two = definition(spec(json!({"both": text})));
    two["spec"]["versions"][0]["selectableFields"] = json!([{"jsonPath": ".spec.both"}]);
    let version = json!({"name": "v2", "served": true, "storage": false, "selectableFields": [{"jsonPath": ".spec.x"}],
        "schema": {"openAPIV3Schema": spec(json!({"x": text, "y": text, "z": {"type": "string", "default": "Z"}}))}});
    two["spec"]["versions"].as_array_mut().unwrap().push(version);
    two["spec"]["conversion"] = json!({"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"],
        "clientConfig": {"url": url, "caBundle": bundle}}});
    install(&api, two).await;
    let v2 = GADGETS.replace("/v1/", "/v2/");
    let mut watch = api.watch(&format!("{v2}?watch=true&fieldSelector=spec.x%3Da"), "application/json").await;
    assert_eq!(api.post(GADGETS, gadget("one", json!({"both": "a-b"}))).await.code, 201);
    let shown = api.get(&format!("{v2}/one")).await;
    assert_eq!(
        (&shown.body["apiVersion"], &shown.body["spec"]),
        (&json!("rules.example.com/v2"), &json!({"x": "a", "y": "b", "z": "Z"}))
    );
    assert_eq!(watch.next().await.unwrap()["object"]["spec"]["x"], "a");
    let mut second = gadget("two", json!({"x": "c", "y": "d"}));
    second["apiVersion"] = json!("rules.example.com/v2");
    let created = api.post(&v2, second).await;
    assert_eq!((created.code, &created.body["spec"]["x"]), (201, &json!("c")), "{}", created.body);
    assert_eq!(api.get(&format!("{GADGETS}/two")).await.body["spec"], json!({"both": "c-d"}));
    let listed = api.get(&format!("{v2}?fieldSelector=spec.x%3Dc")).await;
    assert_eq!(
        (listed.body["items"].as_array().unwrap().len(), &listed.body["items"][0]["metadata"]["name"]),
        (1, &json!("two"))
    );
    let patched = api.patch(&format!("{v2}/one"), "merge", json!({"spec": {"x": "e"}})).await;
    assert_eq!((patched.code, &patched.body["metadata"]["generation"]), (200, &json!(2)), "{}", patched.body);
    assert_eq!(watch.brief().await, "DELETED one");
    assert_eq!(api.get(&format!("{GADGETS}/one")).await.body["spec"], json!({"both": "e-b"}));
    assert_eq!(api.post(GADGETS, gadget("bad", json!({"both": "q-r"}))).await.code, 201);
    let failed = api.get(&format!("{v2}/bad")).await;
    assert_eq!(
        (failed.code, &failed.body["message"]),
        (
            500,
            &json!("Internal error occurred: conversion webhook for rules.example.com/v1, Kind=Gadget failed: never")
        )
    );
}
