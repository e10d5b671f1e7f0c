//! Collects a range from the index, with or without the overlay of a batch above it.

use bytes::Bytes;

use crate::index::{Entry, Index, Version, bounds};
use crate::overlay::Overlay;
use crate::range::{KeyRange, RangeRequest, RawRange, SortTarget};
use crate::revision::Revision;

/// Continues `raw` at revision `at` from key `from` over at most `keys_max` keys of the
/// index. Returns the key to continue from, or `None` when the range is done.
pub(crate) fn gather(
    index: &Index,
    raw: &mut RawRange,
    at: Revision,
    from: Option<&Bytes>,
    keys_max: usize,
) -> Option<Bytes> {
    let range = raw.request.range.clone();
    let mut may_count = true;
    for (visited, (key, entry)) in index.iter(&range, from).enumerate() {
        // Nothing more is wanted than to know how many there are.
        if may_count && raw.kvs.len() >= raw.request.collect_max() {
            if let Some(count) = index.count(&range, at) {
                raw.count = count;
                return None;
            }
            may_count = false;
        }
        if visited == keys_max {
            return Some(key.clone());
        }
        if let Some((version, value)) = entry.at(at) {
            take(raw, key, version, value);
        }
    }
    None
}

/// The whole of `request` at revision `at`, seen through the batch.
pub(crate) fn gather_over(index: &Index, overlay: &Overlay, request: RangeRequest, at: Revision) -> RawRange {
    let mut raw = RawRange::new(request, overlay.revision_so_far());
    let range = raw.request.range.clone();
    for (key, below, above) in merge(index, overlay, &range) {
        let batched = above.and_then(|versions| versions.iter().rev().find(|(version, _)| version.id.revision() <= at));
        match (batched, below) {
            (Some((version, value)), _) => take(&mut raw, key, version, Some(value)),
            (None, Some(entry)) => {
                if let Some((version, value)) = entry.at(at) {
                    take(&mut raw, key, version, value);
                }
            }
            (None, None) => {}
        }
    }
    raw
}

type Merged<'a> = (&'a Bytes, Option<&'a Entry>, Option<&'a [(Version, Bytes)]>);

/// Keys of both layers in order, each once.
fn merge<'a>(index: &'a Index, overlay: &'a Overlay, range: &'a KeyRange) -> impl Iterator<Item = Merged<'a>> {
    let mut below = index.iter(range, None).peekable();
    let mut above = bounds(range, None).into_iter().flat_map(|b| overlay.keys().range::<[u8], _>(b)).peekable();
    std::iter::from_fn(move || {
        let order = match (below.peek(), above.peek()) {
            (Some((a, _)), Some((b, _))) => a.cmp(b),
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (None, None) => return None,
        };
        let entry = if order.is_le() { below.next() } else { None };
        let versions = if order.is_ge() { above.next() } else { None };
        let key = entry.map(|(key, _)| key).or(versions.map(|(key, _)| key))?;
        Some((key, entry.map(|(_, entry)| entry), versions.map(|(_, v)| v.as_slice())))
    })
}

/// Counts one visible key and keeps it if the request wants it.
fn take(raw: &mut RawRange, key: &Bytes, version: &Version, value: Option<&Bytes>) {
    if version.is_tombstone() {
        return;
    }
    raw.count += 1;
    let request = &raw.request;
    if raw.kvs.len() >= request.collect_max() || !request.admits(version.create_revision, version.id.revision()) {
        return;
    }
    let needs_value = !request.keys_only || request.sort_target == SortTarget::Value;
    let value = match value {
        _ if !needs_value => Bytes::new(),
        Some(value) => value.clone(),
        None => {
            raw.missing.push((raw.kvs.len(), version.id));
            Bytes::new()
        }
    };
    raw.kvs.push(version.with(key, value));
}
