//! Takes a snapshot of a store in use.
//!
//! Revision and compact revision are fixed first; then the log is read in pages beside the writer. Nothing that
//! belongs to the snapshot goes away before the end, however long that takes and whatever is compacted meanwhile:
//! a pin keeps the store from removing it, and where other stores compact the log too, it is read in one
//! transaction, twice: once to learn which records can be seen.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use ring::digest;

use super::SnapshotSummary;
use super::layout::{
    EMPTY, FINISHED_COMPACTION, KEY, LEASE, META, SCHEDULED_COMPACTION, lease_key, lease_value, record_key,
    record_value, revision_key,
};
use crate::bolt::BoltWriter;
use crate::error::{Error, Result};
use crate::index::Index;
use crate::limits::{LOG_PAGE_BYTES, LOG_PAGE_RECORDS, SNAPSHOT_CHUNK_BYTES};
use crate::log::{Held, LeaseRow, LogReader, Record};
use crate::pin::Pin;
use crate::revision::{RecordId, Revision};
use crate::store::{Shared, Store};
use crate::writer::unix_now_ms;

/// A finished snapshot: a file without a name, gone with this value.
#[derive(Debug)]
pub struct Snapshot {
    file: File,
    /// Bytes without the checksum.
    length: u64,
    summary: SnapshotSummary,
}

impl Snapshot {
    pub fn summary(&self) -> &SnapshotSummary {
        &self.summary
    }

    /// Writes the snapshot to a file that must not exist yet, durably.
    pub fn save(self, path: &Path) -> io::Result<()> {
        let mut out = OpenOptions::new().create_new(true).write(true).mode(0o600).open(path)?;
        let copied = self.into_chunks().try_for_each(|chunk| out.write_all(&chunk?)).and_then(|()| out.sync_all());
        if copied.is_err() {
            let _ = fs::remove_file(path);
        }
        copied
    }

    /// As [`Snapshot::save`], packed into a zstd frame; [`super::Archive`] reads both.
    pub fn save_packed(self, path: &Path) -> io::Result<()> {
        let out = OpenOptions::new().create_new(true).write(true).mode(0o600).open(path)?;
        let pack = || {
            let mut encoder = zstd::Encoder::new(out, 0)?;
            encoder.include_checksum(true)?;
            self.into_chunks().try_for_each(|chunk| encoder.write_all(&chunk?))?;
            encoder.finish()?.sync_all()
        };
        let packed = pack();
        if packed.is_err() {
            let _ = fs::remove_file(path);
        }
        packed
    }

    /// The snapshot in pieces; the last one is the SHA-256 of those before it.
    pub fn into_chunks(self) -> impl Iterator<Item = io::Result<Vec<u8>>> + Send {
        let Snapshot { mut file, length, .. } = self;
        let mut left = length;
        let mut digest = Some(digest::Context::new(&digest::SHA256));
        let mut next = move || -> io::Result<Option<Vec<u8>>> {
            if left == 0 {
                return Ok(digest.take().map(|digest| digest.finish().as_ref().to_vec()));
            }
            let mut chunk = vec![0; usize::try_from(left).unwrap_or(usize::MAX).min(SNAPSHOT_CHUNK_BYTES)];
            file.read_exact(&mut chunk)?;
            left -= chunk.len() as u64;
            if let Some(digest) = &mut digest {
                digest.update(&chunk);
            }
            Ok(Some(chunk))
        };
        let mut failed = false;
        std::iter::from_fn(move || {
            if failed {
                return None;
            }
            let chunk = next().transpose();
            failed = matches!(chunk, Some(Err(_)));
            chunk
        })
    }
}

/// What a snapshot is taken of.
struct Point {
    revision: Revision,
    compacted: Revision,
    leases: BTreeMap<i64, LeaseRow>,
    now_unix_ms: i64,
    kept: Kept,
}

/// Who knows which records can be seen.
enum Kept {
    /// The store, which removes none of them until then.
    Pinned(Pin),
    /// An index of what the reader holds.
    Held(Box<Index>),
}

impl Point {
    fn of(shared: &Arc<Shared>, reader: &mut dyn LogReader) -> io::Result<Point> {
        let now_unix_ms = unix_now_ms();
        if let Some(Held { head, compacted, leases }) = reader.hold().map_err(io::Error::other)? {
            let kept = Kept::Held(Box::new(index_of(reader, head, compacted)?));
            let leases = leases.into_iter().map(|row| (row.id, row)).collect();
            return Ok(Point { revision: head.revision(), compacted, leases, now_unix_ms, kept });
        }
        let pin = Pin::new(shared);
        // A lease granted or ended in this moment may show or not; one that keys refer to must show.
        let rows = || shared.lessor.lock().rows(Instant::now(), now_unix_ms);
        let before = rows();
        let revision = shared.index.read().revision();
        let leases = before.into_iter().chain(rows()).map(|row| (row.id, row)).collect();
        Ok(Point { revision, compacted: pin.compacted(), leases, now_unix_ms, kept: Kept::Pinned(pin) })
    }

