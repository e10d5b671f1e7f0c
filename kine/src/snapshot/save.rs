//! Takes a snapshot of a store in use.
//!
//! Revision and compact revision are fixed first; then the log is read in pages beside the writer,
//! as a watcher does that fell behind. If compaction moves on meanwhile, records may be missing:
//! then it begins again.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use ring::digest;

use super::SnapshotSummary;
use super::layout::{
    EMPTY, FINISHED_COMPACTION, KEY, LEASE, META, SCHEDULED_COMPACTION, lease_key, lease_value, record_key,
    record_value, revision_key,
};
use crate::bolt::BoltWriter;
use crate::error::{Error, Result};
use crate::limits::{LOG_PAGE_BYTES, LOG_PAGE_RECORDS, SNAPSHOT_ATTEMPTS, SNAPSHOT_CHUNK_BYTES};
use crate::log::{LeaseRow, LogReader};
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
}

impl Point {
    /// A lease granted or ended in this moment may show or not; one that keys refer to must show.
    fn of(shared: &Shared) -> Point {
        let now_unix_ms = unix_now_ms();
        let rows = || shared.lessor.lock().rows(Instant::now(), now_unix_ms);
        let before = rows();
        let (revision, compacted) = {
            let index = shared.index.read();
            (index.revision(), index.compacted())
        };
        let leases = before.into_iter().chain(rows()).map(|row| (row.id, row)).collect();
        Point { revision, compacted, leases, now_unix_ms }
    }
}

impl Store {
    /// Takes a snapshot of the present revision, beside reads and writes. One at a time.
    pub async fn snapshot(&self) -> Result<Snapshot> {
        let shared = self.shared().clone();
        let turn = shared.snapshot_turn.clone().acquire_owned().await.map_err(|_| Error::Stopped)?;
        let read = move |reader: &mut dyn LogReader| {
            // Held until the work ends, also if the caller goes away.
            let _turn = turn;
            for _ in 0..SNAPSHOT_ATTEMPTS {
                match take(&shared, reader) {
                    Ok(Some(snapshot)) => return Ok(Ok(snapshot)),
                    Ok(None) => {}
                    Err(error) => return Ok(Err(Error::Snapshot(error.to_string()))),
                }
            }
            Ok(Err(Error::Snapshot("compaction kept overtaking it; try again".into())))
        };
        self.shared().read_log(read).await?
    }
}

/// `None` if compaction overtook it.
fn take(shared: &Shared, reader: &mut dyn LogReader) -> io::Result<Option<Snapshot>> {
    let point = Point::of(shared);
    let mut summary = SnapshotSummary {
        revision: point.revision,
        compact_revision: point.compacted,
        leases: point.leases.len() as u64,
        ..SnapshotSummary::default()
    };
    let file = nameless(&shared.scratch)?;
    let mut bolt = BoltWriter::new(BufWriter::with_capacity(SNAPSHOT_CHUNK_BYTES, file))?;
    let mut records = bolt.bucket(KEY)?;
    let mut from = RecordId::default();
    let until = RecordId::first_of(point.revision.next());
    while from < until {
        let page =
            reader.records(from, LOG_PAGE_RECORDS, LOG_PAGE_BYTES).map_err(|e| io::Error::other(e.to_string()))?;
        let Some(last) = page.last() else { break };
        from = last.id.next();
        let index = shared.index.read();
        if index.compacted() != point.compacted {
            return Ok(None);
        }
        let kept: Vec<_> = page.iter().filter(|r| r.id < until && index.keeps(r, point.compacted)).collect();
        let current =
            |record: &&&crate::log::Record| record.value.is_some() && index.is_current(record, point.revision);
        summary.keys += kept.iter().filter(current).count() as u64;
        drop(index);
        summary.records += kept.len() as u64;
        kept.into_iter().try_for_each(|record| records.put(&record_key(record), &record_value(record)))?;
    }
    records.end()?;
    let snapshot = finish(bolt, summary, point.leases.values(), point.now_unix_ms)?;
    Ok(Some(snapshot))
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
