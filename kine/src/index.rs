//! The memory index: every key with its versions inside the compaction window.
//!
//! It answers all reads. The newest version of a key carries its value; superseded
//! ones carry only numbers, their values are in the log under the record id.
//! Only the writer changes it, and only with what has been committed.

use std::collections::{BTreeMap, BTreeSet, VecDeque, btree_map};
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::census::Census;
use crate::kv::KeyValue;
use crate::limits::SCAN_CHUNK_KEYS;
use crate::log::Record;
use crate::range::{KeyRange, RangeEnd};
use crate::revision::{RecordId, Revision};

/// The numbers of one version of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) id: RecordId,
    pub(crate) create_revision: Revision,
    /// 0 for a tombstone.
    pub(crate) version: i64,
    pub(crate) lease: i64,
}

impl Version {
    pub(crate) fn of(record: &Record) -> Version {
        Version { id: record.id, create_revision: record.create_revision, version: record.version, lease: record.lease }
    }

    pub(crate) fn is_tombstone(&self) -> bool {
        self.version == 0
    }

    pub(crate) fn with(&self, key: &Bytes, value: Bytes) -> KeyValue {
        KeyValue {
            key: key.clone(),
            value,
            create_revision: self.create_revision,
            mod_revision: self.id.revision(),
            version: self.version,
            lease: self.lease,
        }
    }
}

/// One key: the newest version with its value, and older ones in order.
#[derive(Debug)]
pub(crate) struct Entry {
    last: Version,
    value: Bytes,
    older: Vec<Version>,
}

impl Entry {
    /// The newest version not after `at`, with its value if it is the newest of all.
    pub(crate) fn at(&self, at: Revision) -> Option<(&Version, Option<&Bytes>)> {
        if self.last.id.revision() <= at {
            return Some((&self.last, Some(&self.value)));
        }
        let end = self.older.partition_point(|version| version.id.revision() <= at);
        end.checked_sub(1).map(|i| (&self.older[i], None))
    }
}

impl Entry {
    /// The lease the key is attached to now.
    pub(crate) fn lease(&self) -> i64 {
        self.last.lease
    }
}

/// A version that compaction may delete once it has reached `superseded_at`.
#[derive(Debug, Clone)]
struct Garbage {
    superseded_at: Revision,
    key: Bytes,
    id: RecordId,
}

/// Somebody who reads history from `compacted` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PinId {
    pub(crate) compacted: Revision,
    number: u64,
}

/// All keys, and where history begins and ends.
#[derive(Debug)]
pub(crate) struct Index {
    keys: BTreeMap<Bytes, Entry>,
    revision: Revision,
    compacted: Revision,
    garbage: VecDeque<Garbage>,
    /// Tombstones of the newest revision; they become garbage one revision later,
    /// behind everything this revision superseded.
    tombstones: Vec<Garbage>,
    pins: BTreeSet<PinId>,
    census: Census,
}

impl Index {
    pub(crate) fn new() -> Index {
        Index {
            keys: BTreeMap::new(),
            revision: Revision::FIRST,
            compacted: Revision(0),
            garbage: VecDeque::new(),
            tombstones: Vec::new(),
            pins: BTreeSet::new(),
            census: Census::new(),
        }
    }

