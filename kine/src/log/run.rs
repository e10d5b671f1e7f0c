//! Runs: consecutive records packed into one value of the log.
//!
//! A run costs one row, not one per record, and is compressed: fewer pages to write, twice
//! each (log and file), and fewer to read at start. It is small enough that reading one
//! old record or dropping some is cheap. The compressed frame carries a checksum of its own, so that
//! damage inside a page is found too, not only damage of the tree of pages.

use std::io;

use bytes::Bytes;
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::CParameter;

use super::Record;
use crate::limits::{RUN_BYTES, RUN_RECORDS};
use crate::revision::{RecordId, Revision};

/// Fast before small: the processor's time counts as much as the disk's.
const LEVEL: i32 = 1;
/// A run says how long it is unpacked; more than this is damage.
const UNPACKED_BYTES_MAX: usize = 64 << 20;

const TOMBSTONE: u8 = 1;
const LEASED: u8 = 2;

/// What is wrong with a run.
#[derive(Debug, thiserror::Error)]
#[error("the run of records from {first} on is damaged: {reason}")]
pub(crate) struct BadRun {
    first: u64,
    reason: String,
}

/// Packs runs; keeps its memory between them.
pub(crate) struct Packer {
    compressor: Compressor<'static>,
    plain: Vec<u8>,
}

impl Packer {
    pub(crate) fn new() -> io::Result<Packer> {
        let mut compressor = Compressor::new(LEVEL)?;
        compressor.set_parameter(CParameter::ChecksumFlag(true))?;
        Ok(Packer { compressor, plain: Vec::new() })
    }

    /// The value of a run of these records, which are in id order and begin at or after `first`.
    pub(crate) fn pack<'a>(
        &mut self,
        first: RecordId,
        records: impl IntoIterator<Item = &'a Record>,
    ) -> io::Result<Vec<u8>> {
        self.plain.clear();
        let mut last = first.0;
        for record in records {
            write(&mut self.plain, record, last);
            last = record.id.0;
        }
        let mut value = u32::try_from(self.plain.len()).map_err(io::Error::other)?.to_le_bytes().to_vec();
        value.extend_from_slice(&self.compressor.compress(&self.plain)?);
        Ok(value)
    }
}

/// Cuts records into runs of bounded size, at least one record each.
pub(crate) fn cut(records: &[Record]) -> impl Iterator<Item = &[Record]> {
    let mut rest = records;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let mut count = 0;
        for record in rest.iter().take(RUN_RECORDS) {
            bytes += record.weight();
            if count > 0 && (bytes > RUN_BYTES || record.id.0 - rest[0].id.0 > u64::from(u32::MAX)) {
                break;
            }
            count += 1;
        }
        let (run, after) = rest.split_at(count);
        rest = after;
        (!run.is_empty()).then_some(run)
    })
}

/// Unpacks runs; keeps its memory between them.
pub(crate) struct Unpacker {
    decompressor: Decompressor<'static>,
    plain: Vec<u8>,
}

impl Unpacker {
    pub(crate) fn new() -> io::Result<Unpacker> {
        Ok(Unpacker { decompressor: Decompressor::new()?, plain: Vec::new() })
    }

    /// The records of a run.
    pub(crate) fn unpack(&mut self, first: RecordId, value: &[u8]) -> Result<Vec<Record>, BadRun> {
        let bad = |reason: &dyn ToString| BadRun { first: first.0, reason: reason.to_string() };
        let (length, packed) = value.split_first_chunk().ok_or_else(|| bad(&"it is cut off"))?;
        let length = u32::from_le_bytes(*length) as usize;
        if length > UNPACKED_BYTES_MAX {
            return Err(bad(&"its length is out of bounds"));
        }
        self.plain.clear();
        self.plain.reserve(length);
        let read = self.decompressor.decompress_to_buffer(packed, &mut self.plain).map_err(|error| bad(&error))?;
        if read != length {
            return Err(bad(&"its length is not what it says"));
        }
        let mut rest = &self.plain[..];
        let mut records = Vec::new();
        let mut last = first.0;
        while !rest.is_empty() {
            let record = read_record(&mut rest, last).ok_or_else(|| bad(&"a record is malformed"))?;
            last = record.id.0;
            records.push(record);
        }
        Ok(records)
    }
}

