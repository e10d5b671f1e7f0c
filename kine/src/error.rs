//! Everything a caller of the store can be told, in etcd's words where etcd has them.

use std::path::PathBuf;

use crate::revision::Revision;

/// Result of the store.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed. Messages are etcd's own where etcd has the case.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("etcdserver: mvcc: required revision has been compacted")]
    Compacted {
        /// The oldest revision that can still be read.
        compact_revision: Revision,
    },
    #[error("etcdserver: mvcc: required revision is a future revision")]
    FutureRevision,
    #[error("etcdserver: key is not provided")]
    EmptyKey,
    #[error("etcdserver: key not found")]
    KeyNotFound,
    #[error("etcdserver: value is provided")]
    ValueProvided,
    #[error("etcdserver: lease is provided")]
    LeaseProvided,
    #[error("etcdserver: duplicate key given in txn request")]
    DuplicateKey,
    #[error("etcdserver: too many operations in txn request")]
    TooManyOps,
    #[error("etcdserver: request is too large")]
    RequestTooLarge,
    #[error("etcdserver: requested lease not found")]
    LeaseNotFound,
    #[error("etcdserver: lease already exists")]
    LeaseExists,
    #[error("etcdserver: too large lease TTL")]
    LeaseTtlTooLarge,
    /// The quota is used up; see the NOSPACE alarm.
    #[error("etcdserver: mvcc: database space exceeded")]
    NoSpace,
    /// A snapshot could not be taken.
    #[error("snapshot: {0}")]
    Snapshot(String),
    /// The store is closing or closed.
    #[error("etcdserver: server stopped")]
    Stopped,
    /// The batch of this write could not be committed; it may be tried again.
    #[error("datastore write: {0}")]
    Write(String),
    /// History could not be read.
    #[error("datastore read: {0}")]
    Read(String),
    /// The file cannot be opened as a datastore.
    #[error("open datastore {}: {reason}", path.display())]
    Open { path: PathBuf, reason: String },
    /// The database server cannot be used.
    #[error("datastore {endpoint}: {reason}")]
    Connect { endpoint: String, reason: String },
    /// Another process has the file.
    #[error(
        "datastore {} is in use by another process; stop it or choose another data directory",
        path.display()
    )]
    InUse { path: PathBuf },
    /// The file is damaged.
    #[error(
        "datastore {0} is corrupt: {detail}; restore a snapshot with `skiff datastore snapshot restore --replace`, or move {0}, {0}-wal and {0}-shm aside to start empty",
        path.display()
    )]
    Corrupt { path: PathBuf, detail: String },
}
