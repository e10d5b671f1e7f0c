//! The audit log: who asked for what, and what came of it, as upstream's
//! `audit.k8s.io/v1` events in a file and at a web service.
//!
//! A policy decides how much of a request is recorded. Bodies are recorded as
//! JSON, whatever they were sent as; streams never are. Events pass a bounded
//! queue to each writer; when that of the file is full, requests wait for it, so
//! that nothing happens unrecorded.

mod event;
mod file;
mod policy;
mod webhook;

use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;
use futures_util::future::{OptionFuture, join};
use http::{HeaderMap, Request, Response, header};
use jiff::Timestamp;
use serde_json::{Value, json};
use skiff_api::{Status, codec};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::{
    authn::UserInfo,
    body::{self, Body},
    limits,
    request_info::RequestInfo,
    serve::ConnectionInfo,
    warnings::Annotations,
    wire::Format,
};

use event::Record;
pub use file::FileOptions;
use policy::Policy;
pub use policy::{Level, PolicyError};
pub use webhook::WebhookOptions;

/// Events that wait for the writer of the file. More: requests wait.
const QUEUE_LEN: usize = 1024;
/// Events that wait to be sent. More: they are dropped, or requests wait, as the options say.
const WEBHOOK_QUEUE_LEN: usize = 10_000;

/// Where events go, and which.
#[derive(Clone, Debug)]
pub struct AuditOptions {
    pub policy: PathBuf,
    pub file: Option<FileOptions>,
    pub webhook: Option<WebhookOptions>,
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
    #[error("audit webhook: {0}")]
    Webhook(#[from] skiff_client::ClientError),
}

/// The queue of a writer.
#[derive(Clone)]
struct Sink {
    queue: mpsc::Sender<Arc<str>>,
    /// Whether requests wait when it is full.
    waits: bool,
}

impl Sink {
    fn new(len: usize, waits: bool) -> (Sink, mpsc::Receiver<Arc<str>>) {
        let (queue, events) = mpsc::channel(len);
        (Sink { queue, waits }, events)
    }

    async fn write(&self, event: Arc<str>) {
        let kept = if self.waits { self.queue.send(event).await.is_ok() } else { self.queue.try_send(event).is_ok() };
        if !kept {
            tracing::error!(component = "audit", "an event is lost: the queue of a writer is full, or it has ended");
        }
    }
}

/// The queues of all writers.
#[derive(Clone)]
struct Sinks(Vec<Sink>);

impl Sinks {
    async fn write(&self, event: String) {
        let event: Arc<str> = event.into();
        for sink in &self.0 {
            sink.write(Arc::clone(&event)).await;
        }
    }
}

/// Records requests.
pub struct AuditLog {
    policy: Policy,
    sinks: Sinks,
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
        let (mut sinks, mut file, mut sender) = (Vec::new(), None, None);
        if let Some(options) = &options.file {
            let writer = file::Writer::open(options.clone())
                .map_err(|source| AuditError::Open { path: options.path.display().to_string(), source })?;
            let (sink, events) = Sink::new(QUEUE_LEN, true);
            sinks.push(sink);
            file = Some(writer.run(events, stop.clone()));
        }
        if let Some(options) = &options.webhook {
            let webhook = webhook::Sender::open(options.clone())?;
            let (sink, events) = Sink::new(WEBHOOK_QUEUE_LEN, options.blocking);
            sinks.push(sink);
            sender = Some(webhook.run(events, stop));
        }
        let writers = async move {
            join(OptionFuture::from(file), OptionFuture::from(sender)).await;
        };
        Ok((AuditLog { policy, sinks: Sinks(sinks) }, writers))
    }

