//! Key ranges, and range requests with every option of etcd's.

use bytes::Bytes;

use crate::kv::KeyValue;
use crate::revision::{RecordId, Revision};

/// Where a range ends.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RangeEnd {
    /// The range is its start key alone.
    Single,
    /// Keys below this one.
    Before(Bytes),
    /// Every key from the start.
    Unbounded,
}

/// A half-open range of keys.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KeyRange {
    pub start: Bytes,
    pub end: RangeEnd,
}

impl KeyRange {
    /// One key.
    pub fn key(key: impl Into<Bytes>) -> KeyRange {
        KeyRange { start: key.into(), end: RangeEnd::Single }
    }

    /// Every key that begins with `prefix`; the empty prefix means all keys.
    pub fn prefix(prefix: impl Into<Bytes>) -> KeyRange {
        let start: Bytes = prefix.into();
        if start.is_empty() {
            return KeyRange::all();
        }
        let end = match prefix_end(&start) {
            Some(end) => RangeEnd::Before(end),
            None => RangeEnd::Unbounded,
        };
        KeyRange { start, end }
    }

    /// Every key from `start` on.
    pub fn from(start: impl Into<Bytes>) -> KeyRange {
        KeyRange { start: start.into(), end: RangeEnd::Unbounded }
    }

    /// Keys in `[start, end)`.
    pub fn between(start: impl Into<Bytes>, end: impl Into<Bytes>) -> KeyRange {
        KeyRange { start: start.into(), end: RangeEnd::Before(end.into()) }
    }

    /// Every key. It starts at the smallest key there can be, as etcd's clients do.
    pub fn all() -> KeyRange {
        KeyRange::from(Bytes::from_static(b"\0"))
    }

    /// From etcd's pair: an empty `range_end` is one key, `"\0"` is unbounded.
    pub fn from_etcd(key: Bytes, range_end: Bytes) -> KeyRange {
        let end = match range_end.as_ref() {
            b"" => RangeEnd::Single,
            b"\0" => RangeEnd::Unbounded,
            _ => RangeEnd::Before(range_end),
        };
        KeyRange { start: key, end }
    }

    /// True if `key` lies inside.
    pub fn contains(&self, key: &[u8]) -> bool {
        match &self.end {
            RangeEnd::Single => key == self.start,
            RangeEnd::Before(end) => key >= self.start.as_ref() && key < end.as_ref(),
            RangeEnd::Unbounded => key >= self.start.as_ref(),
        }
    }

    /// True if no key can lie inside.
    pub(crate) fn holds_nothing(&self) -> bool {
        matches!(&self.end, RangeEnd::Before(end) if *end <= self.start)
    }

    /// The prefix this range stands for, if it is one.
    pub(crate) fn as_prefix(&self) -> Option<Bytes> {
        match &self.end {
            RangeEnd::Unbounded if self.start.as_ref() <= b"\0".as_ref() => Some(Bytes::new()),
            RangeEnd::Unbounded => prefix_end(&self.start).is_none().then(|| self.start.clone()),
            RangeEnd::Before(end) => (prefix_end(&self.start).as_ref() == Some(end)).then(|| self.start.clone()),
            RangeEnd::Single => None,
        }
    }
}

/// The first key after all that begin with `prefix`, if there is one.
fn prefix_end(prefix: &[u8]) -> Option<Bytes> {
    let last = prefix.iter().rposition(|&b| b != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(Bytes::from(end))
}

/// Order of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SortOrder {
    #[default]
    None,
    Ascend,
    Descend,
}

/// What the answer is ordered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SortTarget {
    #[default]
    Key,
    Version,
    Create,
    Mod,
    Value,
}

/// A read of a range at one revision.
#[derive(Debug, Clone)]
pub struct RangeRequest {
    pub range: KeyRange,
    /// Most keys to return; 0 for all.
    pub limit: usize,
    /// Revision to read at; 0 for the current one.
    pub revision: Revision,
    pub sort_order: SortOrder,
    pub sort_target: SortTarget,
    pub keys_only: bool,
    pub count_only: bool,
    /// Bounds on the returned keys' revisions; 0 for none. They do not change `count`.
    pub min_mod_revision: Revision,
    pub max_mod_revision: Revision,
    pub min_create_revision: Revision,
    pub max_create_revision: Revision,
}

