//! JSON with Kubernetes semantics: a body against the schema of its kind.
//!
//! [`conform`] walks a value along the schema, drops unknown fields (and lists
//! them), drops nulls that mean "absent", checks types with the messages of
//! Go's decoder, and rewrites scalars to their canonical text: quantities,
//! times in UTC, durations. [`minimize`] leaves out what Go cannot tell from
//! absent (an empty `protocol`, `paused: false`), so that defaulting sees it as
//! absent; [`decode`] does both. After defaulting and before storing,
//! [`canonicalize`] gives the form in which upstream prints the object:
//! structures and required fields that Go always prints are filled in.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

pub use super::canonical::{canonicalize, minimize};
use super::{
    Decoded,
    canonical::zero,
    strict::{self, Path},
};
use crate::{
    apply::managed_fields::ManagedFields,
    limits::{JSON_DEPTH_MAX, UNKNOWN_FIELDS_MAX},
    quantity::Quantity,
    schema::{Field, Kind, Message, MessageId, Root, Scalar, Schema},
    timestamp,
};

/// Why a body is not an object of the expected kind; answered with code 400.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    #[error("{0}")]
    Syntax(String),
    /// A value of the wrong type, in the words of Go's decoder.
    #[error("{0}")]
    Type(String),
}

/// Parses a JSON body and conforms it; without a schema only parses.
pub fn decode(root: Option<&Root>, body: &[u8]) -> Result<Decoded, JsonError> {
    let (value, duplicate) = strict::parse_json(body).map_err(|error| JsonError::Syntax(error.to_string()))?;
    finish(root, value, duplicate)
}

/// The steps after parsing, common to JSON and YAML.
pub(super) fn finish(root: Option<&Root>, mut value: Value, duplicate: Vec<String>) -> Result<Decoded, JsonError> {
    let unknown = match root {
        Some(root) => {
            let unknown = conform(root, &mut value)?;
            ManagedFields::mark_reset(&mut value);
            minimize(root, &mut value);
            unknown
        }
        None if value.is_object() => Vec::new(),
        None => {
            let what = json_type(&value);
            return Err(JsonError::Type(format!(
                "json: cannot unmarshal {what} into Go value of type map[string]interface {{}}"
            )));
        }
    };
    Ok(Decoded { value, unknown, duplicate })
}

/// Prunes, checks and normalises `value` in place; returns the paths of unknown fields.
pub fn conform(root: &Root, value: &mut Value) -> Result<Vec<String>, JsonError> {
    let mut walk = Conform { schema: &root.schema, unknown: Vec::new(), depth: 0 };
    let owner = root.message();
    walk.message(root.id, value, &Path::ROOT, owner)?;
    Ok(walk.unknown)
}

struct Conform<'a> {
    schema: &'a Schema,
    unknown: Vec<String>,
    depth: usize,
}

