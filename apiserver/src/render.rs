//! Objects and lists into response bodies, in the negotiated form.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Response, header};
use serde_json::{Value, json};
use skiff_api::{Object, Resource, Revision, Status, codec, resource::Origin};

use crate::{
    body::{self, Body},
    conversion, limits,
    negotiation::{Negotiated, View},
    storage,
    table::{self, IncludeObject},
    wire::{self, Format},
};

/// How the answer is to be written.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    pub negotiated: Negotiated,
    pub include: IncludeObject,
    /// Indented JSON, for people with curl.
    pub pretty: bool,
    pub gzip: bool,
}

/// Metadata of a list.
#[derive(Clone, Debug, Default)]
pub struct ListMeta {
    pub revision: Revision,
    pub continue_token: String,
    pub remaining: Option<usize>,
}

impl ListMeta {
    pub fn value(&self) -> Value {
        let mut value = json!({"resourceVersion": self.revision.to_string()});
        if !self.continue_token.is_empty() {
            value["continue"] = json!(self.continue_token);
        }
        if let Some(remaining) = self.remaining {
            value["remainingItemCount"] = json!(remaining);
        }
        value
    }
}

/// JSON in a foreign version, made once per object.
struct Converted {
    api_version: String,
    json: Bytes,
}

/// The JSON of an object in the version of a row.
pub fn json_in(row: &Resource, object: &Object) -> Result<Bytes, Status> {
    if object.api_version() == row.api_version() {
        return Ok(object.json().clone());
    }
    let convert = |json: &Bytes| -> Result<Converted, serde_json::Error> {
        let value = conversion::to_row(serde_json::from_slice(json)?, row);
        Ok(Converted { api_version: row.api_version(), json: storage::codec::encode_at(&value, object.revision) })
    };
    let converted = object.derive(convert).map_err(Status::internal)?;
    if converted.api_version == row.api_version() {
        Ok(converted.json.clone())
    } else {
        convert(object.json()).map(|converted| converted.json).map_err(Status::internal)
    }
}

/// The object in the version of a row, dynamic.
pub fn value_in(row: &Resource, object: &Object) -> Result<Value, Status> {
    Ok(conversion::to_row(object.value().map_err(Status::internal)?, row))
}

/// Protobuf made once per object.
struct Protobuf(Bytes);

/// The protobuf envelope of an object in the version of a row.
pub fn protobuf_in(row: &Resource, object: &Object) -> Result<Bytes, Status> {
    if object.api_version() != row.api_version() {
        return wire::protobuf(&value_in(row, object)?);
    }
    let made = object.derive(|json| {
        let value: Value = serde_json::from_slice(json).map_err(Status::internal)?;
        wire::protobuf(&value).map(Protobuf)
    })?;
    Ok(made.0.clone())
}

/// Only `metadata`, as `meta.k8s.io`.
pub fn partial(object: &Object) -> Result<Value, Status> {
    Ok(partial_of(&object.value().map_err(Status::internal)?))
}

