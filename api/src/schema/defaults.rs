//! Default values that the schema declares, filled in where a field is absent.
//!
//! Only constants live here; what depends on other fields is the business of
//! the kinds. A field is filled when the structure around it is present, and
//! `null` counts as absent unless it is allowed. Filling twice changes nothing.

use serde_json::{Map, Value};

use super::{Field, Kind, MessageId, Root, Schema};
use crate::limits::JSON_DEPTH_MAX;

/// Fills the declared defaults of an object.
pub fn apply(root: &Root, value: &mut Value) {
    if let Value::Object(fields) = value {
        message(&root.schema, root.id, fields, 0);
    }
}

fn message(schema: &Schema, id: MessageId, fields: &mut Map<String, Value>, depth: usize) {
    if depth > JSON_DEPTH_MAX {
        return;
    }
    for field in schema.fields(id) {
        match fields.get_mut(field.json.as_ref()) {
            Some(Value::Null) if field.nullable => {}
            Some(value) if !value.is_null() => below(schema, &field.kind, value, depth),
            _ => {
                if let Some(default) = visible_default(field) {
                    // A default such as `{}` has defaults of its own.
                    let mut default = default.clone();
                    below(schema, &field.kind, &mut default, depth);
                    fields.insert(field.json.to_string(), default);
                }
            }
        }
    }
}

/// The default of a field, unless printing would leave it out again.
fn visible_default(field: &Field) -> Option<&Value> {
    let default = field.default.as_deref()?;
    let empty = match default {
        Value::String(text) => text.is_empty(),
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        _ => false,
    };
    (!empty || field.pointer).then_some(default)
}

fn below(schema: &Schema, kind: &Kind, value: &mut Value, depth: usize) {
    match (kind, value) {
        (Kind::Message(id), Value::Object(fields)) => message(schema, *id, fields, depth + 1),
        (Kind::List { element, .. }, Value::Array(items)) => {
            for item in items {
                below(schema, element, item, depth + 1);
            }
        }
        (Kind::Map { value: kind, .. }, Value::Object(entries)) => {
            for entry in entries.values_mut() {
                below(schema, kind, entry, depth + 1);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::GroupVersionKind;

    #[test]
    fn constants_are_filled_where_their_structure_is_present() {
        let root = Root::for_kind(&GroupVersionKind::new("", "v1", "Pod")).unwrap();
        let mut pod = json!({"spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80}]}]}});
        apply(&root, &mut pod);
        assert_eq!(pod["spec"]["containers"][0]["ports"][0]["protocol"], "TCP");
        assert!(pod.get("status").is_none() && pod["spec"].get("volumes").is_none());
        let once = pod.clone();
        apply(&root, &mut pod);
        assert_eq!(pod, once);
    }
}
