//! A hash over history, to compare two stores.
//!
//! CRC-32C over every record that a read at or after the compact revision can see. Two
//! stores that took the same writes and compactions have the same hash, whatever the engine.

use crate::error::{Error, Result};
use crate::eval::check_revision;
use crate::limits::{LOG_PAGE_BYTES, LOG_PAGE_RECORDS};
use crate::log::Record;
use crate::pin::Pin;
use crate::revision::{RecordId, Revision};
use crate::store::Store;

/// A hash and what it covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryHash {
    pub hash: u32,
    pub revision: Revision,
    pub compact_revision: Revision,
}

impl Store {
    /// Hashes history up to `revision`; 0 means the current one. Reads the whole log.
    pub async fn hash(&self, revision: Revision) -> Result<HistoryHash> {
        self.catch_up().await?;
        let shared = self.shared();
        let pin = Pin::new(shared);
        let compact_revision = pin.compacted();
        let until = {
            let index = shared.index.read();
            check_revision(revision, index.revision(), compact_revision)?;
            if revision.0 == 0 { index.revision() } else { revision }
        };
        let mut crc = Crc32c::new();
        let mut from = RecordId::default();
        // Not further: writes that go on would be read without an end.
        while from.revision() <= until {
            let page = shared.read_log(move |reader| reader.records(from, LOG_PAGE_RECORDS, LOG_PAGE_BYTES));
            let page = page.await?;
            let Some(last) = page.last() else { break };
            from = last.id.next();
            pin.check().map_err(|error| Error::Read(error.to_string()))?;
            // What others compact, no pin of ours holds back.
            let index = shared.index.read();
            if shared.latest.is_shared() && index.compacted() != compact_revision {
                return Err(Error::Compacted { compact_revision: index.compacted() });
            }
            let kept = |record: &&Record| record.id.revision() <= until && index.keeps(record, compact_revision);
            page.iter().filter(kept).for_each(|record| crc.record(record));
        }
        Ok(HistoryHash { hash: crc.finish(), revision: until, compact_revision })
    }
}

/// CRC-32C (Castagnoli), one table, byte by byte.
pub(crate) struct Crc32c {
    state: u32,
}

const TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut crc = i as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
}

impl Crc32c {
    /// Adds a change.
    pub(crate) fn record(&mut self, record: &Record) {
        for number in
            [record.id.0, record.create_revision.0, record.version.cast_unsigned(), record.lease.cast_unsigned()]
        {
            self.update(&number.to_le_bytes());
        }
        self.pair(&record.key, record.value.as_deref().unwrap_or_default());
    }

    /// Adds a key and what belongs to it.
    pub(crate) fn pair(&mut self, key: &[u8], value: &[u8]) {
        self.update(&(key.len() as u64).to_le_bytes());
        self.update(key);
        self.update(value);
    }

    pub(crate) fn new() -> Crc32c {
        Crc32c { state: !0 }
    }

    fn update(&mut self, bytes: &[u8]) {
        for byte in bytes {
            let entry = (self.state ^ u32::from(*byte)) & 0xff;
            self.state = TABLE[entry as usize] ^ self.state >> 8;
        }
    }

    pub(crate) fn finish(self) -> u32 {
        !self.state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_castagnoli_one() {
        let mut crc = Crc32c::new();
        crc.update(b"123456789");
        assert_eq!(crc.finish(), 0xe306_9283);
    }
}
