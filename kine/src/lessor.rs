//! Leases in memory: who is attached to which, and what expires when.
//!
//! Pure: the present is a parameter. Stored deadlines may lag behind by
//! `LEASE_FLUSH`; the lessor knows which do, and the writer stores them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::limits::LEASE_FLUSH;
use crate::log::{LeaseRow, Record};

/// A lease's number, never 0.
pub type LeaseId = i64;

/// What is known of a lease.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LeaseTtl {
    pub id: LeaseId,
    /// Seconds it was granted for.
    pub granted_ttl: i64,
    /// Seconds left, rounded down.
    pub ttl: i64,
    /// Attached keys in order, if asked for.
    pub keys: Vec<Bytes>,
}

#[derive(Debug)]
struct Lease {
    ttl: i64,
    deadline: Instant,
    keys: HashSet<Bytes>,
}

/// All leases.
#[derive(Debug, Default)]
pub(crate) struct Lessor {
    leases: HashMap<LeaseId, Lease>,
    by_deadline: BTreeSet<(Instant, LeaseId)>,
    attached: HashMap<Bytes, LeaseId>,
    /// Leases whose stored deadline is behind, and since when.
    dirty: BTreeSet<LeaseId>,
    dirty_since: Option<Instant>,
}

impl Lessor {
    pub(crate) fn exists(&self, id: LeaseId) -> bool {
        self.leases.contains_key(&id)
    }

    /// Takes a stored lease back in. After a crash its last renewal may not have been stored.
    pub(crate) fn load(&mut self, row: &LeaseRow, now: Instant, now_unix_ms: i64, clean: bool) {
        let left_ms = u64::try_from(row.deadline_unix_ms.saturating_sub(now_unix_ms)).unwrap_or(0);
        let unstored = if clean { Duration::ZERO } else { LEASE_FLUSH };
        let left = Duration::from_millis(left_ms).min(seconds(row.ttl)) + unstored;
        self.insert(row.id, row.ttl, now + left);
    }

    pub(crate) fn insert(&mut self, id: LeaseId, ttl: i64, deadline: Instant) {
        self.by_deadline.insert((deadline, id));
        self.leases.insert(id, Lease { ttl, deadline, keys: HashSet::new() });
    }

    /// The seconds a lease was granted for.
    pub(crate) fn ttl(&self, id: LeaseId) -> Option<i64> {
        self.leases.get(&id).map(|lease| lease.ttl)
    }

    /// Moves the deadline of a lease, or takes it in with its keys to come.
    pub(crate) fn set_deadline(&mut self, id: LeaseId, ttl: i64, deadline: Instant) {
        match self.leases.get_mut(&id) {
            Some(lease) => {
                self.by_deadline.remove(&(lease.deadline, id));
                (lease.ttl, lease.deadline) = (ttl, deadline);
                self.by_deadline.insert((deadline, id));
            }
            None => self.insert(id, ttl, deadline),
        }
    }

    /// What another server has granted or renewed.
    pub(crate) fn learn(&mut self, row: &LeaseRow, now: Instant, now_unix_ms: i64) {
        let left_ms = u64::try_from(row.deadline_unix_ms.saturating_sub(now_unix_ms)).unwrap_or(0);
        self.set_deadline(row.id, row.ttl, now + Duration::from_millis(left_ms).min(seconds(row.ttl)));
    }

    pub(crate) fn revoke(&mut self, id: LeaseId) {
        if let Some(lease) = self.leases.remove(&id) {
            self.by_deadline.remove(&(lease.deadline, id));
            self.dirty.remove(&id);
            lease.keys.iter().for_each(|key| {
                self.attached.remove(key);
            });
        }
    }

