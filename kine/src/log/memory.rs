//! A log in memory, for tests and for clusters that are thrown away.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::{Batch, Loaded, Log, LogError, LogReader, LogSize, Reclaim, Record};
use crate::error::Result;
use crate::revision::RecordId;

type Records = Arc<Mutex<Kept>>;

/// The records, and the bytes they take.
#[derive(Debug, Default)]
struct Kept {
    map: BTreeMap<RecordId, Record>,
    bytes: u64,
}

fn bytes(record: &Record) -> u64 {
    (size_of::<Record>() + record.weight()) as u64
}

/// Keeps records in a map. Leases and compaction live in the engine alone: nothing is reloaded.
#[derive(Debug, Default)]
pub(crate) struct MemoryLog {
    records: Records,
}

impl Log for MemoryLog {
    fn load(&mut self, visit: &mut dyn FnMut(Record)) -> Result<Loaded> {
        self.records.lock().map.values().cloned().for_each(visit);
        let clean = true;
        Ok(Loaded { cluster_id: 1, member_id: 1, clean, ..Loaded::default() })
    }

    fn append(&mut self, batch: &Batch) -> Result<(), LogError> {
        let mut kept = self.records.lock();
        kept.bytes += batch.records.iter().map(bytes).sum::<u64>();
        kept.map.extend(batch.records.iter().map(|record| (record.id, record.clone())));
        Ok(())
    }

    fn last_id(&mut self) -> Result<Option<RecordId>, LogError> {
        Ok(self.records.lock().map.last_key_value().map(|(id, _)| *id))
    }

    fn delete(&mut self, ids: &[RecordId], _budget: Duration) -> Result<usize, LogError> {
        let mut kept = self.records.lock();
        let removed: u64 = ids.iter().filter_map(|id| kept.map.remove(id)).map(|record| bytes(&record)).sum();
        kept.bytes = kept.bytes.saturating_sub(removed);
        Ok(ids.len())
    }

    fn reclaim(&mut self, _how: Reclaim) -> Result<bool, LogError> {
        Ok(false)
    }

    fn in_use(&mut self) -> Result<u64, LogError> {
        Ok(self.records.lock().bytes)
    }

    fn reader(&self) -> Result<Box<dyn LogReader>, LogError> {
        Ok(Box::new(MemoryReader { records: self.records.clone() }))
    }

    fn close(self: Box<Self>) -> Result<(), LogError> {
        Ok(())
    }
}

struct MemoryReader {
    records: Records,
}

impl LogReader for MemoryReader {
    fn records(&mut self, from: RecordId, count: usize, bytes: usize) -> Result<Vec<Record>, LogError> {
        let kept = self.records.lock();
        let mut used = 0;
        let page = kept.map.range(from..).take(count).map(|(_, record)| record).take_while(|r| {
            let room = used < bytes;
            used += r.weight();
            room
        });
        Ok(page.cloned().collect())
    }

    fn get(&mut self, ids: &[RecordId]) -> Result<Vec<Option<Record>>, LogError> {
        let kept = self.records.lock();
        Ok(ids.iter().map(|id| kept.map.get(id).cloned()).collect())
    }

    fn size(&mut self) -> Result<LogSize, LogError> {
        let bytes = self.records.lock().bytes;
        Ok(LogSize { allocated: bytes, in_use: bytes })
    }
}