fn write(out: &mut Vec<u8>, record: &Record, last: u64) {
    let tombstone = if record.value.is_none() { TOMBSTONE } else { 0 };
    let leased = if record.lease != 0 { LEASED } else { 0 };
    out.push(tombstone | leased);
    number(out, record.id.0.wrapping_sub(last));
    // Nearly always 0 for creations and small for what changes often.
    number(out, record.id.revision().0.wrapping_sub(record.create_revision.0));
    number(out, record.version.cast_unsigned());
    if leased != 0 {
        number(out, record.lease.cast_unsigned());
    }
    bytes(out, &record.key);
    if let Some(value) = &record.value {
        bytes(out, value);
    }
}

fn read_record(rest: &mut &[u8], last: u64) -> Option<Record> {
    let (flags, after) = rest.split_first()?;
    *rest = after;
    let id = RecordId(last.checked_add(read_number(rest)?)?);
    let create_revision = Revision(id.revision().0.wrapping_sub(read_number(rest)?));
    let version = read_number(rest)?.cast_signed();
    let lease = if flags & LEASED != 0 { read_number(rest)?.cast_signed() } else { 0 };
    let key = Bytes::copy_from_slice(read_bytes(rest)?);
    let value = match flags & TOMBSTONE {
        0 => Some(Bytes::copy_from_slice(read_bytes(rest)?)),
        _ => None,
    };
    Some(Record { id, key, value, create_revision, version, lease })
}

fn bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn read_bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(read_number(rest)?).ok()?;
    let (bytes, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(bytes)
}

/// Seven bits a byte, the lowest first.
fn number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn read_number(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(revision: u64, sub: u64, value: Option<Vec<u8>>) -> Record {
        Record {
            id: RecordId::new(Revision(revision), sub),
            key: Bytes::from(format!("/registry/pods/default/pod-{revision}")),
            value: value.map(Bytes::from),
            create_revision: Revision(revision.saturating_sub(3)),
            version: 4,
            lease: if revision.is_multiple_of(2) { -5 } else { 0 },
        }
    }

    fn unpack(first: RecordId, value: &[u8]) -> Result<Vec<Record>, BadRun> {
        Unpacker::new().unwrap().unpack(first, value)
    }

    fn records() -> Vec<Record> {
        let value = |n: u64| (n % 5 != 4).then(|| vec![n as u8; n as usize * 40]);
        (2..60).map(|n| record(n, n % 3, value(n))).collect()
    }

    #[test]
    fn what_is_packed_is_unpacked() {
        let records = records();
        let first = records[0].id;
        let packed = Packer::new().unwrap().pack(first, &records).unwrap();
        assert_eq!(unpack(first, &packed).unwrap(), records);
        // What is left of a run after a compaction keeps its first id.
        let left = Packer::new().unwrap().pack(first, &records[20..]).unwrap();
        assert_eq!(unpack(first, &left).unwrap(), records[20..]);
    }

    #[test]
    fn no_changed_byte_goes_unnoticed() {
        let records = records();
        let first = records[0].id;
        let packed = Packer::new().unwrap().pack(first, &records).unwrap();
        for at in 0..packed.len() {
            let mut damaged = packed.clone();
            damaged[at] ^= 0x10;
            // Some bits of a frame's header mean nothing; then the records are as they were.
            assert!(unpack(first, &damaged).map_or(true, |read| read == records), "byte {at}");
        }
        for length in 0..packed.len() {
            assert!(unpack(first, &packed[..length]).is_err(), "cut to {length}");
        }
    }

    #[test]
    fn noise_is_refused_and_harms_nobody() {
        let mut next = crate::test_random::numbers();
        for length in 0..2000 {
            let noise: Vec<u8> = (0..length).map(|_| next(256) as u8).collect();
            let mut rest = &noise[..];
            while read_record(&mut rest, 7).is_some() {}
            assert!(unpack(RecordId(7), &noise[..]).is_err());
        }
    }

    #[test]
    fn runs_are_bounded_and_lose_nothing() {
        let mut records = records();
        records.insert(5, record(6, 9, Some(vec![1; RUN_BYTES * 2])));
        let runs: Vec<_> = cut(&records).collect();
        assert_eq!(runs.concat(), records);
        assert!(runs.len() > 3);
        for run in runs {
            let bytes: usize = run.iter().map(Record::weight).sum();
            assert!(run.len() == 1 || (run.len() <= RUN_RECORDS && bytes <= RUN_BYTES));
        }
    }
}
