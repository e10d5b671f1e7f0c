//! Snapshots in etcd's own format: one bbolt file with its SHA-256 behind it.
//!
//! What: [`Store::snapshot`] takes one while the store is in use, over any engine; [`Archive`]
//! verifies one, from here or from an etcd, and restores it into a new file. Why this format:
//! it is one file, it carries its checksum, and stock `etcdctl snapshot status` and `restore`
//! take it, so that there is a way to etcd and back.
//!
//! Invariant: a snapshot holds exactly what a read at its revision, or at any revision back to the
//! compact revision, can see; records that compaction has yet to delete are left out.

mod archive;
mod k3s;
mod layout;
mod save;
mod transfer;

pub use archive::{Archive, ArchiveError};
pub use k3s::{K3sError, is_k3s, snapshot_k3s};
pub use save::Snapshot;
pub use transfer::OnProgress;

use crate::revision::Revision;

/// What a snapshot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SnapshotSummary {
    pub revision: Revision,
    pub compact_revision: Revision,
    /// Changes kept, tombstones included.
    pub records: u64,
    /// Keys that exist at `revision`.
    pub keys: u64,
    pub leases: u64,
    /// Bytes of the file, checksum included.
    pub bytes: u64,
}
