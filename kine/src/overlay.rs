//! The effects of a batch before it is committed.
//!
//! The writer evaluates against index plus overlay, so that requests of one batch
//! see each other in order. A failed commit drops the overlay and nothing remains.

use std::cell::RefCell;
use std::collections::BTreeMap;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::index::{Index, Version};
use crate::kv::{Event, EventKind, KeyValue};
use crate::log::Record;
use crate::revision::{REVISION_MAX, RecordId, Revision, SUBS_PER_REVISION};

/// A lease as the batch leaves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeaseEffect {
    Granted { ttl: i64 },
    Renewed { ttl: i64 },
    Revoked,
}

/// Records, events and leases of a batch, and the keys they touch.
#[derive(Debug)]
pub(crate) struct Overlay {
    revision: Revision,
    sub: u64,
    keys: BTreeMap<Bytes, Vec<(Version, Bytes)>>,
    /// What was found last: a write looks for the key its guard has just looked for.
    found: RefCell<Option<(Bytes, Option<KeyValue>)>>,
    pub(crate) records: Vec<Record>,
    pub(crate) events: Vec<Event>,
    pub(crate) leases: BTreeMap<i64, LeaseEffect>,
    /// The compact revision this batch sets, if any.
    pub(crate) compacted: Option<Revision>,
    /// What this batch makes of the NOSPACE alarm, if anything.
    pub(crate) no_space: Option<bool>,
}

impl Overlay {
    pub(crate) fn new(revision: Revision) -> Overlay {
        Overlay {
            revision,
            sub: 0,
            keys: BTreeMap::new(),
            found: RefCell::default(),
            records: Vec::new(),
            events: Vec::new(),
            leases: BTreeMap::new(),
            compacted: None,
            no_space: None,
        }
    }

    /// The revision the last finished transaction of the batch left.
    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }

    /// Ends a transaction: it takes a revision if it changed something.
    pub(crate) fn end(&mut self) {
        if self.sub > 0 {
            self.revision = self.revision.next();
            self.sub = 0;
        }
    }

    /// The revision of the transaction under way, as its answer shows it.
    pub(crate) fn revision_so_far(&self) -> Revision {
        if self.sub > 0 { self.revision.next() } else { self.revision }
    }

    /// True if `count` more changes fit into this transaction's revision.
    pub(crate) fn room_for(&self, count: usize) -> Result<()> {
        let fits = self.sub.saturating_add(count as u64) < SUBS_PER_REVISION && self.revision.0 < REVISION_MAX - 1;
        if fits { Ok(()) } else { Err(Error::TooManyOps) }
    }

    pub(crate) fn keys(&self) -> &BTreeMap<Bytes, Vec<(Version, Bytes)>> {
        &self.keys
    }

    /// The newest version of a key, in the batch or below it; `None` if it does not exist.
    pub(crate) fn latest(&self, index: &Index, key: &Bytes) -> Option<KeyValue> {
        let mut found = self.found.borrow_mut();
        match found.as_ref() {
            Some((last, kv)) if last == key => kv.clone(),
            _ => {
                let kv = self.find(index, key);
                *found = Some((key.clone(), kv.clone()));
                kv
            }
        }
    }

    fn find(&self, index: &Index, key: &[u8]) -> Option<KeyValue> {
        if let Some((key, versions)) = self.keys.get_key_value(key) {
            let (version, value) = versions.last()?;
            return (!version.is_tombstone()).then(|| version.with(key, value.clone()));
        }
        let (key, entry) = index.get(key)?;
        let (version, value) = entry.at(Revision(u64::MAX))?;
        (!version.is_tombstone()).then(|| version.with(key, value.cloned().unwrap_or_default()))
    }

    /// Adds a put over `prev`.
    pub(crate) fn put(&mut self, key: Bytes, value: Bytes, lease: i64, prev: Option<KeyValue>) {
        let id = self.next_id();
        let kv = KeyValue {
            key,
            value,
            create_revision: prev.as_ref().map_or(id.revision(), |kv| kv.create_revision),
            mod_revision: id.revision(),
            version: prev.as_ref().map_or(1, |kv| kv.version + 1),
            lease,
        };
        self.push(id, EventKind::Put, kv, prev);
    }

    /// Adds the deletion of `prev`.
    pub(crate) fn delete(&mut self, prev: KeyValue) {
        let id = self.next_id();
        let kv = KeyValue { key: prev.key.clone(), mod_revision: id.revision(), ..KeyValue::default() };
        self.push(id, EventKind::Delete, kv, Some(prev));
    }

    fn next_id(&mut self) -> RecordId {
        let id = RecordId::new(self.revision.next(), self.sub);
        self.sub += 1;
        id
    }

    fn push(&mut self, id: RecordId, kind: EventKind, kv: KeyValue, prev_kv: Option<KeyValue>) {
        let record = Record {
            id,
            key: kv.key.clone(),
            value: (kind == EventKind::Put).then(|| kv.value.clone()),
            create_revision: kv.create_revision,
            version: kv.version,
            lease: kv.lease,
        };
        self.found.take();
        let version = Version::of(&record);
        self.keys.entry(kv.key.clone()).or_default().push((version, kv.value.clone()));
        self.records.push(record);
        self.events.push(Event { kind, kv, prev_kv });
    }
}
