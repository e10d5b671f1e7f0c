//! A watcher: a cursor over history that turns into waiting when it reaches the present.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::error::{Error, Result};
use crate::hub::{Poll, Subscription};
use crate::kv::{Event, EventKind};
use crate::limits::{LOG_PAGE_BYTES, LOG_PAGE_RECORDS};
use crate::log::{LogError, LogReader, Record};
use crate::range::KeyRange;
use crate::revision::{RecordId, Revision};
use crate::store::Shared;

/// What to watch.
#[derive(Debug, Clone)]
pub struct WatchRequest {
    pub range: KeyRange,
    /// First revision of interest; 0 means everything after now. May lie in the future.
    pub start_revision: Revision,
    /// Fill in `Event::prev_kv` for replayed events too (live ones always have it).
    pub prev_kv: bool,
    /// Leave out puts.
    pub no_put: bool,
    /// Leave out deletions.
    pub no_delete: bool,
    /// Report progress after this time without events.
    pub progress_interval: Option<Duration>,
}

impl WatchRequest {
    /// Everything in `range` from `start_revision` on.
    pub fn new(range: KeyRange, start_revision: Revision) -> WatchRequest {
        WatchRequest { range, start_revision, prev_kv: false, no_put: false, no_delete: false, progress_interval: None }
    }

    /// With previous values.
    pub fn with_prev_kv(mut self) -> WatchRequest {
        self.prev_kv = true;
        self
    }
}

/// What a watcher reports.
#[derive(Debug, Clone)]
pub enum WatchMessage {
    /// Events in order; all those of one revision come together.
    Events(Vec<Arc<Event>>),
    /// Everything up to and including this revision has been reported.
    Progress(Revision),
}

/// A subscription to changes. Dropping it ends it.
pub struct Watcher {
    shared: Arc<Shared>,
    subscription: Subscription,
    request: WatchRequest,
    /// Where reading has to go on; `None` when everything published was read.
    cursor: Option<Revision>,
    registered_at: Revision,
    progress_due: Option<Instant>,
    progress: Progress,
}

/// Asks a watcher for progress, also while somebody waits in [`Watcher::next`].
#[derive(Clone)]
pub struct Progress {
    wanted: Arc<AtomicBool>,
    wake: Arc<Notify>,
}

impl Progress {
    /// Makes [`Watcher::next`] report progress as soon as it has caught up.
    pub fn request(&self) {
        self.wanted.store(true, Ordering::Release);
        self.wake.notify_one();
    }
}

impl Watcher {
    pub(crate) fn new(shared: Arc<Shared>, request: WatchRequest) -> Result<Watcher> {
        let start = request.start_revision;
        let compact_revision = shared.index.read().compacted();
        if start.0 != 0 && start < compact_revision {
            return Err(Error::Compacted { compact_revision });
        }
        let (subscription, registered_at) = shared.hub.subscribe(request.range.clone(), start);
        let progress_due = request.progress_interval.map(|interval| Instant::now() + interval);
        let progress = Progress { wanted: Arc::default(), wake: subscription.wake.clone() };
        Ok(Watcher { shared, subscription, request, cursor: None, registered_at, progress_due, progress })
    }

    /// The store's last published revision when the watch was registered.
    pub fn registered_at(&self) -> Revision {
        self.registered_at
    }

    /// A handle to ask for progress.
    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// The next events or progress. Fails with [`Error::Compacted`] if history was compacted
    /// away before it could be read, and with [`Error::Stopped`] when the store closes;
    /// the watcher is then at its end. Cancel-safe.
    pub async fn next(&mut self) -> Result<WatchMessage> {
        loop {
            match self.subscription.poll(self.cursor) {
                Poll::Closed => return Err(Error::Stopped),
                Poll::Events(events, more) => {
                    self.cursor = more;
                    let events: Vec<_> = events.into_iter().filter(|event| self.wants(event.kind)).collect();
                    if !events.is_empty() {
                        return Ok(self.report(events));
                    }
                }
                Poll::Replay(from, published) => {
                    // Kept until the page is read, so that a cancelled call reads it again.
                    self.cursor = Some(from);
                    let (events, next) = self.replay(from, published).await?;
                    self.cursor = Some(next);
                    if !events.is_empty() {
                        return Ok(self.report(events));
                    }
                }
                Poll::Synced(revision) => {
                    self.cursor = None;
                    if self.progress.wanted.swap(false, Ordering::Acquire) {
                        return Ok(WatchMessage::Progress(revision));
                    }
                    let Some(due) = self.progress_due else {
                        self.subscription.wake.notified().await;
                        continue;
                    };
                    tokio::select! {
                        () = self.subscription.wake.notified() => {}
                        () = sleep_until(due) => {
                            self.progress.wanted.store(true, Ordering::Release);
                            self.postpone_progress();
                        }
                    }
                }
            }
        }
    }

