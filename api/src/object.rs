//! One immutable API object in its final form.
//!
//! An [`Object`] is held once and shared by `Arc` between the watch cache,
//! controllers, scheduler and node agent: parsed metadata beside the encoded
//! JSON bytes, and derived forms that are made on first demand and then shared
//! by everyone who asks again.

use std::{
    any::{Any, TypeId},
    borrow::Cow,
    fmt,
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::RwLock;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, value::RawValue};

use crate::{ObjectMeta, Revision, Uid, codec::tree};

/// Why bytes are not an object.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("decode object: {0}")]
    Json(#[from] serde_json::Error),
    #[error("decode object: resourceVersion {0:?} is not a number")]
    ResourceVersion(String),
}

/// Namespace and name; cluster-scoped objects have an empty namespace. Ordered
/// as lists are ordered: by namespace, then name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    pub namespace: String,
    pub name: String,
}

impl ObjectKey {
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        ObjectKey { namespace: namespace.into(), name: name.into() }
    }
}

/// `namespace/name`, or just the name when there is no namespace.
impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

/// A pointer to an object by kind, name and identity, as events carry it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ObjectReference {
    pub api_version: String,
    pub kind: String,
    pub namespace: String,
    pub name: String,
    pub uid: Uid,
    pub resource_version: String,
    /// For example `spec.containers{web}`.
    pub field_path: String,
}

/// An immutable object: final JSON, parsed metadata, and derived forms.
pub struct Object {
    /// The parsed `metadata`.
    pub meta: ObjectMeta,
    /// `metadata.resourceVersion` as a number; zero when absent.
    pub revision: Revision,
    api_version: Text,
    kind: Text,
    json: Bytes,
    /// Few entries at most (one typed form, perhaps protobuf and a table row).
    derived: RwLock<Vec<(TypeId, Arc<dyn Any + Send + Sync>)>>,
}

/// A text of the encoded JSON: where it stands there, or a copy when it is written with escapes.
enum Text {
    At { start: u32, len: u32 },
    Own(Box<str>),
}

impl Text {
    fn new(json: &[u8], text: Cow<'_, str>) -> Text {
        let start = (text.as_ptr() as usize).checked_sub(json.as_ptr() as usize);
        let place = match (&text, start) {
            (Cow::Borrowed(_), Some(start)) => u32::try_from(start).ok().zip(u32::try_from(text.len()).ok()),
            _ => None,
        };
        match place {
            Some((start, len)) => Text::At { start, len },
            None => Text::Own(text.into()),
        }
    }

    /// A text that stands near the beginning, as types do in what we encode.
    fn within(json: &[u8], text: &str) -> Text {
        const NEAR: usize = 160;
        let near = &json[..json.len().min(NEAR)];
        let found = near.windows(text.len().max(1)).position(|window| window == text.as_bytes());
        match (found.and_then(|start| u32::try_from(start).ok()), u32::try_from(text.len())) {
            (Some(start), Ok(len)) => Text::At { start, len },
            _ => Text::Own(text.into()),
        }
    }

    fn of<'a>(&'a self, json: &'a [u8]) -> &'a str {
        match self {
            Text::At { start, len } => {
                let text = json.get(*start as usize..).and_then(|rest| rest.get(..*len as usize));
                text.and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default()
            }
            Text::Own(text) => text,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope<'a> {
    #[serde(default, borrow)]
    api_version: Cow<'a, str>,
    #[serde(default, borrow)]
    kind: Cow<'a, str>,
    #[serde(default)]
    metadata: ObjectMeta,
}

impl Object {
    /// Reads metadata from encoded JSON and keeps the bytes as they are.
    pub fn from_json(json: Bytes) -> Result<Object, DecodeError> {
        let Envelope { api_version, kind, metadata: meta } = serde_json::from_slice(&json)?;
        let revision =
            meta.resource_version.parse().map_err(|_| DecodeError::ResourceVersion(meta.resource_version.clone()))?;
        let (api_version, kind) = (Text::new(&json, api_version), Text::new(&json, kind));
        Ok(Object { meta, revision, api_version, kind, json, derived: RwLock::new(Vec::new()) })
    }

    /// An object whose parts are known already. They must be those that `json` holds, but for the revision.
    pub fn from_parts(json: Bytes, api_version: &str, kind: &str, meta: ObjectMeta, revision: Revision) -> Object {
        let meta = ObjectMeta { resource_version: revision.to_string(), ..meta };
        let (api_version, kind) = (Text::within(&json, api_version), Text::within(&json, kind));
        Object { meta, revision, api_version, kind, json, derived: RwLock::new(Vec::new()) }
    }

    /// Encodes a value and reads it back as an object.
    pub fn from_value(value: &Value) -> Result<Object, DecodeError> {
        Object::from_json(Bytes::from(serde_json::to_vec(value)?))
    }

    /// The encoded JSON, shared.
    pub fn json(&self) -> &Bytes {
        &self.json
    }

    pub fn api_version(&self) -> &str {
        self.api_version.of(&self.json)
    }

    pub fn kind(&self) -> &str {
        self.kind.of(&self.json)
    }

    pub fn key(&self) -> ObjectKey {
        ObjectKey::new(self.meta.namespace.clone(), self.meta.name.clone())
    }

    /// A dynamic copy for code that edits; not cached.
    pub fn value(&self) -> Result<Value, DecodeError> {
        Ok(tree::parse(&self.json)?)
    }

    /// The typed form, decoded on first demand and then shared. One object is
    /// asked for one or two types in its life, so the list stays tiny. It is without
    /// `managedFields`, which as trees of small maps would be most of it and which
    /// nobody reads there.
    pub fn typed<T: DeserializeOwned + Send + Sync + 'static>(&self) -> Result<Arc<T>, DecodeError> {
        self.derive(|json| Ok(serde_json::from_slice::<T>(&without_managed_fields(json))?))
    }

    /// Lets go of all derived forms; who asks again gets them made anew. For
    /// objects that are history: kept for replay, hardly ever read.
    pub fn forget_derived(&self) {
        *self.derived.write() = Vec::new();
    }

    /// Any derived form, cached by its type: `make` runs at most a few times
    /// when callers race, and all of them get one of the results.
    pub fn derive<T, E>(&self, make: impl FnOnce(&Bytes) -> Result<T, E>) -> Result<Arc<T>, E>
    where
        T: Send + Sync + 'static,
    {
        if let Some(found) = find(&self.derived.read()) {
            return Ok(found);
        }
        Ok(self.remember(make(&self.json)?))
    }

    /// Keeps a derived form that was made elsewhere; one that is there already wins.
    pub fn remember<T: Send + Sync + 'static>(&self, form: T) -> Arc<T> {
        let mut forms = self.derived.write();
        if let Some(found) = find(&forms) {
            return found;
        }
        let form = Arc::new(form);
        forms.push((TypeId::of::<T>(), form.clone()));
        form
    }