    /// The newest committed revision.
    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }

    /// The oldest revision that may be read; 0 before the first compaction.
    pub(crate) fn compacted(&self) -> Revision {
        self.compacted
    }

    pub(crate) fn set_compacted(&mut self, revision: Revision) {
        self.compacted = self.compacted.max(revision);
        self.revision = self.revision.max(revision);
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<(&Bytes, &Entry)> {
        self.keys.get_key_value(key)
    }

    /// Keys of `range` in order, from `from` if given, tombstones included.
    pub(crate) fn iter<'a>(
        &'a self,
        range: &'a KeyRange,
        from: Option<&'a Bytes>,
    ) -> impl Iterator<Item = (&'a Bytes, &'a Entry)> {
        bounds(range, from).into_iter().flat_map(|b| self.keys.range::<[u8], _>(b))
    }

    /// How many keys of `range` exist at `at`; `None` if only a long walk would tell.
    pub(crate) fn count(&self, range: &KeyRange, at: Revision) -> Option<usize> {
        self.census.count(range, at, |part| {
            let mut count = 0;
            for (visited, (_, entry)) in self.iter(part, None).enumerate() {
                if visited > 2 * SCAN_CHUNK_KEYS {
                    return None;
                }
                count += usize::from(!entry.last.is_tombstone());
            }
            Some(count)
        })
    }

    /// Takes in one committed record; records come in id order.
    pub(crate) fn apply(&mut self, record: &Record) {
        let revision = record.id.revision();
        if revision > self.revision {
            self.garbage.extend(self.tombstones.drain(..));
        }
        self.revision = self.revision.max(revision);
        let version = Version::of(record);
        let value = record.value.clone().unwrap_or_default();
        let existed = match self.keys.entry(record.key.clone()) {
            btree_map::Entry::Occupied(mut found) => {
                let entry = found.get_mut();
                let superseded = std::mem::replace(&mut entry.last, version);
                entry.value = value;
                entry.older.push(superseded);
                // A tombstone is already on its way to the garbage.
                if !superseded.is_tombstone() {
                    let key = found.key().clone();
                    self.garbage.push_back(Garbage { superseded_at: revision, key, id: superseded.id });
                }
                !superseded.is_tombstone()
            }
            btree_map::Entry::Vacant(vacant) => {
                vacant.insert(Entry { last: version, value, older: Vec::new() });
                false
            }
        };
        if existed == version.is_tombstone()
            && let Some(block) = self.census.change(revision, &record.key, !existed)
        {
            let keys = self.keys.range(block.clone()..).filter(|(_, entry)| !entry.last.is_tombstone());
            self.census.cut(&block, keys.map(|(key, _)| key));
        }
        if version.is_tombstone() {
            let key = record.key.clone();
            self.tombstones.push(Garbage { superseded_at: revision.next(), key, id: version.id });
        }
    }

    /// True if a read at `compacted` or later, or a watch that starts there, can see this record.
    pub(crate) fn keeps(&self, record: &Record, compacted: Revision) -> bool {
        let revision = record.id.revision();
        if record.value.is_none() && revision < compacted {
            return false;
        }
        let visible = || self.get(&record.key).and_then(|(_, entry)| entry.at(compacted));
        revision > compacted || visible().is_some_and(|(version, _)| version.id == record.id)
    }

    /// True if this record is what its key is at `at`.
    pub(crate) fn is_current(&self, record: &Record, at: Revision) -> bool {
        self.get(&record.key).and_then(|(_, entry)| entry.at(at)).is_some_and(|(version, _)| version.id == record.id)
    }

    /// The first ids compaction may delete now.
    pub(crate) fn garbage(&self, max: usize) -> Vec<RecordId> {
        self.garbage
            .iter()
            .take_while(|garbage| garbage.superseded_at <= self.removable())
            .take(max)
            .map(|garbage| garbage.id)
            .collect()
    }

    pub(crate) fn has_garbage(&self) -> bool {
        self.garbage.front().is_some_and(|garbage| garbage.superseded_at <= self.removable())
    }

    /// True if garbage is left that only a pin keeps.
    pub(crate) fn is_held_back(&self) -> bool {
        !self.has_garbage() && self.garbage.front().is_some_and(|garbage| garbage.superseded_at <= self.compacted)
    }

    /// Where compaction stops to remove.
    fn removable(&self) -> Revision {
        self.pins.first().map_or(self.compacted, |pin| pin.compacted.min(self.compacted))
    }

    /// Keeps what a read at the present compact revision or later can see, until [`Index::unpin`].
    pub(crate) fn pin(&mut self) -> PinId {
        // Never used twice: an index that took the place of this one knows none of the old ones.
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let pin = PinId { compacted: self.compacted, number: NUMBERS.fetch_add(1, Ordering::Relaxed) };
        self.pins.insert(pin);
        pin
    }

    pub(crate) fn unpin(&mut self, pin: PinId) {
        self.pins.remove(&pin);
    }

    /// Forgets the first `count` of [`Index::garbage`], which the log no longer has.
    pub(crate) fn forget(&mut self, count: usize) {
        for garbage in self.garbage.drain(..count) {
            let Some(entry) = self.keys.get_mut(&garbage.key) else { continue };
            if entry.last.id == garbage.id {
                self.keys.remove(&garbage.key);
            } else {
                entry.older.retain(|version| version.id != garbage.id);
                if entry.older.is_empty() {
                    entry.older = Vec::new();
                }
            }
        }
    }
}

