//! Reads that see what any process wrote before they began.
//!
//! A store that shares its log answers from memory too, but asks first which record is the newest, and
//! waits until it has learned of that one. All reads that wait together share one question.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{Mutex, watch};
use tokio::time::timeout;

use crate::error::{Error, Result};
use crate::limits::SQL_PATIENCE;
use crate::revision::Revision;
use crate::store::Store;

/// How far a store is with a log that others write as well.
pub(crate) struct Latest {
    shared: bool,
    reached: watch::Sender<Revision>,
    /// Questions asked.
    asked: AtomicU64,
    /// The number of the last question answered, and its answer.
    answered: Mutex<(u64, Revision)>,
}

impl Latest {
    pub(crate) fn new(shared: bool) -> Latest {
        Latest {
            shared,
            reached: watch::Sender::new(Revision(0)),
            asked: AtomicU64::new(0),
            answered: Mutex::new((0, Revision(0))),
        }
    }

    pub(crate) fn is_shared(&self) -> bool {
        self.shared
    }

    /// The store shows everything up to this revision.
    pub(crate) fn reached(&self, revision: Revision) {
        if self.shared {
            self.reached.send_replace(revision);
        }
    }
}

impl Store {
    /// Waits until everything is visible here that any process had written when this was called.
    /// Costs nothing in a store of its own.
    pub async fn catch_up(&self) -> Result<()> {
        let latest = &self.shared().latest;
        if !latest.is_shared() {
            return Ok(());
        }
        // A question that is under way may have been answered too early for us.
        let ours = latest.asked.load(Ordering::Acquire) + 1;
        let newest = {
            let mut answered = latest.answered.lock().await;
            if answered.0 < ours {
                let number = latest.asked.fetch_add(1, Ordering::AcqRel) + 1;
                let head = self.shared().read_log(|reader| reader.head()).await?;
                *answered = (number, head.map(|id| id.revision()).unwrap_or_default());
            }
            answered.1
        };
        let mut reached = latest.reached.subscribe();
        if *reached.borrow() >= newest {
            return Ok(());
        }
        self.shared().inbox.nudge();
        let caught_up = timeout(SQL_PATIENCE, reached.wait_for(|revision| *revision >= newest)).await;
        match caught_up {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(Error::Stopped),
            Err(_) => Err(Error::Read(format!("this server did not catch up with revision {newest} in time"))),
        }
    }
}
