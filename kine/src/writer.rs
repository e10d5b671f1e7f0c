//! The writer thread: evaluates, commits, applies, publishes, answers, in that order.
//!
//! It is the only one to change the index, and the only one to write the log. It never
//! waits for more work when there is some, and works in slices when there is none.

mod follow;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::commands::{Command, Reply};
use crate::error::{Error, Result};
use crate::eval::Evaluator;
use crate::inbox::Taken;
use crate::lessor::{DirtyLease, LeaseId, seconds, unix_ms};
use crate::limits::{GARBAGE_PER_SLICE, LEASE_FLUSH, RETENTION_SAMPLES, SLICE, SLICE_MIN, SLICE_SHARE};
use crate::log::{Batch, LeaseChange, LeaseRow, Log, LogError, Reclaim};
use crate::overlay::{LeaseEffect, Overlay};
use crate::quota::Quota;
use crate::revision::Revision;
use crate::store::{Shared, StoreOptions};
use crate::txn::RawTxn;

/// Answers of one batch from which on the runtime sends them.
const ANSWERS_HANDED_OVER: usize = 4;
/// Pause after the disk refused background work or an expiry.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// A prepared answer.
enum Answer {
    /// By far the most frequent; without a box for each.
    Txn(Reply<RawTxn>, Result<RawTxn>),
    Other(Box<dyn FnOnce(Result<()>) + Send>),
}

impl Answer {
    /// Sends it, or the error of the commit it depended on. A caller that has gone away does not want to know.
    fn send(self, committed: Result<()>) {
        match self {
            Answer::Txn(reply, result) => drop(reply.send(committed.and(result))),
            Answer::Other(send) => send(committed),
        }
    }
}

/// A batch evaluated, and all that follows from its commit.
struct Prepared {
    overlay: Overlay,
    batch: Batch,
    renewed: Vec<DirtyLease>,
    now: Instant,
}

/// However the thread ends, nobody waits for it afterwards.
struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.inbox.abandon();
        self.0.hub.close();
    }
}