impl Conform<'_> {
    fn message(&mut self, id: MessageId, value: &mut Value, path: &Path<'_>, owner: &Message) -> Result<(), JsonError> {
        let message = self.schema.get(id);
        let Value::Object(fields) = value else {
            if message.lenient {
                return Ok(());
            }
            return Err(mismatch(value, path, owner, &go_message(message)));
        };
        if self.depth >= JSON_DEPTH_MAX {
            return Err(JsonError::Syntax("exceeded max depth".to_owned()));
        }
        self.depth += 1;
        let mut failure = None;
        fields.retain(|name, value| {
            if failure.is_some() {
                return true;
            }
            let path = path.field(name);
            let Some(field) = self.schema.field(id, name) else {
                return self.unknown_field(message, name, value, &path, &mut failure);
            };
            if value.is_null() {
                return keeps_null(message, field);
            }
            if let Err(error) = self.kind(&field.kind, value, &path, message, field) {
                failure = Some(error);
            }
            true
        });
        self.depth -= 1;
        failure.map_or(Ok(()), Err)
    }

    /// Keeps `apiVersion` and `kind` of kinds and anything in preserving messages.
    fn unknown_field(
        &mut self,
        message: &Message,
        name: &str,
        value: &Value,
        path: &Path<'_>,
        failure: &mut Option<JsonError>,
    ) -> bool {
        if message.type_meta && (name == "apiVersion" || name == "kind") {
            if !value.is_string() && !value.is_null() {
                *failure = Some(mismatch(value, path, message, "string"));
            }
            return !value.is_null();
        }
        if !message.preserve_unknown && self.unknown.len() < UNKNOWN_FIELDS_MAX {
            self.unknown.push(path.to_string());
        }
        message.preserve_unknown
    }

    fn kind(
        &mut self,
        kind: &Kind,
        value: &mut Value,
        path: &Path<'_>,
        owner: &Message,
        field: &Field,
    ) -> Result<(), JsonError> {
        match kind {
            Kind::Scalar(kind) => self.scalar(*kind, value, path, owner, field),
            Kind::Message(id) => self.message(*id, value, path, owner),
            Kind::List { element, .. } => {
                let Value::Array(items) = value else {
                    if owner.lenient {
                        return Ok(());
                    }
                    return Err(mismatch(value, path, owner, &go_type(self.schema, kind, owner, field)));
                };
                for (index, item) in items.iter_mut().enumerate() {
                    self.element(element, item, &path.index(index), owner, field)?;
                }
                Ok(())
            }
            Kind::Map { value: element, .. } => {
                let Value::Object(entries) = value else {
                    if owner.lenient {
                        return Ok(());
                    }
                    return Err(mismatch(value, path, owner, &go_type(self.schema, kind, owner, field)));
                };
                for (key, item) in entries.iter_mut() {
                    self.element(element, item, &path.key(key), owner, field)?;
                }
                Ok(())
            }
        }
    }

    /// A list element or map value: null is the zero value in Go.
    fn element(
        &mut self,
        kind: &Kind,
        value: &mut Value,
        path: &Path<'_>,
        owner: &Message,
        field: &Field,
    ) -> Result<(), JsonError> {
        if value.is_null() {
            match kind {
                _ if field.nullable || owner.lenient => return Ok(()),
                Kind::Message(_) => *value = json!({}),
                Kind::Scalar(scalar) => *value = zero(*scalar),
                Kind::List { .. } | Kind::Map { .. } => {}
            }
            return Ok(());
        }
        self.kind(kind, value, path, owner, field)
    }

    fn scalar(
        &mut self,
        scalar: Scalar,
        value: &mut Value,
        path: &Path<'_>,
        owner: &Message,
        field: &Field,
    ) -> Result<(), JsonError> {
        let wrong = |value: &Value, go: &str| Err(mismatch(value, path, owner, go));
        match scalar {
            Scalar::String if value.is_string() => Ok(()),
            Scalar::String => wrong(value, &go_string(owner, field)),
            Scalar::Bool if value.is_boolean() => Ok(()),
            Scalar::Bool => wrong(value, "bool"),
            Scalar::Int32 => match value.as_i64() {
                Some(number) if i32::try_from(number).is_ok() => Ok(()),
                _ => wrong(value, "int32"),
            },
            Scalar::Int64 if value.is_i64() => Ok(()),
            Scalar::Int64 => wrong(value, "int64"),
            Scalar::Double if value.is_number() => Ok(()),
            Scalar::Double => wrong(value, "float64"),
            Scalar::IntOrString => match &*value {
                Value::String(_) => Ok(()),
                Value::Number(number) if number.as_i64().is_some_and(|number| i32::try_from(number).is_ok()) => Ok(()),
                other => wrong(other, "int32"),
            },
            Scalar::RawExtension if value.is_object() => Ok(()),
            Scalar::FieldsV1 if value.is_object() => Ok(()),
            Scalar::RawExtension | Scalar::FieldsV1 | Scalar::Json | Scalar::Any => Ok(()),
            Scalar::SchemaOrBool | Scalar::SchemaOrArray | Scalar::SchemaOrStringArray => {
                self.schema_or(scalar, value, path, owner)
            }
            Scalar::Bytes | Scalar::Quantity | Scalar::Time | Scalar::MicroTime | Scalar::Duration => {
                text_scalar(scalar, value, path, owner)
            }
        }
    }

    fn schema_or(
        &mut self,
        scalar: Scalar,
        value: &mut Value,
        path: &Path<'_>,
        owner: &Message,
    ) -> Result<(), JsonError> {
        let Some(id) = self.schema.json_schema() else { return Ok(()) };
        match (scalar, value) {
            (_, value @ Value::Object(_)) => self.message(id, value, path, owner),
            (Scalar::SchemaOrBool, Value::Bool(_)) => Ok(()),
            (Scalar::SchemaOrBool, _) => Err(JsonError::Type("boolean or JSON schema expected".to_owned())),
            (Scalar::SchemaOrArray, Value::Array(items)) => {
                for (index, item) in items.iter_mut().enumerate() {
                    self.message(id, item, &path.index(index), owner)?;
                }
                Ok(())
            }
            (Scalar::SchemaOrStringArray, Value::Array(items)) if items.iter().all(Value::is_string) => Ok(()),
            (_, value) => Err(mismatch(value, path, owner, "v1.JSONSchemaProps")),
        }
    }
}

