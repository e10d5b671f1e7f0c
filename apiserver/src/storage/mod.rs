//! The seam to the datastore.
//!
//! Keys are upstream's ([`keys`]), values are the object's JSON without
//! `resourceVersion`: the revision of the store is the version of the object,
//! so it is spliced in when the value is read.

pub mod codec;
pub mod handover;
pub mod keys;
pub mod measured;
pub mod memory;

use std::{pin::Pin, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream;
pub use keys::{object_key, prefix_of, resource_prefix};
use skiff_api::{Revision, Status};

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    #[error("required revision has been compacted")]
    Compacted,
    #[error("required revision is a future revision")]
    Future,
    #[error("request is too large")]
    TooLarge,
    /// The store is stopping or cannot be reached.
    #[error("datastore: {0}")]
    Unavailable(String),
}

impl From<StorageError> for Status {
    fn from(error: StorageError) -> Status {
        match error {
            StorageError::Compacted => {
                Status::expired("The provided resource version is too old: the requested history has been compacted.")
            }
            StorageError::Future => Status::timeout("Too large resource version", 1),
            StorageError::TooLarge => {
                Status::failure(skiff_api::Reason::RequestEntityTooLarge, "etcdserver: request is too large")
            }
            StorageError::Unavailable(_) => Status::internal(error),
        }
    }
}

/// A stored value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    pub key: String,
    pub value: Bytes,
    /// Revision of its last change.
    pub revision: Revision,
}

/// What to list.
#[derive(Clone, Copy, Debug, Default)]
pub struct Range<'a> {
    /// Keys start with it,
    pub prefix: &'a str,
    /// and sort after this one.
    pub after: Option<&'a str>,
    /// So many of them at most.
    pub limit: Option<usize>,
    /// As they were then; as they are when `None`.
    pub at: Option<Revision>,
}

/// What to write.
#[derive(Clone, Debug)]
pub struct Put<'a> {
    pub key: &'a str,
    /// The key's last change; `None`: it is absent.
    pub expected: Option<Revision>,
    pub value: Bytes,
    /// The store deletes the key after this long.
    pub ttl: Option<Duration>,
}

/// A page of a prefix.
#[derive(Clone, Debug)]
pub struct Listing {
    pub items: Vec<KeyValue>,
    /// The revision the page shows.
    pub revision: Revision,
    /// Whether keys follow the last one.
    pub more: bool,
}

/// The result of a compare-and-swap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Swap {
    /// Written at this revision.
    Done(Revision),
    /// The key has another revision (or is absent, or exists): its present state.
    Conflict(Option<KeyValue>),
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub key: String,
    pub revision: Revision,
    /// `None`: deleted.
    pub value: Option<Bytes>,
    /// The value before; `None`: created.
    pub previous: Option<Bytes>,
}

/// What a watch delivers. Changes come in the order of revisions, and all
/// changes of one revision in one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchMessage {
    Changes(Vec<Change>),
    /// Everything up to this revision has been delivered.
    Progress(Revision),
}

pub type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchMessage, StorageError>> + Send>>;

/// A revisioned key-value store, called in process.
///
/// Every method may be called at any time from any task. Revisions are global
/// and rise with every change.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, StorageError>;

    /// The keys of a range, in order.
    async fn list(&self, range: Range<'_>) -> Result<Listing, StorageError>;

    /// Writes if the key is as expected.
    async fn put(&self, put: Put<'_>) -> Result<Swap, StorageError>;

    /// Deletes if the key's last change is `expected`.
    async fn delete(&self, key: &str, expected: Revision) -> Result<Swap, StorageError>;

    /// Every change of keys under `prefix` after a revision. With an empty
    /// prefix, every revision of the store appears.
    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream, StorageError>;

    /// The revision of the last change; cheap, asked on every consistent read.
    async fn current_revision(&self) -> Result<Revision, StorageError>;

    /// Forgets history before a revision.
    async fn compact(&self, before: Revision) -> Result<(), StorageError>;
}
