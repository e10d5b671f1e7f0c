//! Declarations out of structural schemas: the type expressions see, and the
//! sizes that cost estimates need.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Map, Value as Json, json};

use crate::{
    limits::{REQUEST_BYTES_MAX, TYPE_DEPTH_MAX},
    types::{FieldType, ListKind, ListType, ObjectType, Type, escape},
};

/// A declared type with its bounds.
#[derive(Debug, Default)]
pub struct Declaration {
    pub ty: Type,
    /// Most elements, entries or characters; 0 where that means nothing.
    pub elements_max: u64,
    /// Smallest size as JSON, in bytes.
    pub bytes_min: u64,
    /// Of list elements and map values.
    pub element: Option<Arc<Declaration>>,
    /// By the name in expressions.
    pub fields: BTreeMap<String, Arc<Declaration>>,
    /// Of a map: entries that are reached like fields have the bounds of `element`.
    pub open: bool,
}

/// Longest duration and date-time as JSON.
const TIME_BYTES_MAX: u64 = 32;
const DATE_BYTES: u64 = 12;

impl Declaration {
    /// A declaration without known bounds.
    pub fn of(ty: Type) -> Declaration {
        Declaration { ty, ..Declaration::default() }
    }

    /// The declaration of a structural schema; none for what expressions cannot
    /// see. `root` for a whole resource (also an embedded one): it has
    /// `apiVersion`, `kind` and the names in `metadata`. `name` names object types.
    pub fn of_schema(schema: &Json, root: bool, name: &str) -> Option<Declaration> {
        declare(schema, root, name, 0)
    }

    /// How often data of this shape fits into the largest request.
    pub fn cardinality_max(&self) -> u64 {
        REQUEST_BYTES_MAX / (self.bytes_min + 1)
    }
}

fn simple(ty: Type, elements_max: u64, bytes_min: u64) -> Declaration {
    Declaration { ty, elements_max, bytes_min, ..Declaration::default() }
}

fn number(schema: &Json, name: &str) -> Option<u64> {
    let value = schema.get(name)?;
    Some(value.as_u64().or_else(|| value.as_f64().map(|number| number as u64)).unwrap_or(0))
}

fn flag(schema: &Json, name: &str) -> bool {
    schema.get(name) == Some(&Json::Bool(true))
}

fn declare(schema: &Json, root: bool, name: &str, depth: usize) -> Option<Declaration> {
    if depth > TYPE_DEPTH_MAX {
        return None;
    }
    if flag(schema, "x-kubernetes-int-or-string") {
        let max = number(schema, "maxLength").map_or(REQUEST_BYTES_MAX - 2, |max| max.saturating_mul(4));
        return Some(simple(Type::Dyn, max, 1));
    }
    match schema.get("type").and_then(Json::as_str)? {
        "array" => list(schema, name, depth),
        "object" => object(schema, root, name, depth),
        "string" => Some(text(schema)),
        "boolean" => Some(simple(Type::Bool, 0, 4)),
        "number" => Some(simple(Type::Double, 0, 1)),
        "integer" => Some(simple(Type::Int, 0, 1)),
        _ => None,
    }
}

fn list(schema: &Json, name: &str, depth: usize) -> Option<Declaration> {
    let items = schema.get("items")?;
    let element = declare(items, flag(items, "x-kubernetes-embedded-resource"), &format!("{name}.@idx"), depth + 1)?;
    let max = number(schema, "maxItems").unwrap_or((REQUEST_BYTES_MAX - 2) / (element.bytes_min + 1));
    let kind = match schema.get("x-kubernetes-list-type").and_then(Json::as_str) {
        Some("set") => ListKind::Set,
        Some("map") => {
            let keys = schema.get("x-kubernetes-list-map-keys").and_then(Json::as_array).into_iter().flatten();
            ListKind::Map(keys.filter_map(Json::as_str).map(str::to_owned).collect())
        }
        _ => ListKind::Atomic,
    };
    let ty = Type::List(Arc::new(ListType { element: element.ty.clone(), kind }));
    Some(Declaration { element: Some(Arc::new(element)), ..simple(ty, max, 2) })
}