impl RangeRequest {
    /// Everything in `range` at the current revision.
    pub fn new(range: KeyRange) -> RangeRequest {
        RangeRequest {
            range,
            limit: 0,
            revision: Revision(0),
            sort_order: SortOrder::None,
            sort_target: SortTarget::Key,
            keys_only: false,
            count_only: false,
            min_mod_revision: Revision(0),
            max_mod_revision: Revision(0),
            min_create_revision: Revision(0),
            max_create_revision: Revision(0),
        }
    }

    /// At most `limit` keys.
    pub fn limit(mut self, limit: usize) -> RangeRequest {
        self.limit = limit;
        self
    }

    /// At `revision` instead of now.
    pub fn at(mut self, revision: Revision) -> RangeRequest {
        self.revision = revision;
        self
    }

    /// Without values.
    pub fn keys_only(mut self) -> RangeRequest {
        self.keys_only = true;
        self
    }

    /// Only the number of keys.
    pub fn count_only(mut self) -> RangeRequest {
        self.count_only = true;
        self
    }

    /// How many keys need collecting before the rest is only counted.
    pub(crate) fn collect_max(&self) -> usize {
        match (self.count_only, self.limit, self.sorts()) {
            (true, _, _) => 0,
            (_, 0, _) | (_, _, true) => usize::MAX,
            (_, limit, false) => limit.saturating_add(1),
        }
    }

    /// True if a key with these revisions passes the min/max filters.
    pub(crate) fn admits(&self, create: Revision, modified: Revision) -> bool {
        let below = |bound: Revision, it: Revision| bound.0 != 0 && it < bound;
        let above = |bound: Revision, it: Revision| bound.0 != 0 && it > bound;
        !(below(self.min_mod_revision, modified)
            || above(self.max_mod_revision, modified)
            || below(self.min_create_revision, create)
            || above(self.max_create_revision, create))
    }

    /// The order to apply; `None` if keys already come in the right one.
    fn order(&self) -> Option<SortOrder> {
        match (self.sort_target, self.sort_order) {
            (SortTarget::Key, SortOrder::None | SortOrder::Ascend) => None,
            (_, SortOrder::None) => Some(SortOrder::Ascend),
            (_, order) => Some(order),
        }
    }

    fn sorts(&self) -> bool {
        self.order().is_some()
    }
}

/// The answer to a [`RangeRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RangeResponse {
    /// The store's revision when the answer was made (not the revision asked for).
    pub revision: Revision,
    pub kvs: Vec<KeyValue>,
    /// True if `limit` cut the answer short.
    pub more: bool,
    /// Keys in the range, whatever limit and filters say.
    pub count: usize,
}

/// A range answer whose superseded values still have to be read from the log.
#[derive(Debug, Clone)]
pub(crate) struct RawRange {
    pub(crate) request: RangeRequest,
    pub(crate) revision: Revision,
    pub(crate) kvs: Vec<KeyValue>,
    /// Positions in `kvs` without a value, and the record that holds it.
    pub(crate) missing: Vec<(usize, RecordId)>,
    pub(crate) count: usize,
}

impl RawRange {
    pub(crate) fn new(request: RangeRequest, revision: Revision) -> RawRange {
        RawRange { request, revision, kvs: Vec::new(), missing: Vec::new(), count: 0 }
    }