/// Where a range begins and ends in a map of keys.
pub(crate) type KeyBounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// Bounds for a map of keys; `None` for a range that holds nothing.
pub(crate) fn bounds<'a>(range: &'a KeyRange, from: Option<&'a Bytes>) -> Option<KeyBounds<'a>> {
    let start: &[u8] = from.unwrap_or(&range.start);
    let end: Bound<&[u8]> = match &range.end {
        RangeEnd::Single => Bound::Included(range.start.as_ref()),
        RangeEnd::Before(end) => Bound::Excluded(end.as_ref()),
        RangeEnd::Unbounded => Bound::Unbounded,
    };
    let holds_nothing = match end {
        Bound::Included(end) => start > end,
        Bound::Excluded(end) => start >= end,
        Bound::Unbounded => false,
    };
    (!holds_nothing).then_some((Bound::Included(start), end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(revision: u64, sub: u64, key: &'static str, version: i64) -> Record {
        Record {
            id: RecordId::new(Revision(revision), sub),
            key: Bytes::from_static(key.as_bytes()),
            value: (version > 0).then(|| Bytes::from(revision.to_string())),
            create_revision: Revision(revision),
            version,
            lease: 0,
        }
    }

    fn index(records: &[Record]) -> Index {
        let mut index = Index::new();
        records.iter().for_each(|record| index.apply(record));
        index
    }

    #[test]
    fn the_past_is_found_by_revision() {
        let index = index(&[record(2, 0, "a", 1), record(4, 0, "a", 2), record(6, 0, "a", 0)]);
        let (_, entry) = index.get(b"a").unwrap();
        assert!(entry.at(Revision(1)).is_none());
        assert_eq!(entry.at(Revision(3)).unwrap().0.version, 1);
        assert_eq!(entry.at(Revision(4)).unwrap().0.version, 2);
        assert!(entry.at(Revision(9)).unwrap().0.is_tombstone());
    }

    #[test]
    fn compaction_keeps_what_is_visible_at_its_revision() {
        let mut index = index(&[record(2, 0, "a", 1), record(3, 0, "a", 2), record(5, 0, "a", 3)]);
        index.set_compacted(Revision(4));
        assert_eq!(index.garbage(9), [RecordId::new(Revision(2), 0)]);
        index.forget(1);
        assert_eq!(index.get(b"a").unwrap().1.at(Revision(4)).unwrap().0.version, 2);
    }

    #[test]
    fn a_tombstone_outlives_compaction_at_its_own_revision() {
        let mut index = index(&[
            record(2, 0, "a", 1),
            record(2, 1, "b", 1),
            record(3, 0, "a", 0),
            record(3, 1, "b", 0),
            record(4, 0, "c", 1),
        ]);
        index.set_compacted(Revision(3));
        assert_eq!(index.garbage(9).len(), 2, "both puts, neither tombstone");
        index.forget(2);
        assert!(index.get(b"a").is_some());
        index.set_compacted(Revision(4));
        let count = index.garbage(9).len();
        assert_eq!(count, 2);
        index.forget(count);
        assert!(index.get(b"a").is_none() && index.get(b"b").is_none());
        assert!(index.get(b"c").is_some() && !index.has_garbage());
    }

    #[test]
    fn ranges_are_counted_as_a_walk_would_count_them_now_and_in_the_past() {
        let mut next = crate::test_random::numbers();
        let mut index = Index::new();
        let key = |n: usize| Bytes::from(format!("k{n:05}"));
        let (mut known, mut unknown) = (0, 0);
        for revision in 2..30_000_u64 {
            // First it grows, then as many come as go.
            let gone = revision > 12_000 && next(2) == 0;
            let key_now = key(next(9_000));
            if !gone || index.get(&key_now).is_some_and(|(_, entry)| !entry.last.is_tombstone()) {
                let mut record = record(revision, 0, "", i64::from(!gone));
                record.key = key_now;
                index.apply(&record);
            }
            if revision % 500 != 0 {
                continue;
            }
            let (start, end) = (next(9_500), next(9_500));
            let at = Revision(index.revision().0.saturating_sub([0, 1, 100, 6_000, 20_000][next(5)]).max(2));
            let ranges = [
                KeyRange::between(key(start), key(end)),
                KeyRange::prefix(format!("k{:02}", start / 1000)),
                KeyRange::key(key(start)),
                KeyRange::from(key(start)),
                KeyRange::all(),
            ];
            for range in ranges {
                let walked = index
                    .iter(&range, None)
                    .filter(|(_, entry)| entry.at(at).is_some_and(|(version, _)| !version.is_tombstone()));
                match index.count(&range, at) {
                    Some(count) => {
                        assert_eq!(count, walked.count(), "{range:?} at {at}");
                        known += 1;
                    }
                    None => unknown += 1,
                }
            }
        }
        assert!(known > 150 && unknown > 0, "{known} {unknown}");
    }

    #[test]
    fn a_pin_holds_back_what_later_compactions_give_up_until_the_last_one_is_gone() {
        let mut index =
            index(&[record(2, 0, "a", 1), record(3, 0, "a", 2), record(4, 0, "a", 3), record(5, 0, "a", 0)]);
        index.set_compacted(Revision(3));
        let (first, second) = (index.pin(), index.pin());
        index.set_compacted(Revision(6));
        assert_eq!(index.garbage(9), [RecordId::new(Revision(2), 0)]);
        assert!(index.has_garbage() && !index.is_held_back());
        index.forget(1);
        assert!(!index.has_garbage() && index.is_held_back());
        assert_eq!(index.get(b"a").unwrap().1.at(Revision(3)).unwrap().0.version, 2);
        index.unpin(first);
        assert!(index.garbage(9).is_empty());
        index.unpin(second);
        assert!(index.has_garbage() && !index.is_held_back());
    }

    #[test]
    fn a_key_created_again_survives_the_end_of_its_old_generation() {
        let mut index = index(&[record(2, 0, "a", 1), record(3, 0, "a", 0), record(4, 0, "a", 1)]);
        index.set_compacted(Revision(4));
        let count = index.garbage(9).len();
        assert_eq!(count, 2);
        index.forget(count);
        assert_eq!(index.get(b"a").unwrap().1.at(Revision(4)).unwrap().0.version, 1);
    }
}
