//! What is no longer needed: compacted records, free pages, and a WAL that has been copied back. In slices, so that
//! commits come between them; none of it is synced, the next commit syncs it with itself.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rusqlite::params;

use super::commit::UPDATE_RUN;
use super::file::describe;
use super::{LogError, Reclaim, SqliteLog};
use crate::limits::{FREE_BYTES_MIN, GARBAGE_PER_SLICE, VACUUM_STEP_PAGES, WAL_BUSY_BYTES, WAL_IDLE_BYTES};
use crate::log::runs::Plan;
use crate::revision::RecordId;

/// Runs one slice of a full clean-up writes anew.
const CLEAN_RUNS: usize = 16;
/// Records one slice of compaction takes at least.
pub(super) const SLICE_RECORDS_MIN: usize = 8;

impl SqliteLog {
    /// Deletes as many of `ids` as fit the budget, by what it took before; says how many.
    pub(super) fn delete_slice(&mut self, ids: &[RecordId], budget: Duration) -> Result<usize, LogError> {
        let started = Instant::now();
        let count = ids.len().min(self.slice_records);
        let plan = self.runs.plan(&ids[..count]);
        self.carry_out(&plan)?;
        let took = started.elapsed();
        self.slice_records = match took > budget {
            true => (self.slice_records / 2).max(SLICE_RECORDS_MIN),
            false if took * 2 < budget => (self.slice_records * 2).min(GARBAGE_PER_SLICE),
            false => self.slice_records,
        };
        Ok(count)
    }

    /// One step; true if more remains.
    pub(super) fn reclaim_step(&mut self, how: Reclaim) -> Result<bool, LogError> {
        if self.runs.has_work() {
            let plan = self.runs.plan(&[]);
            self.carry_out(&plan)?;
        }
        match how {
            Reclaim::Busy => self.checkpoint(WAL_BUSY_BYTES).map(|()| false),
            Reclaim::Idle | Reclaim::Full => {
                let full = how == Reclaim::Full;
                if full {
                    let plan = self.runs.plan_clean(CLEAN_RUNS);
                    if !plan.changes.is_empty() {
                        self.carry_out(&plan)?;
                        self.checkpoint(WAL_BUSY_BYTES)?;
                        return Ok(true);
                    }
                }
                if (full || self.vacuum_pending) && self.vacuum(full)? {
                    // A long vacuum must not let the WAL grow.
                    self.checkpoint(WAL_BUSY_BYTES)?;
                    return Ok(true);
                }
                self.vacuum_pending = false;
                self.checkpoint(if full { 0 } else { WAL_IDLE_BYTES })?;
                Ok(false)
            }
        }
    }

    /// Deletes runs and writes others anew, whole or not at all; needs no sync.
    fn carry_out(&mut self, plan: &Plan) -> Result<(), LogError> {
        let mut anew = Vec::new();
        for change in plan.changes.iter().filter(|change| !change.whole) {
            let packed = self
                .connection
                .prepare_cached("SELECT records FROM history WHERE first = ?1")
                .and_then(|mut select| select.query_row([change.first.0.cast_signed()], |row| row.get::<_, Vec<u8>>(0)))
                .map_err(|e| describe(&e))?;
            let records = self.unpacker.unpack(change.first, &packed).map_err(|e| LogError(e.to_string()))?;
            let kept = records.iter().enumerate().filter(|(place, _)| change.keeps(*place)).map(|(_, record)| record);
            anew.push((change.first, self.packer.pack(change.first, kept).map_err(|e| LogError(e.to_string()))?));
        }
        if plan.changes.iter().any(|change| Some(change.first) == self.tail.first()) {
            self.tail.clear();
        }
        if !plan.changes.is_empty() {
            self.vacuum_pending = true;
            self.unsynced(|connection| {
                let mut delete = connection.prepare_cached("DELETE FROM history WHERE first = ?1")?;
                for change in plan.changes.iter().filter(|change| change.whole) {
                    delete.execute([change.first.0.cast_signed()])?;
                }
                let mut update = connection.prepare_cached(UPDATE_RUN)?;
                for (first, records) in &anew {
                    update.execute(params![first.0.cast_signed(), records])?;
                }
                Ok(())
            })?;
        }
        self.runs.done(plan);
        Ok(())
    }

    /// Copies the WAL back when it holds `threshold` bytes that are not yet copied.
    fn checkpoint(&mut self, threshold: u64) -> Result<(), LogError> {
        let pages = self.wal_pages.load(Ordering::Relaxed);
        if pages < self.backfilled_pages {
            self.backfilled_pages = 0;
        }
        if pages.saturating_sub(self.backfilled_pages) * self.page_bytes < threshold.max(1) {
            return Ok(());
        }
        let copied = self
            .connection
            .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get::<_, i64>(2))
            .map_err(|e| describe(&e))?;
        self.backfilled_pages = u64::try_from(copied).unwrap_or(0);
        Ok(())
    }

    /// One step of incremental vacuum if enough of the file is free; true if more remains.
    fn vacuum(&mut self, full: bool) -> Result<bool, LogError> {
        let free = self.pragma("freelist_count")?;
        let total = self.pragma("page_count")?;
        let worth_it = free * self.page_bytes > FREE_BYTES_MIN && free * 4 > total;
        if free == 0 || !(full || worth_it) {
            return Ok(false);
        }
        self.unsynced(|connection| {
            let step = format!("PRAGMA incremental_vacuum({VACUUM_STEP_PAGES})");
            let mut statement = connection.prepare_cached(&step)?;
            let mut rows = statement.query([])?;
            while rows.next()?.is_some() {}
            Ok(())
        })?;
        Ok(true)
    }
}
