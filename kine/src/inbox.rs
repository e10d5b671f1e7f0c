//! The writer's queue: bounded by weight for those who ask, drained in one go by the writer.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::commands::Command;
use crate::error::{Error, Result};
use crate::limits::{BATCH_BYTES_MAX, BATCH_REQUESTS_MAX, QUEUE_KIB};

/// What the writer finds.
pub(crate) enum Taken {
    /// Requests in order of arrival.
    Commands(Vec<Command>),
    /// Nothing, until now.
    Idle,
    /// Nothing, and nothing will come.
    Closed,
}

struct Queued {
    command: Command,
    weight: usize,
    _room: OwnedSemaphorePermit,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Queued>,
    nudged: bool,
    closed: bool,
}

/// The queue between callers and the writer thread.
pub(crate) struct Inbox {
    state: Mutex<State>,
    ready: Condvar,
    room: Arc<Semaphore>,
}

impl Inbox {
    pub(crate) fn new() -> Inbox {
        Inbox { state: Mutex::default(), ready: Condvar::new(), room: Arc::new(Semaphore::new(QUEUE_KIB as usize)) }
    }

    /// Adds a command, waiting for room.
    pub(crate) async fn push(&self, command: Command, weight: usize) -> Result<()> {
        let kib = u32::try_from(weight / 1024 + 1).unwrap_or(QUEUE_KIB).min(QUEUE_KIB);
        let permit = self.room.clone().acquire_many_owned(kib).await;
        let room = permit.map_err(|_| Error::Stopped)?;
        let mut state = self.state.lock();
        if state.closed {
            return Err(Error::Stopped);
        }
        state.queue.push_back(Queued { command, weight, _room: room });
        drop(state);
        self.ready.notify_one();
        Ok(())
    }

    /// Makes the writer look at its timers again.
    pub(crate) fn nudge(&self) {
        self.state.lock().nudged = true;
        self.ready.notify_one();
    }

    /// Refuses further commands; those already queued are still served.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.room.close();
        self.ready.notify_one();
    }

    /// Closes, and lets go of what is still queued: its callers learn that the store is stopped.
    pub(crate) fn abandon(&self) {
        self.close();
        let queue = std::mem::take(&mut self.state.lock().queue);
        drop(queue);
    }

    /// What is queued now, or else waits until `deadline` (for ever if `None`).
    pub(crate) fn take(&self, deadline: Option<Instant>) -> Taken {
        let mut state = self.state.lock();
        loop {
            if !state.queue.is_empty() {
                return Taken::Commands(drain(&mut state.queue));
            }
            if state.closed {
                return Taken::Closed;
            }
            if std::mem::take(&mut state.nudged) {
                return Taken::Idle;
            }
            match deadline {
                None => self.ready.wait(&mut state),
                Some(deadline) => {
                    if self.ready.wait_until(&mut state, deadline).timed_out() {
                        let empty = state.queue.is_empty() && !state.closed;
                        if empty {
                            return Taken::Idle;
                        }
                    }
                }
            }
        }
    }
}

/// One batch from the front.
fn drain(queue: &mut VecDeque<Queued>) -> Vec<Command> {
    let mut weight = 0;
    let mut count = 0;
    for queued in queue.iter() {
        weight += queued.weight;
        if count > 0 && (weight > BATCH_BYTES_MAX || count >= BATCH_REQUESTS_MAX) {
            break;
        }
        count += 1;
    }
    queue.drain(..count).map(|queued| queued.command).collect()
}