/// Only `metadata` of a dynamic object, as `meta.k8s.io`.
pub fn partial_of(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

/// One object.
pub fn object(style: &Style, row: &Resource, object: &Arc<Object>, code: u16) -> Result<Response<Body>, Status> {
    match style.negotiated.view {
        View::Full => match style.negotiated.format {
            Format::Json if !style.pretty => {
                let bytes = json_in(row, object)?;
                Ok(finish(style, body::response(code, wire::JSON, bytes.clone()), bytes.len()))
            }
            Format::Protobuf => Ok(body::response(code, wire::PROTOBUF, protobuf_in(row, object)?)),
            _ => value(style, &value_in(row, object)?, code),
        },
        View::Metadata => value(style, &partial(object)?, code),
        View::Table => {
            let meta = ListMeta { revision: object.revision, ..ListMeta::default() };
            value(style, &table::table(row, std::slice::from_ref(object), &meta, style.include, true)?, code)
        }
    }
}

/// The `Scale` that a view shows of an object.
pub fn scale(style: &Style, scale: &Value, code: u16) -> Result<Response<Body>, Status> {
    match style.negotiated.view {
        View::Full => value(style, scale, code),
        View::Metadata => value(style, &partial_of(scale), code),
        View::Table => value(style, &table::scale(scale, style.include), code),
    }
}

/// Any value: a review, a table, a status.
pub fn value(style: &Style, value: &Value, code: u16) -> Result<Response<Body>, Status> {
    let (content_type, bytes) = match style.negotiated.format {
        Format::Json if style.pretty => {
            let mut bytes = serde_json::to_vec_pretty(value).map_err(Status::internal)?;
            bytes.push(b'\n');
            (wire::JSON, Bytes::from(bytes))
        }
        Format::Json => (wire::JSON, Bytes::from(serde_json::to_vec(value).map_err(Status::internal)?)),
        Format::Yaml => (wire::YAML, Bytes::from(codec::yaml::encode(value).map_err(Status::internal)?)),
        Format::Protobuf => (wire::PROTOBUF, wire::protobuf(value)?),
    };
    let len = bytes.len();
    Ok(finish(style, body::response(code, content_type, bytes), len))
}

/// A failure in the negotiated format, JSON when that is not possible.
pub fn failure(style: Option<&Style>, status: &Status) -> Response<Body> {
    let plain = body::failure(status);
    let Some(style) = style else { return plain };
    if style.negotiated.format == Format::Json && !style.pretty {
        return plain;
    }
    let made = serde_json::to_value(status)
        .map_err(Status::internal)
        .and_then(|status_value| value(&Style { gzip: false, ..*style }, &status_value, status.code));
    match made {
        Ok(mut response) => {
            if let Some(retry) = plain.headers().get(header::RETRY_AFTER) {
                response.headers_mut().insert(header::RETRY_AFTER, retry.clone());
            }
            response
        }
        Err(_) => plain,
    }
}

/// A list, spliced from the bytes of its objects.
pub fn list(
    style: &Style,
    row: &Resource,
    objects: Vec<Arc<Object>>,
    meta: &ListMeta,
) -> Result<Response<Body>, Status> {
    match style.negotiated {
        Negotiated { view: View::Table, .. } => {
            value(style, &table::table(row, &objects, meta, style.include, true)?, 200)
        }
        Negotiated { view: View::Metadata, .. } => {
            let items = objects.iter().map(|object| partial(object)).collect::<Result<Vec<_>, _>>()?;
            let list = json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
                "metadata": meta.value(), "items": items});
            value(style, &list, 200)
        }
        Negotiated { format: Format::Json, .. } if !style.pretty => spliced(style, row, objects, meta),
        Negotiated { format: Format::Protobuf, .. } => protobuf_list(style, row, &objects, meta),
        _ => {
            let item =
                |object| value_in(row, object).map(|value| if is_typed(row) { without_type(value) } else { value });
            let items = objects.iter().map(|object| item(object)).collect::<Result<Vec<_>, _>>()?;
            let list = json!({"kind": row.list_kind, "apiVersion": row.api_version(),
                "metadata": meta.value(), "items": items});
            value(style, &list, 200)
        }
    }
}

/// Whether the kind's lists are typed upstream: their items do not repeat the type that the list names.
fn is_typed(row: &Resource) -> bool {
    // What is not stored comes from this server's own structures.
    row.origin != Origin::Custom || row.storage.is_none()
}

fn without_type(mut object: Value) -> Value {
    if let Some(fields) = object.as_object_mut() {
        fields.remove("kind");
        fields.remove("apiVersion");
    }
    object
}

/// Objects in their final form as items of a list, without being written anew.
struct Items {
    /// How objects begin that lose their type.
    head: Option<Vec<u8>>,
}

