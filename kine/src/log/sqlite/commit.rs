//! Commits: a batch becomes rows of history, in the row of the last commit where both are small.

use rusqlite::{Connection, params};

use super::{Batch, LeaseChange, LogError, Record, SqliteLog};
use crate::log::run::cut;
use crate::revision::RecordId;

pub(super) const INSERT_RUN: &str = "INSERT INTO history (first, records) VALUES (?1, ?2)";
pub(super) const UPDATE_RUN: &str = "UPDATE history SET records = ?2 WHERE first = ?1";
/// What a page keeps for itself of a row.
const PAGE_OVERHEAD: u64 = 64;

impl SqliteLog {
    /// Writes a batch whole or not at all; synced when it returns.
    pub(super) fn commit(&mut self, batch: &Batch) -> Result<(), LogError> {
        let grown = self.grown(&batch.records)?;
        // Should this fail, it is not known what the row holds.
        let mut tail = std::mem::take(&mut self.tail);
        let mut runs = Vec::new();
        for records in cut(&batch.records).filter(|_| grown.is_none()) {
            let first = records[0].id;
            runs.push((first, records, self.packer.pack(first, records).map_err(|e| LogError(e.to_string()))?));
        }
        self.transaction(|connection| {
            if let Some((first, packed)) = &grown {
                match connection.prepare_cached(UPDATE_RUN)?.execute(params![first.0.cast_signed(), packed])? {
                    1 => {}
                    other => return Err(rusqlite::Error::StatementChangedRows(other)),
                }
            }
            let mut insert = connection.prepare_cached(INSERT_RUN)?;
            for (first, _, packed) in &runs {
                insert.execute(params![first.0.cast_signed(), packed])?;
            }
            write_leases(connection, &batch.leases)?;
            let set = |name: &str, value: i64| {
                connection.prepare_cached("UPDATE meta SET value = ?2 WHERE name = ?1")?.execute(params![name, value])
            };
            if let Some(revision) = batch.compacted {
                set("compact_revision", revision.as_i64())?;
            }
            if let Some(clean) = batch.clean {
                set("clean", i64::from(clean))?;
            }
            if let Some(no_space) = batch.no_space {
                // A row that older files do not have.
                connection
                    .prepare_cached("INSERT OR REPLACE INTO meta VALUES ('no_space', ?1)")?
                    .execute([i64::from(no_space)])?;
            }
            Ok(())
        })?;
        if let Some((_, packed)) = &grown {
            self.runs.extend_last(&batch.records);
            tail.grow(&batch.records, packed.len());
        } else if let Some((_, last, packed)) = runs.last() {
            match packed.len() <= self.row_bytes() {
                true => tail.begin(last, packed.len()),
                false => tail.clear(),
            }
        }
        self.tail = tail;
        runs.into_iter().for_each(|(first, records, _)| self.runs.add(first, records));
        Ok(())
    }

    /// The last run with a small commit behind it, if both fit its page.
    fn grown(&mut self, records: &[Record]) -> Result<Option<(RecordId, Vec<u8>)>, LogError> {
        let Some((first, all)) = self.tail.with(records, self.row_bytes()) else { return Ok(None) };
        let packed = self.packer.pack(first, all).map_err(|e| LogError(e.to_string()))?;
        Ok((packed.len() <= self.row_bytes()).then_some((first, packed)))
    }

    /// Bytes of a row that has room in one page.
    fn row_bytes(&self) -> usize {
        usize::try_from(self.page_bytes - PAGE_OVERHEAD).unwrap_or(0)
    }
}

fn write_leases(connection: &Connection, changes: &[LeaseChange]) -> rusqlite::Result<()> {
    for change in changes {
        match change {
            LeaseChange::Put(lease) => connection
                .prepare_cached("INSERT OR REPLACE INTO lease (id, ttl, deadline) VALUES (?1, ?2, ?3)")?
                .execute(params![lease.id, lease.ttl, lease.deadline_unix_ms])?,
            LeaseChange::Delete(id) => connection.prepare_cached("DELETE FROM lease WHERE id = ?1")?.execute([id])?,
        };
    }
    Ok(())
}
