//! Compiles the structural schema of a custom resource definition into the
//! form of the built-in table.
//!
//! Objects with properties become messages, those with additional properties
//! maps; list and map types carry over for server-side apply. Scalars stay
//! [`Scalar::Any`]: whether a value has the declared type is for validation to
//! say (422), not for decoding. `metadata` is the built-in `ObjectMeta`.

use std::collections::HashMap;

use serde_json::Value;

use super::{Field, Kind, ListType, Message, MessageId, PatchStrategy, Root, Scalar, Schema};
use crate::{group_version::Name, limits::STRUCTURAL_DEPTH_MAX};

/// Why a schema cannot be compiled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StructuralError {
    #[error("{0}: schema is nested too deeply")]
    Depth(String),
    #[error("{path}: unknown x-kubernetes-list-type {list_type:?}")]
    ListType { path: String, list_type: String },
}

/// Compiles `openAPIV3Schema`; `package` and `kind` name the root message.
pub fn compile(package: &str, kind: &str, schema: &Value) -> Result<Root, StructuralError> {
    let mut compiler = Compiler::default();
    let meta = Schema::builtin().message("meta/v1", "ObjectMeta").map(|id| compiler.import(id));
    compiler.meta = meta;
    let id = compiler.message(schema, true, kind, 0)?;
    let root = &mut compiler.messages[id.0 as usize];
    (root.package, root.name) = (Name::Owned(package.to_owned()), Name::Owned(kind.to_owned()));
    let schema = Schema::assemble(compiler.messages, HashMap::new());
    Ok(Root { schema: schema.into(), id })
}

#[derive(Default)]
struct Compiler {
    messages: Vec<Message>,
    imported: HashMap<MessageId, MessageId>,
    meta: Option<MessageId>,
}

impl Compiler {
    /// Copies a built-in message and what it refers to.
    fn import(&mut self, id: MessageId) -> MessageId {
        if let Some(known) = self.imported.get(&id) {
            return *known;
        }
        let copy = self.push(Message::default());
        self.imported.insert(id, copy);
        let mut message = Schema::builtin().get(id).clone();
        for field in &mut message.fields {
            self.import_kind(&mut field.kind);
        }
        self.messages[copy.0 as usize] = message;
        copy
    }

    fn import_kind(&mut self, kind: &mut Kind) {
        match kind {
            Kind::Message(id) => *id = self.import(*id),
            Kind::List { element, .. } => self.import_kind(element),
            Kind::Map { value, .. } => self.import_kind(value),
            Kind::Scalar(_) => {}
        }
    }

    fn push(&mut self, message: Message) -> MessageId {
        self.messages.push(message);
        MessageId(self.messages.len() as u32 - 1)
    }

    /// An object with named fields. An embedded one has `apiVersion`, `kind` and `metadata`.
    fn message(
        &mut self,
        schema: &Value,
        embedded: bool,
        path: &str,
        depth: usize,
    ) -> Result<MessageId, StructuralError> {
        let mut message = Message {
            type_meta: embedded,
            atomic: text(schema, "x-kubernetes-map-type") == "atomic",
            preserve_unknown: flag(schema, "x-kubernetes-preserve-unknown-fields"),
            lenient: true,
            ..Message::default()
        };
        for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            if embedded && ["apiVersion", "kind", "metadata"].contains(&name.as_str()) {
                continue;
            }
            let kind = self.kind(property, &format!("{path}.{name}"), depth + 1)?;
            let required = schema.get("required").and_then(Value::as_array);
            message.fields.push(Field {
                required: required.is_some_and(|names| names.iter().any(|required| required == name)),
                nullable: flag(property, "nullable"),
                default: property.get("default").filter(|default| !default.is_null()).cloned().map(Box::new),
                ..field(name, kind)
            });
        }
        if let (true, Some(meta)) = (embedded, self.meta) {
            message.fields.push(field("metadata", Kind::Message(meta)));
        }
        Ok(self.push(message))
    }

    fn kind(&mut self, schema: &Value, path: &str, depth: usize) -> Result<Kind, StructuralError> {
        if depth > STRUCTURAL_DEPTH_MAX {
            return Err(StructuralError::Depth(path.to_owned()));
        }
        let embedded = flag(schema, "x-kubernetes-embedded-resource");
        let has_properties = schema.get("properties").and_then(Value::as_object).is_some_and(|p| !p.is_empty());
        match (schema.get("additionalProperties"), text(schema, "type")) {
            (_, "array") => self.list(schema, path, depth),
            (_, "object" | "") if has_properties || embedded => {
                Ok(Kind::Message(self.message(schema, embedded, path, depth)?))
            }
            (Some(values @ Value::Object(_)), _) => {
                let value = Box::new(self.kind(values, &format!("{path}[*]"), depth + 1)?);
                Ok(Kind::Map { value, atomic: text(schema, "x-kubernetes-map-type") == "atomic" })
            }
            (Some(Value::Bool(true)), _) => Ok(Kind::Map {
                value: Box::new(Kind::Scalar(Scalar::Any)),
                atomic: text(schema, "x-kubernetes-map-type") == "atomic",
            }),
            (_, "object") => Ok(Kind::Message(self.message(schema, false, path, depth)?)),
            _ => Ok(Kind::Scalar(Scalar::Any)),
        }
    }

    fn list(&mut self, schema: &Value, path: &str, depth: usize) -> Result<Kind, StructuralError> {
        let list_type = match text(schema, "x-kubernetes-list-type") {
            "" | "atomic" => ListType::Atomic,
            "set" => ListType::Set,
            "map" => {
                let keys = schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
                let keys = keys.into_iter().flatten().filter_map(Value::as_str);
                ListType::Map(keys.map(|key| Name::Owned(key.to_owned())).collect())
            }
            other => {
                return Err(StructuralError::ListType { path: path.to_owned(), list_type: other.to_owned() });
            }
        };
        let element = match schema.get("items") {
            Some(items) => self.kind(items, &format!("{path}[*]"), depth + 1)?,
            None => Kind::Scalar(Scalar::Any),
        };
        Ok(Kind::List { element: Box::new(element), list_type, wrapped: false })
    }
}

