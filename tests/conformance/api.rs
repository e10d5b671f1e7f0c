//! Requests as JSON: every verb, any header, and watches.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use futures_util::{AsyncBufReadExt, StreamExt, stream::BoxStream};
use http::{HeaderMap, Request};
use kube::client::Body;
use serde_json::{Value, json};

use crate::context::Context;

/// How long one request may take.
const REQUEST_LIMIT: Duration = Duration::from_secs(90);

/// What the server answered.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    /// Null where the answer is not JSON.
    pub body: Value,
    pub headers: HeaderMap,
    raw: String,
}

impl Answer {
    pub fn text(&self) -> &str {
        &self.raw
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The status message of a failure.
    pub fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or_default()
    }

    /// Fails unless the code is this one.
    pub fn expect(self, code: u16) -> Result<Answer> {
        if self.code == code { Ok(self) } else { bail!("wanted {code}, got {}: {}", self.code, self.text()) }
    }
}

/// The four ways to patch.
#[derive(Clone, Copy, Debug)]
pub enum Patch {
    Json,
    Merge,
    Strategic,
}

impl Patch {
    pub fn media_type(self) -> &'static str {
        match self {
            Patch::Json => "application/json-patch+json",
            Patch::Merge => "application/merge-patch+json",
            Patch::Strategic => "application/strategic-merge-patch+json",
        }
    }
}

/// Path of a namespaced collection of the core group.
pub fn core(namespace: &str, plural: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/{plural}")
}

/// Path of a namespaced collection of a group and version such as `apps/v1`.
pub fn group(group: &str, namespace: &str, plural: &str) -> String {
    format!("/apis/{group}/namespaces/{namespace}/{plural}")
}

/// Name of an object.
pub fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

pub fn uid(object: &Value) -> &str {
    object["metadata"]["uid"].as_str().unwrap_or_default()
}

pub fn version(object: &Value) -> &str {
    object["metadata"]["resourceVersion"].as_str().unwrap_or_default()
}

/// Items of a list.
pub fn items(list: &Value) -> Vec<Value> {
    list["items"].as_array().cloned().unwrap_or_default()
}

/// Lays `over` on `base`, object by object.
pub fn merge(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over.clone(),
    }
}

