//! A watch on an etcd that outlives its connection.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tonic::Streaming;

use super::Etcd;
use super::convert::{ends, error, from_event, revision};
use crate::error::{Error, Result};
use crate::grpc::pb::etcdserverpb as pb;
use crate::grpc::pb::etcdserverpb::watch_client::WatchClient;
use crate::limits::{ETCD_ANSWER_BYTES_MAX, SQL_RETRY_PAUSE_MAX};
use crate::revision::Revision;
use crate::watcher::{WatchMessage, WatchRequest};

/// A subscription to changes. Dropping it ends it.
pub struct EtcdWatcher {
    etcd: Etcd,
    request: WatchRequest,
    /// The first revision that has not been delivered; 0 until it is known.
    next: Revision,
    open: Option<Open>,
    pause: Duration,
    progress_due: Option<Instant>,
}

struct Open {
    answers: Streaming<pb::WatchResponse>,
    requests: mpsc::Sender<pb::WatchRequest>,
}

const FIRST_PAUSE: Duration = Duration::from_millis(50);

impl EtcdWatcher {
    pub(super) fn new(etcd: Etcd, request: WatchRequest) -> EtcdWatcher {
        let asks = |interval: &Duration| etcd.progress_is_right && !interval.is_zero();
        let progress_due = request.progress_interval.filter(asks).map(|interval| Instant::now() + interval);
        EtcdWatcher { etcd, next: request.start_revision, request, open: None, pause: FIRST_PAUSE, progress_due }
    }

    /// Opens the watch now, so that nothing after this call is missed although it asked for "from now on".
    pub async fn begin(&mut self) -> Result<()> {
        self.opened().await.map(drop)
    }

    /// The next events or progress, as of [`crate::Watcher::next`]. Cancel-safe.
    pub async fn next(&mut self) -> Result<WatchMessage> {
        loop {
            let due = self.progress_due;
            let open = match self.opened().await {
                Ok(open) => open,
                Err(error @ Error::Read(_)) => {
                    self.again(&error).await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let answer = match due {
                None => open.answers.message().await,
                Some(due) => tokio::select! {
                    answer = open.answers.message() => answer,
                    () = sleep_until(due) => {
                        self.ask_progress();
                        continue;
                    }
                },
            };
            match answer {
                Ok(Some(answer)) => {
                    if let Some(message) = self.take(answer)? {
                        return Ok(message);
                    }
                }
                Ok(None) => self.again(&Error::Read("etcd ended the stream".to_owned())).await,
                Err(status) => {
                    let error = error(&status, Error::Read);
                    self.again(&error).await;
                }
            }
        }
    }

    /// What an answer says to the caller, if anything.
    fn take(&mut self, answer: pb::WatchResponse) -> Result<Option<WatchMessage>> {
        if answer.canceled {
            self.open = None;
            if answer.compact_revision > 0 {
                return Err(Error::Compacted { compact_revision: Revision::from_i64(answer.compact_revision) });
            }
            // A member that steps down cancels its watches.
            tracing::debug!(component = "kine", reason = answer.cancel_reason, "etcd cancelled a watch");
            return Ok(None);
        }
        self.pause = FIRST_PAUSE;
        self.postpone_progress();
        let at = revision(answer.header);
        let events: Vec<_> = answer.events.into_iter().filter_map(from_event).map(Arc::new).collect();
        if let Some(last) = events.last() {
            self.next = last.kv.mod_revision.next();
            return Ok(Some(WatchMessage::Events(events)));
        }
        if at < self.next {
            return Ok(None);
        }
        self.next = at.next();
        Ok(self.request.progress_interval.is_some().then_some(WatchMessage::Progress(at)))
    }

    async fn opened(&mut self) -> Result<&mut Open> {
        if self.open.is_none() {
            let (open, now) = self.connect().await?;
            if self.next.0 == 0 {
                self.next = now.next();
            }
            self.open = Some(open);
        }
        self.open.as_mut().ok_or(Error::Stopped)
    }

    /// A new stream that goes on where the last one ended.
    async fn connect(&self) -> Result<(Open, Revision)> {
        use pb::watch_create_request::FilterType;
        let (key, range_end) = ends(self.request.range.clone());
        let filters = [(self.request.no_put, FilterType::Noput), (self.request.no_delete, FilterType::Nodelete)];
        let create = pb::WatchCreateRequest {
            key,
            range_end,
            start_revision: self.next.as_i64(),
            prev_kv: self.request.prev_kv,
            filters: filters.into_iter().filter(|(wanted, _)| *wanted).map(|(_, filter)| filter.into()).collect(),
            ..Default::default()
        };
        let (requests, mut queue) = mpsc::channel(4);
        let union = pb::watch_request::RequestUnion::CreateRequest(create);
        let _ = requests.try_send(pb::WatchRequest { request_union: Some(union) });
        let mut client = WatchClient::new(self.etcd.channel.clone()).max_decoding_message_size(ETCD_ANSWER_BYTES_MAX);
        let stream = futures_util::stream::poll_fn(move |context| queue.poll_recv(context));
        let answers = client.watch(stream).await.map_err(|status| error(&status, Error::Read))?;
        let mut answers = answers.into_inner();
        let created = answers.message().await.map_err(|status| error(&status, Error::Read))?;
        let created = created.ok_or_else(|| Error::Read("etcd ended the stream".to_owned()))?;
        if created.canceled {
            return Err(match created.compact_revision {
                0 => Error::Read(format!("etcd: {}", created.cancel_reason)),
                compacted => Error::Compacted { compact_revision: Revision::from_i64(compacted) },
            });
        }
        Ok((Open { answers, requests }, revision(created.header)))
    }

    /// Waits before another attempt.
    async fn again(&mut self, error: &Error) {
        tracing::debug!(component = "kine", %error, "resume a watch");
        self.open = None;
        let pause = self.pause;
        self.pause = (pause * 2).min(SQL_RETRY_PAUSE_MAX);
        sleep(pause).await;
    }

    /// Asks how far the stream is; etcd answers when it has caught up.
    fn ask_progress(&mut self) {
        self.postpone_progress();
        let union = pb::watch_request::RequestUnion::ProgressRequest(pb::WatchProgressRequest {});
        if let Some(open) = &self.open {
            // If the queue is full, questions are waiting already.
            let _ = open.requests.try_send(pb::WatchRequest { request_union: Some(union) });
        }
    }

    fn postpone_progress(&mut self) {
        let interval = self.request.progress_interval.filter(|_| self.progress_due.is_some());
        self.progress_due = interval.map(|interval| Instant::now() + interval);
    }
}