impl Items {
    fn new(row: &Resource) -> Items {
        let head = || format!("{{\"kind\":{},\"apiVersion\":{},", json!(row.kind), json!(row.api_version()));
        Items { head: is_typed(row).then(|| head().into_bytes()) }
    }

    /// What stands before and the rest of an item.
    fn parts(&self, object: Bytes, is_first: bool) -> Result<(&'static [u8], Bytes), Status> {
        let Some(head) = &self.head else { return Ok((if is_first { b"" } else { b"," }, object)) };
        let open: &[u8] = if is_first { b"{" } else { b",{" };
        if object.starts_with(head) {
            return Ok((open, object.slice(head.len()..)));
        }
        // Not written by this server.
        let value = without_type(serde_json::from_slice(&object).map_err(Status::internal)?);
        let written = Bytes::from(serde_json::to_vec(&value).map_err(Status::internal)?);
        Ok((open, written.slice(1..)))
    }
}

fn spliced(
    style: &Style,
    row: &Resource,
    objects: Vec<Arc<Object>>,
    meta: &ListMeta,
) -> Result<Response<Body>, Status> {
    let head = format!(
        "{{\"kind\":{},\"apiVersion\":{},\"metadata\":{},\"items\":[",
        json!(row.list_kind),
        json!(row.api_version()),
        meta.value()
    );
    let items = Items::new(row);
    let mut parts = Vec::with_capacity(objects.len() * 2 + 2);
    parts.push(Bytes::from(head));
    for (index, object) in objects.iter().enumerate() {
        let (open, rest) = items.parts(json_in(row, object)?, index == 0)?;
        parts.push(Bytes::from_static(open));
        parts.push(rest);
    }
    parts.push(Bytes::from_static(b"]}"));
    let len: usize = parts.iter().map(Bytes::len).sum();
    let mut response = Response::new(body::spliced(parts.into_iter()));
    body::set_content_type(response.headers_mut(), wire::JSON);
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(len));
    Ok(finish(style, response, len))
}

/// A protobuf list, joined from the messages of its objects.
fn protobuf_list(
    style: &Style,
    row: &Resource,
    objects: &[Arc<Object>],
    meta: &ListMeta,
) -> Result<Response<Body>, Status> {
    let envelopes = objects.iter().map(|object| protobuf_in(row, object)).collect::<Result<Vec<_>, _>>()?;
    let messages = envelopes
        .iter()
        .map(|envelope| codec::protobuf::open(envelope).map(|open| open.raw).map_err(Status::internal))
        .collect::<Result<Vec<&[u8]>, _>>()?;
    let list = codec::protobuf::encode_list(&row.api_version(), &row.list_kind, &meta.value(), messages.into_iter())
        .map_err(Status::internal)?;
    let len = list.len();
    Ok(finish(style, body::response(200, wire::PROTOBUF, list), len))
}

fn finish(style: &Style, response: Response<Body>, len: usize) -> Response<Body> {
    if style.gzip && len >= limits::GZIP_BYTES_MIN { body::gzip(response) } else { response }
}

#[cfg(test)]
mod tests {
    use skiff_api::ResourceRegistry;

    use super::*;

    #[test]
    fn items_of_built_in_kinds_leave_out_their_type() {
        let row = ResourceRegistry::builtin().lookup("", "v1", "configmaps").unwrap();
        let items = Items::new(&row);
        let join = |object: &'static str, is_first| {
            let (open, rest) = items.parts(Bytes::from_static(object.as_bytes()), is_first).unwrap();
            String::from_utf8([open, &rest].concat()).unwrap()
        };
        let ours = r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a"}}"#;
        assert_eq!(join(ours, true), r#"{"metadata":{"name":"a"}}"#);
        assert_eq!(join(ours, false), r#",{"metadata":{"name":"a"}}"#);
        let foreign = r#"{"metadata":{"name":"a"},"apiVersion":"v1", "kind":"ConfigMap"}"#;
        assert_eq!(join(foreign, false), r#",{"metadata":{"name":"a"}}"#);
    }
}
