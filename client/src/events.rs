//! Writes Events without ever holding up its caller.
//!
//! [`EventRecorder::record`] puts a record into a bounded queue; one
//! [`EventSink`] per process takes them out, lets the
//! [`EventCorrelator`](crate::event_correlator::EventCorrelator) drop, merge or
//! count them, and creates or patches Event objects.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use jiff::Timestamp;
use serde_json::{Value, json};
use skiff_api::GroupVersionResource;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    Client, ClientError, EventRecord, EventType, Patch,
    event_correlator::{EventCorrelator, Series, Verdict},
    limits::{EVENT_ATTEMPTS_MAX, EVENT_QUEUE_LEN, EVENT_WRITES_IN_FLIGHT_MAX},
    work_queue::backoff,
};

const EVENTS: GroupVersionResource = GroupVersionResource::new("", "v1", "events");

/// An event and who reports it.
#[derive(Clone, Debug)]
pub struct Reported {
    pub record: EventRecord,
    /// Reporting component, for example `deployment-controller`.
    pub component: Arc<str>,
    /// Node name, or empty for a component of the control plane.
    pub host: Arc<str>,
    pub at: Timestamp,
}

/// Takes event records; cheap to clone, never blocks.
#[derive(Clone)]
pub struct EventRecorder {
    queue: mpsc::Sender<Reported>,
    dropped: Arc<AtomicU64>,
    component: Arc<str>,
    host: Arc<str>,
}

/// The writing end: run it once.
pub struct EventSink {
    queue: mpsc::Receiver<Reported>,
    dropped: Arc<AtomicU64>,
    client: Client,
}

/// Makes a recorder and its sink. `host` is the node name, or empty.
pub fn recorder(client: Client, component: &str, host: &str) -> (EventRecorder, EventSink) {
    let (sender, receiver) = mpsc::channel(EVENT_QUEUE_LEN);
    let dropped = Arc::new(AtomicU64::new(0));
    let recorder =
        EventRecorder { queue: sender, dropped: Arc::clone(&dropped), component: component.into(), host: host.into() };
    (recorder, EventSink { queue: receiver, dropped, client })
}

impl EventRecorder {
    /// The same queue under another component name.
    pub fn with_component(&self, component: &str) -> EventRecorder {
        EventRecorder { component: component.into(), ..self.clone() }
    }

    /// Queues an event; when the queue is full it is dropped and counted.
    pub fn record(&self, record: EventRecord) {
        let reported = Reported {
            record,
            component: Arc::clone(&self.component),
            host: Arc::clone(&self.host),
            at: Timestamp::now(),
        };
        if self.queue.try_send(reported).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl EventSink {
    /// Writes events until every recorder is gone or `token` is cancelled.
    pub async fn run(mut self, token: CancellationToken) {
        let mut correlator = EventCorrelator::default();
        let mut writing = FuturesUnordered::new();
        loop {
            let has_room = writing.len() < EVENT_WRITES_IN_FLIGHT_MAX;
            let reported = tokio::select! {
                () = token.cancelled() => return,
                Some(()) = writing.next() => continue,
                reported = self.queue.recv(), if has_room => match reported {
                    Some(reported) => reported,
                    None => break,
                },
            };
            let dropped = self.dropped.swap(0, Ordering::Relaxed);
            if dropped > 0 {
                tracing::warn!(component = "events", dropped, "event queue was full");
            }
            let Verdict::Write(mut series) = correlator.correlate(&reported) else { continue };
            if series.name.is_empty() {
                series.name = format!("{}.{:x}", reported.record.regarding.name, reported.at.as_nanosecond());
            }
            // Repeats that come while this one is being written count on the same object.
            correlator.written(Series::clone(&series));
            writing.push(write(&self.client, reported, series));
        }
        while writing.next().await.is_some() {}
    }
}

async fn write(client: &Client, reported: Reported, series: Box<Series>) {
    for attempt in 0..EVENT_ATTEMPTS_MAX {
        let error = match write_once(client, &reported, &series).await {
            Ok(()) => return,
            Err(error) => error,
        };
        let reason = &reported.record.reason;
        match error {
            ClientError::Transport { .. } if attempt + 1 < EVENT_ATTEMPTS_MAX => {
                tokio::time::sleep(backoff(Duration::from_millis(250), Duration::from_secs(10), attempt)).await;
            }
            // The namespace is going away: nobody will miss the event.
            error if error.reason() == Some(skiff_api::Reason::Forbidden) => {
                return tracing::debug!(component = "events", reason, %error, "event refused");
            }
            error => return tracing::warn!(component = "events", reason, %error, "event not written"),
        }
    }
}

async fn write_once(client: &Client, reported: &Reported, series: &Series) -> Result<(), ClientError> {
    let namespace = namespace(&reported.record);
    if series.count > 1 {
        let body = json!({
            "count": series.count,
            "lastTimestamp": seconds(reported.at),
            "message": series.message,
        });
        match client.patch(&EVENTS, Some(namespace), &series.name, None, &Patch::Strategic(body)).await {
            Err(error) if error.is_not_found() => {}
            other => return other.map(drop),
        }
    }
    match client.create(&EVENTS, Some(namespace), &body(reported, series)).await {
        Err(error) if error.is_already_exists() => Ok(()),
        other => other.map(drop),
    }
}

/// Events of cluster-scoped objects live in `default`.
fn namespace(record: &EventRecord) -> &str {
    if record.regarding.namespace.is_empty() { "default" } else { &record.regarding.namespace }
}

fn seconds(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn body(reported: &Reported, series: &Series) -> Value {
    let record = &reported.record;
    let regarding = &record.regarding;
    let mut involved = json!({
        "apiVersion": regarding.api_version,
        "kind": regarding.kind,
        "name": regarding.name,
    });
    for (field, value) in [
        ("namespace", regarding.namespace.as_str()),
        ("uid", regarding.uid.as_str()),
        ("resourceVersion", regarding.resource_version.as_str()),
        ("fieldPath", regarding.field_path.as_str()),
    ] {
        if !value.is_empty() {
            involved[field] = value.into();
        }
    }
    let mut source = json!({"component": &*reported.component});
    if !reported.host.is_empty() {
        source["host"] = (*reported.host).into();
    }
    json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": series.name, "namespace": namespace(record)},
        "involvedObject": involved,
        "reason": record.reason,
        "message": series.message,
        "type": match record.event_type { EventType::Normal => "Normal", EventType::Warning => "Warning" },
        "source": source,
        "reportingComponent": &*reported.component,
        "reportingInstance": &*reported.host,
        "firstTimestamp": seconds(series.first),
        "lastTimestamp": seconds(reported.at),
        "count": series.count,
    })
}