/// Scalars written as text in a canonical form.
fn text_scalar(scalar: Scalar, value: &mut Value, path: &Path<'_>, owner: &Message) -> Result<(), JsonError> {
    if scalar == Scalar::Quantity && value.is_number() {
        *value = Value::String(value.to_string());
    }
    let Value::String(text) = value else {
        let go = if scalar == Scalar::Bytes { "[]uint8" } else { "string" };
        return Err(mismatch(value, path, owner, go));
    };
    let fail = |error: &dyn std::fmt::Display| JsonError::Type(error.to_string());
    let canonical = match scalar {
        Scalar::Quantity => text.trim().parse::<Quantity>().map_err(|error| fail(&error))?.to_string(),
        Scalar::Time => timestamp::format_seconds(timestamp::parse(text).map_err(|error| fail(&error))?),
        Scalar::MicroTime => timestamp::format_micros(timestamp::parse(text).map_err(|error| fail(&error))?),
        Scalar::Duration => timestamp::format_duration(timestamp::parse_duration(text).map_err(|error| fail(&error))?),
        _ => return bytes(text),
    };
    if canonical != *text {
        *text = canonical;
    }
    Ok(())
}

/// Base64 may be wrapped in lines; it is kept without them.
fn bytes(text: &mut String) -> Result<(), JsonError> {
    if text.contains(['\r', '\n']) {
        text.retain(|c| c != '\r' && c != '\n');
    }
    match STANDARD.decode(text.as_bytes()) {
        Ok(_) => Ok(()),
        Err(error) => {
            let at = match error {
                base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => at,
                _ => text.len(),
            };
            Err(JsonError::Type(format!("illegal base64 data at input byte {at}")))
        }
    }
}

/// Go drops nulls. In custom resources they stay for validation to judge,
/// unless a default takes their place.
fn keeps_null(message: &Message, field: &Field) -> bool {
    field.nullable || message.lenient && field.default.is_none()
}

/// What Go's decoder calls the kind of a JSON value.
pub fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn mismatch(value: &Value, path: &Path<'_>, owner: &Message, go: &str) -> JsonError {
    let what = match value {
        // The number itself is named only where a number was expected.
        Value::Number(number) if go.starts_with("int") || go.starts_with("float") => format!("number {number}"),
        other => json_type(other).to_owned(),
    };
    let fields = path.fields();
    JsonError::Type(if fields.is_empty() {
        format!("json: cannot unmarshal {what} into Go value of type {go}")
    } else {
        format!("json: cannot unmarshal {what} into Go struct field {}.{fields} of type {go}", owner.name)
    })
}

fn go_message(message: &Message) -> String {
    let version = message.package.rsplit('/').next().unwrap_or_default();
    format!("{version}.{}", message.name)
}

/// Named string types are printed with their package.
fn go_string(owner: &Message, field: &Field) -> String {
    match field.type_name.as_ref() {
        "" => "string".to_owned(),
        name if name.contains('.') => name.to_owned(),
        name => format!("{}.{name}", owner.package.rsplit('/').next().unwrap_or_default()),
    }
}