impl Context {
    /// Any request; failures of the server are answers too.
    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Result<Answer> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body))?;
        let work = async {
            let response = self.client.send(request).await?;
            let (head, body) = response.into_parts();
            let bytes = body.collect_bytes().await?;
            let raw = String::from_utf8_lossy(&bytes).into_owned();
            let body = serde_json::from_str(&raw).unwrap_or_default();
            anyhow::Ok(Answer { code: head.status.as_u16(), body, headers: head.headers, raw })
        };
        let answer = tokio::time::timeout(REQUEST_LIMIT, work).await;
        answer.with_context(|| format!("{method} {path}: no answer"))?.with_context(|| format!("{method} {path}"))
    }

    /// A request with JSON; failures of the server are answers too.
    pub async fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer> {
        let body = body.map_or(Ok(Vec::new()), serde_json::to_vec)?;
        self.send(method, path, &[("accept", "application/json"), ("content-type", "application/json")], body).await
    }

    async fn must(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        let answer = self.call(method, path, body).await?;
        if answer.code >= 400 {
            return Err(anyhow!("{method} {path}: {}: {}", answer.code, answer.text()));
        }
        Ok(answer.body)
    }

    pub async fn get(&self, path: &str) -> Result<Value> {
        self.must("GET", path, None).await
    }

    pub async fn list(&self, path: &str) -> Result<Vec<Value>> {
        Ok(items(&self.get(path).await?))
    }

    /// Text of a path, such as a log.
    pub async fn text(&self, path: &str) -> Result<String> {
        let answer = self.send("GET", path, &[], Vec::new()).await?;
        if answer.code >= 400 {
            bail!("GET {path}: {}: {}", answer.code, answer.text());
        }
        Ok(answer.raw)
    }

    pub async fn create(&self, path: &str, body: &Value) -> Result<Value> {
        self.must("POST", path, Some(body)).await
    }

    pub async fn replace(&self, path: &str, body: &Value) -> Result<Value> {
        self.must("PUT", path, Some(body)).await
    }

    pub async fn delete(&self, path: &str) -> Result<Value> {
        self.must("DELETE", path, None).await
    }

    /// With options such as `propagationPolicy`.
    pub async fn delete_with(&self, path: &str, options: Value) -> Result<Value> {
        self.must("DELETE", path, Some(&options)).await
    }

    pub async fn delete_now(&self, path: &str) -> Result<()> {
        self.delete_with(path, json!({"gracePeriodSeconds": 0})).await.map(drop)
    }

    pub async fn patch(&self, path: &str, kind: Patch, body: &Value) -> Result<Value> {
        let headers = [("accept", "application/json"), ("content-type", kind.media_type())];
        let answer = self.send("PATCH", path, &headers, serde_json::to_vec(body)?).await?;
        if answer.code >= 400 {
            bail!("PATCH {path}: {}: {}", answer.code, answer.text());
        }
        Ok(answer.body)
    }

    pub async fn merge(&self, path: &str, body: Value) -> Result<Value> {
        self.patch(path, Patch::Merge, &body).await
    }

    /// Server-side apply by a named manager.
    pub async fn apply(&self, path: &str, body: &Value) -> Result<Value> {
        let path = format!("{path}?fieldManager=test-apply&force=true");
        let headers = [("accept", "application/json"), ("content-type", "application/apply-patch+yaml")];
        let answer = self.send("PATCH", &path, &headers, serde_json::to_vec(body)?).await?;
        if answer.code >= 400 {
            bail!("apply {path}: {}: {}", answer.code, answer.text());
        }
        Ok(answer.body)
    }

    /// Reads, changes and writes, again on conflict.
    pub async fn modify(&self, path: &str, change: impl Fn(&mut Value)) -> Result<Value> {
        self.modify_at(path, path, change).await
    }

    /// [`Context::modify`] that writes elsewhere, such as to `/status`.
    pub async fn modify_at(&self, path: &str, write: &str, change: impl Fn(&mut Value)) -> Result<Value> {
        for _ in 0..20 {
            let mut object = self.get(path).await?;
            change(&mut object);
            let answer = self.call("PUT", write, Some(&object)).await?;
            match answer.code {
                409 => {}
                code if code >= 400 => bail!("PUT {write}: {code}: {}", answer.text()),
                _ => return Ok(answer.body),
            }
        }
        bail!("{write}: conflict every time")
    }

    /// Watches a collection; the path has its own query after `?`.
    pub async fn watch(&self, path: &str) -> Result<Watch> {
        let glue = if path.contains('?') { '&' } else { '?' };
        let request = Request::builder().uri(format!("{path}{glue}watch=true")).body(Vec::new())?;
        let reader = self.client.request_stream(request).await.with_context(|| format!("watch {path}"))?;
        let lines = reader.lines().map(|line| anyhow::Ok(serde_json::from_str(&line?)?));
        Ok(Watch { events: lines.boxed() })
    }
}

/// Events of a watch in order.
pub struct Watch {
    events: BoxStream<'static, Result<Value>>,
}

impl Watch {
    /// The next event, bookmarks left out.
    pub async fn next(&mut self, limit: Duration) -> Result<Value> {
        let next = async {
            loop {
                let event = self.events.next().await.context("the watch ended")??;
                if event["type"] != "BOOKMARK" {
                    return Ok(event);
                }
            }
        };
        tokio::time::timeout(limit, next).await.context("no event in time")?
    }

    /// The first event that looks as wanted.
    pub async fn until(&mut self, what: &str, limit: Duration, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            let event = self.next(left).await.with_context(|| format!("wait for {what}"))?;
            if wanted(&event) {
                return Ok(event);
            }
        }
    }

    /// The next event must be of this type; returns its object.
    pub async fn expect(&mut self, kind: &str) -> Result<Value> {
        let event = self.next(Duration::from_secs(30)).await.with_context(|| format!("wait for {kind}"))?;
        if event["type"] != kind {
            bail!("wanted {kind}, got {event}");
        }
        Ok(event["object"].clone())
    }

    /// Fails when an event comes within the time.
    pub async fn expect_silence(&mut self, during: Duration) -> Result<()> {
        match self.next(during).await {
            Ok(event) => bail!("unexpected event {event}"),
            Err(_) => Ok(()),
        }
    }
}
