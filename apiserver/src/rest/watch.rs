//! WATCH: what changes, as a stream of events.
//!
//! The stream is pulled by the connection: nothing is queued per watcher but
//! the batch being sent. A client that reads too slowly falls out of the ring
//! and gets an ERROR event, after which it lists again.

use std::{pin::Pin, sync::Arc, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream;
use http::Response;
use rand::Rng;
use serde_json::{Value, json};
use skiff_api::{Object, Resource, Revision, Status, codec, resource::Origin};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::{Call, list};
use crate::{
    body::{self, Body},
    limits,
    metrics::LongRunning,
    negotiation::{Offer, View},
    options::{ListOptions, parse_version, version_cause},
    registry::store::Store,
    render::{self, ListMeta, Style},
    selection::Selection,
    table,
    watch_cache::{CacheEvent, Seen, WatchError, Watcher},
    wire::{self, Format},
};

/// Events taken from the ring in one step.
const BATCH_EVENTS: usize = 256;

pub(super) async fn watch(call: &Call<'_>) -> Result<Response<Body>, Status> {
    let mut offer = call.offer();
    offer.yaml = false;
    let style = call.style(Offer { ..offer })?;
    let options = ListOptions::parse(&call.query)?;
    let selection = list::selection(call, &options)?;
    let cache = list::cache(call)?;
    let initial_events = options.watch_list()?;
    let revision = parse_version(&options.resource_version).map_err(|why| {
        let cause = version_cause(&options.resource_version, &why);
        // Upstream names the resource here, not the kind.
        Status::invalid(&call.row.group, &call.row.plural, "", vec![cause])
    })?;
    let (initial, from, watcher) = if initial_events {
        if options.resource_version.is_empty() {
            call.store.caches.catch_up().await?;
        } else {
            call.store.wait_for(revision).await?;
        }
        cache.list_and_subscribe(&selection)
    } else if revision > Revision::ZERO {
        let watcher = cache.subscribe(revision).map_err(|error| Status::expired(error.to_string()))?;
        (Vec::new(), revision, watcher)
    } else if options.send_initial_events == Some(false) {
        call.store.caches.catch_up().await?;
        let (_, from, watcher) = cache.list_and_subscribe(&selection);
        (Vec::new(), from, watcher)
    } else {
        if options.resource_version.is_empty() {
            call.store.caches.catch_up().await?;
        }
        cache.list_and_subscribe(&selection)
    };
    let timeout = options.timeout.unwrap_or_else(|| {
        let min = limits::WATCH_TIMEOUT_MIN.as_secs();
        Duration::from_secs(rand::rng().random_range(min..min * 2))
    });
    let deadline = Instant::now() + timeout;
    let encoder = Encoder { row: Arc::clone(&call.row), style, columns: true };
    let initial = call.store.present(&call.row, initial).await?;
    let state = Stream {
        store: Arc::clone(call.store),
        encoder,
        selection,
        watcher,
        initial: Some((initial, from, initial_events && options.bookmarks)),
        bookmarks: options.bookmarks,
        last: from,
        deadline,
        timer: Box::pin(tokio::time::sleep_until(next_timer(options.bookmarks, deadline))),
        stop: Box::pin(call.stop.clone().cancelled_owned()),
        done: false,
        _counted: LongRunning::start(&call.row, "WATCH"),
    };
    let mut response = Response::new(body::streamed(stream::unfold(state, Stream::step)));
    let content_type = match style.negotiated.format {
        Format::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        _ => wire::JSON,
    };
    body::set_content_type(response.headers_mut(), content_type);
    Ok(response)
}

struct Stream {
    store: Arc<Store>,
    encoder: Encoder,
    selection: Selection,
    watcher: Watcher,
    /// What is sent before changes: objects, their revision, whether the marked bookmark follows.
    initial: Option<(Vec<Arc<Object>>, Revision, bool)>,
    bookmarks: bool,
    /// Revision the client knows to have seen.
    last: Revision,
    deadline: Instant,
    /// The next bookmark or the deadline. Timer and stop are registered once, not for every batch.
    timer: Pin<Box<Sleep>>,
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
    done: bool,
    _counted: LongRunning,
}

/// When an idle watch has something to do.
fn next_timer(bookmarks: bool, deadline: Instant) -> Instant {
    if bookmarks { deadline.min(Instant::now() + limits::BOOKMARK_INTERVAL) } else { deadline }
}

type Step = Option<(Result<Bytes, body::BodyError>, Stream)>;

impl Stream {
    /// The next buffer of events; `None` ends the watch.
    async fn step(mut self) -> Step {
        if self.done {
            return None;
        }
        let mut out = BytesMut::new();
        if let Some((objects, revision, marked)) = self.initial.take() {
            for object in &objects {
                self.encoder.event(&mut out, "ADDED", object);
            }
            if marked {
                self.encoder.bookmark(&mut out, revision, true);
            }
            // Also without objects something must be sent, so that headers go out at once.
            return Some((Ok(out.freeze()), self));
        }
        loop {
            match self.watcher.take(BATCH_EVENTS) {
                Ok(events) if events.is_empty() => {}
                Ok(events) => {
                    // A watch that is never idle ends in time too.
                    self.done = Instant::now() >= self.deadline;
                    for event in events.iter().filter(|event| !self.watcher.knows(event)) {
                        self.last = event.revision;
                        match self.seen(event).await {
                            Ok(Some(seen)) => self.encoder.seen(&mut out, &seen),
                            Ok(None) => {}
                            Err(status) => {
                                self.encoder.error(&mut out, &status);
                                self.done = true;
                                return Some((Ok(out.freeze()), self));
                            }
                        }
                    }
                    if !out.is_empty() {
                        return Some((Ok(out.freeze()), self));
                    }
                    if self.done {
                        return None;
                    }
                    continue;
                }
                Err(WatchError::Closed) => return None,
                Err(error) => {
                    self.encoder.error(&mut out, &Status::expired(error.to_string()));
                    self.done = true;
                    return Some((Ok(out.freeze()), self));
                }
            }
            tokio::select! {
                biased;
                () = &mut self.timer => {
                    self.done = Instant::now() >= self.deadline;
                    self.timer.as_mut().reset(next_timer(self.bookmarks, self.deadline));
                    if self.bookmarks && self.bookmark(&mut out) {
                        return Some((Ok(out.freeze()), self));
                    }
                    if self.done {
                        return None;
                    }
                }
                () = &mut self.stop => return None,
                () = self.watcher.changed() => {}
            }
        }
    }

    /// What this watcher is told of a change. Custom resources are shown, and
    /// their fields judged, in the version of the request.
    async fn seen(&self, event: &CacheEvent) -> Result<Option<Seen>, Status> {
        let row = &self.encoder.row;
        if row.origin != Origin::Custom {
            return Ok(event.through(&self.selection));
        }
        let object = self.store.present_one(row, &event.object).await?;
        let old = match &event.old {
            Some(old) => Some(self.store.present_one(row, old).await?),
            None => None,
        };
        Ok(event.showing(object, old).through(&self.selection))
    }

    fn bookmark(&mut self, out: &mut BytesMut) -> bool {
        let Some(revision) = self.watcher.caught_up().filter(|revision| *revision > self.last) else { return false };
        self.last = revision;
        self.encoder.bookmark(out, revision, false);
        true
    }
}

struct Encoder {
    row: Arc<Resource>,
    style: Style,
    /// Column definitions are still to be sent.
    columns: bool,
}

impl Encoder {
    fn seen(&mut self, out: &mut BytesMut, seen: &Seen) {
        match seen {
            Seen::Added(object) => self.event(out, "ADDED", object),
            Seen::Modified(object) => self.event(out, "MODIFIED", object),
            Seen::Deleted(object) => self.event(out, "DELETED", object),
        }
    }

    fn event(&mut self, out: &mut BytesMut, event_type: &str, object: &Arc<Object>) {
        let encoded = match (self.style.negotiated.view, self.style.negotiated.format) {
            (View::Full, Format::Protobuf) => render::protobuf_in(&self.row, object),
            (View::Full, _) => render::json_in(&self.row, object),
            (View::Metadata, _) => render::partial(object).and_then(|value| self.value(&value)),
            (View::Table, _) => {
                let meta = ListMeta { revision: object.revision, ..ListMeta::default() };
                let columns = std::mem::take(&mut self.columns);
                table::table(&self.row, std::slice::from_ref(object), &meta, self.style.include, columns)
                    .and_then(|value| self.value(&value))
            }
        };
        match encoded {
            Ok(bytes) => self.frame(out, event_type, &bytes),
            Err(status) => {
                tracing::error!(component = "watch", ?object, %status, "object does not encode");
                self.error(out, &status);
            }
        }
    }

    fn bookmark(&mut self, out: &mut BytesMut, revision: Revision, initial_end: bool) {
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match self.style.negotiated.view {
            View::Table => json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
                "columnDefinitions": [], "rows": [{"cells": [], "object": {"kind": "PartialObjectMetadata",
                "apiVersion": "meta.k8s.io/v1", "metadata": metadata}}]}),
            View::Metadata => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
            }
            View::Full => json!({"kind": self.row.kind, "apiVersion": self.row.api_version(), "metadata": metadata}),
        };
        match self.value(&object) {
            Ok(bytes) => self.frame(out, "BOOKMARK", &bytes),
            Err(status) => tracing::error!(component = "watch", %status, "bookmark does not encode"),
        }
    }

    fn error(&self, out: &mut BytesMut, status: &Status) {
        let value = serde_json::to_value(status).unwrap_or(Value::Null);
        if let Ok(bytes) = self.value(&value) {
            self.frame(out, "ERROR", &bytes);
        }
    }

    fn value(&self, value: &Value) -> Result<Bytes, Status> {
        match self.style.negotiated.format {
            Format::Protobuf => wire::protobuf(value),
            _ => serde_json::to_vec(value).map(Bytes::from).map_err(Status::internal),
        }
    }

    fn frame(&self, out: &mut BytesMut, event_type: &str, object: &[u8]) {
        if self.style.negotiated.format == Format::Protobuf {
            out.put_slice(&codec::protobuf::encode_watch_event(event_type, object));
        } else {
            out.reserve(object.len() + 40);
            out.put_slice(b"{\"type\":\"");
            out.put_slice(event_type.as_bytes());
            out.put_slice(b"\",\"object\":");
            out.put_slice(object);
            out.put_slice(b"}\n");
        }
    }
}