    /// A reference to this object for events and targets.
    pub fn reference(&self) -> ObjectReference {
        ObjectReference {
            api_version: self.api_version().to_owned(),
            kind: self.kind().to_owned(),
            namespace: self.meta.namespace.clone(),
            name: self.meta.name.clone(),
            uid: self.meta.uid.clone(),
            resource_version: self.meta.resource_version.clone(),
            field_path: String::new(),
        }
    }
}

/// The encoded object without managed fields. Not with an empty list of them: sent back, that would have them forgotten.
fn without_managed_fields(json: &[u8]) -> Cow<'_, [u8]> {
    #[derive(Deserialize)]
    struct Whole<'a> {
        #[serde(borrow, default)]
        metadata: Option<Metadata<'a>>,
    }
    #[derive(Deserialize)]
    struct Metadata<'a> {
        #[serde(borrow, default, rename = "managedFields")]
        managed: Option<&'a RawValue>,
    }
    // What cannot be read is left to the decoder that follows, which says why.
    let found = serde_json::from_slice::<Whole<'_>>(json).ok().and_then(|whole| whole.metadata?.managed);
    let Some(list) = found.map(RawValue::get) else { return json.into() };
    let start = list.as_ptr() as usize - json.as_ptr() as usize;
    [&json[..start], b"null", &json[start + list.len()..]].concat().into()
}

fn find<T: Send + Sync + 'static>(forms: &[(TypeId, Arc<dyn Any + Send + Sync>)]) -> Option<Arc<T>> {
    let (_, form) = forms.iter().find(|(have, _)| *have == TypeId::of::<T>())?;
    Arc::clone(form).downcast::<T>().ok()
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}@{}", self.api_version(), self.kind(), self.key(), self.revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_is_read_wherever_and_however_it_is_written() {
        let read = |json: &'static str| {
            let object = Object::from_json(Bytes::from_static(json.as_bytes())).unwrap();
            (object.api_version().to_owned(), object.kind().to_owned())
        };
        let pod = ("v1".to_owned(), "Pod".to_owned());
        assert_eq!(read(r#"{"kind":"Pod","apiVersion":"v1","metadata":{}}"#), pod);
        assert_eq!(read(r#"{ "metadata": {}, "apiVersion": "v1", "kind": "Pod" }"#), pod);
        assert_eq!(read(r#"{"kind":"P\u006fd","apiVersion":"v\u0031"}"#), pod);
        assert_eq!(read("{}"), (String::new(), String::new()));
    }

    #[test]
    fn typed_form_is_decoded_once_and_shared() {
        let json = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","namespace":"b","resourceVersion":"7","labels":null}}"#;
        let object = Object::from_json(Bytes::from(json)).unwrap();
        assert_eq!(object.revision, Revision(7));
        assert_eq!(object.key().to_string(), "b/a");
        let first = object.typed::<k8s_openapi::api::core::v1::Pod>().unwrap();
        let second = object.typed::<k8s_openapi::api::core::v1::Pod>().unwrap();
        assert!(Arc::ptr_eq(&first, &second));
    }

    #[test]
    fn typed_forms_are_without_managed_fields() {
        use k8s_openapi::api::core::v1::Pod;
        let json = r#"{"metadata":{"name":"a","managedFields":[{"manager":"m]","fieldsV1":{"f:x":{}}}],"uid":"u"},"spec":{"containers":[{"name":"c"}]}}"#;
        let pod = Object::from_json(Bytes::from(json)).unwrap().typed::<Pod>().unwrap();
        assert_eq!(pod.metadata.managed_fields, None);
        assert_eq!((pod.metadata.uid.as_deref(), pod.spec.as_ref().unwrap().containers.len()), (Some("u"), 1));
        let object = Object::from_json(Bytes::from_static(br#"{"spec":7}"#)).unwrap();
        assert!(object.typed::<Pod>().is_err(), "an error of the decoder");
    }
}
