//! Webhooks for tests: conversion of custom resources and admission.
//!
//! `agnhost webhook --tls-cert-file F --tls-private-key-file F [--port N]`. The
//! path says what is done with a review.

use std::{convert::Infallible, time::Duration};

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::{flag, tls};

pub async fn serve(words: &[String]) -> Result<()> {
    let file = |name: &str| flag(words, name).with_context(|| format!("{name} is missing"));
    let acceptor = tls::acceptor(&file("--tls-cert-file")?, &file("--tls-private-key-file")?, None)?;
    let port: u16 = flag(words, "--port").map_or(Ok(8443), |port| port.parse())?;
    let listener = TcpListener::bind(("::", port)).await?;
    println!("webhooks on {port}");
    loop {
        let (stream, _) = listener.accept().await?;
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
            if let Err(error) = served.await {
                println!("{error}");
            }
        });
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let review: Value = serde_json::from_slice(&body).unwrap_or_default();
    println!("{path}: {}", review["request"]["uid"]);
    if path == "/always-allow-delay-5s" {
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    let response = if path == "/crdconvert" { convert(&review["request"]) } else { admit(&path, &review["request"]) };
    let mut response = response;
    response["uid"] = review["request"]["uid"].clone();
    let answer = json!({"kind": review["kind"], "apiVersion": review["apiVersion"], "response": response});
    let mut response = Response::new(Full::new(Bytes::from(answer.to_string())));
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    Ok(response)
}

/// Between `hostPort: "host:port"` (v1) and `host`, `port` (v2).
fn convert(request: &Value) -> Value {
    let desired = request["desiredAPIVersion"].as_str().unwrap_or_default();
    let one = |object: &Value| {
        let mut object = object.clone();
        object["apiVersion"] = json!(desired);
        let Some(fields) = object.as_object_mut() else { return object };
        if desired.ends_with("/v2") {
            if let Some(Value::String(both)) = fields.remove("hostPort") {
                let (host, port) = both.split_once(':').unwrap_or((&both, ""));
                fields.insert("host".to_owned(), json!(host));
                fields.insert("port".to_owned(), json!(port));
            }
        } else {
            let text = |value: Option<Value>| value.as_ref().and_then(Value::as_str).unwrap_or_default().to_owned();
            let (host, port) = (text(fields.remove("host")), text(fields.remove("port")));
            fields.insert("hostPort".to_owned(), json!(format!("{host}:{port}")));
        }
        object
    };
    let objects: Vec<Value> = request["objects"].as_array().into_iter().flatten().map(one).collect();
    json!({"convertedObjects": objects, "result": {"status": "Success"}})
}

fn allowed() -> Value {
    json!({"allowed": true})
}

fn denied(message: &str) -> Value {
    json!({"allowed": false, "status": {"message": message}})
}

fn patched(patch: &Value) -> Value {
    json!({"allowed": true, "patchType": "JSONPatch", "patch": BASE64.encode(patch.to_string())})
}

/// The old object of a deletion, else the new one.
fn subject(request: &Value) -> &Value {
    if request["object"].is_null() { &request["oldObject"] } else { &request["object"] }
}

fn admit(path: &str, request: &Value) -> Value {
    let object = subject(request);
    match path {
        "/always-deny" => denied("this webhook denies all requests"),
        "/add-label" => {
            let labels = &object["metadata"]["labels"];
            if labels["added-label"] == "yes" {
                allowed()
            } else if labels.is_object() {
                patched(&json!([{"op": "add", "path": "/metadata/labels/added-label", "value": "yes"}]))
            } else {
                patched(&json!([{"op": "add", "path": "/metadata/labels", "value": {"added-label": "yes"}}]))
            }
        }
        "/pods" => {
            let containers = object["spec"]["containers"].as_array().into_iter().flatten();
            let bad = containers
                .into_iter()
                .any(|container| container["name"].as_str().is_some_and(|name| name.contains("webhook-disallow")));
            let label = object["metadata"]["labels"]["webhook-e2e-test"] == "webhook-disallow";
            if bad || label {
                denied("the pod contains unwanted container name; the pod contains unwanted label")
            } else {
                allowed()
            }
        }
        "/pods/attach" => {
            let unwanted = request["name"] == "to-be-attached-pod" && request["object"]["container"] == "container1";
            if unwanted { denied("attaching to pod 'to-be-attached-pod' is not allowed") } else { allowed() }
        }
        "/mutating-pods" => {
            if request["name"] == "webhook-to-be-mutated" || object["metadata"]["name"] == "webhook-to-be-mutated" {
                patched(&json!([{"op": "add", "path": "/spec/initContainers", "value": [
                    {"image": "webhook-added-image", "name": "webhook-added-init-container", "resources": {}}]}]))
            } else {
                allowed()
            }
        }
        "/configmaps" | "/custom-resource" => {
            if object["data"]["webhook-e2e-test"] == "webhook-disallow" {
                denied("the custom resource contains unwanted data; the configmap contains unwanted key and value")
            } else {
                allowed()
            }
        }
        "/mutating-configmaps" | "/mutating-custom-resource" => {
            let data = &object["data"];
            let mut patch = Vec::new();
            if data["mutation-start"] == "yes" {
                patch.push(json!({"op": "add", "path": "/data/mutation-stage-1", "value": "yes"}));
            }
            if data["mutation-stage-1"] == "yes" {
                patch.push(json!({"op": "add", "path": "/data/mutation-stage-2", "value": "yes"}));
            }
            if patch.is_empty() { allowed() } else { patched(&Value::Array(patch)) }
        }
        "/crd" => {
            if object["metadata"]["labels"]["webhook-e2e-test"] == "webhook-disallow" {
                denied("the crd contains unwanted label")
            } else {
                allowed()
            }
        }
        _ => allowed(),
    }
}
