//! The seam to the engine that makes history durable.
//!
//! A [`Log`] stores and reclaims; it knows nothing of transactions, watches or
//! compaction rules. It is owned by the writer thread. [`LogReader`]s are used
//! beside it by other threads and see committed records only.

pub(crate) mod memory;
mod run;
mod runs;
pub(crate) mod sqlite;
mod tail;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::error::Result;
use crate::kv::KeyValue;
use crate::revision::{RecordId, Revision};

/// One change of one key, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) id: RecordId,
    pub(crate) key: Bytes,
    /// `None` for a tombstone.
    pub(crate) value: Option<Bytes>,
    pub(crate) create_revision: Revision,
    pub(crate) version: i64,
    pub(crate) lease: i64,
}

/// A lease, as it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LeaseRow {
    pub(crate) id: i64,
    pub(crate) ttl: i64,
    pub(crate) deadline_unix_ms: i64,
}

/// A change of one stored lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeaseChange {
    Put(LeaseRow),
    Delete(i64),
}

/// What is made durable together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Batch {
    pub(crate) records: Vec<Record>,
    pub(crate) leases: Vec<LeaseChange>,
    pub(crate) compacted: Option<Revision>,
    /// Whether the store was closed in order; cleared by the first write after opening.
    pub(crate) clean: Option<bool>,
    /// Raises or disarms the NOSPACE alarm.
    pub(crate) no_space: Option<bool>,
}

impl Batch {
    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
            && self.leases.is_empty()
            && self.compacted.is_none()
            && self.clean.is_none()
            && self.no_space.is_none()
    }
}

/// What is known after loading, beside the records.
#[derive(Debug, Clone, Default)]
pub(crate) struct Loaded {
    pub(crate) cluster_id: u64,
    pub(crate) member_id: u64,
    pub(crate) compacted: Revision,
    pub(crate) leases: Vec<LeaseRow>,
    pub(crate) clean: bool,
    pub(crate) no_space: bool,
}

/// Bytes a log takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct LogSize {
    pub(crate) allocated: u64,
    pub(crate) in_use: u64,
}

/// How eagerly to reclaim space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reclaim {
    /// Writers are waiting: only what must not grow further.
    Busy,
    /// Nobody is waiting.
    Idle,
    /// Asked for: everything.
    Full,
}

/// What other processes have written to a shared log. Learned in this order.
pub(crate) enum News {
    /// Leases granted or renewed.
    Leases(Vec<LeaseRow>),
    /// Changes in order, in whole revisions.
    Records(Vec<Record>),
    /// Leases that have ended, and the state of the rest.
    Rest { ended: Vec<i64>, compacted: Revision, no_space: bool },
}

/// What the store knows of a shared log after it has learned the news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Everything.
    Known,
    /// Compaction has removed what it has not seen yet: it has to load the log anew.
    Lost,
}

/// The state of a shared log that a reader holds.
#[derive(Debug)]
pub(crate) struct Held {
    /// The newest record.
    pub(crate) head: RecordId,
    pub(crate) compacted: Revision,
    pub(crate) leases: Vec<LeaseRow>,
}

/// The engine did not do it; the text says why.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub(crate) struct LogError(pub(crate) String);

/// Durable history, written by one thread.
pub(crate) trait Log: Send {
    /// Visits every record in id order and returns the rest of the state.
    fn load(&mut self, visit: &mut dyn FnMut(Record)) -> Result<Loaded>;

    /// Makes a batch durable, whole or not at all. After an error [`Log::last_id`] tells which.
    fn append(&mut self, batch: &Batch) -> Result<(), LogError>;

    /// The largest record id on disk, read afresh.
    fn last_id(&mut self) -> Result<Option<RecordId>, LogError>;

    /// Deletes from the front of `ids` until `budget` is spent; returns how many. Needs no sync.
    fn delete(&mut self, ids: &[RecordId], budget: Duration) -> Result<usize, LogError>;

    /// One slice of giving space back; true if there is more to do.
    fn reclaim(&mut self, how: Reclaim) -> Result<bool, LogError>;

    /// Bytes that hold data, the log of the engine itself left out.
    fn in_use(&mut self) -> Result<u64, LogError>;

    /// A reader of committed records.
    fn reader(&self) -> Result<Box<dyn LogReader>, LogError>;

    /// True if other processes may write the log as well. Then [`Log::begin`] comes before every
    /// evaluation, deadlines of leases are stored before they are promised, and news are followed.
    fn is_shared(&self) -> bool {
        false
    }

    /// Calls `wake` when there may be news.
    fn listen(&mut self, _wake: Arc<dyn Fn() + Send + Sync>) {}

    /// Takes the turn to write, which ends with [`Log::append`] or [`Log::release`], and hands out what
    /// others have written before.
    fn begin(&mut self, _learn: &mut dyn FnMut(News)) -> Result<Turn, LogError> {
        Ok(Turn::Known)
    }

    /// Ends a turn in which there was nothing to write.
    fn release(&mut self) {}

    /// Hands out what others have written, without taking the turn.
    fn follow(&mut self, _learn: &mut dyn FnMut(News)) -> Result<Turn, LogError> {
        Ok(Turn::Known)
    }

    /// The store shows this compact revision to its readers.
    fn shown(&mut self, _compacted: Revision) {}

    /// After a failed [`Log::append`]: true if the batch, whose last record is `last`, was made durable.
    fn took_place(&mut self, last: RecordId) -> Result<bool, LogError> {
        Ok(self.last_id()? == Some(last))
    }

    /// Writes everything back and lets go of the files.
    fn close(self: Box<Self>) -> Result<(), LogError>;
}

/// Reads committed records beside the writer.
pub(crate) trait LogReader: Send {
    /// Records from `from` on, in id order: at most `count`, and no more once they hold
    /// `bytes`. Empty only at the end.
    fn records(&mut self, from: RecordId, count: usize, bytes: usize) -> Result<Vec<Record>, LogError>;

    /// The records with these ids; `None` for those that compaction has removed.
    fn get(&mut self, ids: &[RecordId]) -> Result<Vec<Option<Record>>, LogError>;

    /// The log's size.
    fn size(&mut self) -> Result<LogSize, LogError>;

    /// Makes all reads up to [`LogReader::let_go`] see one state of a shared log, whatever this store knows of it and
    /// others do meanwhile. `None` if the log is this process's own: there a [`crate::pin::Pin`] is enough.
    fn hold(&mut self) -> Result<Option<Held>, LogError> {
        Ok(None)
    }

    /// Ends [`LogReader::hold`].
    fn let_go(&mut self) {}

    /// The newest record of a shared log, read afresh; `None` if the log is this process's own.
    fn head(&mut self) -> Result<Option<RecordId>, LogError> {
        Ok(None)
    }
}

impl Record {
    /// Bytes of key and value.
    pub(crate) fn weight(&self) -> usize {
        self.key.len() + self.value.as_ref().map_or(0, Bytes::len)
    }

    /// As readers see it; a tombstone shows key and revision only.
    pub(crate) fn key_value(&self) -> KeyValue {
        let tombstone = self.value.is_none();
        KeyValue {
            key: self.key.clone(),
            value: self.value.clone().unwrap_or_default(),
            create_revision: if tombstone { Revision(0) } else { self.create_revision },
            mod_revision: self.id.revision(),
            version: self.version,
            lease: self.lease,
        }
    }
}
