//! Revisions and record ids.
//!
//! A [`Revision`] is etcd's main revision: one per transaction that changed
//! something. A `RecordId` adds the position inside that transaction and is the
//! rowid of the log, so that id order is the order of history.

use std::fmt;

/// The number of a committed transaction; 0 means "none" or "current" in requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

impl Revision {
    /// The revision of a store nobody has written to.
    pub const FIRST: Revision = Revision(1);

    /// As the signed number of SQL and of the etcd API.
    pub fn as_i64(self) -> i64 {
        i64::try_from(self.0).unwrap_or(i64::MAX)
    }

    /// From the etcd API, where everything below 1 means "not given".
    pub fn from_i64(number: i64) -> Revision {
        Revision(u64::try_from(number).unwrap_or(0))
    }

    /// The revision after this one.
    pub fn next(self) -> Revision {
        Revision(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<u64> for Revision {
    fn from(number: u64) -> Self {
        Revision(number)
    }
}

const SUB_BITS: u32 = 20;

/// Most changed keys one revision can hold.
pub(crate) const SUBS_PER_REVISION: u64 = 1 << SUB_BITS;
/// Largest revision that still packs into a signed 64-bit rowid.
pub(crate) const REVISION_MAX: u64 = (1 << (63 - SUB_BITS)) - 1;

/// `revision << 20 | sub`: the rowid of one change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RecordId(pub u64);

impl RecordId {
    pub(crate) fn new(revision: Revision, sub: u64) -> RecordId {
        debug_assert!(sub < SUBS_PER_REVISION && revision.0 <= REVISION_MAX);
        RecordId(revision.0 << SUB_BITS | sub)
    }

    /// The first id of `revision`.
    pub(crate) fn first_of(revision: Revision) -> RecordId {
        RecordId(revision.0.min(REVISION_MAX) << SUB_BITS)
    }

    pub(crate) fn revision(self) -> Revision {
        Revision(self.0 >> SUB_BITS)
    }

    pub(crate) fn next(self) -> RecordId {
        RecordId(self.0 + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_ids_order_by_revision_then_sub() {
        let a = RecordId::new(Revision(7), SUBS_PER_REVISION - 1);
        let b = RecordId::new(Revision(8), 0);
        assert!(a < b);
        assert_eq!(a.revision(), Revision(7));
        assert_eq!(RecordId::first_of(Revision(8)), b);
    }

    #[test]
    fn the_largest_revision_fits_a_signed_rowid() {
        let id = RecordId::new(Revision(REVISION_MAX), SUBS_PER_REVISION - 1);
        assert!(i64::try_from(id.0).is_ok());
    }

    #[test]
    fn numbers_below_one_from_the_wire_mean_not_given() {
        assert_eq!(Revision::from_i64(-5), Revision(0));
    }
}