    /// Starts the lease's time anew. `None` if it does not exist or has run out.
    pub(crate) fn renew(&mut self, id: LeaseId, now: Instant) -> Option<i64> {
        let lease = self.leases.get_mut(&id)?;
        if lease.deadline <= now {
            return None;
        }
        self.by_deadline.remove(&(lease.deadline, id));
        lease.deadline = now + seconds(lease.ttl);
        self.by_deadline.insert((lease.deadline, id));
        self.dirty.insert(id);
        self.dirty_since.get_or_insert(now);
        Some(lease.ttl)
    }

    /// Follows a committed record: attaches the key to its lease, or detaches it.
    pub(crate) fn apply(&mut self, record: &Record) {
        self.attach(&record.key, record.lease);
    }

    /// Moves a key to a lease; 0 detaches it.
    pub(crate) fn attach(&mut self, key: &Bytes, id: LeaseId) {
        let before = self.attached.get(key).copied().unwrap_or(0);
        if before == id {
            return;
        }
        if let Some(lease) = self.leases.get_mut(&before) {
            lease.keys.remove(key);
        }
        match self.leases.get_mut(&id) {
            Some(lease) => {
                lease.keys.insert(key.clone());
                self.attached.insert(key.clone(), id);
            }
            None => {
                self.attached.remove(key);
            }
        }
    }

    pub(crate) fn keys(&self, id: LeaseId) -> Vec<Bytes> {
        self.leases.get(&id).map(|lease| lease.keys.iter().cloned().collect()).unwrap_or_default()
    }

    pub(crate) fn time_to_live(&self, id: LeaseId, keys: bool, now: Instant) -> Option<LeaseTtl> {
        let lease = self.leases.get(&id)?;
        let left = lease.deadline.saturating_duration_since(now).as_secs();
        let mut attached = if keys { self.keys(id) } else { Vec::new() };
        attached.sort();
        Some(LeaseTtl { id, granted_ttl: lease.ttl, ttl: i64::try_from(left).unwrap_or(i64::MAX), keys: attached })
    }

    /// All leases, the one that ends first in front.
    pub(crate) fn list(&self) -> Vec<LeaseId> {
        self.by_deadline.iter().map(|(_, id)| *id).collect()
    }

    /// When the next lease runs out.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.by_deadline.first().map(|(deadline, _)| *deadline)
    }

    /// When renewals have to be stored at the latest.
    pub(crate) fn flush_due(&self) -> Option<Instant> {
        self.dirty_since.map(|since| since + LEASE_FLUSH)
    }

    pub(crate) fn expired(&self, now: Instant) -> Vec<LeaseId> {
        self.by_deadline.iter().take_while(|(deadline, _)| *deadline <= now).map(|e| e.1).collect()
    }

    /// The present rows of all leases whose stored deadline is behind.
    pub(crate) fn dirty(&self, now: Instant, now_unix_ms: i64) -> Vec<DirtyLease> {
        let row = |id: &LeaseId| {
            let Lease { ttl, deadline, .. } = *self.leases.get(id)?;
            let deadline_unix_ms = unix_ms(deadline, now, now_unix_ms);
            Some(DirtyLease { row: LeaseRow { id: *id, ttl, deadline_unix_ms }, deadline })
        };
        self.dirty.iter().filter_map(row).collect()
    }

    /// The present rows of all leases.
    pub(crate) fn rows(&self, now: Instant, now_unix_ms: i64) -> Vec<LeaseRow> {
        let row = |(id, lease): (&LeaseId, &Lease)| {
            let deadline_unix_ms = unix_ms(lease.deadline, now, now_unix_ms);
            LeaseRow { id: *id, ttl: lease.ttl, deadline_unix_ms }
        };
        self.leases.iter().map(row).collect()
    }

    /// These deadlines are stored; a lease renewed in the meantime stays behind.
    pub(crate) fn stored(&mut self, rows: &[DirtyLease], now: Instant) {
        for DirtyLease { row, deadline } in rows {
            if self.leases.get(&row.id).is_none_or(|lease| lease.deadline == *deadline) {
                self.dirty.remove(&row.id);
            }
        }
        self.dirty_since = (!self.dirty.is_empty()).then_some(now);
    }
}