    /// Sorts, cuts and strips, once all values are there.
    pub(crate) fn finish(mut self) -> RangeResponse {
        if let Some(order) = self.request.order() {
            let target = self.request.sort_target;
            self.kvs.sort_by(|a, b| {
                let ordering = match target {
                    SortTarget::Key => a.key.cmp(&b.key),
                    SortTarget::Version => a.version.cmp(&b.version),
                    SortTarget::Create => a.create_revision.cmp(&b.create_revision),
                    SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
                    SortTarget::Value => a.value.cmp(&b.value),
                };
                if order == SortOrder::Descend { ordering.reverse() } else { ordering }
            });
        }
        let limit = self.request.limit;
        let more = limit > 0 && self.kvs.len() > limit;
        if more {
            self.kvs.truncate(limit);
        }
        if self.request.keys_only {
            self.kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
        }
        RangeResponse { revision: self.revision, kvs: self.kvs, more, count: self.count }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_of_all_ones_is_unbounded() {
        assert_eq!(KeyRange::prefix(&b"\xff\xff"[..]).end, RangeEnd::Unbounded);
        assert_eq!(KeyRange::prefix(&b"a\xff"[..]).end, RangeEnd::Before(Bytes::from_static(b"b")));
    }

    #[test]
    fn only_prefix_ranges_are_taken_for_prefixes() {
        assert!(KeyRange::prefix(&b"/a/"[..]).as_prefix().is_some());
        assert!(KeyRange::all().as_prefix().is_some());
        assert!(KeyRange::between(&b"/a/"[..], &b"/b/"[..]).as_prefix().is_none());
        assert!(KeyRange::from(&b"a"[..]).as_prefix().is_none());
    }

    #[test]
    fn etcd_pairs_become_ranges() {
        let single = KeyRange::from_etcd(Bytes::from_static(b"a"), Bytes::new());
        assert!(single.contains(b"a") && !single.contains(b"ab"));
        let open = KeyRange::from_etcd(Bytes::from_static(b"b"), Bytes::from_static(b"\0"));
        assert!(open.contains(b"zz") && !open.contains(b"a"));
    }

    #[test]
    fn sorting_by_another_target_without_order_ascends() {
        let mut raw = RawRange::new(RangeRequest::new(KeyRange::all()), Revision(9));
        raw.request.sort_target = SortTarget::Mod;
        raw.request.limit = 1;
        for (key, modified) in [(&b"a"[..], 5), (b"b", 3)] {
            raw.kvs.push(KeyValue {
                key: Bytes::copy_from_slice(key),
                mod_revision: Revision(modified),
                ..KeyValue::default()
            });
        }
        let response = raw.finish();
        assert!(response.more);
        assert_eq!(response.kvs[0].key, "b");
    }

    /// Every key and end of up to three bytes out of the four that matter most.
    fn small_keys() -> Vec<Vec<u8>> {
        let bytes = [0x00, 0x01, 0xfe, 0xff];
        let longer = |keys: &[Vec<u8>]| -> Vec<Vec<u8>> {
            keys.iter().flat_map(|key| bytes.iter().map(|byte| [&key[..], &[*byte]].concat())).collect()
        };
        let one = longer(&[Vec::new()]);
        let two = longer(&one);
        let three = longer(&two);
        [vec![Vec::new()], one, two, three].concat()
    }

    #[test]
    fn every_pair_from_the_wire_means_the_same_to_all_who_interpret_it() {
        let keys = small_keys();
        for start in keys.iter().filter(|key| !key.is_empty()) {
            for end in &keys {
                let range = KeyRange::from_etcd(Bytes::copy_from_slice(start), Bytes::copy_from_slice(end));
                let expected = |key: &Vec<u8>| match end.as_slice() {
                    b"" => key == start,
                    b"\0" => key >= start,
                    end => key >= start && key.as_slice() < end,
                };
                let bounds = crate::index::bounds(&range, None);
                let prefix = range.as_prefix();
                let mut any = false;
                for key in keys.iter().filter(|key| !key.is_empty()) {
                    let inside = expected(key);
                    any |= inside;
                    assert_eq!(range.contains(key), inside, "{range:?} {key:?}");
                    let in_bounds = bounds.is_some_and(|b| std::ops::RangeBounds::<[u8]>::contains(&b, key.as_slice()));
                    assert_eq!(in_bounds, inside, "{range:?} {key:?}");
                    if let Some(prefix) = &prefix {
                        assert_eq!(key.starts_with(prefix), inside, "{range:?} {key:?}");
                    }
                }
                assert!(!(range.holds_nothing() && any), "{range:?}");
            }
        }
    }
}
