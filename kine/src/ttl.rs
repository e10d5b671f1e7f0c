//! Shared leases for keys that should go away after a time, such as events.
//!
//! A lease per key would double the writes. Keys with the same TTL written within a
//! minute share one; each lives at least its TTL and at most that minute longer.

use std::collections::HashMap;
use std::time::Instant;

use crate::lessor::LeaseId;
use crate::limits::{TTL_LEASE_KEYS_MAX, TTL_LEASE_REUSE};

/// The lease that takes new keys, per TTL in seconds.
#[derive(Debug, Default)]
pub(crate) struct TtlLeases {
    open: HashMap<i64, Open>,
}

#[derive(Debug)]
struct Open {
    id: LeaseId,
    until: Instant,
    room: u32,
}

impl TtlLeases {
    /// A lease that still takes keys of this TTL.
    pub(crate) fn take(&mut self, ttl: i64, now: Instant) -> Option<LeaseId> {
        let open = self.open.get_mut(&ttl)?;
        if open.until <= now || open.room == 0 {
            self.open.remove(&ttl);
            return None;
        }
        open.room -= 1;
        Some(open.id)
    }

    /// Opens a freshly granted lease for further keys.
    pub(crate) fn opened(&mut self, ttl: i64, id: LeaseId, now: Instant) {
        self.open.retain(|_, open| open.until > now);
        let open = Open { id, until: now + TTL_LEASE_REUSE, room: TTL_LEASE_KEYS_MAX - 1 };
        self.open.insert(ttl, open);
    }

    /// Forgets a lease that turned out to be gone.
    pub(crate) fn gone(&mut self, id: LeaseId) {
        self.open.retain(|_, open| open.id != id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_one_minute_share_a_lease_up_to_its_bound() {
        let now = Instant::now();
        let mut leases = TtlLeases::default();
        assert_eq!(leases.take(3600, now), None);
        leases.opened(3600, 7, now);
        for _ in 1..TTL_LEASE_KEYS_MAX {
            assert_eq!(leases.take(3600, now), Some(7));
        }
        assert_eq!(leases.take(3600, now), None);
        leases.opened(3600, 8, now);
        assert_eq!(leases.take(60, now), None);
        assert_eq!(leases.take(3600, now + TTL_LEASE_REUSE), None);
    }
}
