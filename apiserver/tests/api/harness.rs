//! A running server and short ways to ask it.

#[path = "../../examples/setup/config.rs"]
mod config;

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use skiff_apiserver::{ApiServer, Config, MemoryBackend, ProxySettings, UserInfo, body};
use skiff_client::Client;
use tokio_util::sync::CancellationToken;

pub struct Harness {
    pub server: ApiServer,
    pub client: Client,
    pub backend: MemoryBackend,
    stop: CancellationToken,
}

impl Drop for Harness {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// What came back: code, headers, JSON (or text in a string).
pub struct Answer {
    pub code: u16,
    pub headers: http::HeaderMap,
    pub body: Value,
}

pub fn admin() -> UserInfo {
    UserInfo::new("admin", &["system:masters"])
}

/// Starts a server with namespace `n`.
pub async fn start() -> Harness {
    start_with(None).await
}

/// The same with a way to nodes and services.
pub async fn start_with(proxy: Option<ProxySettings>) -> Harness {
    start_as(|config| config.proxy = proxy).await
}

/// The same with any change of its configuration.
pub async fn start_as(change: impl FnOnce(&mut Config)) -> Harness {
    let backend = MemoryBackend::default();
    let stop = CancellationToken::new();
    let mut config = config::config(backend.clone()).unwrap();
    change(&mut config);
    let server = ApiServer::new(config, stop.clone()).unwrap();
    let running = server.clone();
    tokio::spawn(async move { running.run().await });
    server.ready().await;
    let client = server.client(admin(), "test/1.0");
    let harness = Harness { server, client, backend, stop };
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}});
    assert_eq!(harness.post("/api/v1/namespaces", namespace).await.code, 201);
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    assert_eq!(harness.post("/api/v1/namespaces/n/serviceaccounts", account).await.code, 201);
    harness
}

impl Harness {
    /// Any request as the administrator.
    pub async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Bytes) -> Answer {
        self.ask_as(admin(), method, path, headers, body).await
    }

    pub async fn ask_as(
        &self,
        user: UserInfo,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path).header("user-agent", "test/1.0");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body::full(body)).unwrap();
        answer(self.server.handle_as(request, user).await).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], Bytes::new()).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.ask("POST", path, &[("content-type", "application/json")], encode(&body)).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.ask("PUT", path, &[("content-type", "application/json")], encode(&body)).await
    }

    pub async fn delete(&self, path: &str, body: Value) -> Answer {
        self.ask("DELETE", path, &[("content-type", "application/json")], encode(&body)).await
    }

    pub async fn patch(&self, path: &str, kind: &str, body: Value) -> Answer {
        let content_type = match kind {
            "apply" => "application/apply-patch+yaml".to_owned(),
            kind => format!("application/{kind}-patch+json"),
        };
        self.ask("PATCH", path, &[("content-type", &content_type)], encode(&body)).await
    }

    /// Opens a watch and returns a reader of its events.
    pub async fn watch(&self, path: &str, accept: &str) -> Watch {
        let request = Request::builder().uri(path).header("accept", accept).body(body::full(Bytes::new())).unwrap();
        let response = self.server.handle_as(request, admin()).await;
        Watch { code: response.status().as_u16(), body: response.into_body(), buffer: Vec::new() }
    }
}

fn encode(value: &Value) -> Bytes {
    if value.is_null() { Bytes::new() } else { Bytes::from(value.to_string()) }
}

pub async fn answer(response: Response<body::Body>) -> Answer {
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    let body =
        serde_json::from_slice(&bytes).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
    Answer { code: parts.status.as_u16(), headers: parts.headers, body }
}

/// Events of a watch, one by one.
pub struct Watch {
    pub code: u16,
    body: body::Body,
    buffer: Vec<u8>,
}

impl Watch {
    /// The next event; `None` when the watch has ended.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = tokio::time::timeout(Duration::from_secs(5), self.body.frame()).await.expect("no event came");
            self.buffer.extend_from_slice(&frame?.unwrap().into_data().unwrap());
        }
    }

    /// `TYPE name` of the next event.
    pub async fn brief(&mut self) -> String {
        match self.next().await {
            Some(event) => format!(
                "{} {}",
                event["type"].as_str().unwrap(),
                event["object"]["metadata"]["name"].as_str().unwrap_or_default()
            ),
            None => "END".to_owned(),
        }
    }
}

pub fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": "v"}})
}

pub fn labelled(name: &str, label: &str) -> Value {
    let mut value = config_map(name);
    value["metadata"]["labels"] = json!({"l": label});
    value
}

pub const MAPS: &str = "/api/v1/namespaces/n/configmaps";

pub fn deployment(name: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {
        "replicas": 2, "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}},
            "spec": {"containers": [{"name": "c", "image": "i:1"}]}}}})
}

pub const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/n/deployments";