fn object(schema: &Json, root: bool, name: &str, depth: usize) -> Option<Declaration> {
    if let Some(values) = schema.get("additionalProperties").filter(|values| values.is_object()) {
        let embedded = flag(values, "x-kubernetes-embedded-resource");
        let value = declare(values, embedded, &format!("{name}.@elem"), depth + 1)?;
        let max = number(schema, "maxProperties").unwrap_or((REQUEST_BYTES_MAX - 2) / (value.bytes_min + 6));
        let ty = Type::map(Type::String, value.ty.clone());
        return Some(Declaration { element: Some(Arc::new(value)), ..simple(ty, max, 2) });
    }
    let required: Vec<&str> =
        schema.get("required").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str).collect();
    let mut properties: Map<String, Json> =
        schema.get("properties").and_then(Json::as_object).cloned().unwrap_or_default();
    if root {
        let text = json!({"type": "string"});
        properties.insert("apiVersion".to_owned(), text.clone());
        properties.insert("kind".to_owned(), text.clone());
        properties.insert(
            "metadata".to_owned(),
            json!({"type": "object", "properties": {"name": text, "generateName": text}}),
        );
    }
    let mut bytes_min = 2;
    let mut fields = BTreeMap::new();
    let mut types = BTreeMap::new();
    for (json, property) in &properties {
        let embedded = flag(property, "x-kubernetes-embedded-resource");
        let Some(field) = declare(property, embedded, &format!("{name}.{json}"), depth + 1) else { continue };
        if required.contains(&json.as_str()) && property.get("default").is_none_or(Json::is_null) {
            bytes_min += json.len() as u64 + field.bytes_min + 4;
        }
        if let Some(escaped) = escape(json) {
            types.insert(escaped.clone(), FieldType { json: json.clone(), ty: field.ty.clone() });
            fields.insert(escaped, Arc::new(field));
        }
    }
    let ty = Type::Object(Arc::new(ObjectType { name: name.to_owned(), fields: types }));
    Some(Declaration { fields, ..simple(ty, 0, bytes_min) })
}

fn text(schema: &Json) -> Declaration {
    let max = number(schema, "maxLength");
    match schema.get("format").and_then(Json::as_str) {
        Some("byte") => return simple(Type::Bytes, max.unwrap_or(REQUEST_BYTES_MAX - 2), 2),
        Some("duration") => return simple(Type::Duration, TIME_BYTES_MAX, 3),
        Some("date") => return simple(Type::Timestamp, DATE_BYTES, DATE_BYTES),
        Some("date-time") => return simple(Type::Timestamp, TIME_BYTES_MAX, 21),
        _ => {}
    }
    let longest = || {
        let values = schema.get("enum").and_then(Json::as_array).filter(|values| !values.is_empty())?;
        values.iter().filter_map(Json::as_str).map(|text| text.len() as u64).max()
    };
    let max = max.map(|max| max.saturating_mul(4)).or_else(longest).unwrap_or(REQUEST_BYTES_MAX - 2);
    simple(Type::String, max, 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_follow_the_schema() {
        let schema = json!({"type": "object", "required": ["name"], "properties": {
            "name": {"type": "string", "maxLength": 10}, "any": {"x-kubernetes-preserve-unknown-fields": true},
            "list": {"type": "array", "items": {"type": "string"}},
            "color": {"type": "string", "enum": ["red", "green"]}}});
        let root = Declaration::of_schema(&schema, true, "self").unwrap();
        assert_eq!(root.fields["name"].elements_max, 40);
        assert_eq!(root.fields["color"].elements_max, 5);
        assert_eq!(root.fields["list"].elements_max, (REQUEST_BYTES_MAX - 2) / 3);
        assert_eq!(root.bytes_min, 2 + 4 + 2 + 4);
        assert!(root.fields.contains_key("metadata") && !root.fields.contains_key("any"));
        assert_eq!(root.cardinality_max(), REQUEST_BYTES_MAX / 13);
    }
}
