//! A few readers of the log, lent out one call at a time.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::error::{Error, Result};
use crate::limits::LOG_READERS_MAX;
use crate::log::{LogError, LogReader};

type Pool = Arc<Mutex<Vec<Box<dyn LogReader>>>>;

/// The readers that are free, and room for those in use.
pub(crate) struct Readers {
    free: Pool,
    turns: Arc<Semaphore>,
}

impl Readers {
    pub(crate) fn new(readers: Vec<Box<dyn LogReader>>) -> Readers {
        debug_assert!(readers.len() <= LOG_READERS_MAX);
        let turns = Arc::new(Semaphore::new(readers.len()));
        Readers { free: Arc::new(Mutex::new(readers)), turns }
    }

    /// Runs `read` where blocking is allowed, when a reader is free.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        read: impl FnOnce(&mut dyn LogReader) -> Result<T, LogError> + Send + 'static,
    ) -> Result<T> {
        let turn = self.turns.clone().acquire_owned().await.map_err(|_| Error::Stopped)?;
        let free = self.free.clone();
        let work = tokio::task::spawn_blocking(move || {
            // Held on this thread: a caller that goes away does not free the turn early.
            let _turn = turn;
            let Some(mut reader) = free.lock().pop() else { return Err(Error::Stopped) };
            let result = read(reader.as_mut());
            free.lock().push(reader);
            result.map_err(|error| Error::Read(error.to_string()))
        });
        work.await.map_err(|error| Error::Read(error.to_string()))?
    }

    /// Ends reading, so that the file can be closed.
    pub(crate) fn close(&self) {
        self.turns.close();
        self.free.lock().clear();
    }
}
