//! A revisioned key-value store with etcd's semantics, over SQLite or memory.
//!
//! What: [`Store`] is the in-process API; [`grpc`] serves the same store as etcd v3.
//! Why: the API server needs compare-and-swap, one global order of changes, and
//! watches that can resume; stock etcd clients need the same over a socket.
//! How and why it survives a crash is argued in `docs/store.md`.
//!
//! Invariants:
//! * one writer thread assigns revisions, commits, applies and publishes, in that order;
//! * readers see committed state only, and never wait for the disk to see current values;
//! * memory (index, leases, garbage list) is always derivable from the log.

mod bolt;
mod catch_up;
mod census;
mod commands;
mod error;
mod etcd;
mod eval;
mod gather;
pub mod grpc;
mod hash;
mod hub;
mod inbox;
mod index;
mod kv;
mod lessor;
pub mod limits;
mod log;
mod overlay;
mod pin;
mod quota;
mod range;
mod readers;
mod revision;
mod snapshot;
mod sql;
mod store;
#[cfg(test)]
mod store_tests;
#[cfg(test)]
mod test_random;
mod ttl;
mod txn;
mod watcher;
mod writer;

pub use error::{Error, Result};
pub use etcd::{Etcd, EtcdEndpoints, EtcdWatcher};
pub use hash::HistoryHash;
pub use kv::{Event, EventKind, KeyValue};
pub use lessor::{LeaseId, LeaseTtl};
pub use range::{KeyRange, RangeEnd, RangeRequest, RangeResponse, SortOrder, SortTarget};
pub use revision::Revision;
pub use snapshot::{Archive, ArchiveError, K3sError, OnProgress, Snapshot, SnapshotSummary, is_k3s, snapshot_k3s};
pub use sql::{Database, DatabaseError, TlsFiles};
pub use store::{Status, Store, StoreOptions};
pub use txn::{
    Compare, CompareResult, CompareTarget, DeleteRequest, DeleteResponse, Op, OpResponse, PutRequest, PutResponse, Txn,
    TxnResponse,
};
pub use watcher::{Progress, WatchMessage, WatchRequest, Watcher};
