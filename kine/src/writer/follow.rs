//! The writer of a log that other processes write as well.
//!
//! Before it evaluates it takes the turn and learns what the others wrote; in between it follows when
//! it is woken. Either way their records go the same way as its own: index, leases, watchers.

use std::time::Instant;

use super::{Writer, unix_now_ms};
use crate::error::Error;
use crate::index::Index;
use crate::kv::{Event, EventKind, KeyValue};
use crate::log::{LogError, News, Record, Turn};
use crate::revision::Revision;
use crate::store::{Shared, load};

impl Writer {
    /// Takes the turn to write. What is evaluated from now on sees everything.
    pub(super) fn begin(&mut self) -> Result<(), LogError> {
        if !self.log.is_shared() {
            return Ok(());
        }
        let shared = self.shared.clone();
        match self.log.begin(&mut |news| learn(&shared, news))? {
            Turn::Known => Ok(()),
            Turn::Lost => self.load_anew(),
        }
    }

    /// Learns what others have written, after something woke the writer.
    pub(super) fn follow(&mut self) {
        if !self.log.is_shared() {
            return;
        }
        self.behind = true;
        if self.retry_at.is_some_and(|retry_at| retry_at > Instant::now()) {
            return;
        }
        let result = self.resolve_doubt().and_then(|_| {
            let shared = self.shared.clone();
            match self.log.follow(&mut |news| learn(&shared, news))? {
                Turn::Known => Ok(()),
                Turn::Lost => self.load_anew(),
            }
        });
        match result {
            Ok(()) => (self.behind, self.retry_at) = (false, None),
            Err(error) => self.pause("follow the other servers", &Error::Read(error.to_string())),
        }
    }

    /// After compaction has removed what this store had not seen: watchers that miss
    /// something are told so, and everything else goes on from the present.
    fn load_anew(&mut self) -> Result<(), LogError> {
        tracing::warn!(
            component = "kine",
            "history was compacted before this server saw it; loading the datastore anew"
        );
        let loaded = load(self.log.as_mut());
        let (index, lessor, loaded) = loaded.map_err(|error| {
            self.log.release();
            LogError(error.to_string())
        })?;
        let (revision, compacted) = (index.revision(), index.compacted());
        *self.shared.index.write() = index;
        *self.shared.lessor.lock() = lessor;
        self.shared.no_space.store(loaded.no_space, std::sync::atomic::Ordering::Relaxed);
        self.shared.hub.jump(revision);
        self.shared.latest.reached(revision);
        self.log.shown(compacted);
        Ok(())
    }
}

/// Takes in what others have written.
fn learn(shared: &Shared, news: News) {
    match news {
        News::Leases(rows) => {
            let (now, now_unix_ms) = (Instant::now(), unix_now_ms());
            let mut lessor = shared.lessor.lock();
            rows.iter().for_each(|row| lessor.learn(row, now, now_unix_ms));
        }
        News::Records(records) => {
            let Some(revision) = records.last().map(|record| record.id.revision()) else { return };
            let mut index = shared.index.write();
            let events = records.iter().map(|record| take_in(&mut index, record)).collect();
            drop(index);
            let mut lessor = shared.lessor.lock();
            records.iter().for_each(|record| lessor.apply(record));
            drop(lessor);
            shared.hub.publish(events, revision);
            shared.latest.reached(revision);
        }
        News::Rest { ended, compacted, no_space } => {
            let mut lessor = shared.lessor.lock();
            ended.into_iter().for_each(|id| lessor.revoke(id));
            drop(lessor);
            shared.index.write().set_compacted(compacted);
            shared.no_space.store(no_space, std::sync::atomic::Ordering::Relaxed);
        }
    }
}

/// Applies a record and says what it changed.
fn take_in(index: &mut Index, record: &Record) -> Event {
    let before = index.get(&record.key).and_then(|(key, entry)| {
        let (version, value) = entry.at(Revision(u64::MAX))?;
        (!version.is_tombstone()).then(|| version.with(key, value.cloned().unwrap_or_default()))
    });
    index.apply(record);
    let kind = if record.value.is_some() { EventKind::Put } else { EventKind::Delete };
    let kv = match kind {
        EventKind::Put => record.key_value(),
        EventKind::Delete => {
            KeyValue { key: record.key.clone(), mod_revision: record.id.revision(), ..KeyValue::default() }
        }
    };
    Event { kind, kv, prev_kv: before }
}
