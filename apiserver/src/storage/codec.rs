//! Objects to stored bytes and back.
//!
//! Stored JSON always begins `{"kind":…,"apiVersion":…,"metadata":{`, so the
//! `resourceVersion` can be put in and taken out without parsing. Values that
//! somebody else wrote in another shape are parsed and written again.

use bytes::{Bytes, BytesMut};
use serde_json::{Map, Value};
use skiff_api::{DecodeError, Object, Revision, codec::tree};

const METADATA: &[u8] = b"\"metadata\":{";

/// Encodes an object: type first, metadata next, the rest in alphabetical
/// order; equal objects give equal bytes. `resourceVersion` is left out.
pub fn encode(object: &Value) -> Bytes {
    encode_with(object, None)
}

/// Encodes with a `resourceVersion`.
pub fn encode_at(object: &Value, revision: Revision) -> Bytes {
    encode_with(object, Some(revision))
}

fn encode_with(object: &Value, revision: Option<Revision>) -> Bytes {
    let empty = Map::new();
    let fields = object.as_object().unwrap_or(&empty);
    let mut out = Vec::with_capacity(16 << 10);
    out.push(b'{');
    for name in ["kind", "apiVersion"] {
        tree::write_string(&mut out, name);
        out.push(b':');
        tree::write(&mut out, fields.get(name).unwrap_or(&Value::String(String::new())));
        out.push(b',');
    }
    out.extend_from_slice(METADATA);
    let mut first = true;
    if let Some(revision) = revision {
        out.extend_from_slice(format!("\"resourceVersion\":\"{revision}\"").as_bytes());
        first = false;
    }
    let metadata = fields.get("metadata").and_then(Value::as_object).unwrap_or(&empty);
    members(&mut out, metadata, |name| name == "resourceVersion", &mut first);
    out.push(b'}');
    first = false;
    members(&mut out, fields, |name| matches!(name, "kind" | "apiVersion" | "metadata"), &mut first);
    out.push(b'}');
    // A copy of the right size: the object lives long, and cutting the buffer would leave its rest as a hole.
    Bytes::copy_from_slice(&out)
}

fn members(out: &mut Vec<u8>, fields: &Map<String, Value>, skip: impl Fn(&str) -> bool, first: &mut bool) {
    for (name, value) in fields {
        if skip(name) {
            continue;
        }
        if !*first {
            out.push(b',');
        }
        *first = false;
        tree::write_string(out, name);
        out.push(b':');
        tree::write(out, value);
    }
}

/// A stored value as an object of that revision.
pub fn decode(value: &Bytes, revision: Revision) -> Result<Object, DecodeError> {
    Object::from_json(at_revision(value, revision)?)
}

/// Puts a `resourceVersion` into stored bytes, or replaces the one that is there.
pub fn at_revision(value: &Bytes, revision: Revision) -> Result<Bytes, DecodeError> {
    let Some(start) = metadata_start(value) else {
        let parsed = tree::parse(value)?;
        return Ok(encode_at(&parsed, revision));
    };
    let mut rest = &value[start..];
    if let Some(behind) = rest.strip_prefix(b"\"resourceVersion\":\"")
        && let Some(end) = behind.iter().position(|byte| *byte == b'"')
    {
        rest = &behind[end + 1..];
        rest = rest.strip_prefix(b",").unwrap_or(rest);
    }
    let mut out = BytesMut::with_capacity(value.len() + 40);
    out.extend_from_slice(&value[..start]);
    out.extend_from_slice(format!("\"resourceVersion\":\"{revision}\"").as_bytes());
    if rest.first() != Some(&b'}') {
        out.extend_from_slice(b",");
    }
    out.extend_from_slice(rest);
    Ok(out.freeze())
}

/// Position behind `"metadata":{` when the bytes have our own shape.
fn metadata_start(value: &[u8]) -> Option<usize> {
    let mut at = 0;
    for name in [&b"{\"kind\":\""[..], b",\"apiVersion\":\""] {
        let rest = value[at..].strip_prefix(name)?;
        let end = rest.iter().position(|byte| *byte == b'"' || *byte == b'\\')?;
        if rest[end] != b'"' {
            return None;
        }
        at = value.len() - rest.len() + end + 1;
    }
    let rest = value[at..].strip_prefix(b",")?.strip_prefix(METADATA)?;
    let start = value.len() - rest.len();
    // A version elsewhere in metadata means foreign bytes.
    let head = rest.strip_prefix(b"\"resourceVersion\":").is_some();
    (head || rest.first() == Some(&b'}') || rest.first() == Some(&b'"')).then_some(start)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_revision_goes_in_and_is_replaced() {
        let object = json!({"spec": {"a": 1}, "kind": "Pod", "apiVersion": "v1",
            "metadata": {"name": "a", "annotations": {"x": "\"metadata\":{"}, "resourceVersion": "1"}});
        let stored = encode(&object);
        assert!(!stored.windows(15).any(|window| window == b"resourceVersion"));
        let first = decode(&stored, Revision(7)).unwrap();
        assert_eq!(first.revision, Revision(7));
        assert_eq!(first.meta.name, "a");
        let second = Object::from_json(at_revision(first.json(), Revision(123)).unwrap()).unwrap();
        assert_eq!(second.revision, Revision(123));
        assert_eq!(second.value().unwrap()["spec"], json!({"a": 1}));
        assert_eq!(first.json(), &encode_at(&object, Revision(7)));
    }

    #[test]
    fn empty_metadata_and_foreign_bytes_work() {
        let stored = encode(&json!({"kind": "X", "apiVersion": "v1"}));
        assert_eq!(decode(&stored, Revision(3)).unwrap().revision, Revision(3));
        let foreign = Bytes::from(r#"{"metadata": {"name": "a", "resourceVersion": "1"}, "kind": "X"}"#);
        let object = decode(&foreign, Revision(4)).unwrap();
        assert_eq!((object.revision, object.meta.name.as_str()), (Revision(4), "a"));
    }
}