    /// Those of `page` that belong to the snapshot, and how many of them are what their keys are at its revision.
    fn choose<'p>(&self, shared: &Shared, page: &'p [Record]) -> io::Result<(Vec<&'p Record>, u64)> {
        let choose = |index: &Index| {
            let within = |record: &&Record| record.id.revision() <= self.revision;
            let kept: Vec<_> = page.iter().filter(within).filter(|r| index.keeps(r, self.compacted)).collect();
            let is_current = |record: &Record| record.value.is_some() && index.is_current(record, self.revision);
            let current = kept.iter().filter(|record| is_current(record)).count();
            (kept, current as u64)
        };
        Ok(match &self.kept {
            Kept::Held(index) => choose(index),
            Kept::Pinned(pin) => {
                pin.check().map_err(io::Error::other)?;
                choose(&shared.index.read())
            }
        })
    }
}

/// Calls `visit` with every page up to a revision.
fn pages(
    reader: &mut dyn LogReader,
    until: Revision,
    visit: &mut dyn FnMut(Vec<Record>) -> io::Result<()>,
) -> io::Result<()> {
    let mut from = RecordId::default();
    while from.revision() <= until {
        let page = reader.records(from, LOG_PAGE_RECORDS, LOG_PAGE_BYTES).map_err(io::Error::other)?;
        let Some(last) = page.last() else { break };
        from = last.id.next();
        visit(page)?;
    }
    Ok(())
}

/// What the reader holds, without values.
fn index_of(reader: &mut dyn LogReader, head: RecordId, compacted: Revision) -> io::Result<Index> {
    let mut index = Index::new();
    pages(reader, head.revision(), &mut |page| {
        for record in page {
            // The page's buffer holds the values too; the key should not keep it alive.
            let key = Bytes::copy_from_slice(&record.key);
            index.apply(&Record { key, value: record.value.map(|_| Bytes::new()), ..record });
        }
        Ok(())
    })?;
    index.set_compacted(compacted);
    Ok(index)
}

impl Store {
    /// Takes a snapshot of the present revision, beside reads and writes. One at a time.
    pub async fn snapshot(&self) -> Result<Snapshot> {
        let shared = self.shared().clone();
        let turn = shared.snapshot_turn.clone().acquire_owned().await.map_err(|_| Error::Stopped)?;
        let read = move |reader: &mut dyn LogReader| {
            // Held until the work ends, also if the caller goes away.
            let _turn = turn;
            let taken = take(&shared, reader);
            reader.let_go();
            Ok(taken.map_err(|error| Error::Snapshot(error.to_string())))
        };
        self.shared().read_log(read).await?
    }
}

fn take(shared: &Arc<Shared>, reader: &mut dyn LogReader) -> io::Result<Snapshot> {
    let point = Point::of(shared, reader)?;
    let mut summary = SnapshotSummary {
        revision: point.revision,
        compact_revision: point.compacted,
        leases: point.leases.len() as u64,
        ..SnapshotSummary::default()
    };
    let file = nameless(&shared.scratch)?;
    let mut bolt = BoltWriter::new(BufWriter::with_capacity(SNAPSHOT_CHUNK_BYTES, file))?;
    let mut records = bolt.bucket(KEY)?;
    pages(reader, point.revision, &mut |page| {
        let (kept, current) = point.choose(shared, &page)?;
        summary.keys += current;
        summary.records += kept.len() as u64;
        kept.into_iter().try_for_each(|record| records.put(&record_key(record), &record_value(record)))
    })?;
    records.end()?;
    finish(bolt, summary, point.leases.values(), point.now_unix_ms)
}

/// Everything behind the records, which `summary` counts.
pub(super) fn finish<'l>(
    mut bolt: BoltWriter<BufWriter<File>>,
    mut summary: SnapshotSummary,
    leases: impl Iterator<Item = &'l LeaseRow>,
    now_unix_ms: i64,
) -> io::Result<Snapshot> {
    let mut meta = bolt.bucket(META)?;
    if summary.compact_revision.0 > 0 {
        let at = revision_key(summary.compact_revision, 0);
        meta.put(FINISHED_COMPACTION, &at)?;
        meta.put(SCHEDULED_COMPACTION, &at)?;
    }
    meta.end()?;
    let mut bucket = bolt.bucket(LEASE)?;
    // Keys of a bucket are ordered as unsigned numbers.
    let mut rows: Vec<_> = leases.collect();
    rows.sort_by_key(|row| row.id.cast_unsigned());
    rows.into_iter().try_for_each(|row| bucket.put(&lease_key(row.id), &lease_value(row, now_unix_ms)))?;
    bucket.end()?;
    EMPTY.into_iter().try_for_each(|name| bolt.bucket(name)?.end())?;
    let (out, length) = bolt.finish()?;
    let mut file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.seek(SeekFrom::Start(0))?;
    summary.bytes = length + digest::SHA256_OUTPUT_LEN as u64;
    Ok(Snapshot { file, length, summary })
}

/// A file that only this process sees; it needs no cleaning up whatever happens.
pub(super) fn nameless(folder: &Path) -> io::Result<File> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let path = folder.join(format!(".snapshot-{}-{number}", std::process::id()));
    let file = OpenOptions::new().create(true).truncate(true).read(true).write(true).mode(0o600).open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}
