//! The audit log: who asked for what, and what came of it, as upstream's
//! `audit.k8s.io/v1` events in a file.
//!
//! A policy decides how much of a request is recorded. Bodies are recorded when
//! they are JSON and whole; streams never are. Events pass a bounded queue to
//! one writer; when it is full, requests wait for it, so that nothing happens
//! unrecorded.

mod event;
mod file;
mod policy;

use std::path::PathBuf;

use http::{Request, Response, header};
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::{
    authn::UserInfo,
    body::{self, Body},
    limits,
    request_info::RequestInfo,
    serve::ConnectionInfo,
    warnings::Annotations,
};

use event::Record;
pub use file::FileOptions;
use policy::Policy;
pub use policy::{Level, PolicyError};

/// Events that wait for the writer. More: requests wait.
const QUEUE_LEN: usize = 1024;

/// Where events go, and which.
#[derive(Clone, Debug)]
pub struct AuditOptions {
    pub policy: PathBuf,
    pub file: FileOptions,
}

/// Why there can be no audit log.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error("read audit policy {path}: {source}")]
    Read {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("audit policy: {0}")]
    Policy(#[from] PolicyError),
    #[error("open audit log {path}: {source}")]
    Open {
        path: String,
        #[source]
        source: std::io::Error,
    },
}

/// Records requests.
pub struct AuditLog {
    policy: Policy,
    events: mpsc::Sender<String>,
}

impl AuditLog {
    /// Reads the policy and opens the file. The future writes; it ends when
    /// everything that came before `stop` is written.
    pub fn open(
        options: &AuditOptions,
        stop: CancellationToken,
    ) -> Result<(AuditLog, impl Future<Output = ()> + Send + use<>), AuditError> {
        let path = options.policy.display().to_string();
        let text = std::fs::read_to_string(&options.policy).map_err(|source| AuditError::Read { path, source })?;
        let policy = Policy::parse(&text)?;
        let writer = file::Writer::open(options.file.clone())
            .map_err(|source| AuditError::Open { path: options.file.path.display().to_string(), source })?;
        let (events, queue) = mpsc::channel(QUEUE_LEN);
        Ok((AuditLog { policy, events }, writer.run(queue, stop)))
    }

    /// Begins the record of a request; `None` when the policy wants none. At
    /// the levels that need it the body is read here and put back.
    pub(crate) async fn begin(
        &self,
        info: &RequestInfo,
        user: &UserInfo,
        connection: Option<&ConnectionInfo>,
        request: &mut Request<Body>,
        audit_id: &str,
    ) -> Option<Started> {
        let decision = self.policy.decide(info, user);
        if decision.level == Level::None {
            return None;
        }
        let mut record = Record::new(info, user, connection, request, audit_id, decision.level);
        let streams = info.is_long_running();
        if decision.level >= Level::Request && !streams && is_json(request.headers()) {
            let (body, whole) = take(std::mem::replace(request.body_mut(), body::full(Vec::new()))).await;
            *request.body_mut() = body;
            record.request_object = whole.and_then(|bytes| object(&bytes, decision.omit_managed_fields));
        }
        let started = Started { record, decision };
        if !started.decision.omits("RequestReceived") {
            self.write(started.record.event("RequestReceived", started.record.received)).await;
        }
        Some(started)
    }

    /// Ends a record with the answer; what goes back to the client is returned.
    pub(crate) async fn finish(&self, mut started: Started, response: Response<Body>, streams: bool) -> Response<Body> {
        let record = &mut started.record;
        record.code = Some(response.status().as_u16());
        record.annotations = response.extensions().get::<Annotations>().cloned().unwrap_or_default();
        if streams && response.status().is_success() {
            if !started.decision.omits("ResponseStarted") {
                self.write(started.record.event("ResponseStarted", Timestamp::now())).await;
            }
            return self.finish_stream(started, response);
        }
        let failed = !response.status().is_success();
        let wants_body = started.decision.level == Level::RequestResponse || failed;
        let plain = !response.headers().contains_key(header::CONTENT_ENCODING) && is_json(response.headers());
        let response = if wants_body && plain {
            let (parts, body) = response.into_parts();
            let (body, whole) = take(body).await;
            let answer = whole.and_then(|bytes| object(&bytes, started.decision.omit_managed_fields));
            let record = &mut started.record;
            if failed {
                record.failure = answer.clone();
            }
            if started.decision.level == Level::RequestResponse {
                record.response_object = answer;
            }
            Response::from_parts(parts, body)
        } else {
            response
        };
        if !started.decision.omits("ResponseComplete") {
            self.write(started.record.event("ResponseComplete", Timestamp::now())).await;
        }
        response
    }

    /// The end of a stream is recorded when its body is sent or dropped.
    fn finish_stream(&self, started: Started, response: Response<Body>) -> Response<Body> {
        if started.decision.omits("ResponseComplete") {
            return response;
        }
        let (ended, end) = oneshot::channel::<()>();
        let events = self.events.clone();
        tokio::spawn(async move {
            // Dropped with the body.
            let _ = end.await;
            let _ = events.send(started.record.event("ResponseComplete", Timestamp::now())).await;
        });
        body::guarded(response, std::sync::Arc::new(ended))
    }

    async fn write(&self, event: String) {
        if self.events.send(event).await.is_err() {
            tracing::debug!(component = "audit", "the writer of the audit log has ended");
        }
    }
}

/// A record that has begun.
pub(crate) struct Started {
    record: Record,
    decision: policy::Decision,
}

impl Started {
    /// The user in whose name the request goes on.
    pub fn impersonated(&mut self, user: &UserInfo) {
        self.record.impersonate(user);
    }
}

fn is_json(headers: &http::HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.contains("json")
}

/// The body as it was, and its bytes if it is not too large.
async fn take(body: Body) -> (Body, Option<bytes::Bytes>) {
    match body::read_at_most(body, limits::BODY_BYTES_MAX).await {
        Ok(bytes) => (body::full(bytes.clone()), Some(bytes)),
        Err(error) => {
            let failure = futures_util::stream::iter([Err::<bytes::Bytes, body::BodyError>(error.to_string().into())]);
            (body::streamed(failure), None)
        }
    }
}

fn object(bytes: &[u8], omit_managed_fields: bool) -> Option<Value> {
    let mut value: Value = serde_json::from_slice(bytes).ok()?;
    if omit_managed_fields {
        for object in std::iter::once(None).chain((0..items(&value)).map(Some)) {
            let object = match object {
                None => &mut value,
                Some(index) => &mut value["items"][index],
            };
            if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.remove("managedFields");
            }
        }
    }
    Some(value)
}

fn items(value: &Value) -> usize {
    value.get("items").and_then(Value::as_array).map_or(0, Vec::len)
}

#[cfg(test)]
mod tests;