fn go_type(schema: &Schema, kind: &Kind, owner: &Message, field: &Field) -> String {
    match kind {
        Kind::List { element, .. } => format!("[]{}", go_type(schema, element, owner, field)),
        Kind::Map { value, .. } => format!("map[string]{}", go_type(schema, value, owner, field)),
        Kind::Scalar(Scalar::String) => go_string(owner, field),
        Kind::Message(id) => go_message(schema.get(*id)),
        Kind::Scalar(scalar) => match scalar {
            Scalar::Int32 => "int32",
            Scalar::Int64 => "int64",
            Scalar::Bool => "bool",
            Scalar::Double => "float64",
            Scalar::Bytes => "[]uint8",
            Scalar::Quantity => "resource.Quantity",
            Scalar::Time => "v1.Time",
            Scalar::RawExtension => "runtime.RawExtension",
            _ => "string",
        }
        .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::GroupVersionKind;

    fn root(group: &str, version: &str, kind: &str) -> Root {
        let gvk = GroupVersionKind::parse(&crate::group_version::api_version(group, version), kind);
        Root::for_kind(&gvk).unwrap()
    }

    fn decode_pod(value: Value) -> Result<Decoded, JsonError> {
        decode(Some(&root("", "v1", "Pod")), value.to_string().as_bytes())
    }

    fn type_error(value: Value) -> String {
        decode_pod(value).unwrap_err().to_string()
    }

    #[test]
    fn unknown_fields_are_dropped_and_named() {
        let decoded = decode_pod(json!({"kind": "Pod", "metadata": {"name": "a", "labels": {"x": "y"}}, "Spec": {},
            "spec": {"containers": [{"name": "c", "imagee": "x", "volumeMounts": [{"name": "v", "foo": 1}]}]}}))
        .unwrap();
        assert_eq!(decoded.unknown, ["Spec", "spec.containers[0].imagee", "spec.containers[0].volumeMounts[0].foo"]);
        assert_eq!(decoded.value["spec"], json!({"containers": [{"name": "c", "volumeMounts": [{"name": "v"}]}]}));
        assert_eq!(
            decoded.strict_error().unwrap(),
            "strict decoding error: unknown field \"Spec\", unknown field \"spec.containers[0].imagee\", unknown field \"spec.containers[0].volumeMounts[0].foo\""
        );
    }

    #[test]
    fn wrong_types_are_reported_as_go_does() {
        assert_eq!(
            decode(Some(&root("apps", "v1", "Deployment")), br#"{"spec":{"replicas":"3"}}"#).unwrap_err().to_string(),
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32"
        );
        assert_eq!(
            type_error(json!({"spec": {"containers": [{"image": 5}]}})),
            "json: cannot unmarshal number into Go struct field Container.spec.containers.image of type string"
        );
        assert_eq!(
            type_error(json!({"spec": {"containers": {}}})),
            "json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container"
        );
        assert_eq!(
            type_error(json!({"metadata": {"labels": {"a": 1}}})),
            "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string"
        );
        assert_eq!(
            type_error(json!({"spec": []})),
            "json: cannot unmarshal array into Go struct field Pod.spec of type v1.PodSpec"
        );
        assert_eq!(type_error(json!([])), "json: cannot unmarshal array into Go value of type v1.Pod");
        assert_eq!(
            type_error(json!({"spec": {"priority": 3000000000_u32}})),
            "json: cannot unmarshal number 3000000000 into Go struct field PodSpec.spec.priority of type int32"
        );
    }

    #[test]
    fn scalars_become_canonical() {
        let decoded = decode_pod(json!({"metadata": {"creationTimestamp": "2024-01-02T03:04:05.678+01:00"},
            "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": 0.5, "memory": "1024Mi"}}}]}}))
        .unwrap();
        assert_eq!(decoded.value["metadata"]["creationTimestamp"], "2024-01-02T02:04:05Z");
        assert_eq!(
            decoded.value["spec"]["containers"][0]["resources"]["limits"],
            json!({"cpu": "500m", "memory": "1Gi"})
        );
        let secret = root("", "v1", "Secret");
        let decoded = decode(Some(&secret), br#"{"data":{"a":"aGVs\nbG8="}}"#).unwrap();
        assert_eq!(decoded.value["data"]["a"], "aGVsbG8=");
        let error = decode(Some(&secret), br#"{"data":{"a":"!"}}"#).unwrap_err();
        assert_eq!(error.to_string(), "illegal base64 data at input byte 0");
    }

    #[test]
    fn null_means_absent_for_fields_and_zero_for_elements() {
        let decoded = decode_pod(json!({"metadata": {"name": null, "labels": {"a": null}},
            "spec": {"volumes": null, "containers": [null], "nodeSelector": {}}}))
        .unwrap();
        assert_eq!(decoded.value, json!({"metadata": {"labels": {"a": ""}}, "spec": {"containers": [{}]}}));
    }

    #[test]
    fn schemas_inside_definitions_are_checked_and_kept() {
        let crd = root("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
        let schema = json!({"type": "object", "additionalProperties": {"type": "string"},
            "properties": {"a": {"enum": [null, 1], "default": null, "items": {"type": "string", "bad": 1}}}});
        let body = json!({"spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema": schema}}]}});
        let decoded = decode(Some(&crd), body.to_string().as_bytes()).unwrap();
        assert_eq!(decoded.unknown, ["spec.versions[0].schema.openAPIV3Schema.properties.a.items.bad"]);
        assert_eq!(
            decoded.value["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["a"]["enum"],
            json!([null, 1])
        );
    }
}