pub(crate) struct Writer {
    shared: Arc<Shared>,
    log: Box<dyn Log>,
    quota: Quota,
    retention: Option<Duration>,
    samples: VecDeque<(Instant, Revision)>,
    /// A batch whose commit failed in a way that leaves open whether it took place.
    in_doubt: Option<Prepared>,
    /// The file still says that the store was closed in order.
    marked_clean: bool,
    /// There may be space to reclaim.
    untidy: bool,
    /// Others may have written to a shared log, and it could not be looked at yet.
    behind: bool,
    compaction_waiters: Vec<Reply<()>>,
    defragment_waiters: Vec<Reply<()>>,
    retry_at: Option<Instant>,
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>, log: Box<dyn Log>, options: &StoreOptions, closed_in_order: bool) -> Writer {
        Writer {
            shared,
            log,
            quota: Quota::new(options.quota),
            retention: options.retention,
            samples: VecDeque::new(),
            in_doubt: None,
            marked_clean: closed_in_order,
            untidy: true,
            behind: false,
            compaction_waiters: Vec::new(),
            defragment_waiters: Vec::new(),
            retry_at: None,
        }
    }

    /// Runs until the inbox is closed and empty, then closes the log.
    pub(crate) fn run(mut self) -> Result<()> {
        let _ending = Ending(self.shared.clone());
        self.expect_renewals();
        loop {
            match self.shared.inbox.take(self.wake_at()) {
                Taken::Commands(commands) => {
                    let started = Instant::now();
                    self.write(commands);
                    // Under load compaction keeps pace with what it follows, and no more.
                    let budget = started.elapsed() / SLICE_SHARE;
                    self.tidy(Reclaim::Busy, budget.clamp(SLICE_MIN, SLICE));
                }
                Taken::Idle => {
                    self.follow();
                    self.timers();
                    self.tidy(Reclaim::Idle, SLICE);
                }
                Taken::Closed => return self.finish(),
            }
        }
    }

    /// Before a stored deadline can fall behind, the file must say that it may have.
    fn expect_renewals(&mut self) {
        // In a shared log a deadline is never behind.
        if !self.marked_clean || self.log.is_shared() || self.shared.lessor.lock().list().is_empty() {
            return;
        }
        let batch = Batch { clean: Some(false), ..Batch::default() };
        match self.log.append(&batch) {
            Ok(()) => self.marked_clean = false,
            Err(error) => tracing::warn!(component = "kine", %error, "mark the datastore as open"),
        }
    }

    /// When to look again without being asked; now if there is background work.
    fn wake_at(&self) -> Option<Instant> {
        let now = Instant::now();
        let lessor = self.shared.lessor.lock();
        let expiry = lessor.next_deadline();
        let timers = [expiry, lessor.flush_due()].into_iter().flatten().min();
        drop(lessor);
        let work = self.has_work().then_some(now);
        let next = [timers, work].into_iter().flatten().min();
        match self.retry_at {
            Some(retry_at) => next.map(|next| next.max(retry_at)),
            None => next,
        }
    }

    fn has_work(&self) -> bool {
        if self.untidy || self.behind || !self.defragment_waiters.is_empty() {
            return true;
        }
        let index = self.shared.index.read();
        index.has_garbage() || (!self.compaction_waiters.is_empty() && !index.is_held_back())
    }

    fn timers(&mut self) {
        let now = Instant::now();
        if self.retry_at.is_some_and(|retry_at| retry_at > now) {
            return;
        }
        let lessor = self.shared.lessor.lock();
        let due = lessor.next_deadline().is_some_and(|deadline| deadline <= now)
            || lessor.flush_due().is_some_and(|due| due <= now);
        drop(lessor);
        if due {
            self.write(Vec::new());
        }
    }

    /// One batch, from evaluation to answers. Expired leases end with it.
    fn write(&mut self, commands: Vec<Command>) {
        if let Err(error) = self.resolve_doubt().and_then(|_| self.begin()) {
            let error = Error::Write(error.to_string());
            commands.into_iter().for_each(|command| refuse(command, &error));
            return self.pause("take the turn to write", &error);
        }
        let (prepared, answers, physical) = self.prepare(commands);
        let result = self.commit(prepared);
        match &result {
            Ok(()) => self.compaction_waiters.extend(physical),
            Err(error) => {
                self.pause("commit a batch", error);
                answer_all(physical, &result);
            }
        }
        self.send(answers, result);
    }

    /// Sends the answers of a batch. Each one sent from here would wake a sleeping worker by a
    /// system call; many are handed over at once, and wake tasks from where tasks run.
    fn send(&self, answers: Vec<Answer>, result: Result<()>) {
        let are_many = answers.len() >= ANSWERS_HANDED_OVER;
        let send = move || answers.into_iter().for_each(|answer| answer.send(result.clone()));
        match &self.shared.runtime {
            Some(runtime) if are_many => drop(runtime.spawn(async move { send() })),
            _ => send(),
        }
    }

    /// Evaluates commands in order; the answers wait for the commit.
    fn prepare(&mut self, commands: Vec<Command>) -> (Prepared, Vec<Answer>, Vec<Reply<()>>) {
        let mut physical = Vec::new();
        let shared = self.shared.clone();
        let now = Instant::now();
        let index = shared.index.read();
        let lessor = shared.lessor.lock();
        let mut overlay = Overlay::new(index.revision());
        let mut evaluator = Evaluator { index: &index, lessor: &lessor, overlay: &mut overlay };
        for id in lessor.expired(now) {
            if let Err(error) = evaluator.revoke(&[id]) {
                tracing::error!(component = "kine", lease = id, %error, "expire a lease");
            }
        }
        let answers =
            commands.into_iter().filter_map(|command| self.evaluate(command, &mut evaluator, &mut physical)).collect();
        if overlay.compacted.is_none() {
            overlay.compacted = self.retention_revision(now, index.compacted());
        }
        let now_unix_ms = unix_now_ms();
        // Renewals ride along, but not with every batch of a busy store.
        let renewed = match lessor.flush_due() {
            Some(due) if due <= now + LEASE_FLUSH / 2 => lessor.dirty(now, now_unix_ms),
            _ => Vec::new(),
        };
        let batch = Batch {
            leases: lease_changes(&overlay, &renewed, now, now_unix_ms),
            records: std::mem::take(&mut overlay.records),
            compacted: overlay.compacted,
            clean: None,
            no_space: overlay.no_space,
        };
        (Prepared { overlay, batch, renewed, now }, answers, physical)
    }

    /// `None` if the answer is left for later.
    fn evaluate(
        &mut self,
        command: Command,
        evaluator: &mut Evaluator<'_>,
        physical_waiters: &mut Vec<Reply<()>>,
    ) -> Option<Answer> {
        Some(match command {
            Command::Txn(txn, reply) if txn.puts() && !self.has_room(txn.weight(), evaluator.overlay) => {
                Answer::Txn(reply, Err(Error::NoSpace))
            }
            Command::Txn(txn, reply) => Answer::Txn(reply, evaluator.txn(&txn)),
            Command::Grant { reply, .. } if !self.has_room(0, evaluator.overlay) => answer(reply, Err(Error::NoSpace)),
            Command::Grant { id, ttl, reply } => answer(reply, evaluator.grant(id, ttl)),
            Command::Renew { id, reply } => answer(reply, evaluator.renew(id)),
            Command::NoSpace { raise, reply } => {
                evaluator.overlay.no_space = Some(raise);
                answer(reply, Ok(()))
            }
            Command::Revoke { id, reply } => {
                let result = evaluator.revoke(&[id]).map(|()| evaluator.overlay.revision());
                answer(reply, result)
            }
            Command::Compact { revision, physical, reply } => match evaluator.compact(revision) {
                Ok(()) if physical => {
                    physical_waiters.push(reply);
                    return None;
                }
                result => answer(reply, result),
            },
            Command::Defragment { reply } => {
                self.defragment_waiters.push(reply);
                return None;
            }
        })
    }

    /// False if the quota or the alarm forbids more data; the former raises the latter.
    fn has_room(&mut self, weight: usize, overlay: &mut Overlay) -> bool {
        if overlay.no_space.unwrap_or(self.shared.no_space.load(Ordering::Relaxed)) {
            return false;
        }
        let log = &mut self.log;
        let admitted = self.quota.admits(weight, || {
            let in_use = log.in_use();
            in_use.inspect_err(|error| tracing::warn!(component = "kine", %error, "look at the size")).ok()
        });
        if !admitted {
            tracing::error!(
                component = "kine",
                "the quota is used up: writes are refused until space is made (compaction, deletion) and the alarm is disarmed"
            );
            overlay.no_space = Some(true);
        }
        admitted
    }

    /// Makes a batch durable, then visible.
    fn commit(&mut self, mut prepared: Prepared) -> Result<()> {
        if prepared.batch.is_empty() {
            self.log.release();
            return Ok(());
        }
        if prepared.batch.no_space == Some(true) {
            // Holds even if the disk is too full to remember it.
            self.shared.no_space.store(true, Ordering::Relaxed);
        }
        if self.marked_clean {
            prepared.batch.clean = Some(false);
        }
        match self.log.append(&prepared.batch) {
            Ok(()) => {
                self.apply(prepared);
                Ok(())
            }
            Err(error) => {
                let text = error.to_string();
                self.in_doubt = Some(prepared);
                // Told apart at once if the disk answers; it may even have been committed.
                match self.resolve_doubt() {
                    Ok(true) => Ok(()),
                    Ok(false) | Err(_) => Err(Error::Write(text)),
                }
            }
        }
    }

    /// Finds out what became of a batch in doubt; true if it was committed.
    fn resolve_doubt(&mut self) -> Result<bool, LogError> {
        let Some(last_written) = self.in_doubt.as_ref().map(|p| p.batch.records.last()) else {
            return Ok(false);
        };
        // Without records nothing that readers see depends on the answer.
        let committed = match last_written.map(|record| record.id) {
            None => false,
            Some(id) => self.log.took_place(id)?,
        };
        if let Some(prepared) = self.in_doubt.take()
            && committed
        {
            self.apply(prepared);
        }
        Ok(committed)
    }

    /// Index, leases, watchers: in this order, and only for what is durable.
    fn apply(&mut self, prepared: Prepared) {
        let Prepared { overlay, batch, renewed, now } = prepared;
        let revision = overlay.revision();
        let mut index = self.shared.index.write();
        batch.records.iter().for_each(|record| index.apply(record));
        if let Some(compacted) = batch.compacted {
            index.set_compacted(compacted);
        }
        let shown = index.compacted();
        drop(index);
        self.log.shown(shown);
        self.apply_leases(&overlay, &batch, &renewed, now);
        if let Some(no_space) = batch.no_space {
            self.shared.no_space.store(no_space, Ordering::Relaxed);
        }
        if !overlay.events.is_empty() {
            self.shared.hub.publish(overlay.events, revision);
            self.shared.latest.reached(revision);
        }
        if batch.clean.is_some() {
            self.marked_clean = false;
        }
        self.sample(now, revision);
        self.untidy = true;
        self.retry_at = None;
    }

    fn apply_leases(&self, overlay: &Overlay, batch: &Batch, renewed: &[DirtyLease], now: Instant) {
        let mut lessor = self.shared.lessor.lock();
        for (id, effect) in &overlay.leases {
            if let LeaseEffect::Granted { ttl } | LeaseEffect::Renewed { ttl } = effect {
                lessor.set_deadline(*id, *ttl, now + seconds(*ttl));
            }
        }
        batch.records.iter().for_each(|record| lessor.apply(record));
        for (id, effect) in &overlay.leases {
            if *effect == LeaseEffect::Revoked {
                lessor.revoke(*id);
            }
        }
        if !renewed.is_empty() {
            lessor.stored(renewed, now);
        }
    }

    /// Remembers which revision was current when, for `retention`.
    fn sample(&mut self, now: Instant, revision: Revision) {
        let Some(retention) = self.retention else { return };
        let spacing = retention / RETENTION_SAMPLES;
        if self.samples.back().is_none_or(|(at, _)| now.duration_since(*at) >= spacing) {
            self.samples.push_back((now, revision));
        }
    }

    /// The revision that was current `retention` ago, if it is news.
    fn retention_revision(&mut self, now: Instant, compacted: Revision) -> Option<Revision> {
        let retention = self.retention?;
        let mut found = None;
        while let Some((at, revision)) = self.samples.front()
            && now.duration_since(*at) >= retention
        {
            found = Some(*revision);
            self.samples.pop_front();
        }
        found.filter(|revision| *revision > compacted)
    }

    /// One slice of deleting garbage or reclaiming space.
    fn tidy(&mut self, how: Reclaim, budget: Duration) {
        if self.retry_at.is_some_and(|retry_at| retry_at > Instant::now()) {
            return;
        }
        if let Err(error) = self.tidy_slice(how, budget) {
            let error = Error::Write(error.to_string());
            let failed = Err(error.clone());
            answer_all(self.compaction_waiters.drain(..), &failed);
            answer_all(self.defragment_waiters.drain(..), &failed);
            self.pause("reclaim space", &error);
        }
    }

    fn tidy_slice(&mut self, how: Reclaim, budget: Duration) -> Result<(), LogError> {
        let garbage = self.shared.index.read().garbage(GARBAGE_PER_SLICE);
        if !garbage.is_empty() {
            let deleted = self.log.delete(&garbage, budget)?;
            self.shared.index.write().forget(deleted);
            self.untidy = true;
            self.log.reclaim(Reclaim::Busy)?;
            return Ok(());
        }
        // Whoever holds garbage back wakes this thread at the end.
        if !self.shared.index.read().is_held_back() {
            answer_all(self.compaction_waiters.drain(..), &Ok(()));
        }
        let how = if self.defragment_waiters.is_empty() { how } else { Reclaim::Full };
        let more = self.log.reclaim(how)?;
        if how != Reclaim::Busy {
            self.untidy = more;
        }
        if how == Reclaim::Full && !more {
            answer_all(self.defragment_waiters.drain(..), &Ok(()));
        }
        Ok(())
    }

    /// Leaves the disk alone for a moment; writes that arrive try anyway.
    fn pause(&mut self, what: &str, error: &Error) {
        tracing::warn!(component = "kine", %error, "{what}");
        self.retry_at = Some(Instant::now() + RETRY_PAUSE);
    }

    /// Stores exact deadlines and the mark of an orderly end, and closes the log.
    fn finish(mut self) -> Result<()> {
        self.shared.hub.close();
        let failed = |error: LogError| Error::Write(error.to_string());
        self.resolve_doubt().map_err(failed)?;
        let rows = self.shared.lessor.lock().rows(Instant::now(), unix_now_ms());
        if self.log.is_shared() {
            self.shared.readers.close();
            return self.log.close().map_err(failed);
        }
        let batch = Batch {
            leases: match self.marked_clean {
                true => Vec::new(),
                false => rows.into_iter().map(LeaseChange::Put).collect(),
            },
            clean: (!self.marked_clean).then_some(true),
            ..Batch::default()
        };
        if !batch.is_empty() {
            self.log.append(&batch).map_err(failed)?;
        }
        self.shared.readers.close();
        self.log.close().map_err(failed)
    }
}

