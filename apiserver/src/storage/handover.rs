//! Objects on their way through the store and back.
//!
//! What is written comes back as a change a moment later. Writer and watch
//! cache then share one object, and nobody reads the JSON again: its parsed
//! parts are taken from the value it was encoded from. A change whose bytes are
//! not known here (another server's, or one that waited too long) is decoded by
//! the cache, so that losing an entry costs time and nothing else.

use std::{
    collections::VecDeque,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::Value;
use skiff_api::{DecodeError, Object, ObjectMeta, Revision};

use super::codec;
use crate::{indexes, limits};

/// An encoded object that has no revision yet.
pub struct Encoded {
    /// As it is stored, without `resourceVersion`.
    bytes: Bytes,
    parts: Parts,
    object: OnceLock<Arc<Object>>,
}

/// What is read from the value so that it need not be read from its encoding.
struct Parts {
    api_version: String,
    kind: String,
    meta: ObjectMeta,
    node_name: Option<indexes::NodeName>,
}

impl Parts {
    fn of(value: &Value) -> Result<Parts, serde_json::Error> {
        let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
        let kind = text("kind");
        let meta = value.get("metadata").map(serde::Deserialize::deserialize).transpose()?.unwrap_or_default();
        let node_name = (kind == "Pod").then(|| indexes::NodeName::of(value));
        Ok(Parts { api_version: text("apiVersion"), kind, meta, node_name })
    }
}

impl Encoded {
    pub fn new(value: &Value) -> Result<Encoded, serde_json::Error> {
        Ok(Encoded { bytes: codec::encode(value), parts: Parts::of(value)?, object: OnceLock::new() })
    }

    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The object as it is stored at `revision`: the same one for everybody who asks.
    pub fn at(&self, revision: Revision) -> Result<Arc<Object>, DecodeError> {
        if let Some(made) = self.object.get() {
            if made.revision == revision {
                return Ok(Arc::clone(made));
            }
            return codec::decode(&self.bytes, revision).map(Arc::new);
        }
        let Parts { api_version, kind, meta, node_name } = &self.parts;
        let json = codec::at_revision(&self.bytes, revision)?;
        let object = Object::from_parts(json, api_version, kind, meta.clone(), revision);
        if let Some(node_name) = node_name {
            object.remember(node_name.clone());
        }
        let object = Arc::new(object);
        Ok(Arc::clone(self.object.get_or_init(|| object)))
    }
}

/// Encoded objects that the store has or may soon have, the oldest first.
#[derive(Default)]
pub struct Handover(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    entries: VecDeque<Arc<Encoded>>,
    bytes: usize,
}

impl Waiting {
    fn remove(&mut self, index: usize) -> Option<Arc<Encoded>> {
        let gone = self.entries.remove(index)?;
        self.bytes -= gone.bytes.len();
        Some(gone)
    }
}

impl Handover {
    /// Lays down what is about to be written.
    pub fn offer(&self, encoded: &Arc<Encoded>) {
        let mut waiting = self.0.lock();
        waiting.bytes += encoded.bytes.len();
        waiting.entries.push_back(Arc::clone(encoded));
        while waiting.entries.len() > limits::HANDOVER_LEN || waiting.bytes > limits::HANDOVER_BYTES {
            waiting.remove(0);
        }
    }

    /// Takes what was encoded as these bytes.
    pub fn take(&self, value: &Bytes) -> Option<Arc<Encoded>> {
        let mut waiting = self.0.lock();
        let index = waiting.entries.iter().position(|entry| entry.bytes == *value)?;
        waiting.remove(index)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn encoded(name: &str) -> Arc<Encoded> {
        let value = json!({"kind": "Pod", "apiVersion": "v1", "spec": {"nodeName": "n"},
            "metadata": {"name": name, "namespace": "default", "labels": {"a": "b"}, "finalizers": ["f"],
                "managedFields": [{"manager": "m"}], "creationTimestamp": "2026-01-02T03:04:05Z"}});
        Arc::new(Encoded::new(&value).unwrap())
    }

    #[test]
    fn an_object_made_of_parts_is_the_one_its_bytes_hold() {
        let encoded = encoded("a");
        let made = encoded.at(Revision(7)).unwrap();
        let read = codec::decode(encoded.bytes(), Revision(7)).unwrap();
        assert_eq!((&made.meta, made.revision, made.json()), (&read.meta, read.revision, read.json()));
        assert_eq!((made.api_version(), made.kind()), (read.api_version(), read.kind()));
        assert!(Arc::ptr_eq(&made, &encoded.at(Revision(7)).unwrap()), "everybody shares it");
        assert_eq!(encoded.at(Revision(8)).unwrap().meta.resource_version, "8");
    }

    #[test]
    fn what_was_laid_down_is_handed_over_once_whatever_buffer_it_comes_back_in() {
        let (handover, first) = (Handover::default(), encoded("a"));
        handover.offer(&first);
        assert!(handover.take(encoded("b").bytes()).is_none());
        assert!(Arc::ptr_eq(&handover.take(&Bytes::copy_from_slice(first.bytes())).unwrap(), &first));
        assert!(handover.take(first.bytes()).is_none());
    }

    #[test]
    fn the_oldest_are_let_go_when_nobody_takes_them() {
        let (handover, first) = (Handover::default(), encoded("a"));
        handover.offer(&first);
        for number in 0..limits::HANDOVER_LEN {
            handover.offer(&encoded(&number.to_string()));
        }
        assert!(handover.take(first.bytes()).is_none());
        assert_eq!(handover.0.lock().entries.len(), limits::HANDOVER_LEN);
        let large = Arc::new(Encoded::new(&json!({"data": "x".repeat(limits::HANDOVER_BYTES)})).unwrap());
        handover.offer(&large);
        assert!(handover.take(large.bytes()).is_none());
        assert_eq!(handover.0.lock().bytes, 0);
    }
}
