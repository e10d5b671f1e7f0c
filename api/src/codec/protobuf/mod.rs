//! Protobuf bodies (`application/vnd.kubernetes.protobuf`) of built-in kinds.
//!
//! The wire form is driven by the schema table: no generated types. Encoding
//! writes what upstream's generated code writes, byte for byte (fields by
//! ascending tag, unset non-pointer fields with their zero value); decoding
//! skips unknown tags and leaves zero values of non-pointer fields out, which
//! [`json::canonicalize`](super::json::canonicalize) fills in again.
//!
//! Whole objects travel in an envelope: `k8s\0` and a `runtime.Unknown` that
//! names the kind. Watch frames are a length and a bare `WatchEvent` whose
//! object is again an envelope; see [`encode_watch_event`].
//!
//! Messages of lists can be joined from messages of items: see [`encode_list`].

mod decode;
mod encode;
mod wire;

use serde_json::Value;

use crate::{GroupVersionKind, schema::Root};

use wire::{Reader, Writer};

/// First bytes of every enveloped object.
pub const MAGIC: [u8; 4] = *b"k8s\0";

/// Why an object has no protobuf form or bytes are not an object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    #[error("provided data does not appear to be a protobuf message, expected prefix {:?}", MAGIC)]
    NotEnveloped,
    #[error("protobuf: {0}")]
    Malformed(&'static str),
    #[error("no protobuf message is known for kind {kind:?} in version {api_version:?}")]
    UnknownKind { api_version: String, kind: String },
    #[error("{0} has no protobuf form")]
    NoWireForm(String),
    #[error("protobuf: {path}: value does not fit its type")]
    Value { path: String },
    #[error("decode embedded JSON: {0}")]
    Json(String),
}

/// The parts of an envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    pub api_version: &'a str,
    pub kind: &'a str,
    /// The bare message, or another encoding named by `content_type`.
    pub raw: &'a [u8],
    pub content_type: &'a str,
}

/// Whether bytes begin like an envelope.
pub fn is_enveloped(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC)
}

/// Opens an envelope without decoding the message in it.
pub fn open(bytes: &[u8]) -> Result<Envelope<'_>, ProtobufError> {
    let body = bytes.strip_prefix(&MAGIC).ok_or(ProtobufError::NotEnveloped)?;
    let mut envelope = Envelope { api_version: "", kind: "", raw: &[], content_type: "" };
    let mut reader = Reader::new(body);
    while let Some((tag, field)) = reader.field()? {
        match tag {
            1 => {
                let mut meta = Reader::new(field.bytes()?);
                while let Some((tag, field)) = meta.field()? {
                    match tag {
                        1 => envelope.api_version = field.text()?,
                        2 => envelope.kind = field.text()?,
                        _ => {}
                    }
                }
            }
            2 => envelope.raw = field.bytes()?,
            4 => envelope.content_type = field.text()?,
            _ => {}
        }
    }
    Ok(envelope)
}

/// Puts a bare message into an envelope.
pub fn seal(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut writer = Writer::with_capacity(raw.len() + api_version.len() + kind.len() + 24);
    writer.text(4, "");
    writer.text(3, "");
    writer.bytes(2, raw);
    writer
        .message(1, |writer| {
            writer.text(2, kind);
            writer.text(1, api_version);
            Ok(())
        })
        .unwrap_or_default();
    let mut bytes = writer.finish();
    bytes.splice(0..0, MAGIC);
    bytes
}

/// Encodes an object with its envelope; `apiVersion` and `kind` name the message.
pub fn encode_object(value: &Value) -> Result<Vec<u8>, ProtobufError> {
    let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let root = root_of(api_version, kind)?;
    Ok(seal(api_version, kind, &encode_message(&root, value)?))
}

/// Encodes the bare message of an object.
pub fn encode_message(root: &Root, value: &Value) -> Result<Vec<u8>, ProtobufError> {
    encode::message(root, value)
}

/// Decodes an enveloped object; `apiVersion` and `kind` are put back in place.
pub fn decode_object(bytes: &[u8]) -> Result<Value, ProtobufError> {
    decode_at(bytes, 0)
}

/// Decodes an object that is embedded `depth` levels deep.
fn decode_at(bytes: &[u8], depth: usize) -> Result<Value, ProtobufError> {
    let envelope = open(bytes)?;
    if envelope.content_type == "application/json" {
        return serde_json::from_slice(envelope.raw).map_err(|error| ProtobufError::Json(error.to_string()));
    }
    let root = root_of(envelope.api_version, envelope.kind)?;
    let mut value = decode::message(&root, envelope.raw, depth)?;
    if let Value::Object(fields) = &mut value {
        fields.insert("apiVersion".to_owned(), Value::from(envelope.api_version));
        fields.insert("kind".to_owned(), Value::from(envelope.kind));
    }
    Ok(value)
}

/// Decodes a bare message.
pub fn decode_message(root: &Root, bytes: &[u8]) -> Result<Value, ProtobufError> {
    decode::message(root, bytes, 0)
}

fn root_of(api_version: &str, kind: &str) -> Result<Root, ProtobufError> {
    Root::for_kind(&GroupVersionKind::parse(api_version, kind))
        .ok_or_else(|| ProtobufError::UnknownKind { api_version: api_version.to_owned(), kind: kind.to_owned() })
}

/// Joins bare messages of items into an enveloped list; `list_meta` is the list's `metadata`.
pub fn encode_list<'a>(
    api_version: &str,
    list_kind: &str,
    list_meta: &Value,
    items: impl DoubleEndedIterator<Item = &'a [u8]>,
) -> Result<Vec<u8>, ProtobufError> {
    let root = root_of(api_version, list_kind)?;
    let meta = root.descend("metadata").ok_or_else(|| ProtobufError::NoWireForm(list_kind.to_owned()))?;
    let meta = encode_message(&meta, list_meta)?;
    let mut writer = Writer::with_capacity(1024);
    for item in items.rev() {
        writer.bytes(2, item);
    }
    writer.bytes(1, &meta);
    Ok(seal(api_version, list_kind, &writer.finish()))
}

/// One frame of a watch stream: a four-byte big-endian length and a `WatchEvent`
/// that carries the enveloped object.
pub fn encode_watch_event(event_type: &str, object: &[u8]) -> Vec<u8> {
    let mut writer = Writer::with_capacity(object.len() + event_type.len() + 24);
    writer
        .message(2, |writer| {
            writer.bytes(1, object);
            Ok(())
        })
        .unwrap_or_default();
    writer.text(1, event_type);
    let mut frame = writer.finish();
    let length = u32::try_from(frame.len()).unwrap_or(u32::MAX).to_be_bytes();
    frame.splice(0..0, length);
    frame
}

/// Reads a `WatchEvent` without its length: the type and the enveloped object.
pub fn decode_watch_event(message: &[u8]) -> Result<(&str, &[u8]), ProtobufError> {
    let (mut event_type, mut object): (&str, &[u8]) = ("", &[]);
    let mut reader = Reader::new(message);
    while let Some((tag, field)) = reader.field()? {
        match tag {
            1 => event_type = field.text()?,
            2 => {
                let mut extension = Reader::new(field.bytes()?);
                while let Some((tag, field)) = extension.field()? {
                    if tag == 1 {
                        object = field.bytes()?;
                    }
                }
            }
            _ => {}
        }
    }
    Ok((event_type, object))
}

#[cfg(test)]
mod tests;