/// A renewed lease and the deadline that is being stored for it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DirtyLease {
    pub(crate) row: LeaseRow,
    deadline: Instant,
}

/// A deadline as wall-clock time.
pub(crate) fn unix_ms(deadline: Instant, now: Instant, now_unix_ms: i64) -> i64 {
    let left = deadline.saturating_duration_since(now).as_millis();
    now_unix_ms.saturating_add(i64::try_from(left).unwrap_or(i64::MAX))
}

pub(crate) fn seconds(ttl: i64) -> Duration {
    Duration::from_secs(u64::try_from(ttl).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::revision::{RecordId, Revision};

    fn record(key: &'static str, lease: i64) -> Record {
        Record {
            id: RecordId::new(Revision(2), 0),
            key: Bytes::from_static(key.as_bytes()),
            value: Some(Bytes::new()),
            create_revision: Revision(2),
            version: 1,
            lease,
        }
    }

    #[test]
    fn a_lease_runs_out_at_its_deadline_and_not_before() {
        let now = Instant::now();
        let mut lessor = Lessor::default();
        lessor.insert(1, 10, now + seconds(10));
        assert!(lessor.expired(now + Duration::from_millis(9_999)).is_empty());
        assert_eq!(lessor.expired(now + Duration::from_secs(10)), [1]);
        assert_eq!(lessor.renew(1, now + Duration::from_secs(10)), None);
    }

    #[test]
    fn a_renewed_lease_is_stored_within_the_flush_time() {
        let now = Instant::now();
        let mut lessor = Lessor::default();
        lessor.insert(1, 10, now + seconds(10));
        assert_eq!(lessor.flush_due(), None);
        assert_eq!(lessor.renew(1, now + Duration::from_secs(3)), Some(10));
        assert_eq!(lessor.flush_due(), Some(now + Duration::from_secs(3) + LEASE_FLUSH));
        let rows = lessor.dirty(now + Duration::from_secs(4), 100_000);
        assert_eq!(rows[0].row.deadline_unix_ms, 109_000);
        lessor.stored(&rows, now);
        assert_eq!(lessor.flush_due(), None);
    }

    #[test]
    fn a_lease_renewed_during_the_flush_is_stored_again() {
        let now = Instant::now();
        let mut lessor = Lessor::default();
        lessor.insert(1, 10, now + seconds(10));
        lessor.renew(1, now + Duration::from_secs(1));
        let rows = lessor.dirty(now, 0);
        lessor.renew(1, now + Duration::from_secs(2));
        lessor.stored(&rows, now + Duration::from_secs(3));
        assert_eq!(lessor.flush_due(), Some(now + Duration::from_secs(3) + LEASE_FLUSH));
    }

    #[test]
    fn after_a_crash_a_lease_may_live_longer_but_never_shorter() {
        let now = Instant::now();
        let row = LeaseRow { id: 1, ttl: 10, deadline_unix_ms: 104_000 };
        for (clean, left) in [(true, 4), (false, 9)] {
            let mut lessor = Lessor::default();
            lessor.load(&row, now, 100_000, clean);
            assert_eq!(lessor.next_deadline(), Some(now + Duration::from_secs(left)));
        }
    }

    #[test]
    fn a_key_belongs_to_the_lease_of_its_last_put() {
        let now = Instant::now();
        let mut lessor = Lessor::default();
        lessor.insert(1, 10, now + seconds(10));
        lessor.insert(2, 10, now + seconds(10));
        lessor.apply(&record("a", 1));
        lessor.apply(&record("a", 2));
        assert!(lessor.keys(1).is_empty());
        assert_eq!(lessor.keys(2), ["a"]);
        lessor.apply(&record("a", 0));
        assert!(lessor.keys(2).is_empty());
    }
}