/// A field of a custom resource: what is sent is kept, what is absent stays absent.
fn field(name: &str, kind: Kind) -> Field {
    Field {
        json: Name::Owned(name.to_owned()),
        kind,
        tag: 0,
        required: false,
        omit_empty: true,
        pointer: true,
        inline: false,
        nullable: false,
        patch: PatchStrategy::default(),
        merge_key: None,
        default: None,
        type_name: Name::Borrowed(""),
    }
}

fn text<'a>(schema: &'a Value, name: &str) -> &'a str {
    schema.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn flag(schema: &Value, name: &str) -> bool {
    schema.get(name) == Some(&Value::Bool(true))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        apply,
        codec::{Decoded, json as codec},
        schema::defaults,
    };

    fn widget() -> Root {
        let schema = json!({"type": "object", "required": ["spec"], "properties": {
            "apiVersion": {"type": "string"}, "metadata": {"type": "object"},
            "spec": {"type": "object", "properties": {
                "size": {"type": "integer", "default": 3},
                "note": {"type": "string", "nullable": true, "default": "x"},
                "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"known": {"type": "object", "properties": {"a": {"type": "string"}}}}},
                "port": {"x-kubernetes-int-or-string": true},
                "pod": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true},
                "parts": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                    "items": {"type": "object", "properties": {"name": {"type": "string"}, "value": {"type": "string", "default": "v"}}}}}}}});
        compile("example.com/v1", "Widget", &schema).unwrap()
    }

    fn decode(value: Value) -> Decoded {
        codec::decode(Some(&widget()), value.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn unknown_fields_are_pruned_unless_preserved() {
        let decoded = decode(
            json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "a", "bad": 1}, "bad": 1,
            "spec": {"bad": 1, "labels": {"any": "x"}, "free": {"kept": 1, "known": {"a": "x", "bad": 1}},
                "pod": {"kind": "Pod", "metadata": {"name": "p", "bad": 1}, "spec": {"kept": 1}}, "parts": [{"name": "n", "bad": 1}]}}),
        );
        assert_eq!(
            decoded.unknown,
            ["bad", "metadata.bad", "spec.bad", "spec.free.known.bad", "spec.parts[0].bad", "spec.pod.metadata.bad"]
        );
        assert_eq!(decoded.value["spec"]["free"], json!({"kept": 1, "known": {"a": "x"}}));
        assert_eq!(decoded.value["spec"]["pod"]["spec"], json!({"kept": 1}));
    }

    #[test]
    fn wrong_types_are_left_for_validation_but_metadata_must_decode() {
        let decoded = decode(json!({"spec": {"size": "big", "parts": "x", "labels": [1]}}));
        assert_eq!(decoded.value["spec"], json!({"size": "big", "parts": "x", "labels": [1]}));
        let bad = json!({"metadata": {"labels": {"a": 1}}}).to_string();
        assert!(codec::decode(Some(&widget()), bad.as_bytes()).is_err());
    }

    #[test]
    fn empty_values_stay_and_nothing_is_filled_in() {
        let mut value =
            decode(json!({"metadata": {"name": "a"}, "spec": {"size": 0, "note": "", "labels": {}, "parts": []}}))
                .value;
        codec::canonicalize(&widget(), &mut value);
        assert_eq!(value["spec"], json!({"size": 0, "note": "", "labels": {}, "parts": []}));
        assert_eq!(value.as_object().unwrap().len(), 2);
    }

    #[test]
    fn defaults_fill_absent_fields_and_nulls_that_are_not_allowed() {
        let mut value = decode(json!({"spec": {"size": null, "note": null, "parts": [{"name": "a"}]}})).value;
        defaults::apply(&widget(), &mut value);
        assert_eq!(value["spec"], json!({"size": 3, "note": null, "parts": [{"name": "a", "value": "v"}]}));
    }

    #[test]
    fn apply_owns_keyed_elements() {
        let root = widget();
        let write = apply::Write {
            root: Some(&root),
            api_version: "example.com/v1",
            manager: "m",
            subresource: "",
            now: jiff::Timestamp::UNIX_EPOCH,
            reset: &[],
        };
        let config = json!({"apiVersion": "example.com/v1", "kind": "Widget", "spec": {"parts": [{"name": "a"}]}, "metadata": {"name": "x"}});
        let live = apply::apply_patch(&write, None, &config, false).unwrap();
        assert_eq!(
            live["metadata"]["managedFields"][0]["fieldsV1"],
            json!({"f:spec": {"f:parts": {"k:{\"name\":\"a\"}": {".": {}, "f:name": {}}}}})
        );
    }

    #[test]
    fn endless_schemas_are_refused() {
        let deep =
            (0..200).fold(json!({"type": "string"}), |inner, _| json!({"type": "object", "properties": {"a": inner}}));
        assert!(matches!(compile("g/v1", "K", &deep), Err(StructuralError::Depth(_))));
    }
}
