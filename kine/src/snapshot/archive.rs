//! Reads, verifies and restores a snapshot, from here or from etcd.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use ring::digest;

use super::SnapshotSummary;
use super::layout::{
    FINISHED_COMPACTION, KEY, LEASE, META, SCHEDULED_COMPACTION, parse_lease, parse_record, parse_revision,
};
use super::save::nameless;
use crate::bolt::{BoltError, BoltFile};
use crate::error::Error;
use crate::limits::{BATCH_BYTES_MAX, BATCH_REQUESTS_MAX};
use crate::log::sqlite::{self, SqliteLog};
use crate::log::{Batch, LeaseChange, Log, LogError, Record};
use crate::revision::Revision;
use crate::store::random_id;
use crate::writer::unix_now_ms;

/// How a packed snapshot begins.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Sector to which etcd's files are aligned; what is left over is the checksum.
const ALIGNMENT: u64 = 512;

/// Why a snapshot cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("snapshot {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("snapshot {} is damaged: {detail}", path.display())]
    Damaged { path: PathBuf, detail: String },
    #[error(
        "snapshot {} has no checksum; if it was copied from etcd's data folder, give --skip-hash-check",
        path.display()
    )]
    NoChecksum { path: PathBuf },
    #[error("restore to {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{} exists; restore elsewhere, or give --replace to move it aside", path.display())]
    Exists { path: PathBuf },
    #[error("{endpoint} is not empty; choose another, or give --replace")]
    NotEmpty { endpoint: String },
    #[error("write to {endpoint}: {detail}")]
    Transfer { endpoint: String, detail: String },
    #[error(transparent)]
    Store(#[from] Error),
}

