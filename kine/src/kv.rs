//! Keys with their history numbers, and the events that changed them.

use bytes::Bytes;

use crate::revision::Revision;

/// A key at one revision, as etcd's `mvccpb.KeyValue`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyValue {
    pub key: Bytes,
    pub value: Bytes,
    /// Revision of the put that created the key.
    pub create_revision: Revision,
    /// Revision of the last change.
    pub mod_revision: Revision,
    /// Puts since creation, from 1; 0 for a deleted key.
    pub version: i64,
    /// Attached lease, 0 for none.
    pub lease: i64,
}

/// What happened to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    Put,
    Delete,
}

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub kind: EventKind,
    /// After the change; for a deletion only `key` and `mod_revision` are set.
    pub kv: KeyValue,
    /// Before the change; absent for a creation, or when compacted away, or not asked for.
    pub prev_kv: Option<KeyValue>,
}

impl Event {
    /// True if the key did not exist before.
    pub fn is_create(&self) -> bool {
        self.kind == EventKind::Put && self.kv.version == 1
    }

    /// Memory the event keeps alive, for the bound of the ring.
    pub(crate) fn weight(&self) -> usize {
        let prev = self.prev_kv.as_ref().map_or(0, |kv| kv.value.len());
        std::mem::size_of::<Event>() + self.kv.key.len() + self.kv.value.len() + prev
    }
}
