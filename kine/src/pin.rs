//! Holds back what compaction removes, while somebody reads history page by page.
//!
//! Compaction itself goes on: its revision is stored, and reads below it fail. Only the removal of what
//! a read at the pinned revision could see waits, in the index and in the log. It goes on by itself when
//! the pin is dropped. So a reader of any length sees one history, and holds up neither reads nor writes.
//!
//! In a shared log it holds back this store alone; see [`crate::log::LogReader::hold`].

use std::sync::Arc;
use std::time::Instant;

use crate::index::PinId;
use crate::limits::PIN_MAX;
use crate::revision::Revision;
use crate::store::Shared;

/// A pin was kept for too long.
#[derive(Debug, thiserror::Error)]
#[error("it took longer than {} minutes", PIN_MAX.as_secs() / 60)]
pub(crate) struct PinExpired;

/// History from the compact revision at its making on stays readable until it is dropped.
pub(crate) struct Pin {
    shared: Arc<Shared>,
    id: PinId,
    since: Instant,
}

impl Pin {
    pub(crate) fn new(shared: &Arc<Shared>) -> Pin {
        let id = shared.index.write().pin();
        Pin { shared: shared.clone(), id, since: Instant::now() }
    }

    /// The oldest revision that can be read.
    pub(crate) fn compacted(&self) -> Revision {
        self.id.compacted
    }

    /// To be asked behind every page.
    pub(crate) fn check(&self) -> Result<(), PinExpired> {
        match self.since.elapsed() > PIN_MAX {
            true => Err(PinExpired),
            false => Ok(()),
        }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.shared.index.write().unpin(self.id);
        // What waited for this can go.
        self.shared.inbox.nudge();
    }
}