    /// Begins the record of a request; `None` when the policy wants none. Where
    /// something of the body is recorded it is read here and put back.
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
        if !decision.omits("RequestReceived") {
            self.sinks.write(record.event("RequestReceived", record.received)).await;
        }
        if decision.level == Level::RequestResponse {
            // What is recorded of the answer is read on its way.
            request.headers_mut().remove(header::ACCEPT_ENCODING);
        }
        let writes = matches!(info.verb.as_str(), "create" | "update");
        let has_body = writes || decision.level >= Level::Request;
        if info.is_resource && has_body && !info.is_long_running() && is_readable(request.headers()) {
            let (body, whole) = take(std::mem::replace(request.body_mut(), body::full(Vec::new()))).await;
            *request.body_mut() = body;
            let object = whole.and_then(|bytes| object(request.headers(), &bytes, decision.omit_managed_fields));
            if let (true, Some(object)) = (writes, &object) {
                record.complete_reference(object);
            }
            record.request_object = object.filter(|_| decision.level >= Level::Request);
        }
        Some(Started { record, decision })
    }

    /// The event of a request whose credentials are bad, if the policy wants one.
    pub(crate) fn unauthenticated(
        &self,
        info: &RequestInfo,
        connection: Option<&ConnectionInfo>,
        request: &Request<Body>,
        audit_id: &str,
    ) -> Option<String> {
        let nobody = UserInfo::default();
        let decision = self.policy.decide(info, &nobody);
        if decision.level == Level::None || decision.omits("ResponseStarted") {
            return None;
        }
        let mut record = Record::new(info, &nobody, connection, request, audit_id, decision.level);
        record.code = Some(401);
        record.status = Some(json!({"message": event::attempted(request.headers(), connection)}));
        Some(record.event("ResponseStarted", Timestamp::now()))
    }

    pub(crate) async fn write(&self, event: String) {
        self.sinks.write(event).await;
    }

    /// Ends a record with the answer; what goes back to the client is returned.
    pub(crate) async fn finish(&self, mut started: Started, response: Response<Body>, streams: bool) -> Response<Body> {
        let record = &mut started.record;
        record.code = Some(response.status().as_u16());
        record.annotations = response.extensions().get::<Annotations>().cloned().unwrap_or_default();
        if streams && (response.status().is_success() || response.status().is_informational()) {
            if !started.decision.omits("ResponseStarted") {
                self.sinks.write(started.record.event("ResponseStarted", Timestamp::now())).await;
            }
            return self.finish_stream(started, response);
        }
        let whole_answer = started.decision.level == Level::RequestResponse;
        // A failure is a Status, and what comes of a deletion may be one.
        let may_be_status = !response.status().is_success() || record.deletes;
        let plain = !response.headers().contains_key(header::CONTENT_ENCODING) && is_readable(response.headers());
        let response = if (whole_answer || may_be_status) && plain {
            let (parts, body) = response.into_parts();
            let (body, whole) = take(body).await;
            let answer = whole.and_then(|bytes| object(&parts.headers, &bytes, started.decision.omit_managed_fields));
            let record = &mut started.record;
            record.status = answer.clone().filter(|answer| answer["kind"] == "Status");
            record.response_object = answer.filter(|_| whole_answer);
            Response::from_parts(parts, body)
        } else {
            response
        };
        if !started.decision.omits("ResponseComplete") {
            self.sinks.write(started.record.event("ResponseComplete", Timestamp::now())).await;
        }
        response
    }

    /// Ends a record of a request whose handler panicked.
    pub(crate) async fn panicked(&self, mut started: Started, what: &str) {
        if started.decision.omits("Panic") {
            return;
        }
        let status = Status::internal(format!("APIServer panic'd: {what}"));
        started.record.code = Some(500);
        started.record.status = serde_json::to_value(Status { details: None, ..status }).ok();
        self.sinks.write(started.record.event("Panic", Timestamp::now())).await;
    }

    /// The end of a stream is recorded when its body is sent or dropped.
    fn finish_stream(&self, started: Started, response: Response<Body>) -> Response<Body> {
        if started.decision.omits("ResponseComplete") {
            return response;
        }
        let (ended, end) = oneshot::channel::<()>();
        let sinks = self.sinks.clone();
        tokio::spawn(async move {
            // Dropped with the body.
            let _ = end.await;
            sinks.write(started.record.event("ResponseComplete", Timestamp::now())).await;
        });
        body::guarded(response, Arc::new(ended))
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

/// The format of a body of one object; none for other bodies.
fn format(headers: &HeaderMap) -> Option<Format> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    // Patches are JSON of other names, applied configurations YAML.
    if kind.contains("json") { Some(Format::Json) } else { Format::of(&kind.replace("apply-patch+yaml", "yaml")) }
}

fn is_readable(headers: &HeaderMap) -> bool {
    format(headers).is_some()
}

/// The body as it was, and its bytes if it is not too large.
async fn take(body: Body) -> (Body, Option<Bytes>) {
    match body::read_at_most(body, limits::BODY_BYTES_MAX).await {
        Ok(bytes) => (body::full(bytes.clone()), Some(bytes)),
        Err(error) => {
            let failure = futures_util::stream::iter([Err::<Bytes, body::BodyError>(error.to_string().into())]);
            (body::streamed(failure), None)
        }
    }
}

fn object(headers: &HeaderMap, bytes: &[u8], omit_managed_fields: bool) -> Option<Value> {
    let mut value: Value = match format(headers)? {
        Format::Json => serde_json::from_slice(bytes).ok()?,
        Format::Yaml => codec::yaml::parse(bytes).ok()?.0,
        Format::Protobuf => codec::protobuf::decode_object(bytes).ok()?,
    };
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
