//! How much the store may hold, and when to look how much it does.
//!
//! As etcd: a write that would exceed the quota is refused and raises the NOSPACE alarm; from then
//! on everything that adds data is refused until the alarm is disarmed, also across restarts.
//! Reads, deletions, compaction and leases that end go on, because they are the way out.
//! Bytes in use count, not the size of the file: pages that compaction freed are used again.

use crate::limits::{QUOTA_LOOK_BYTES, QUOTA_RECORD_BYTES};

/// The quota as the writer keeps it.
#[derive(Debug)]
pub(crate) struct Quota {
    bytes: Option<u64>,
    /// What may still be written before the engine is asked again.
    left: u64,
}

impl Quota {
    pub(crate) fn new(bytes: Option<u64>) -> Quota {
        Quota { bytes, left: 0 }
    }

    /// True if a request of this weight fits. `in_use` asks the engine, which is done now and then;
    /// an engine that does not answer is left to refuse the write itself.
    pub(crate) fn admits(&mut self, weight: usize, in_use: impl FnOnce() -> Option<u64>) -> bool {
        let Some(bytes) = self.bytes else { return true };
        let cost = (weight as u64).saturating_add(QUOTA_RECORD_BYTES);
        if cost > self.left {
            let Some(in_use) = in_use() else { return true };
            let free = bytes.saturating_sub(in_use);
            if cost > free {
                self.left = 0;
                return false;
            }
            // A large request is admitted by itself; the rest waits for the next look.
            self.left = free.min(QUOTA_LOOK_BYTES.max(cost));
        }
        self.left -= cost;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_quota_everything_fits_and_nobody_is_asked() {
        assert!(Quota::new(None).admits(usize::MAX, || unreachable!()));
    }

    #[test]
    fn the_engine_is_asked_only_when_the_last_answer_is_used_up() {
        let mut quota = Quota::new(Some(100 * QUOTA_LOOK_BYTES));
        let mut asked = 0;
        for _ in 0..QUOTA_LOOK_BYTES / 1024 {
            assert!(quota.admits(1024 - QUOTA_RECORD_BYTES as usize, || {
                asked += 1;
                Some(0)
            }));
        }
        assert_eq!(asked, 1);
    }

    #[test]
    fn what_does_not_fit_is_refused_and_smaller_requests_are_looked_at_again() {
        let mut quota = Quota::new(Some(10_000));
        assert!(!quota.admits(9_000, || Some(5_000)));
        assert!(quota.admits(1_000, || Some(5_000)));
        assert!(!quota.admits(9_000, || Some(6_000)));
        assert!(quota.admits(9_000, || Some(0)), "space came back");
        assert!(quota.admits(9_000, || None), "the engine itself decides");
    }
}
