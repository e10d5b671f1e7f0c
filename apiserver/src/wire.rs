//! Bodies to objects: the one place where the codecs, defaults and conversions
//! of `skiff_api` meet the request machinery.

use bytes::Bytes;
use serde_json::Value;
use skiff_api::{
    GroupVersionKind, Reason, Status, apply::managed_fields::ManagedFields, codec, codec::json::JsonError, schema::Root,
};

use crate::{options::FieldValidation, warnings::Warnings};

/// How a request body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Json,
    Yaml,
    Protobuf,
}

pub const JSON: &str = "application/json";
pub const YAML: &str = "application/yaml";
pub const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
/// Frames of a watch in protobuf.
pub const PROTOBUF_WATCH: &str = "application/vnd.kubernetes.protobuf;stream=watch";

impl Format {
    /// From a Content-Type; nothing means JSON. `None`: not one of ours.
    pub fn of(content_type: &str) -> Option<Format> {
        let media = content_type.split(';').next().unwrap_or_default().trim();
        match media.to_ascii_lowercase().as_str() {
            "" | "*/*" | JSON => Some(Format::Json),
            YAML => Some(Format::Yaml),
            PROTOBUF => Some(Format::Protobuf),
            _ => None,
        }
    }
}

/// 415 with the types that would have been accepted.
pub fn unsupported_media_type(accepted: &[&str]) -> Status {
    Status::failure(
        Reason::UnsupportedMediaType,
        format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        ),
    )
}

/// Decodes a body that must hold `gvk`, applies field validation, defaults it.
pub fn decode(
    gvk: &GroupVersionKind,
    root: Option<&Root>,
    content_type: &str,
    body: &Bytes,
    validation: FieldValidation,
    warnings: &Warnings,
) -> Result<Value, Status> {
    let accepted: &[&str] = &[JSON, YAML, PROTOBUF];
    let format = Format::of(content_type).ok_or_else(|| unsupported_media_type(accepted))?;
    let not_handled =
        |error: &dyn std::fmt::Display| Status::bad_request(codec::not_handled(&gvk.kind, &gvk.version, error));
    let decoded = match format {
        Format::Json => codec::json::decode(root, body).map_err(|error| match error {
            JsonError::Syntax(text) => unrecognized(&gvk.kind, &text, body),
            JsonError::Type(_) => not_handled(&error),
        })?,
        Format::Yaml => codec::yaml::decode(root, body).map_err(|error| not_handled(&error))?,
        Format::Protobuf => codec::Decoded {
            value: codec::protobuf::decode_object(body).map_err(|error| not_handled(&error))?,
            unknown: Vec::new(),
            duplicate: Vec::new(),
        },
    };
    judge(gvk, &decoded, validation, warnings)?;
    let mut value = decoded.value;
    check_type(gvk, &mut value)?;
    if let Some(root) = root {
        settle(root, &mut value);
    }
    Ok(value)
}

/// A body of which not even the type can be read: its beginning is shown.
fn unrecognized(kind: &str, error: &str, body: &[u8]) -> Status {
    const SHOWN: usize = 30;
    let error = if error.starts_with("EOF") { "unexpected end of JSON input" } else { error };
    let start = &body[..body.len().min(SHOWN)];
    let more = if body.len() > SHOWN { " ..." } else { "" };
    let shown = match body.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(start)),
        Some(_) => format!("{}{more}", start.iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
    };
    Status::bad_request(format!(
        "the object provided is unrecognized (must be of type {kind}): couldn't get version/kind; json parse error: \
         {error} ({shown})"
    ))
}

/// What field validation says about questionable fields.
pub fn judge(
    gvk: &GroupVersionKind,
    decoded: &codec::Decoded,
    validation: FieldValidation,
    warnings: &Warnings,
) -> Result<(), Status> {
    match validation {
        FieldValidation::Ignore => {}
        FieldValidation::Warn => warnings.extend(decoded.warnings()),
        FieldValidation::Strict => {
            if let Some(error) = decoded.strict_error() {
                return Err(Status::bad_request(codec::not_handled(&gvk.kind, &gvk.version, error)));
            }
        }
    }
    Ok(())
}

/// The type in the body must be the one of the URL; an absent one is filled in.
pub fn check_type(gvk: &GroupVersionKind, value: &mut Value) -> Result<(), Status> {
    let api_version = gvk.api_version();
    let Some(fields) = value.as_object_mut() else {
        return Err(Status::bad_request(format!("the object provided is unrecognized (must be of type {})", gvk.kind)));
    };
    let text = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (have_version, have_kind) = (text("apiVersion"), text("kind"));
    if !have_kind.is_empty() && have_kind != gvk.kind || !have_version.is_empty() && have_version != api_version {
        if !have_kind.is_empty() && have_kind == gvk.kind {
            return Err(Status::bad_request(format!(
                "the API version in the data ({have_version}) does not match the expected API version ({api_version})"
            )));
        }
        let have = GroupVersionKind::parse(&have_version, &have_kind);
        return Err(Status::bad_request(format!(
            "{} in version \"{}\" cannot be handled as a {}: converting ({}.{}) to ({}.{}): unknown conversion",
            have.kind,
            have.version,
            gvk.kind,
            have.version,
            have.kind,
            internal_package(&gvk.group),
            gvk.kind
        )));
    }
    fields.insert("apiVersion".to_owned(), Value::String(api_version));
    fields.insert("kind".to_owned(), Value::String(gvk.kind.to_string()));
    Ok(())
}

/// The package in which upstream keeps its internal form of a group's kinds.
fn internal_package(group: &str) -> &str {
    match group.split('.').next() {
        None | Some("") => "core",
        Some(first) => first,
    }
}

/// Brings a changed object back into the shape the schema asks for: drops what
/// it does not know (reported as `decode` does), checks types, fills defaults.
pub fn conform(
    gvk: &GroupVersionKind,
    root: &Root,
    value: &mut Value,
    validation: FieldValidation,
    warnings: &Warnings,
) -> Result<(), Status> {
    let unknown = codec::json::conform(root, value)
        .map_err(|error| Status::bad_request(codec::not_handled(&gvk.kind, &gvk.version, error)))?;
    let decoded = codec::Decoded { value: Value::Null, unknown, duplicate: Vec::new() };
    if validation == FieldValidation::Strict
        && let Some(error) = decoded.strict_error()
    {
        return Err(Status::bad_request(error));
    }
    judge(gvk, &decoded, validation, warnings)?;
    settle(root, value);
    Ok(())
}

/// Defaults, then the canonical form.
pub fn settle(root: &Root, value: &mut Value) {
    ManagedFields::mark_reset(value);
    skiff_api::schema::defaults::apply(root, value);
    codec::json::canonicalize(root, value);
}

/// Protobuf of a built-in object or list.
pub fn protobuf(value: &Value) -> Result<Bytes, Status> {
    codec::protobuf::encode_object(value).map(Bytes::from).map_err(Status::internal)
}