/// The file, or what is packed in it, as a file without a name beside it.
fn unpacked(path: &Path) -> io::Result<File> {
    let mut file = File::open(path)?;
    let mut start = [0; ZSTD_MAGIC.len()];
    let packed = match file.read_exact(&mut start) {
        Ok(()) => start == ZSTD_MAGIC,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => false,
        Err(error) => return Err(error),
    };
    file.rewind()?;
    if !packed {
        return Ok(file);
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut plain = nameless(folder)?;
    zstd::stream::copy_decode(file, &mut plain)?;
    plain.rewind()?;
    Ok(plain)
}

/// A snapshot file whose checksum is right.
pub struct Archive {
    path: PathBuf,
    bolt: BoltFile,
    bytes: u64,
}

impl Archive {
    /// Opens a snapshot and compares its checksum. With `skip_hash` a file without one, as it
    /// lies in etcd's data folder, is taken too.
    pub fn open(path: &Path, skip_hash: bool) -> Result<Archive, ArchiveError> {
        let read = |source| ArchiveError::Read { path: path.to_owned(), source };
        let file = unpacked(path).map_err(read)?;
        let bytes = file.metadata().map_err(read)?.len();
        if bytes % ALIGNMENT == digest::SHA256_OUTPUT_LEN as u64 {
            let (found, expected) = checksums(&file, bytes).map_err(read)?;
            if found != expected && !skip_hash {
                let detail = "its checksum does not match its content".into();
                return Err(ArchiveError::Damaged { path: path.to_owned(), detail });
            }
        } else if !skip_hash {
            return Err(ArchiveError::NoChecksum { path: path.to_owned() });
        }
        let bolt = BoltFile::open(file).map_err(|e| damage(path, e))?;
        Ok(Archive { path: path.to_owned(), bolt, bytes })
    }

    /// Reads everything and says what it is.
    pub fn verify(&self) -> Result<SnapshotSummary, ArchiveError> {
        self.visit(&mut |_| Ok(()), &mut |_| Ok(()))
    }

    /// Restores into a new datastore file. `replace` moves an existing one aside and answers where.
    /// The store gets new ids: clients of the old one must not mistake it for the same.
    pub fn restore(&self, target: &Path, replace: bool) -> Result<(SnapshotSummary, Option<PathBuf>), ArchiveError> {
        let write = |source| ArchiveError::Write { path: target.to_owned(), source };
        // Nobody may have the datastore open, nor open it meanwhile.
        let _lock = sqlite::lock(target)?;
        if target.exists() && !replace {
            return Err(ArchiveError::Exists { path: target.to_owned() });
        }
        let unready = sqlite::suffixed(target, ".restoring");
        remove_store(&unready).map_err(write)?;
        let mut restored = self.fill(&unready);
        // A store that could not copy its log back closes all the same; here the log goes.
        if restored.is_ok() && fs::metadata(sqlite::suffixed(&unready, "-wal")).is_ok_and(|wal| wal.len() > 0) {
            restored = Err(write(io::Error::from(io::ErrorKind::StorageFull)));
        }
        // The log's own side files hold nothing any more.
        for suffix in ["-wal", "-shm", "-lock"] {
            remove_if_there(&sqlite::suffixed(&unready, suffix)).map_err(write)?;
        }
        let summary = match restored {
            Ok(summary) => summary,
            Err(error) => {
                remove_store(&unready).map_err(write)?;
                return Err(error);
            }
        };
        File::open(&unready).and_then(|file| file.sync_all()).map_err(write)?;
        let aside = set_aside(target).map_err(write)?;
        fs::rename(&unready, target).map_err(write)?;
        let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(write)?;
        Ok((summary, aside))
    }

    fn fill(&self, path: &Path) -> Result<SnapshotSummary, ArchiveError> {
        let failed = |error: LogError| ArchiveError::Write { path: path.to_owned(), source: io::Error::other(error) };
        let mut log = SqliteLog::open(path, || (random_id(), random_id()))?;
        let mut batch = Batch::default();
        let mut weight = 0;
        let mut leases = Vec::new();
        let mut trouble = None;
        let result = self.visit(
            &mut |record| {
                weight += record.weight();
                batch.records.push(record);
                if batch.records.len() >= BATCH_REQUESTS_MAX || weight >= BATCH_BYTES_MAX {
                    weight = 0;
                    if let Err(error) = log.append(&std::mem::take(&mut batch)) {
                        trouble = Some(error);
                        return Err(BoltError::Damaged("writing stopped".into()));
                    }
                }
                Ok(())
            },
            &mut |lease| {
                leases.push(lease);
                Ok(())
            },
        );
        if let Some(error) = trouble {
            return Err(failed(error));
        }
        let summary = result?;
        batch.leases = leases;
        batch.compacted = Some(summary.compact_revision);
        log.append(&batch).map_err(failed)?;
        Box::new(log).close().map_err(failed)?;
        Ok(summary)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn visit(
        &self,
        take_record: &mut dyn FnMut(Record) -> Result<(), BoltError>,
        take_lease: &mut dyn FnMut(LeaseChange) -> Result<(), BoltError>,
    ) -> Result<SnapshotSummary, ArchiveError> {
        let mut summary = SnapshotSummary { bytes: self.bytes, ..SnapshotSummary::default() };
        let mut live: HashSet<Bytes> = HashSet::new();
        let mut last = None;
        let records = self.bolt.for_each(KEY, &mut |key, value| {
            let Some(record) = parse_record(key, value).filter(|record| last < Some(record.id)) else {
                return Err(BoltError::Damaged(format!("record {} is none of etcd's", summary.records)));
            };
            last = Some(record.id);
            summary.revision = record.id.revision();
            summary.records += 1;
            match record.value {
                Some(_) => live.insert(record.key.clone()),
                None => live.remove(&record.key),
            };
            take_record(record)
        });
        records.map_err(|e| damage(&self.path, e))?;
        let meta = self.bolt.for_each(META, &mut |key, value| {
            if key == FINISHED_COMPACTION || key == SCHEDULED_COMPACTION {
                let Some((revision, ..)) = parse_revision(value) else {
                    return Err(BoltError::Damaged("its compact revision is unreadable".into()));
                };
                summary.compact_revision = summary.compact_revision.max(revision);
            }
            Ok(())
        });
        meta.map_err(|e| damage(&self.path, e))?;
        let now_unix_ms = unix_now_ms();
        let leases = self.bolt.for_each(LEASE, &mut |_, value| {
            let Some(row) = parse_lease(value, now_unix_ms) else {
                return Err(BoltError::Damaged(format!("lease {} is unreadable", summary.leases)));
            };
            summary.leases += 1;
            take_lease(LeaseChange::Put(row))
        });
        leases.map_err(|e| damage(&self.path, e))?;
        summary.keys = live.len() as u64;
        summary.revision = summary.revision.max(summary.compact_revision).max(Revision::FIRST);
        Ok(summary)
    }
}

pub(super) fn damage(path: &Path, error: BoltError) -> ArchiveError {
    match error {
        BoltError::Io(source) => ArchiveError::Read { path: path.to_owned(), source },
        BoltError::Damaged(detail) => ArchiveError::Damaged { path: path.to_owned(), detail },
    }
}

/// The checksum of the content, and the one behind it.
fn checksums(file: &File, bytes: u64) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let mut content = io::BufReader::new(file).take(bytes - digest::SHA256_OUTPUT_LEN as u64);
    let mut context = digest::Context::new(&digest::SHA256);
    let mut chunk = vec![0; 256 * 1024];
    loop {
        match content.read(&mut chunk)? {
            0 => break,
            read => context.update(&chunk[..read]),
        }
    }
    let mut expected = Vec::new();
    content.into_inner().read_to_end(&mut expected)?;
    Ok((context.finish().as_ref().to_vec(), expected))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn remove_store(path: &Path) -> io::Result<()> {
    ["", "-wal", "-shm", "-lock"].into_iter().try_for_each(|suffix| remove_if_there(&sqlite::suffixed(path, suffix)))
}

/// Moves a datastore away, together with the log it may still need.
fn set_aside(target: &Path) -> io::Result<Option<PathBuf>> {
    if !target.exists() {
        // A log without its file would be replayed into the restored one.
        remove_if_there(&sqlite::suffixed(target, "-wal"))?;
        remove_if_there(&sqlite::suffixed(target, "-shm"))?;
        return Ok(None);
    }
    let aside = sqlite::suffixed(target, &format!(".replaced-{}", unix_now_ms()));
    for suffix in ["-wal", "-shm", ""] {
        let mut from: OsString = target.into();
        from.push(suffix);
        match fs::rename(from, sqlite::suffixed(&aside, suffix)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(Some(aside))
}