fn answer<T: Send + 'static>(reply: Reply<T>, result: Result<T>) -> Answer {
    Answer::Other(Box::new(move |committed| drop(reply.send(committed.and(result)))))
}

fn answer_all(waiters: impl IntoIterator<Item = Reply<()>>, result: &Result<()>) {
    waiters.into_iter().for_each(|waiter| drop(waiter.send(result.clone())));
}

fn refuse(command: Command, error: &Error) {
    let error = error.clone();
    match command {
        Command::Txn(_, reply) => drop(reply.send(Err(error))),
        Command::Grant { reply, .. } | Command::Renew { reply, .. } => drop(reply.send(Err(error))),
        Command::Revoke { reply, .. } => drop(reply.send(Err(error))),
        Command::Compact { reply, .. } | Command::Defragment { reply } | Command::NoSpace { reply, .. } => {
            drop(reply.send(Err(error)));
        }
    }
}

/// Grants and revocations of the batch, and renewals that ride along with it.
fn lease_changes(overlay: &Overlay, renewed: &[DirtyLease], now: Instant, now_unix_ms: i64) -> Vec<LeaseChange> {
    let change = |(id, effect): (&LeaseId, &LeaseEffect)| match effect {
        LeaseEffect::Granted { ttl } | LeaseEffect::Renewed { ttl } => {
            let deadline_unix_ms = unix_ms(now + seconds(*ttl), now, now_unix_ms);
            LeaseChange::Put(LeaseRow { id: *id, ttl: *ttl, deadline_unix_ms })
        }
        LeaseEffect::Revoked => LeaseChange::Delete(*id),
    };
    let riding = renewed
        .iter()
        .filter(|dirty| !overlay.leases.contains_key(&dirty.row.id))
        .map(|dirty| LeaseChange::Put(dirty.row));
    overlay.leases.iter().map(change).chain(riding).collect()
}

pub(crate) fn unix_now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