    fn wants(&self, kind: EventKind) -> bool {
        match kind {
            EventKind::Put => !self.request.no_put,
            EventKind::Delete => !self.request.no_delete,
        }
    }

    fn report(&mut self, events: Vec<Arc<Event>>) -> WatchMessage {
        self.postpone_progress();
        WatchMessage::Events(events)
    }

    fn postpone_progress(&mut self) {
        self.progress_due = self.request.progress_interval.map(|i| Instant::now() + i);
    }

    /// One page of history up to what is published: matching events, and the revision to go on from.
    async fn replay(&self, from: Revision, published: Revision) -> Result<(Vec<Arc<Event>>, Revision)> {
        let mut records = self.shared.read_log(move |reader| whole_page(reader, from)).await?;
        // The log may already hold what is yet to be published; it would be seen twice.
        records.retain(|record| record.id.revision() <= published);
        // Records below the compact revision may be missing from what was just read.
        let compact_revision = self.shared.index.read().compacted();
        if from < compact_revision {
            return Err(Error::Compacted { compact_revision });
        }
        let Some(last) = records.last() else {
            return Ok((Vec::new(), published.next().max(from)));
        };
        let next = last.id.revision().next();
        let matching: Vec<Record> = records
            .into_iter()
            .filter(|record| self.request.range.contains(&record.key))
            .filter(|record| self.wants(kind(record)))
            .collect();
        let mut events: Vec<Event> = matching.iter().map(event).collect();
        if self.request.prev_kv {
            self.fill_prev(&matching, &mut events).await?;
        }
        Ok((events.into_iter().map(Arc::new).collect(), next))
    }

    /// Finds the versions before these records, as far as compaction has left them.
    async fn fill_prev(&self, records: &[Record], events: &mut [Event]) -> Result<()> {
        let mut wanted = Vec::new();
        {
            let index = self.shared.index.read();
            for (position, record) in records.iter().enumerate() {
                let before = Revision(record.id.revision().0 - 1);
                let version = index.get(&record.key).and_then(|(_, entry)| entry.at(before));
                if let Some((version, _)) = version
                    && !version.is_tombstone()
                {
                    wanted.push((position, version.id));
                }
            }
        }
        let ids: Vec<RecordId> = wanted.iter().map(|(_, id)| *id).collect();
        let found = self.shared.read_log(move |reader| reader.get(&ids)).await?;
        for ((position, _), record) in wanted.into_iter().zip(found) {
            events[position].prev_kv = record.map(|record| event(&record).kv);
        }
        Ok(())
    }
}

/// About a page of records, ending where a revision ends.
fn whole_page(reader: &mut dyn LogReader, from: Revision) -> Result<Vec<Record>, LogError> {
    let first = RecordId::first_of(from);
    let mut records = reader.records(first, LOG_PAGE_RECORDS, LOG_PAGE_BYTES)?;
    // The last revision may go on behind the page.
    while let Some(last) = records.last().map(|record| record.id) {
        let page = reader.records(last.next(), LOG_PAGE_RECORDS, LOG_PAGE_BYTES)?;
        let read = page.len();
        let before = records.len();
        records.extend(page.into_iter().take_while(|r| r.id.revision() == last.revision()));
        if read == 0 || records.len() - before < read {
            break;
        }
    }
    Ok(records)
}

fn kind(record: &Record) -> EventKind {
    if record.value.is_some() { EventKind::Put } else { EventKind::Delete }
}

fn event(record: &Record) -> Event {
    Event { kind: kind(record), kv: record.key_value(), prev_kv: None }
}
