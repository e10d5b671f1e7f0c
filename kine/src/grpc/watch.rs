//! Service Watch: many watchers on one stream.
//!
//! The stream is a state machine polled by its connection: it holds the watchers, takes
//! requests and turns what watchers report into responses. If the client does not read,
//! nobody polls, and the watchers keep nothing but their cursors.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::{AbortHandle, Abortable, BoxFuture};
use futures_util::stream::{self, BoxStream, FuturesUnordered};
use futures_util::{FutureExt, StreamExt};
use prost::Message;
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::Face;
use super::convert::{event, status};
use super::pb::etcdserverpb as pb;
use super::pb::mvccpb;
use crate::error::{Error, Result as StoreResult};
use crate::kv::Event;
use crate::limits::{FRAGMENT_BYTES, PROGRESS_INTERVAL, STREAM_WATCHES_MAX};
use crate::range::KeyRange;
use crate::revision::Revision;
use crate::watcher::{Progress, WatchMessage, WatchRequest, Watcher};
use pb::watch_create_request::FilterType;
use pb::watch_request::RequestUnion;

type WatchId = i64;

/// Progress of a whole stream belongs to no watch.
const NO_WATCH: WatchId = -1;

/// A watcher's next report, with the watcher to go on with.
struct Report {
    id: WatchId,
    /// Tells this watcher from an earlier one with the same id.
    serial: u64,
    watcher: Watcher,
    message: StoreResult<WatchMessage>,
}

type Waiting = Abortable<BoxFuture<'static, Report>>;

/// What the stream knows of one watcher.
struct Watch {
    serial: u64,
    cancel: AbortHandle,
    progress: Progress,
    prev_kv: bool,
    fragment: bool,
}

struct WatchStream {
    face: Face,
    requests: Streaming<pb::WatchRequest>,
    requests_ended: bool,
    watches: HashMap<WatchId, Watch>,
    waiting: FuturesUnordered<Waiting>,
    responses: VecDeque<pb::WatchResponse>,
    next_id: WatchId,
    next_serial: u64,
    /// Watches that have not yet caught up with a progress request, and the least revision so far.
    progress: Option<(HashSet<WatchId>, Revision)>,
}

#[async_trait]
impl pb::watch_server::Watch for Face {
    type WatchStream = BoxStream<'static, Result<pb::WatchResponse, Status>>;

