//! How many keys there are in a range, without a walk over them.
//!
//! Why: every page of a list says how many keys its range has, also those that the page does not hold. Keys that
//! exist are counted in blocks of neighbours; a range is a sum of blocks, and of a walk over the two at its ends.
//! For revisions of the past it is known which keys came and went since.
//!
//! Invariants: a block counts the existing keys from its first key to the next block's, and the first block begins below
//! every key; `changes` holds every coming and going after the revision `known_since`, in order.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use bytes::Bytes;

use crate::index::bounds;
use crate::limits::{CENSUS_BLOCK_KEYS, CENSUS_CHANGES_MAX};
use crate::range::KeyRange;
use crate::revision::Revision;

/// A key came into being, or went.
#[derive(Debug)]
struct Change {
    revision: Revision,
    key: Bytes,
    came: bool,
}

#[derive(Debug)]
pub(crate) struct Census {
    /// Existing keys in each block, by its first key.
    blocks: BTreeMap<Bytes, usize>,
    changes: VecDeque<Change>,
    known_since: Revision,
}

impl Census {
    pub(crate) fn new() -> Census {
        Census { blocks: BTreeMap::from([(Bytes::new(), 0)]), changes: VecDeque::new(), known_since: Revision(0) }
    }

    /// A key came into being, or went. Answers the first key of its block if that is to be cut.
    pub(crate) fn change(&mut self, revision: Revision, key: &Bytes, came: bool) -> Option<Bytes> {
        if self.changes.len() == CENSUS_CHANGES_MAX {
            self.known_since = self.changes.pop_front().map_or(self.known_since, |oldest| oldest.revision);
        }
        self.changes.push_back(Change { revision, key: key.clone(), came });
        let (first, count) =
            self.blocks.range_mut::<[u8], _>((Bound::Unbounded, Bound::Included(&key[..]))).next_back()?;
        if came {
            *count += 1;
            return (*count > CENSUS_BLOCK_KEYS).then(|| first.clone());
        }
        *count = count.saturating_sub(1);
        if *count == 0 && !first.is_empty() {
            let first = first.clone();
            self.blocks.remove(&first);
        }
        None
    }

    /// Cuts the block that begins at `first` in the middle of its keys, which are these.
    pub(crate) fn cut<'k>(&mut self, first: &Bytes, mut keys: impl Iterator<Item = &'k Bytes>) {
        let Some(count) = self.blocks.get_mut(first) else { return };
        let half = *count / 2;
        if let Some(middle) = keys.nth(half) {
            let upper = *count - half;
            *count = half;
            self.blocks.insert(middle.clone(), upper);
        }
    }

    /// Existing keys of `range` at revision `at`; `None` if that is too long ago or `walk` gives up. `walk` counts the
    /// keys of a small range that exist now.
    pub(crate) fn count(
        &self,
        range: &KeyRange,
        at: Revision,
        walk: impl Fn(&KeyRange) -> Option<usize>,
    ) -> Option<usize> {
        if at < self.known_since {
            return None;
        }
        let since = self.changes.partition_point(|change| change.revision <= at);
        let later = self.changes.range(since..).filter(|change| range.contains(&change.key));
        let (came, went) = later.fold((0, 0), |(came, went), change| match change.came {
            true => (came + 1, went),
            false => (came, went + 1),
        });
        Some((self.present(range, walk)? + went).saturating_sub(came))
    }

    /// Existing keys of `range` now.
    fn present(&self, range: &KeyRange, walk: impl Fn(&KeyRange) -> Option<usize>) -> Option<usize> {
        let Some((start, end)) = bounds(range, None) else { return Some(0) };
        let mut within = self.blocks.range::<[u8], _>((start, end)).map(|(first, _)| first);
        let Some(first) = within.next() else { return walk(range) };
        // The last block of the range may reach beyond it.
        let last = within.next_back().unwrap_or(first);
        let whole: usize = self.blocks.range(first.clone()..last.clone()).map(|(_, count)| count).sum();
        let head = KeyRange::between(range.start.clone(), first.clone());
        let tail = KeyRange { start: last.clone(), end: range.end.clone() };
        Some(walk(&head)? + whole + walk(&tail)?)
    }
}
