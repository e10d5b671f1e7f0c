//! How far this process shows compaction to its readers.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::revision::Revision;

/// The compact revision that the store of this process shows to its readers.
#[derive(Default)]
pub(super) struct Shown {
    compacted: Mutex<Revision>,
    changed: Condvar,
}

impl Shown {
    pub(super) fn set(&self, compacted: Revision) {
        let mut shown = self.compacted.lock();
        *shown = compacted.max(*shown);
        self.changed.notify_all();
    }

    /// Waits until the store shows a compaction that has taken place; false if it does not in time.
    pub(super) fn wait(&self, compacted: Revision, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        let mut shown = self.compacted.lock();
        while *shown < compacted {
            if self.changed.wait_until(&mut shown, until).timed_out() {
                return *shown >= compacted;
            }
        }
        true
    }
}