    async fn watch(
        &self,
        request: Request<Streaming<pb::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let stream = WatchStream {
            face: self.clone(),
            requests: request.into_inner(),
            requests_ended: false,
            watches: HashMap::new(),
            waiting: FuturesUnordered::new(),
            responses: VecDeque::new(),
            next_id: 0,
            next_serial: 0,
            progress: None,
        };
        let responses = stream::unfold(Some(stream), |stream| async {
            let mut stream = stream?;
            match stream.next().await {
                Ok(response) => Some((Ok(response), Some(stream))),
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(Response::new(responses.boxed()))
    }
}

impl WatchStream {
    /// The next response; an error ends the stream.
    async fn next(&mut self) -> Result<pb::WatchResponse, Status> {
        loop {
            if let Some(response) = self.responses.pop_front() {
                return Ok(response);
            }
            let token = self.face.token.clone();
            tokio::select! {
                () = token.cancelled() => return Err(status(Error::Stopped)),
                request = self.requests.next(), if !self.requests_ended => match request {
                    Some(request) => self.take_request(request?),
                    // The client has nothing more to ask, but still listens.
                    None => self.requests_ended = true,
                },
                Some(report) = self.waiting.next(), if !self.waiting.is_empty() => {
                    // An aborted watcher was cancelled and answered already.
                    if let Ok(report) = report {
                        self.take_report(report)?;
                    }
                }
            }
        }
    }

    fn take_request(&mut self, request: pb::WatchRequest) {
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => self.create(create),
            Some(RequestUnion::CancelRequest(cancel)) => self.cancel(cancel.watch_id),
            Some(RequestUnion::ProgressRequest(_)) => self.request_progress(),
            None => {}
        }
    }

    fn create(&mut self, create: pb::WatchCreateRequest) {
        let id = match self.choose_id(create.watch_id) {
            Ok(id) => id,
            Err(reason) => return self.refuse(reason),
        };
        let range = watched_range(create.key.clone(), create.range_end.clone());
        if range.holds_nothing() {
            return self.refuse("mvcc: watcher range is empty");
        }
        let filters: Vec<FilterType> = create.filters().collect();
        let request = WatchRequest {
            range,
            start_revision: start_revision(create.start_revision),
            prev_kv: create.prev_kv,
            no_put: filters.contains(&FilterType::Noput),
            no_delete: filters.contains(&FilterType::Nodelete),
            progress_interval: create.progress_notify.then_some(PROGRESS_INTERVAL),
        };
        let created =
            pb::WatchResponse { watch_id: id, created: true, ..self.response(self.face.store.current_revision()) };
        self.responses.push_back(created);
        match self.face.store.watch(request) {
            Ok(watcher) => self.add(id, watcher, &create),
            Err(error) => self.end(id, error),
        }
    }

    fn add(&mut self, id: WatchId, watcher: Watcher, create: &pb::WatchCreateRequest) {
        let serial = self.next_serial;
        self.next_serial += 1;
        let progress = watcher.progress();
        let cancel = self.wait(id, serial, watcher);
        let (prev_kv, fragment) = (create.prev_kv, create.fragment);
        self.watches.insert(id, Watch { serial, cancel, progress, prev_kv, fragment });
    }

    /// Waits for the watcher's next report.
    fn wait(&mut self, id: WatchId, serial: u64, mut watcher: Watcher) -> AbortHandle {
        let (cancel, registration) = AbortHandle::new_pair();
        let report = async move {
            let message = watcher.next().await;
            Report { id, serial, watcher, message }
        };
        self.waiting.push(Abortable::new(report.boxed(), registration));
        cancel
    }

    /// The id asked for if it is free, or the next free one.
    fn choose_id(&mut self, asked: WatchId) -> Result<WatchId, &'static str> {
        if self.watches.len() >= STREAM_WATCHES_MAX {
            return Err("etcdserver: too many watches on one stream");
        }
        if asked != 0 {
            return match self.watches.contains_key(&asked) {
                true => Err("mvcc: duplicate watch ID provided on the WatchStream"),
                false => Ok(asked),
            };
        }
        while self.watches.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        let id = self.next_id;
        self.next_id += 1;
        Ok(id)
    }

    /// Answers a create request that made no watch.
    fn refuse(&mut self, reason: &str) {
        let refused = pb::WatchResponse {
            watch_id: NO_WATCH,
            created: true,
            canceled: true,
            cancel_reason: reason.into(),
            ..self.response(self.face.store.current_revision())
        };
        self.responses.push_back(refused);
    }

    fn cancel(&mut self, id: WatchId) {
        let Some(watch) = self.watches.remove(&id) else { return };
        watch.cancel.abort();
        let canceled =
            pb::WatchResponse { watch_id: id, canceled: true, ..self.response(self.face.store.current_revision()) };
        self.responses.push_back(canceled);
        self.caught_up(id, None);
    }

    /// Ends a watch that cannot go on.
    fn end(&mut self, id: WatchId, error: Error) {
        self.watches.remove(&id);
        let compact_revision = match &error {
            Error::Compacted { compact_revision } => compact_revision.as_i64(),
            _ => 0,
        };
        let ended = pb::WatchResponse {
            watch_id: id,
            canceled: true,
            compact_revision,
            cancel_reason: error.to_string(),
            ..self.response(self.face.store.current_revision())
        };
        self.responses.push_back(ended);
        self.caught_up(id, None);
    }

    fn request_progress(&mut self) {
        let now = self.face.store.current_revision();
        let ids = self.watches.keys().copied().collect();
        self.watches.values().for_each(|watch| watch.progress.request());
        self.progress = Some((ids, now));
        self.answer_progress();
    }

    /// A watch has reported everything up to `revision`, or is gone.
    fn caught_up(&mut self, id: WatchId, revision: Option<Revision>) -> bool {
        let Some((behind, least)) = &mut self.progress else { return false };
        let was_behind = behind.remove(&id);
        if was_behind && let Some(revision) = revision {
            *least = revision.min(*least);
        }
        self.answer_progress();
        was_behind
    }

    fn answer_progress(&mut self) {
        let Some((_, revision)) = self.progress.take_if(|(behind, _)| behind.is_empty()) else {
            return;
        };
        let progress = pb::WatchResponse { watch_id: NO_WATCH, ..self.response(revision) };
        self.responses.push_back(progress);
    }

    fn take_report(&mut self, report: Report) -> Result<(), Status> {
        let Report { id, serial, watcher, message } = report;
        if self.watches.get(&id).is_none_or(|watch| watch.serial != serial) {
            return Ok(());
        }
        match message {
            Ok(WatchMessage::Events(events)) => self.send(id, &events),
            Ok(WatchMessage::Progress(revision)) => {
                if !self.caught_up(id, Some(revision)) {
                    let progress = pb::WatchResponse { watch_id: id, ..self.response(revision) };
                    self.responses.push_back(progress);
                }
            }
            Err(Error::Stopped) => return Err(status(Error::Stopped)),
            Err(error) => {
                self.end(id, error);
                return Ok(());
            }
        }
        let cancel = self.wait(id, serial, watcher);
        if let Some(watch) = self.watches.get_mut(&id) {
            watch.cancel = cancel;
        }
        Ok(())
    }

    /// Events as one response, or several if the watch allows fragments.
    fn send(&mut self, id: WatchId, events: &[Arc<Event>]) {
        let Some(watch) = self.watches.get(&id) else { return };
        let revision = events.last().map_or(Revision(0), |event| event.kv.mod_revision);
        let fragment_bytes = if watch.fragment { FRAGMENT_BYTES } else { usize::MAX };
        let events = events.iter().map(|e| event(e, watch.prev_kv)).collect();
        let mut parts = split(events, fragment_bytes).into_iter().peekable();
        while let Some(events) = parts.next() {
            let fragment = parts.peek().is_some();
            let part = pb::WatchResponse { watch_id: id, fragment, events, ..self.response(revision) };
            self.responses.push_back(part);
        }
    }

    fn response(&self, revision: Revision) -> pb::WatchResponse {
        pb::WatchResponse { header: self.face.header(revision), ..pb::WatchResponse::default() }
    }
}

/// An empty key stands for the smallest one.
fn watched_range(key: Bytes, range_end: Bytes) -> KeyRange {
    let key = if key.is_empty() { Bytes::from_static(b"\0") } else { key };
    KeyRange::from_etcd(key, range_end)
}

/// Below zero is the beginning; only zero means "from now on".
fn start_revision(revision: i64) -> Revision {
    if revision < 0 { Revision::FIRST } else { Revision::from_i64(revision) }
}

/// Cuts events into parts of about `bytes`, at least one event each.
fn split(events: Vec<mvccpb::Event>, bytes: usize) -> Vec<Vec<mvccpb::Event>> {
    let mut parts: Vec<Vec<mvccpb::Event>> = Vec::new();
    let mut used = 0;
    for event in events {
        let size = event.encoded_len();
        match parts.last_mut() {
            Some(part) if used + size <= bytes => {
                used += size;
                part.push(event);
            }
            _ => {
                used = size;
                parts.push(vec![event]);
            }
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event_of(bytes: usize) -> mvccpb::Event {
        let kv = mvccpb::KeyValue { value: vec![0; bytes].into(), ..Default::default() };
        mvccpb::Event { kv: Some(kv), ..Default::default() }
    }

    #[test]
    fn fragments_hold_at_least_one_event_and_lose_none() {
        let events = vec![event_of(10), event_of(500), event_of(10), event_of(10)];
        let parts = split(events, 100);
        assert_eq!(parts.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 2]);
    }

    #[test]
    fn a_watch_of_everything_may_leave_out_the_key() {
        let range = watched_range(Bytes::new(), Bytes::from_static(b"\0"));
        assert_eq!(range, KeyRange::all());
    }
}
